package explain

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/layer"
	"github.com/voxcam/voxcam/internal/onnx"
)

// Defaults of a request, those of the library, the program and configurations alike.
const (
	DefaultMethod     = "gradcam"
	DefaultNSamples   = 50
	DefaultNoiseLevel = 0.15
)

// Bounds of options.
const (
	mostDraws = math.MaxInt32
	mostSize  = 1 << 16 // of an axis of the token grid
	mostNoise = math.MaxFloat32
	// leastNoise is the smallest noise level that is not zero as a float32.
	leastNoise = math.SmallestNonzeroFloat32
)

// OptionError says that an option has a value that it cannot have.
type OptionError struct {
	Option string // as records and configurations spell it: n_samples
	Err    error  // begins with the value, and says what it may be: "is 0; it must be from 1 to 2147483647"
}

func (e *OptionError) Error() string { return e.Option + " " + e.Err.Error() }
func (e *OptionError) Unwrap() error { return e.Err }

// rule is a row of a table of options: what is wrong with one of them, nil for nothing.
type rule[T any] struct {
	option string
	check  func(T) error
}

// requestRules are those of a Request whose defaults have been filled in.
var requestRules = []rule[Request]{
	{"methods", func(r Request) error {
		list := strings.Join(r.Methods, ",")
		if strings.Trim(list, ", ") == "" {
			return fmt.Errorf("names no method: choose from %s", strings.Join(cam.Methods(), ", "))
		}
		_, err := cam.Expand(list)
		return prefixed("has an ", err)
	}},
	{"conventions", func(r Request) error {
		_, err := cam.Choose(nil, r.Convention)
		return prefixed("has an ", err)
	}},
	{"n_samples", func(r Request) error {
		if r.NSamples < 1 || r.NSamples > mostDraws {
			return fmt.Errorf("is %d; it must be from 1 to %d", r.NSamples, mostDraws)
		}
		return nil
	}},
	{"noise_level", func(r Request) error {
		if !(r.NoiseLevel >= leastNoise && r.NoiseLevel <= mostNoise) {
			return fmt.Errorf("is %v; it must be a positive number from %.2g to %.2g (without noise the method is saliency)",
				r.NoiseLevel, leastNoise, mostNoise)
		}
		return nil
	}},
	{"target_class", func(r Request) error {
		switch c := r.Class; {
		case c.Kind < ClassPredicted || c.Kind > ClassTrue:
			return fmt.Errorf("is of kind %d; it must be from %d to %d", c.Kind, ClassPredicted, ClassTrue)
		case c.Kind != ClassPredicted && c.Index < 0:
			return fmt.Errorf("is %d; it must be at least 0", c.Index)
		}
		return nil
	}},
}

// optionRules are those of Options.
var optionRules = []rule[Options]{
	{"input_axes", func(o Options) error { return prefixed("cannot be used: ", onnx.CheckInputAxes(o.InputAxes)) }},
	{"prefix_tokens", func(o Options) error {
		if o.PrefixTokens < 0 {
			return fmt.Errorf("is %d; it must be at least 0, which stands for what the graph shows", o.PrefixTokens)
		}
		return nil
	}},
	{"layer_layout", func(o Options) error { return prefixed("cannot be used: ", layer.CheckLayout(o.LayerLayout)) }},
	{"token_grid", func(o Options) error {
		if o.TokenGrid == [3]int{} {
			return nil
		}
		_, err := TokenGrid(o.TokenGrid[:])
		return err
	}},
	{"volume_shape", func(o Options) error {
		if slices.Min(o.Shape[:]) < 0 {
			return fmt.Errorf("is %v; sizes must be at least 0, which stands for that of the model's file", o.Shape)
		}
		return nil
	}},
	{"memory_budget", func(o Options) error {
		if b := o.Budget; b.Bytes < 0 || b.Arena < 0 {
			return fmt.Errorf("is %d bytes (arena: %d); it must be at least 0, which stands for no bound", b.Bytes, b.Arena)
		}
		return nil
	}},
}

// prefixed puts text before an error, if there is one.
func prefixed(text string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s%w", text, err)
}

// Filled returns the request with the defaults of NSamples and NoiseLevel in place of zeros, and with groups of methods expanded, each
// method once.
func (r Request) Filled() (Request, error) {
	if r.NSamples == 0 {
		r.NSamples = DefaultNSamples
	}
	if r.NoiseLevel == 0 {
		r.NoiseLevel = DefaultNoiseLevel
	}
	if methods, err := cam.Expand(strings.Join(r.Methods, ",")); err == nil { // otherwise Check says why
		r.Methods = methods
	}
	return r, r.Check()
}

// Check returns all that is wrong with a filled request, each an *OptionError, joined.
func (r Request) Check() error {
	if err := checkAll(requestRules, r); err != nil {
		return err
	}
	if err := r.CheckDraws(); err != nil {
		return &OptionError{"n_samples", err}
	}
	return nil
}

// CheckOption is Check for one option, as OptionError spells it. The error begins with the value.
func (r Request) CheckOption(option string) error { return checkOne(requestRules, option, r) }

// CheckDraws says that NSamples are too few for the method that needs most. Of methods and conventions that are not known it says nothing.
func (r Request) CheckDraws() error {
	choices, err := cam.Choose(r.Methods, r.Convention)
	if err != nil {
		return nil
	}
	var most cam.Choice
	for _, c := range choices {
		if c.Convention.MinDraws > most.Convention.MinDraws {
			most = c
		}
	}
	if r.NSamples < most.Convention.MinDraws {
		return fmt.Errorf("is %d; %s (%s) needs at least %d draws", r.NSamples, most.Name, most.Convention.Name, most.Convention.MinDraws)
	}
	return nil
}

// Check returns all that is wrong with options, each an *OptionError, joined.
func (o Options) Check() error { return checkAll(optionRules, o) }

// CheckOption is Check for one option, as OptionError spells it. The error begins with the value.
func (o Options) CheckOption(option string) error { return checkOne(optionRules, option, o) }

// TokenGrid reads the token grid of flags and configurations: depth, height, width; none is the zero value, which infers it.
func TokenGrid(sizes []int) (grid [3]int, err error) {
	if len(sizes) == 0 {
		return grid, nil
	}
	if len(sizes) != 3 || slices.Min(sizes) < 1 || slices.Max(sizes) > mostSize {
		return grid, fmt.Errorf("is %v; it must be three sizes from 1 to %d: depth, height, width", sizes, mostSize)
	}
	return [3]int(sizes), nil
}

func checkAll[T any](rules []rule[T], t T) error {
	var errs []error
	for _, r := range rules {
		if err := r.check(t); err != nil {
			errs = append(errs, &OptionError{r.option, err})
		}
	}
	return errors.Join(errs...)
}

func checkOne[T any](rules []rule[T], option string, t T) error {
	for _, r := range rules {
		if r.option == option {
			return r.check(t)
		}
	}
	return fmt.Errorf("internal error, please report it: there is no option %q", option)
}
