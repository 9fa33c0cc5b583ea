package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/option"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/printable"
	"github.com/voxcam/voxcam/internal/result"
	"github.com/voxcam/voxcam/volume"
	"github.com/voxcam/voxcam/volume/format"
)

// key is a row of the table of all keys of a configuration.
type key struct {
	name   string
	doc    string
	value  value                     // the field of the Config, and how it is read
	check  func(option string) error // checks the value, from any source, by the last part of the key's name; nil if all values are allowed
	effect effect
}

// effect tells whether a key changes results: then a session does not go on with another value.
type effect int

const (
	noEffect             effect = iota
	changes                     // it does
	changesUnlessDefault        // it does, and sessions that were made before there was the key go on with its default
)

// flags are the flags that override keys of another name. All others have the last part of the key's name, with dashes.
var flags = map[string]string{
	"model.file": "model", "explain.methods": "method", conventionsKey + "*": "convention", "output.dir": "output-dir",
}

// flag returns the name of the flag that overrides the key, where a command has one of that name.
func (k *key) flag() string {
	if name, ok := flags[k.name]; ok {
		return name
	}
	return strings.ReplaceAll(last(k.name), "_", "-")
}

// section returns the key's name without the last part.
func (k *key) section() string { return k.name[:strings.LastIndexByte(k.name, '.')] }

// last returns the part of a key's name behind its section.
func last(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

// set sets the key to a value of TOML or of a flag, and checks it.
func (k *key) set(v any) error {
	if err := k.value.set(v); err != nil {
		return err
	}
	return k.valid()
}

// valid checks the key's value.
func (k *key) valid() error {
	if k.check == nil {
		return nil
	}
	return k.check(last(k.name))
}

// key returns the key of a name; nil if there is none.
func (c *Config) key(name string) *key {
	keys := c.keys()
	if i := slices.IndexFunc(keys, func(k key) bool { return k.name == name }); i >= 0 {
		return &keys[i]
	}
	return nil
}

// conventionsKey is in front of the names of methods.
const conventionsKey = "explain.conventions."

// one lists values as a sentence does: "a, b or c".
func one(values []string) string {
	n := len(values) - 1
	return strings.Join(values[:n], ", ") + " or " + values[n]
}

// keys returns the keys of the configuration in the order of the documentation. A key whose name ends in .* takes any last part.
func (c *Config) keys() []key {
	// Options are checked by the packages that have them, with the values of that time.
	model := func(option string) error { return c.Model.CheckOption(option) }
	data := func(option string) error { return c.Data.CheckOption(option) }
	request := func(option string) error { return c.Request().CheckOption(option) }
	onDevice := func(option string) error { return c.device().CheckOption(option) }
	return []key{
		{"model.file", "ONNX file of the network", text(&c.Model.File), nil, noEffect},
		{"model.name", "what reports call the network", text(&c.Model.Name), nil, noEffect},
		{"model.target_layer", "layer to explain; default: the last one before the scores that has features at places of the volume", text(&c.Model.TargetLayer), nil, noEffect},
		{"model.input_axes", "axes of the network's input in its order, such as NDHWC (Keras, JAX) or NDCHW (video); default: as its operations show",
			text(&c.Model.InputAxes), model, changes},
		{"model.layer_layout", "axes of the target layer: auto, channels-first, channels-last, or a letter for each axis, such as NDHWC or DTC",
			text(&c.Model.LayerLayout), model, changes},
		{"model.token_grid", "[d, h, w] of a token layer; default: as the graph shows", grid(&c.Model.TokenGrid), nil, changes},
		{"model.prefix_tokens", "tokens of a token layer in front of those in space, such as class tokens; default: as the graph shows",
			integer(&c.Model.PrefixTokens), model, changes},
		{"model.output", "output to explain, by its name in the file; default: the first that is a vector", text(&c.Model.Output), nil, changesUnlessDefault},
		{"model.task", "meaning of the output: " + one(cam.TaskNames()) + "; default: as the end of the file shows", text(&c.Model.Task), model, changesUnlessDefault},
		{"model.score", "what is explained of a class: " + one(cam.Scores()), text(&c.Explain.Target.Score), request, changesUnlessDefault},
		{"model.against", "explain the difference to another class, by index or name, or to the mean of the others: others", text(&c.Model.Against), nil, changesUnlessDefault},
		{"model.target_class", "predicted, true, all, an index or a class name", field(&c.Model.TargetClass, readClass), nil, changes},
		{"model.classes", "names of the classes by index", texts(&c.Model.Classes), c.checkClasses, noEffect},

		{"data.folder", "folder of the volumes", text(&c.Data.Folder), data, noEffect},
		{"data.labels", "CSV file with the columns caseID, label and, optionally, split", text(&c.Data.Labels), data, noEffect},
		{"data.extension", one(format.Extensions()) + "; default: whichever exists", text(&c.Data.Extension), data, changes},
		{"data.variable", "variable of .mat (default: imgMat) and .npz files (default: the only one)", text(&c.Data.Variable), nil, changes},
		{"data.axes", "meaning of the file's axes in order, such as DHW or HWDC; default: DHW, or CDHW of .npy and .mat, DHWC of NIfTI",
			text(&c.Data.Axes), data, changes},
		{"data.image_shape", "[D, H, W] that volumes are cropped or zero-padded to, centred; default: left as they are",
			field(&c.Data.ImageShape, readIntegers), data, changes},
		{"data.scale", one(volume.Scalings()), text(&c.Data.Scale), data, changes},
		{"data.split", "column, shuffle, or auto: the column if there is one", text(&c.Data.Split), data, noEffect},
		{"data.split_ratio", "[train, val, test] of the shuffle", field(&c.Data.SplitRatio, readNumbers), data, noEffect},
		{"data.split_seed", "seed of the shuffle", natural(&c.Data.SplitSeed), nil, noEffect},
		{"data.dataset", one(dataset.Selections()), text(&c.Data.Dataset), data, noEffect},
		{"data.max_samples", "number of samples of each split, from the first; 0: all", integer(&c.Data.MaxSamples), data, noEffect},

		{"explain.methods", "names of methods, and of their groups " + strings.Join(cam.Groups(), " and "), field(&c.Explain.Methods, readMethods), c.checkMethods, noEffect},
		{"explain.n_samples", "draws of the noise methods", integer(&c.Explain.NSamples), request, changes},
		{"explain.noise_level", "standard deviation of the noise, in units of the prepared volume", field(&c.Explain.NoiseLevel, readNumber), request, changes},
		{"explain.steps", "points of the methods on a path, such as integrated-gradients", integer(&c.Explain.Steps), request, changesUnlessDefault},
		{"explain.baseline", "where a path begins: " + one(append(cam.Baselines(), "a number")) + ", as text, such as \"-1\", in units of the prepared volume",
			text(&c.Explain.Baseline), request, changesUnlessDefault},
		{"explain.quadrature", "how the points of a path are chosen and weighted: " + one(cam.Quadratures()), text(&c.Explain.Quadrature), request, changesUnlessDefault},
		{"explain.seed", "seed of the noise", natural(&c.Explain.Seed), nil, changes},
		{"explain.device", "where it is computed: auto (a GPU if there is one), cpu, cuda, or cuda:N for GPU N", text(&c.Explain.Device), onDevice, noEffect},
		{"explain.precision", "how products are computed on a GPU: fp32, tf32 and bf16 (faster, less exact), or fp64 (sums in float64, slow)",
			text(&c.Explain.Precision), oneOf(&c.Explain.Precision, device.Precisions()), changesUnlessDefault},
		{"explain.threads", "threads of the processor to compute with; 0: all", integer(&c.Explain.Threads), onDevice, noEffect},
		{"explain.memory_budget", "most memory for computing: a size such as 512MiB, a share of the free memory such as 50%, auto, or min; results stay the same",
			field(&c.Explain.Memory, readBudget), nil, noEffect},
		{conventionsKey + "*", "formula of a method, such as \"gradcam++\" = \"paper\"",
			field(&c.Explain.Convention, only[map[string]string]("a section")), func(string) error { return request("conventions") }, changes},

		{"memory.policy", "when memory is short: exact never changes a result; original takes fewer draws, and skips, by the original system's thresholds",
			text(&c.Memory.Policy), oneOf(&c.Memory.Policy, policy.Names()), changesUnlessDefault},
		{"memory.wait", "seconds in all that a volume waits for other programs to leave memory of the GPU",
			seconds(&c.Memory.Wait), func(option string) error { return policy.Policy{Wait: c.Memory.Wait}.CheckOption(option) }, noEffect},
		{"memory.cpu_fallback", "let the processor go on where the GPU cannot; default: as the policy, exact true, original false", choice(&c.Memory.CPU), nil, noEffect},
		{"memory.fewer_samples", "take fewer draws, at least 5, where not all can be had; default: as the policy, exact false, original true",
			choice(&c.Memory.Fewer), nil, noEffect},
		{"memory.skip", "give a volume up as skipped_low_memory when nothing can hold it, instead of failed; default: true", choice(&c.Memory.Skip), nil, noEffect},
		{"memory.shuttle", "when the GPU's memory is given back between volumes: never, idle (after a while without work) or always",
			text(&c.Memory.Shuttle), oneOf(&c.Memory.Shuttle, instance.Shuttles), noEffect},
		{"memory.launch_blocking", "wait after every step on a GPU, so that an error names the step: slow", boolean(&c.Memory.LaunchBlocking), nil, noEffect},
		{"memory.pass_timeout", "seconds that a pass on a GPU may take before its process is ended and another goes on; 0: no limit",
			seconds(&c.Memory.PassTimeout), c.checkPassTimeout, noEffect},
		{"memory.worker", "keep the device in a process of its own, so that its end does not end the run; in Go programs only with RunOptions.Worker, the command of that process", boolean(&c.Memory.Worker), nil, noEffect},
		{"memory.user_signals", "what SIGUSR1 and SIGUSR2 mean: memory (give the GPU's memory to others for a minute, and take it again), stop, or auto: " +
			"stop in a job of Slurm, PBS, LSF, Grid Engine, Flux or OAR, else memory",
			text(&c.Memory.UserSignals), oneOf(&c.Memory.UserSignals, UserSignals), noEffect},

		{"output.dir", "folder that sessions are made in; default: CAMVis in the working directory", text(&c.Output.Dir), nil, noEffect},
		{"output.session", "name of the session; default: the time", text(&c.Output.Session), c.checkSession, noEffect},
		{"output.formats", strings.Join(result.Names(), ", "), texts(&c.Output.Formats), c.checkFormats, changes},
		{"output.overlay_alpha", "weight of the heatmap in an overlay, 0 to 1", field(&c.Output.OverlayAlpha, readNumber), c.checkAlpha, changes},
	}
}

// Key describes one key of the configuration, for documents and commands.
type Key struct {
	Name    string
	Flag    string // the flag that overrides it, without dashes, if a command has one
	Doc     string
	Default string // in the form of the file, without quotes; empty where there is none
}

// Keys lists all keys of the configuration, section by section.
func Keys() []Key {
	var out []Key
	for _, k := range Defaults().keys() {
		out = append(out, Key{k.name, k.flag(), k.doc, k.value.shown()})
	}
	return out
}

// device returns the options of the device.
func (c *Config) device() device.Options {
	return device.Options{Name: c.Explain.Device, Precision: c.Explain.Precision, Threads: c.Explain.Threads}
}

func oneOf(value *string, allowed []string) func(string) error {
	return func(string) error { return option.OneOf(*value, allowed) }
}

func (c *Config) checkClasses(string) error {
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

func (c *Config) checkMethods(string) error {
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

// setConvention chooses the formula of one method.
func (c *Config) setConvention(method string, v any) error {
	name, ok := v.(string)
	if !ok {
		return wrongType(v, wantText)
	}
	chosen := map[string]string{method: name}
	if _, err := cam.Choose(nil, chosen); err != nil {
		return fmt.Errorf("is %q: %w", name, err)
	}
	if c.Explain.Convention == nil {
		c.Explain.Convention = chosen
	}
	c.Explain.Convention[method] = name
	return nil
}

func (c *Config) checkPassTimeout(string) error {
	if d := c.Memory.PassTimeout; d < 0 {
		return fmt.Errorf("is %v; a time cannot be negative", d)
	}
	return nil
}

func (c *Config) checkAlpha(string) error {
	if a := c.Output.OverlayAlpha; !(a >= 0 && a <= 1) {
		return fmt.Errorf("is %v; it must lie in 0 to 1", a)
	}
	return nil
}

// checkSession keeps a session's name a single folder name that can be printed.
func (c *Config) checkSession(string) error {
	const most = 200
	s := c.Output.Session
	switch {
	case s == "":
		return nil
	case s != filepath.Base(s) || s == "." || s == ".." || strings.ContainsAny(s, `/\`) || len(s) > most || !utf8.ValidString(s):
		return fmt.Errorf("is %q; it must be a plain name, without slashes", s)
	case printable.Line(s) != s:
		return fmt.Errorf("is %q; it must be a plain name, without control characters", s)
	}
	return nil
}

func (c *Config) checkFormats(string) error {
	for _, f := range c.Output.Formats {
		if !slices.Contains(result.Names(), f) {
			return fmt.Errorf("has %q; choose among: %s%s", f, strings.Join(result.Names(), ", "), option.DidYouMean(f, result.Names()))
		}
	}
	return nil
}

// grid returns the field of a token grid.
func grid(at *[3]int) value {
	v := field(at, func(v any) (grid [3]int, err error) {
		sizes, ok := v.([]int)
		if !ok {
			if sizes, err = readIntegers(v); err != nil {
				return grid, err
			}
		}
		return network.TokenGrid(sizes)
	})
	v.get = func() any {
		if *at == [3]int{} {
			return nil
		}
		return *at
	}
	return v
}
