package cam

import (
	"fmt"
	"math"
	"strings"

	"github.com/voxcam/voxcam/internal/option"
)

// Defaults of a request, those of the library, the program and configurations alike.
const (
	DefaultMethod     = "gradcam"
	DefaultNSamples   = 50
	DefaultNoiseLevel = 0.15
	DefaultSteps      = 50
	DefaultBaseline   = "zero"
	DefaultQuadrature = "gauss-legendre"
)

// Bounds of options.
const (
	mostDraws = math.MaxInt32
	mostNoise = math.MaxFloat32
	mostSteps = 4096 // the weights of a quadrature take a time that grows with the square
	// leastNoise is the smallest noise level that is not zero as a float32.
	leastNoise = math.SmallestNonzeroFloat32
)

// Target chooses the score that is explained. The zero value is the logit of the predicted class.
type Target struct {
	Class   Class
	Score   string // one of Scores: what is explained of the class; "" is the first
	Against Against
	Region  Region // of an output with space; others have none
}

// Against chooses the classes whose score is subtracted from that of the target's class. The zero value chooses none.
type Against struct {
	Kind  AgainstKind
	Index int // for AgainstClass
}

// AgainstKind is a way of choosing what a class is explained against.
type AgainstKind int

const (
	AgainstNothing AgainstKind = iota
	AgainstClass               // the class Index
	AgainstOthers              // the mean of all other classes
)

// Class chooses the class whose score is explained.
type Class struct {
	Kind  ClassKind
	Index int // for ClassIndex and ClassTrue
}

// ClassKind is a way of choosing the target class.
type ClassKind int

const (
	ClassPredicted ClassKind = iota // the class with the largest logit
	ClassIndex                      // the class Index
	ClassTrue                       // the sample's label, in Index
)

// Request is one question about one volume. Values that are out of range are an *OptionError. A Target that names what the
// model's output does not have, such as a class beyond its last, is another error, as only the model shows it.
type Request struct {
	Methods    []string              // names from Methods, or groups of them ("both", "all"); at least one
	Target     Target                // the score to explain; zero: that of the predicted class
	Inputs     map[string]Array      // of a model with several inputs, the data of those besides the one that is explained, by name
	NSamples   int                   // draws of the noise methods, 1 to 2^31-1; 0 is DefaultNSamples
	NoiseLevel float64               // standard deviation of the noise in units of the volume as the network sees it; 0 is DefaultNoiseLevel
	Seed       uint64                // of the noise
	SampleID   string                // keys the noise together with Seed: in a run, the case ID of the labels
	Steps      int                   // points of methods that follow a path, 1 to 4096; 0 is DefaultSteps
	Baseline   string                // start of a path: one of Baselines, or a number, the value of every voxel; "" is DefaultBaseline
	Quadrature string                // one of Quadratures, which chooses the points of a path and their weights; "" is DefaultQuadrature
	Noise      NoiseDraw             // draws in place of the generator's; nil for the generator
	Convention map[string]string     // from a method to the name of its convention (Lookup lists them); other methods use their first
	Progress   func(done, total int) // is called after each pass through the network, from one goroutine; may be nil
	OnEvent    func(Event)           // is called with each event at once, from any goroutine; Result.Execution has them all later; may be nil
	Checkpoint Checkpoint            // keeps unfinished draws; nil: nothing does
}

// Array is the data of an input besides the one that is explained.
type Array struct {
	Shape  []int     // in the file's order, with or without a batch of one in front; of a volume, [C, D, H, W]
	Data   []float32 // row-major
	Volume bool      // it is brought to the file's order of axes, that of the input that is explained where both have as many
}

// Checkpoint keeps the state of unfinished draws of one volume in a safe place: when the computation fails, another explanation of the
// same volume for the same request goes on from there.
type Checkpoint interface {
	// Latest is the state that was kept last under a key, to be read, and of how many draws it is; nil if there is none.
	Latest(key string) (state []float32, draws int)
	// Keep keeps a state, which is the caller's again when it returns. The earlier state stays until the new one is complete.
	Keep(key string, state []float32, draws int) error
}

// NoiseDraw has draws of noise. One goroutine at a time uses it.
type NoiseDraw interface {
	// Draw fills dst, [C, D, H, W] of the volume, with draw number draw, from 0: standard normal values.
	Draw(draw int, dst []float32) error
	// Len is the number of draws that there are.
	Len() int
}

// OptionError says that an option has a value that it cannot have.
type OptionError struct {
	Option string // as records and configurations spell it: n_samples
	Err    error  // begins with the value, and names the allowed ones: "is 0; it must be from 1 to 2147483647"
}

func (e *OptionError) Error() string { return e.Option + " " + e.Err.Error() }
func (e *OptionError) Unwrap() error { return e.Err }

// NewOptionError returns an *OptionError.
func NewOptionError(option string, err error) error { return &OptionError{option, err} }

// requestRules are the rules of a Request whose defaults have been filled in.
var requestRules = []option.Rule[Request]{
	{Option: "methods", Check: func(r Request) error {
		list := strings.Join(r.Methods, ",")
		if strings.Trim(list, ", ") == "" {
			return fmt.Errorf("names no method: choose from %s", strings.Join(Methods(), ", "))
		}
		_, err := Expand(list)
		return option.Prefix("has an ", err)
	}},
	{Option: "conventions", Check: func(r Request) error {
		_, err := Choose(nil, r.Convention)
		return option.Prefix("has an ", err)
	}},
	{Option: "n_samples", Check: func(r Request) error {
		if r.NSamples < 1 || r.NSamples > mostDraws {
			return fmt.Errorf("is %d; it must be from 1 to %d", r.NSamples, mostDraws)
		}
		return nil
	}},
	{Option: "noise_level", Check: func(r Request) error {
		if !(r.NoiseLevel >= leastNoise && r.NoiseLevel <= mostNoise) {
			return fmt.Errorf("is %v; it must be a positive number from %.2g to %.2g (without noise the method is saliency)",
				r.NoiseLevel, leastNoise, mostNoise)
		}
		return nil
	}},
	{Option: "steps", Check: func(r Request) error {
		if r.Steps < 1 || r.Steps > mostSteps {
			return fmt.Errorf("is %d; it must be from 1 to %d", r.Steps, mostSteps)
		}
		return nil
	}},
	{Option: "baseline", Check: func(r Request) error { _, err := baselineOf(r.Baseline, 0); return err }},
	{Option: "quadrature", Check: func(r Request) error { _, err := quadratureOf(r.Quadrature); return err }},
	{Option: "score", Check: func(r Request) error {
		if r.Target.Score == "" {
			return nil
		}
		return option.OneOf(r.Target.Score, Scores())
	}},
	{Option: "against", Check: func(r Request) error {
		switch a := r.Target.Against; {
		case a.Kind < AgainstNothing || a.Kind > AgainstOthers:
			return fmt.Errorf("is of kind %d; it must be from %d to %d", a.Kind, AgainstNothing, AgainstOthers)
		case a.Kind == AgainstClass && a.Index < 0:
			return fmt.Errorf("is %d; it must be at least 0", a.Index)
		}
		return nil
	}},
	{Option: "target_class", Check: func(r Request) error {
		switch c := r.Target.Class; {
		case c.Kind < ClassPredicted || c.Kind > ClassTrue:
			return fmt.Errorf("is of kind %d; it must be from %d to %d", c.Kind, ClassPredicted, ClassTrue)
		case c.Kind != ClassPredicted && c.Index < 0:
			return fmt.Errorf("is %d; it must be at least 0", c.Index)
		}
		return nil
	}},
}

// Filled returns the request with defaults in place of the zeros of NSamples, NoiseLevel, Steps, Baseline and Quadrature, and with groups of
// methods expanded, each method once.
func (r Request) Filled() (Request, error) {
	if r.NSamples == 0 {
		r.NSamples = DefaultNSamples
	}
	if r.NoiseLevel == 0 {
		r.NoiseLevel = DefaultNoiseLevel
	}
	if r.Target.Score == "" {
		r.Target.Score = scoreLogit
	}
	if r.Steps == 0 {
		r.Steps = DefaultSteps
	}
	if r.Baseline == "" {
		r.Baseline = DefaultBaseline
	}
	if r.Quadrature == "" {
		r.Quadrature = DefaultQuadrature
	}
	if methods, err := Expand(strings.Join(r.Methods, ",")); err == nil { // otherwise Check says why
		r.Methods = methods
	}
	return r, r.Check()
}

// Check returns all that is wrong with a filled request, each an *OptionError, joined.
func (r Request) Check() error {
	if err := option.CheckAll(requestRules, r, NewOptionError); err != nil {
		return err
	}
	if err := r.CheckDraws(); err != nil {
		return NewOptionError("n_samples", err)
	}
	return nil
}

// CheckOption is Check for one option, as OptionError spells it. The error begins with the value.
func (r Request) CheckOption(name string) error { return option.CheckOne(requestRules, name, r) }

// CheckDraws says that NSamples are too few for the method that needs most. Of methods and conventions that are not known it says nothing.
func (r Request) CheckDraws() error {
	choices, err := Choose(r.Methods, r.Convention)
	if err != nil {
		return nil
	}
	var most Choice
	least := 0
	for _, c := range choices {
		if n := c.Convention.MinDraws(); n > least {
			most, least = c, n
		}
	}
	if r.NSamples < least {
		return fmt.Errorf("is %d; %s (%s) needs at least %d draws", r.NSamples, most.Name, most.Convention.Name, least)
	}
	return nil
}
