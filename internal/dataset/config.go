package dataset

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/result"
	"github.com/voxcam/voxcam/volume"
)

// Config is everything that one can set about a run over a data set. The zero value is not useful: begin with Defaults or Load.
type Config struct {
	Path     string // the file it was read from; empty if there is none
	Original bool   // it was the original system's file
	Notices  []string
	Model    Model
	Data     Data
	Explain  Explain
	Memory   Memory
	Output   Output

	lines map[string]int    // key to the line that set it
	flags map[string]string // key to the flag that set it
}

// Model names the network and the place in it that is explained.
type Model struct {
	File         string   // the ONNX file
	Name         string   // what reports call the network; the file's name if empty
	TargetLayer  string   // empty: the last layer with spatial extent
	InputAxes    string   // of the network's input, such as NDHWC; "": as its operations show
	LayerLayout  string   // as layer.LayoutHelp says
	TokenGrid    []int    // [d, h, w] of a token layer; nil: as the graph shows
	PrefixTokens int      // of a token layer, in front of those in space; 0: as the graph shows
	TargetClass  string   // predicted, true, all, an index, or a name of Classes
	Classes      []string // names by index; nil: class_0, class_1, ...
	NumClasses   int      // what the configuration says; 0: as many as the model has
}

// Data says where volumes and labels lie and how a volume becomes the network's input.
type Data struct {
	Folder     string
	Labels     string
	Extension  string // with the dot; empty: whichever known extension exists for a case
	Variable   string // of .mat and .npz files; empty: imgMat, or the only one of a .npz
	Axes       string // meaning of the file's axes, as in format.Options; empty: the format's default
	ImageShape []int  // [D, H, W] after crop and pad; nil: as in the file
	Scale      string // one of volume.Scalings
	Split      string // auto, column or shuffle
	SplitRatio []float64
	SplitSeed  uint64
	Dataset    string // train, val, test or all
	MaxSamples int    // of each split, the first ones; 0: no limit
}

// Explain says what is computed.
type Explain struct {
	Methods     []string
	NSamples    int
	NoiseLevel  float64
	Seed        uint64
	Device      string
	Precision   string
	Threads     int               // of the processor; 0: all
	Memory      bytesize.Budget   // most memory for computing; it does not change results
	Conventions map[string]string // method to convention
}

// Memory says what is done when memory is short, and how the device is kept. Only policy original and fewer draws change results.
type Memory struct {
	Policy string        // exact or original
	Wait   time.Duration // for others to leave memory, for one volume
	CPU    *bool         // go on on the processor where the GPU cannot; nil: as the policy does
	Fewer  *bool         // take fewer draws where not all can be had; nil: as the policy does
	Skip   *bool         // give a volume up rather than let it fail; nil: as the policy does

	Shuttle        string        // when the GPU's memory is given back between volumes: never, idle or always
	LaunchBlocking bool          // wait after every step on a GPU
	PassTimeout    time.Duration // most time for a pass on a GPU; 0: none
	Worker         bool          // the device lives in a process of its own
	UserSignals    string        // what SIGUSR1 and SIGUSR2 mean: one of UserSignals
}

// Output says what is written.
type Output struct {
	Dir          string
	Session      string   // empty: a new one named by the time
	Formats      []string // names of Formats
	OverlayAlpha float64  // weight of the heatmap in an overlay
}

// What SIGUSR1 and SIGUSR2 mean to a run.
const (
	UserSignalsAuto   = "auto"   // stop in a job of a batch system, else memory
	UserSignalsMemory = "memory" // leave the GPU's memory for a minute, and take it again
	UserSignalsStop   = "stop"   // stop the run in good order
)

// UserSignals are the values of Memory.UserSignals.
var UserSignals = []string{UserSignalsAuto, UserSignalsMemory, UserSignalsStop}

// Formats are the kinds of result files that one can ask for.
var Formats = result.Names()

// originalClasses are the grades that the original system knows.
var originalClasses = []string{"Normal", "Early AMD", "Intermediate AMD", "Advanced AMD"}

// Defaults returns the configuration of an empty file. Data.Scale has no default: how intensities reach the network is a
// fact about its training that only the user knows.
func Defaults() *Config {
	return &Config{
		Model: Model{LayerLayout: "auto", TargetClass: "predicted"},
		Data: Data{
			Split: "auto", SplitRatio: []float64{0.6, 0.2, 0.2}, Dataset: "val",
		},
		Explain: Explain{Methods: []string{cam.DefaultMethod}, NSamples: cam.DefaultNSamples, NoiseLevel: cam.DefaultNoiseLevel,
			Device: "auto", Precision: "fp32"},
		Memory: Memory{Policy: "exact", Wait: 10 * time.Second, Shuttle: "never", PassTimeout: 5 * time.Minute, Worker: true, UserSignals: UserSignalsAuto},
		Output: Output{Dir: "CAMVis", Formats: []string{"nifti", "tiff", "png"}, OverlayAlpha: 0.4},
	}
}

// maxConfigBytes bounds a configuration file; a larger one is a mistaken path.
const maxConfigBytes = 1 << 20

// Load reads a configuration file. Relative paths in our own format are relative to the file's folder, so that the run
// does not depend on where it is started; in the original system's file they are relative to the working directory, as
// they are there. All complaints about the file come in one *ConfigError.
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
		return nil, newConfigError(path, complaints)
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

// FromFlag says that a flag, named with its dashes, has set a key after the file was read, so that complaints name the flag.
func (c *Config) FromFlag(key, flag string) {
	if c.flags == nil {
		c.flags = map[string]string{}
	}
	c.flags[key] = flag
	delete(c.lines, key)
}

// Validate checks the configuration as a whole, after flags have been applied: each value, what is missing, and what does
// not go together. It returns a *ConfigError with all complaints.
func (c *Config) Validate() error {
	var complaints []Complaint
	add := func(key, format string, args ...any) {
		complaints = append(complaints, Complaint{Line: c.lines[key], Flag: c.flags[key], Key: key, Text: fmt.Sprintf(format, args...)})
	}
	for _, k := range keys {
		if k.check != nil {
			if err := k.check(c); err != nil {
				add(k.name, "%v", err)
			}
		}
	}
	for _, need := range []struct{ key, value, flag string }{
		{"model.file", c.Model.File, " (or --model)"},
		{"data.folder", c.Data.Folder, ""},
		{"data.labels", c.Data.Labels, ""},
		{"data.scale", c.Data.Scale, ""},
		{"output.dir", c.Output.Dir, " (or --output-dir)"},
	} {
		if need.value == "" {
			hint := ""
			if need.key == "data.scale" {
				hint = ": how the training scaled intensities, one of " + strings.Join(volume.Scalings(), ", ")
			}
			add(need.key, "is missing%s%s", need.flag, hint)
		}
	}
	if len(c.Explain.Methods) == 0 {
		add("explain.methods", "names no method")
	}
	if err := c.request().CheckDraws(); err != nil {
		add("explain.n_samples", "%v", err)
	}
	if c.Model.NumClasses > 0 && len(c.Model.Classes) > 0 && c.Model.NumClasses != len(c.Model.Classes) {
		add("model.classes", "has %d names for %d classes", len(c.Model.Classes), c.Model.NumClasses)
	}
	if n := len(c.Model.Classes); n > 0 {
		if _, _, err := c.Target(n); err != nil {
			add("model.target_class", "is %q: %v", c.Model.TargetClass, err)
		}
	}
	if len(complaints) > 0 {
		return newConfigError(c.Path, complaints)
	}
	return nil
}

// request returns the request that Explain makes of each volume.
func (c *Config) request() cam.Request {
	methods, _ := c.Methods() // a name that is not known is told by its own check
	return cam.Request{Methods: methods, Convention: c.Explain.Conventions, NSamples: c.Explain.NSamples,
		NoiseLevel: c.Explain.NoiseLevel, Seed: c.Explain.Seed}
}

// Methods are the methods that Explain.Methods names, groups expanded, each once.
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

// ClassName is the name of class i, class_i if the configuration has none.
func (c *Config) ClassName(i int) string {
	if i >= 0 && i < len(c.Model.Classes) {
		return c.Model.Classes[i]
	}
	return "class_" + strconv.Itoa(i)
}

// mostFolder bounds the bytes of a class's name in its folder's name, since file systems do.
const mostFolder = 100

// ClassFolder is the folder of the samples whose label is i: class_1_early_amd.
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

// ModelName is what reports call the network.
func (c *Config) ModelName() string {
	if c.Model.Name != "" {
		return c.Model.Name
	}
	base := filepath.Base(c.Model.File)
	return strings.TrimSuffix(base, filepath.Ext(base))
}
