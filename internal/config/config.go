// Package config reads the configuration of a run over a data set, strictly, from TOML. All keys are in one table (keys.go). Lists, ranges
// and defaults of values are those of the packages that use them.
//
//	c, err := config.Load("config.toml")                  // our own keys, or the original system's file
//	c.SetFlag("explain.n_samples", "--n-samples", 20)     // flags go over the file
//	err = c.Validate()                                    // all complaints at once
//	set, err := dataset.Open(c.Data)
package config

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/layer"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/option"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/result"
)

// Config has all settings of a run over a data set. The zero value is not valid: begin with Defaults or Load.
type Config struct {
	Path     string // the file it was read from; empty if there is none
	Original bool   // it was the original system's file
	Notices  []string
	Model    ModelSection
	Data     dataset.Options
	Explain  ExplainSection
	Memory   MemorySection
	Output   OutputSection

	lines   map[string]int    // key to the line that set it
	flags   map[string]string // key to the flag that set it
	refused []Complaint       // of values of flags
}

// ModelSection names the network and the place in it that is explained.
type ModelSection struct {
	File string // the ONNX file
	Name string // of the network in reports; the file's name if empty
	network.ModelOptions
	TargetClass string   // predicted, true, all, an index, or a name of Classes
	Against     string   // others, an index, or a name of Classes; "" is nothing
	Classes     []string // names by index; nil: class_0, class_1, ...
	NumClasses  int      // number of classes; 0: as many as the model has
}

// ExplainSection has methods and their settings, and where they are computed.
type ExplainSection struct {
	cam.Request // for each volume, without target and sample; Methods may name groups
	Device      string
	Precision   string
	Threads     int             // of the processor; 0: all
	Memory      bytesize.Budget // most memory for computing; it does not change results
}

// MemorySection has the policy for times when memory is short, and how the device is kept. Only the policy original and fewer draws change results.
type MemorySection struct {
	Policy string        // one of policy.Names
	Wait   time.Duration // for other programs to give memory back, for one volume
	CPU    *bool         // let the processor go on where the GPU cannot; nil: as the policy does
	Fewer  *bool         // take fewer draws where memory for all is missing; nil: as the policy does
	Skip   *bool         // skip a volume rather than let it fail; nil: as the policy does

	Shuttle        string        // when the GPU's memory is given back between volumes: one of instance.Shuttles
	LaunchBlocking bool          // wait after every step on a GPU
	PassTimeout    time.Duration // most time for a pass on a GPU; 0: none
	Worker         bool          // the device lives in a process of its own
	UserSignals    string        // meaning of SIGUSR1 and SIGUSR2: one of UserSignals
}

// OutputSection has the place and the formats of results.
type OutputSection struct {
	Dir          string
	Session      string   // empty: a new one named by the time
	Formats      []string // of result.Names
	OverlayAlpha float64  // weight of the heatmap in an overlay
}

// Meanings of SIGUSR1 and SIGUSR2 for a run.
const (
	UserSignalsAuto   = "auto"   // stop in a job of a batch system, else memory
	UserSignalsMemory = "memory" // leave the GPU's memory for a minute, and take it again
	UserSignalsStop   = "stop"   // stop the run in good order
)

// UserSignals are the values of Memory.UserSignals.
var UserSignals = []string{UserSignalsAuto, UserSignalsMemory, UserSignalsStop}

// Defaults returns the configuration of an empty file.
func Defaults() *Config {
	exact := policy.DefaultPolicy()
	return &Config{
		Model: ModelSection{ModelOptions: network.ModelOptions{LayerLayout: layer.Layouts[0]}, TargetClass: "predicted"},
		Data:  dataset.DefaultOptions(),
		Explain: ExplainSection{Request: cam.Request{Methods: []string{cam.DefaultMethod}, Target: cam.Target{Score: cam.Scores()[0]}, NSamples: cam.DefaultNSamples,
			NoiseLevel: cam.DefaultNoiseLevel, Steps: cam.DefaultSteps, Baseline: cam.DefaultBaseline, Quadrature: cam.DefaultQuadrature},
			Device: device.DefaultName, Precision: device.DefaultPrecision},
		Memory: MemorySection{Policy: exact.String(), Wait: exact.Wait, Shuttle: instance.Shuttles[0], PassTimeout: 5 * time.Minute, Worker: true,
			UserSignals: UserSignalsAuto},
		Output: OutputSection{Dir: "CAMVis", Formats: []string{"nifti", "tiff", "png"}, OverlayAlpha: result.DefaultAlpha},
	}
}

// maxConfigBytes bounds a configuration file; a larger one is a mistaken path.
const maxConfigBytes = 1 << 20

// Load reads a configuration file. Relative paths in our own format are relative to the file's folder, so that the run
// does not depend on where it is started; in the original system's file they are relative to the working directory, as
// they are there. All complaints about the file come in one *Error.
func Load(path string) (*Config, error) {
	text, err := input.ReadFile(path, maxConfigBytes)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return parse(path, text)
}

func parse(path string, text []byte) (*Config, error) {
	doc, err := readTOML(path, text)
	if err != nil {
		return nil, err
	}
	c := Defaults()
	c.Path = path
	c.lines = map[string]int{}
	var complaints []Complaint
	if doc.hasTable("DataModule") || doc.hasTable("NetModule") {
		c.Original = true
		complaints = c.fillOriginal(doc)
	} else {
		complaints = c.fill(doc)
		c.resolvePaths(filepath.Dir(path))
	}
	if len(complaints) > 0 {
		return nil, newError(path, complaints)
	}
	return c, nil
}

func (c *Config) resolvePaths(dir string) {
	for _, p := range []*string{&c.Model.File, &c.Data.Folder, &c.Data.Labels, &c.Output.Dir} {
		if *p != "" && !filepath.IsAbs(*p) && (p != &c.Output.Dir || c.lines["output.dir"] > 0) {
			*p = filepath.Join(dir, *p)
		}
	}
}

// Set sets a key to a value of its field's type, or as TOML has it, and checks it. Of a key that ends in ".*", a value can be set by its own
// name: explain.conventions.gradcam++. An error is a *cam.OptionError.
func (c *Config) Set(name string, value any) error {
	k := c.key(name)
	if section, entry, ok := cutEntry(name); k == nil && ok {
		if text, ok := value.(string); ok {
			all := maps.Clone(c.Explain.Convention)
			if all == nil {
				all = map[string]string{}
			}
			all[entry] = text
			return c.Set(section, all)
		}
	}
	if k == nil {
		var names []string
		for _, k := range Keys() {
			names = append(names, k.Name)
		}
		return cam.NewOptionError(name, fmt.Errorf("is no key of a configuration%s", option.DidYouMean(name, names)))
	}
	if n, ok := value.(int); ok {
		value = int64(n)
	}
	if err := k.set(value); err != nil {
		return cam.NewOptionError(name, err)
	}
	delete(c.lines, name)
	return nil
}

// cutEntry splits the name of an entry of a key that holds several, explain.conventions.METHOD.
func cutEntry(name string) (section, entry string, ok bool) {
	const conventions = "explain.conventions."
	entry, ok = strings.CutPrefix(name, conventions)
	return conventions + "*", entry, ok
}

// SetFlag sets a key to the value of a flag, which is named with its dashes. Complaints about the value name the flag, and come with
// Validate.
func (c *Config) SetFlag(name, flag string, value any) {
	if c.flags == nil {
		c.flags = map[string]string{}
	}
	c.flags[name] = flag
	delete(c.lines, name)
	if err := c.key(name).value.set(value); err != nil {
		c.refused = append(c.refused, Complaint{Flag: flag, Key: name, Text: err.Error()})
	}
}

// Validate checks the configuration as a whole, after flags have been applied: each value, missing ones, and those that do not go
// together. It returns an *Error with all complaints.
func (c *Config) Validate() error {
	complaints := slices.Clone(c.refused)
	add := func(key string, err error) {
		if err != nil {
			complaints = append(complaints, Complaint{Line: c.lines[key], Flag: c.flags[key], Key: key, Text: err.Error()})
		}
	}
	for _, k := range c.keys() {
		add(k.name, k.valid())
	}
	if c.Model.File == "" {
		add("model.file", errors.New("is missing"))
	}
	if c.Output.Dir == "" {
		add("output.dir", errors.New("is missing"))
	}
	if len(c.Explain.Methods) == 0 {
		add("explain.methods", errors.New("names no method"))
	}
	add("explain.n_samples", c.Request().CheckDraws())
	n := len(c.Model.Classes)
	if n > 0 && c.Model.NumClasses > 0 && c.Model.NumClasses != n {
		add("model.classes", fmt.Errorf("has %d names for %d classes", n, c.Model.NumClasses))
	}
	_, err := cam.ParseAgainst(c.Model.Against, c.Model.Classes)
	add("model.against", err)
	if n > 0 {
		_, _, err := c.Target(n)
		add("model.target_class", option.Prefix(fmt.Sprintf("is %q: ", c.Model.TargetClass), err))
	}
	if len(complaints) > 0 {
		return newError(c.Path, complaints)
	}
	return nil
}

// Request returns the request for each volume, without target and sample.
func (c *Config) Request() cam.Request {
	r := c.Explain.Request
	r.Methods, _ = c.Methods() // an unknown name is reported by its own check
	r.Target.Against, _ = cam.ParseAgainst(c.Model.Against, c.Model.Classes)
	return r
}

// Policy returns the policy that the configuration names, with the exceptions that it makes.
func (c *Config) Policy() (policy.Policy, error) {
	m := c.Memory
	p, err := policy.ParsePolicy(m.Policy)
	if err != nil {
		return p, err
	}
	p.Wait = m.Wait
	for to, from := range map[*bool]*bool{&p.CPU: m.CPU, &p.Fewer: m.Fewer, &p.Skip: m.Skip} {
		if from != nil {
			*to = *from
		}
	}
	return p, nil
}

// Engine returns the options of the engine that explains the volumes of a run.
func (c *Config) Engine() (engine.Options, error) {
	p, err := c.Policy()
	o := engine.Options{Policy: p, Options: instance.Options{Model: c.Model.File, ModelOptions: c.Model.ModelOptions, Ahead: true,
		Device: c.Explain.Device, Precision: c.Explain.Precision, Threads: c.Explain.Threads,
		Budget: c.Explain.Memory.String(), Shuttle: c.Memory.Shuttle, LaunchBlocking: c.Memory.LaunchBlocking}}
	copy(o.Shape[1:], c.Data.ImageShape)
	return o, err
}

// Settings returns all settings of the configuration that change results, by key, as text. Those that do not change a sample's result are
// left out: the places of files, the choice of samples, the device, and the policy exact, since a result that had to do with less memory
// says so. With the policy original the number of draws depends on the moment.
func (c *Config) Settings() map[string]string {
	settings := map[string]string{}
	defaults := Defaults().keys()
	for i, k := range c.keys() {
		if text := k.value.text(); k.effect == changes || k.effect == changesUnlessDefault && text != defaults[i].value.text() {
			settings[strings.TrimSuffix(k.name, ".*")] = text
		}
	}
	return settings
}

// Methods returns the methods that Explain.Methods names, groups expanded, each once.
func (c *Config) Methods() ([]string, error) { return cam.Expand(strings.Join(c.Explain.Methods, ",")) }

// Target resolves Model.TargetClass for a model of n classes: the class to ask for, or all of them. ClassTrue gets its
// index from each sample.
func (c *Config) Target(n int) (class cam.Class, all bool, err error) {
	switch text := c.Model.TargetClass; text {
	case "predicted", "":
		return cam.Class{Kind: cam.ClassPredicted}, false, nil
	case "true":
		return cam.Class{Kind: cam.ClassTrue}, false, nil
	case "all":
		return cam.Class{}, true, nil
	default:
		if i, err := strconv.Atoi(text); err == nil {
			if i < 0 || i >= n {
				return cam.Class{}, false, fmt.Errorf("class %d is out of range: the model has classes 0 to %d", i, n-1)
			}
			return cam.Class{Kind: cam.ClassIndex, Index: i}, false, nil
		}
		for i, name := range c.Model.Classes {
			if strings.EqualFold(name, text) || snake(name) == snake(text) {
				return cam.Class{Kind: cam.ClassIndex, Index: i}, false, nil
			}
		}
		choices := append([]string{"predicted", "true", "all", "an index"}, c.Model.Classes...)
		return cam.Class{}, false, fmt.Errorf("no class is called %q; choose one of: %s", text, strings.Join(choices, ", "))
	}
}

// ClassName returns the name of class i: class_i if the configuration has none.
func (c *Config) ClassName(i int) string {
	if i >= 0 && i < len(c.Model.Classes) {
		return c.Model.Classes[i]
	}
	return "class_" + strconv.Itoa(i)
}

// mostFolder bounds the bytes of a class's name in its folder's name, since file systems do.
const mostFolder = 100

// ClassFolder returns the name of the folder of the samples whose label is i: class_1_early_amd.
func (c *Config) ClassFolder(i int) string {
	if i < 0 {
		return "class_unknown"
	}
	folder := "class_" + strconv.Itoa(i)
	if i < len(c.Model.Classes) {
		name := snake(c.Model.Classes[i])
		for len(name) > mostFolder {
			_, last := utf8.DecodeLastRuneInString(name)
			name = name[:len(name)-last]
		}
		if name != "" {
			folder += "_" + name
		}
	}
	return folder
}

// ModelName returns the name of the network in reports.
func (c *Config) ModelName() string {
	if c.Model.Name != "" {
		return c.Model.Name
	}
	base := filepath.Base(c.Model.File)
	return strings.TrimSuffix(base, filepath.Ext(base))
}

// snake turns a class name into a part of a folder name: "Early AMD" becomes early_amd.
func snake(s string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(s) {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			b.WriteRune(r)
		} else if n := b.Len(); n > 0 && b.String()[n-1] != '_' {
			b.WriteByte('_')
		}
	}
	return strings.TrimRight(b.String(), "_")
}
