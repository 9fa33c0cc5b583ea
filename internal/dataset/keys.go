package dataset

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/volume"
)

// A key is a row of the table of all keys of a configuration: how its value gets in, and what it may be.
type key struct {
	name  string
	doc   string
	set   func(c *Config, v any) error // checks the type
	check func(c *Config) error        // checks the value, whoever set it; nil if anything goes
}

var (
	datasets = []string{"train", "val", "test", "all"}
	splits   = []string{"auto", "column", "shuffle"}

	precisions = []string{"fp32", "tf32", "bf16", "fp64"}
	policies   = []string{"exact", "original"}
	shuttles   = []string{"never", "idle", "always"}
)

// keys is in the order of the documentation. A key whose name ends in .* takes any last part.
var keys = []key{
	{"model.file", "ONNX file of the network", text(func(c *Config) *string { return &c.Model.File }), nil},
	{"model.name", "what reports call the network", text(func(c *Config) *string { return &c.Model.Name }), nil},
	{"model.target_layer", "layer to explain; default: the last one with spatial extent",
		text(func(c *Config) *string { return &c.Model.TargetLayer }), nil},
	{"model.input_axes", "axes of the network's input in its order, such as NDHWC (Keras, JAX) or NDCHW (video); default: as its operations show",
		text(func(c *Config) *string { return &c.Model.InputAxes }), modelOption("input_axes")},
	{"model.layer_layout", "axes of the target layer: auto, channels-first, channels-last, or a letter for each axis, such as NDHWC or DTC",
		text(func(c *Config) *string { return &c.Model.LayerLayout }),
		modelOption("layer_layout")},
	{"model.token_grid", "[d, h, w] of a token layer; default: as the graph shows",
		integers(func(c *Config) *[]int { return &c.Model.TokenGrid }),
		func(c *Config) error { _, err := explain.TokenGrid(c.Model.TokenGrid); return err }},
	{"model.prefix_tokens", "tokens of a token layer in front of those in space, such as class tokens; default: as the graph shows",
		integer(func(c *Config) *int { return &c.Model.PrefixTokens }), modelOption("prefix_tokens")},
	{"model.target_class", "predicted, true, all, an index or a class name", setTargetClass, nil},
	{"model.classes", "names of the classes by index", texts(func(c *Config) *[]string { return &c.Model.Classes }), checkClasses},

	{"data.folder", "folder of the volumes", text(func(c *Config) *string { return &c.Data.Folder }), nil},
	{"data.labels", "CSV file with the columns caseID, label and, optionally, split",
		text(func(c *Config) *string { return &c.Data.Labels }), nil},
	{"data.extension", ".mat, .npy, .npz, .nii or .nii.gz; default: whichever exists",
		text(func(c *Config) *string { return &c.Data.Extension }), checkExtension},
	{"data.variable", "variable of .mat (default: imgMat) and .npz files (default: the only one)", text(func(c *Config) *string { return &c.Data.Variable }), nil},
	{"data.axes", "meaning of the file's axes in order, such as DHW or HWDC; default: DHW, or CDHW of .npy and .mat, DHWC of NIfTI",
		text(func(c *Config) *string { return &c.Data.Axes }), checkAxes},
	{"data.image_shape", "[D, H, W] that volumes are cropped or zero-padded to, centred; default: left as they are",
		integers(func(c *Config) *[]int { return &c.Data.ImageShape }),
		triple(func(c *Config) []int { return c.Data.ImageShape })},
	{"data.scale", "div255, minmax, zscore or none", text(func(c *Config) *string { return &c.Data.Scale }),
		func(c *Config) error {
			if c.Data.Scale == "" {
				return nil // Validate says that it is missing
			}
			return oneOf(func(c *Config) string { return c.Data.Scale }, volume.Scalings())(c)
		}},
	{"data.split", "column, shuffle, or auto: the column if there is one",
		text(func(c *Config) *string { return &c.Data.Split }), oneOf(func(c *Config) string { return c.Data.Split }, splits)},
	{"data.split_ratio", "[train, val, test] of the shuffle", setRatio, checkRatio},
	{"data.split_seed", "seed of the shuffle", natural(func(c *Config) *uint64 { return &c.Data.SplitSeed }), nil},
	{"data.dataset", "train, val, test or all", text(func(c *Config) *string { return &c.Data.Dataset }),
		oneOf(func(c *Config) string { return c.Data.Dataset }, datasets)},
	{"data.max_samples", "the first so many of each split; 0: all", integer(func(c *Config) *int { return &c.Data.MaxSamples }),
		atLeast(func(c *Config) int { return c.Data.MaxSamples }, 0)},

	{"explain.methods", "names of methods and groups", setMethods, checkMethods},
	{"explain.n_samples", "draws of the noise methods", integer(func(c *Config) *int { return &c.Explain.NSamples }),
		requestOption("n_samples")},
	{"explain.noise_level", "standard deviation of the noise, in units of the prepared volume", setNoiseLevel,
		requestOption("noise_level")},
	{"explain.seed", "seed of the noise", natural(func(c *Config) *uint64 { return &c.Explain.Seed }), nil},
	{"explain.device", "where it is computed: auto (a GPU if there is one), cpu, cuda, or cuda:N for GPU N",
		text(func(c *Config) *string { return &c.Explain.Device }), nil},
	{"explain.precision", "how products are computed on a GPU: fp32, tf32 and bf16 (faster, less exact), or fp64 (sums in float64, slow)",
		text(func(c *Config) *string { return &c.Explain.Precision }), oneOf(func(c *Config) string { return c.Explain.Precision }, precisions)},
	{"explain.threads", "threads of the processor to compute with; 0: all", integer(func(c *Config) *int { return &c.Explain.Threads }),
		atLeast(func(c *Config) int { return c.Explain.Threads }, 0)},
	{"explain.memory_budget", "most memory for computing: a size such as 512MiB, a share of what is free such as 50%, auto, or min; results stay the same",
		setMemory, nil},
	{"explain.conventions.*", "formula of a method, such as \"gradcam++\" = \"paper\"", nil, requestOption("conventions")},

	{"memory.policy", "when memory is short: exact never changes a result; original takes fewer draws, and skips, by the original system's thresholds",
		text(func(c *Config) *string { return &c.Memory.Policy }), oneOf(func(c *Config) string { return c.Memory.Policy }, policies)},
	{"memory.wait", "seconds in all that a volume waits for other programs to leave memory of the GPU",
		seconds(func(c *Config) *time.Duration { return &c.Memory.Wait }), notNegative(func(c *Config) time.Duration { return c.Memory.Wait })},
	{"memory.cpu_fallback", "let the processor go on where the GPU cannot; default: as the policy, exact true, original false",
		choice(func(c *Config) **bool { return &c.Memory.CPU }), nil},
	{"memory.fewer_samples", "take fewer draws, at least 5, where not all can be had; default: as the policy, exact false, original true",
		choice(func(c *Config) **bool { return &c.Memory.Fewer }), nil},
	{"memory.skip", "give a volume up as skipped_low_memory when nothing can hold it, instead of failed; default: true",
		choice(func(c *Config) **bool { return &c.Memory.Skip }), nil},
	{"memory.shuttle", "when the GPU's memory is given back between volumes: never, idle (after a while without work) or always",
		text(func(c *Config) *string { return &c.Memory.Shuttle }), oneOf(func(c *Config) string { return c.Memory.Shuttle }, shuttles)},
	{"memory.launch_blocking", "wait after every step on a GPU, so that an error names the step: slow",
		boolean(func(c *Config) *bool { return &c.Memory.LaunchBlocking }), nil},
	{"memory.pass_timeout", "seconds that a pass on a GPU may take before its process is ended and another goes on; 0: no limit",
		seconds(func(c *Config) *time.Duration { return &c.Memory.PassTimeout }),
		notNegative(func(c *Config) time.Duration { return c.Memory.PassTimeout })},
	{"memory.worker", "keep the device in a process of its own, so that its end does not end the run",
		boolean(func(c *Config) *bool { return &c.Memory.Worker }), nil},
	{"memory.user_signals", "what SIGUSR1 and SIGUSR2 mean: memory (give the GPU's memory to others for a minute, and take it again), stop, or auto: " +
		"stop in a job of Slurm, PBS, LSF, Grid Engine, Flux or OAR, else memory",
		text(func(c *Config) *string { return &c.Memory.UserSignals }), oneOf(func(c *Config) string { return c.Memory.UserSignals }, UserSignals)},

	{"output.dir", "folder that sessions are made in; default: CAMVis in the working directory",
		text(func(c *Config) *string { return &c.Output.Dir }), nil},
	{"output.session", "name of the session; default: the time", text(func(c *Config) *string { return &c.Output.Session }), checkSession},
	{"output.formats", "nifti, npy, mat, tiff, png", texts(func(c *Config) *[]string { return &c.Output.Formats }), checkFormats},
	{"output.overlay_alpha", "weight of the heatmap in an overlay, 0 to 1", setAlpha, checkAlpha},
}

func setMemory(c *Config, v any) error {
	text, ok := v.(string)
	if !ok {
		return wrongType(v, "a text such as \"512MiB\"")
	}
	return c.Explain.Memory.Set(text)
}

// Key describes one key of the configuration to those who write about it.
type Key struct{ Name, Doc string }

// Keys lists all keys of the configuration, section by section.
func Keys() []Key {
	out := make([]Key, len(keys))
	for i, k := range keys {
		out[i] = Key{k.name, k.doc}
	}
	return out
}

func text(field func(*Config) *string) func(*Config, any) error {
	return func(c *Config, v any) error {
		s, ok := v.(string)
		if !ok {
			return wrongType(v, "a text in quotes")
		}
		*field(c) = s
		return nil
	}
}

func texts(field func(*Config) *[]string) func(*Config, any) error {
	return func(c *Config, v any) error {
		list, ok := v.([]any)
		if !ok {
			return wrongType(v, "a list of texts")
		}
		out := make([]string, len(list))
		for i, e := range list {
			if out[i], ok = e.(string); !ok {
				return wrongType(e, "a list of texts")
			}
		}
		*field(c) = out
		return nil
	}
}

func integer(field func(*Config) *int) func(*Config, any) error {
	return func(c *Config, v any) error {
		n, ok := v.(int64)
		if !ok || n > math.MaxInt32 || n < math.MinInt32 {
			return wrongType(v, "an integer")
		}
		*field(c) = int(n)
		return nil
	}
}

func boolean(field func(*Config) *bool) func(*Config, any) error {
	return func(c *Config, v any) error {
		b, ok := v.(bool)
		if !ok {
			return wrongType(v, "true or false")
		}
		*field(c) = b
		return nil
	}
}

// choice is boolean for a field that is nil where nothing was chosen.
func choice(field func(*Config) **bool) func(*Config, any) error {
	return boolean(func(c *Config) *bool {
		b := new(bool)
		*field(c) = b
		return b
	})
}

// seconds sets a time that the file gives in seconds.
func seconds(field func(*Config) *time.Duration) func(*Config, any) error {
	return func(c *Config, v any) error {
		s, err := number(v)
		if err != nil {
			return wrongType(v, "a number of seconds")
		}
		if !(math.Abs(s) <= math.MaxInt32) {
			return fmt.Errorf("is %v; it must be a number of seconds up to %d", v, math.MaxInt32)
		}
		*field(c) = time.Duration(s * float64(time.Second))
		return nil
	}
}

func notNegative(value func(*Config) time.Duration) func(*Config) error {
	return func(c *Config) error {
		if d := value(c); d < 0 {
			return fmt.Errorf("is %v; a time cannot be negative", d)
		}
		return nil
	}
}

func natural(field func(*Config) *uint64) func(*Config, any) error {
	return func(c *Config, v any) error {
		n, ok := v.(int64)
		if !ok || n < 0 {
			return wrongType(v, "an integer from 0 up")
		}
		*field(c) = uint64(n)
		return nil
	}
}

func number(v any) (float64, error) {
	switch v := v.(type) {
	case int64:
		return float64(v), nil
	case float64:
		return v, nil
	}
	return 0, wrongType(v, "a number")
}

func integers(field func(*Config) *[]int) func(*Config, any) error {
	return func(c *Config, v any) error {
		list, ok := v.([]any)
		if !ok {
			return wrongType(v, "a list of integers")
		}
		out := make([]int, len(list))
		for i, e := range list {
			n, ok := e.(int64)
			if !ok || n > math.MaxInt32 || n < math.MinInt32 {
				return wrongType(e, "a list of integers")
			}
			out[i] = int(n)
		}
		*field(c) = out
		return nil
	}
}

func wrongType(v any, want string) error {
	kind := fmt.Sprintf("%T", v)
	switch v := v.(type) {
	case string:
		kind = strconv.Quote(v)
	case int64, float64, bool:
		kind = fmt.Sprint(v)
	case []any:
		kind = "a list"
	case map[string]any:
		kind = "a section"
	}
	return fmt.Errorf("must be %s, not %s", want, kind)
}

func oneOf(value func(*Config) string, allowed []string) func(*Config) error {
	return func(c *Config) error {
		v := value(c)
		if slices.Contains(allowed, v) {
			return nil
		}
		return fmt.Errorf("is %q; choose one of: %s%s", v, strings.Join(allowed, ", "), didYouMean(v, allowed))
	}
}

func atLeast(value func(*Config) int, least int) func(*Config) error {
	return func(c *Config) error {
		if v := value(c); v < least {
			return fmt.Errorf("is %d; it must be at least %d", v, least)
		}
		return nil
	}
}

func triple(value func(*Config) []int) func(*Config) error {
	return func(c *Config) error {
		v := value(c)
		if v == nil {
			return nil
		}
		if len(v) != 3 || slices.Min(v) < 1 || slices.Max(v) > 1<<16 {
			return fmt.Errorf("is %v; it must be three sizes [D, H, W] of 1 to 65536", v)
		}
		return nil
	}
}

func setTargetClass(c *Config, v any) error {
	if n, ok := v.(int64); ok {
		c.Model.TargetClass = strconv.FormatInt(n, 10)
		return nil
	}
	return text(func(c *Config) *string { return &c.Model.TargetClass })(c, v)
}

func checkClasses(c *Config) error {
	seen := map[string]bool{}
	for i, name := range c.Model.Classes {
		if strings.TrimSpace(name) == "" {
			return fmt.Errorf("has an empty name for class %d", i)
		}
		if seen[name] {
			return fmt.Errorf("has the name %q twice", name)
		}
		seen[name] = true
	}
	return nil
}

func checkExtension(c *Config) error {
	ext := c.Data.Extension
	if ext == "" || slices.Contains(Extensions, ext) {
		return nil
	}
	return fmt.Errorf("is %q; choose one of: %s", ext, strings.Join(Extensions, ", "))
}

func checkAxes(c *Config) error {
	axes := c.Data.Axes
	if axes == "" {
		return nil
	}
	for _, a := range "DHW" {
		if strings.Count(axes, string(a)) != 1 {
			return fmt.Errorf("is %q; it must name each of D, H and W once, and C if the file has channels, as in DHW or HWDC", axes)
		}
	}
	if strings.Trim(axes, "NCDHW") != "" || strings.Count(axes, "C") > 1 || strings.Count(axes, "N") > 1 {
		return fmt.Errorf("is %q; only the letters N, C, D, H and W mean something, each once", axes)
	}
	return nil
}

func setRatio(c *Config, v any) error {
	list, ok := v.([]any)
	if !ok {
		return wrongType(v, "a list of three numbers")
	}
	out := make([]float64, len(list))
	for i, e := range list {
		var err error
		if out[i], err = number(e); err != nil {
			return wrongType(e, "a list of three numbers")
		}
	}
	c.Data.SplitRatio = out
	return nil
}

func checkRatio(c *Config) error {
	r := c.Data.SplitRatio
	sum := 0.0
	for _, x := range r {
		if !(x >= 0) {
			return fmt.Errorf("is %v; a share cannot be negative", r)
		}
		sum += x
	}
	if len(r) != 3 || math.Abs(sum-1) > 1e-6 {
		return fmt.Errorf("is %v; it must be three shares (train, val, test) whose sum is 1", r)
	}
	return nil
}

func setMethods(c *Config, v any) error {
	if s, ok := v.(string); ok { // methods = "all" is what one writes first
		c.Explain.Methods = []string{s}
		return nil
	}
	return texts(func(c *Config) *[]string { return &c.Explain.Methods })(c, v)
}

func checkMethods(c *Config) error {
	for i, m := range c.Explain.Methods {
		if strings.TrimSpace(m) == "" {
			return fmt.Errorf("has an empty name")
		}
		if slices.Contains(c.Explain.Methods[:i], m) {
			return fmt.Errorf("names %q twice", m)
		}
		if _, err := cam.Expand(m); err != nil {
			return fmt.Errorf("has an %w", err)
		}
	}
	return nil
}

func setNoiseLevel(c *Config, v any) (err error) { c.Explain.NoiseLevel, err = number(v); return err }

// modelOption checks an option of the model that the configuration names.
func modelOption(name string) func(*Config) error {
	return func(c *Config) error {
		return explain.Options{InputAxes: c.Model.InputAxes, LayerLayout: c.Model.LayerLayout, PrefixTokens: c.Model.PrefixTokens}.CheckOption(name)
	}
}

// requestOption checks an option of the request that the configuration stands for.
func requestOption(name string) func(*Config) error {
	return func(c *Config) error { return c.request().CheckOption(name) }
}

func setAlpha(c *Config, v any) (err error) { c.Output.OverlayAlpha, err = number(v); return err }

func checkAlpha(c *Config) error {
	if a := c.Output.OverlayAlpha; !(a >= 0 && a <= 1) {
		return fmt.Errorf("is %v; it must lie in 0 to 1", a)
	}
	return nil
}

// checkSession keeps a session's name a single folder name.
func checkSession(c *Config) error {
	s := c.Output.Session
	if s == "" {
		return nil
	}
	if s != filepath.Base(s) || s == "." || s == ".." || strings.ContainsAny(s, "/\\\x00") || len(s) > 200 || !utf8.ValidString(s) {
		return fmt.Errorf("is %q; it must be a plain name, without slashes", s)
	}
	return nil
}

func checkFormats(c *Config) error {
	for _, f := range c.Output.Formats {
		if !slices.Contains(Formats, f) {
			return fmt.Errorf("has %q; choose among: %s%s", f, strings.Join(Formats, ", "), didYouMean(f, Formats))
		}
	}
	return nil
}
