package dataset

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/option"
	"github.com/voxcam/voxcam/volume"
	"github.com/voxcam/voxcam/volume/format"
)

// Options say where volumes and labels lie and how a volume becomes the network's input. The zero value is not valid: begin with
// DefaultOptions.
type Options struct {
	Folder     string    // of the volumes
	Labels     string    // table with the columns caseID, label and, optionally, split
	Extension  string    // of format.Extensions; empty: whichever exists for a case
	Variable   string    // of .mat and .npz files; empty: the format's default
	Axes       string    // of the array as stored, as in format.Options, with D, H and W; empty: the format's default
	ImageShape []int     // [D, H, W] after crop and pad, each 1 to 65536; nil: as in the file
	Scale      string    // one of volume.Scalings
	Split      string    // one of SplitSources
	SplitRatio []float64 // train, val and test of the shuffle; the sum is 1
	SplitSeed  uint64    // of the shuffle
	Dataset    string    // one of Selections
	MaxSamples int       // of each split, the first ones; 0: no limit
}

// Where splits come from.
const (
	SplitAuto    = "auto"    // the column if there is one, else the shuffle
	SplitColumn  = "column"  // the table's column split
	SplitShuffle = "shuffle" // a seeded shuffle by SplitRatio
)

// SplitSources are the values of Options.Split.
var SplitSources = []string{SplitAuto, SplitColumn, SplitShuffle}

// AllSplits as Options.Dataset selects the samples of all splits.
const AllSplits = "all"

// Selections returns the values of Options.Dataset: the splits, and AllSplits.
func Selections() []string {
	var names []string
	for _, s := range Splits {
		names = append(names, string(s))
	}
	return append(names, AllSplits)
}

// DefaultOptions returns the defaults. Folder, Labels and Scale have none: how intensities reach the network is a fact about its training
// that only the user knows.
func DefaultOptions() Options {
	return Options{Split: SplitAuto, SplitRatio: []float64{0.6, 0.2, 0.2}, Dataset: string(Val)}
}

// Check returns all that is wrong with the options, each a *cam.OptionError, joined.
func (o Options) Check() error { return option.CheckAll(rules, o, cam.NewOptionError) }

// CheckOption returns the fault of one option, named as in configurations; nil for none. The error begins with the value.
func (o Options) CheckOption(name string) error { return option.CheckOne(rules, name, o) }

// mostSize bounds an axis of ImageShape.
const mostSize = 1 << 16

// errMissing is wrong with an option that has no default.
var errMissing = errors.New("is missing")

var rules = []option.Rule[Options]{
	{Option: "folder", Check: func(o Options) error { return present(o.Folder) }},
	{Option: "labels", Check: func(o Options) error { return present(o.Labels) }},
	{Option: "extension", Check: func(o Options) error {
		if o.Extension == "" {
			return nil
		}
		return option.OneOf(o.Extension, format.Extensions())
	}},
	{Option: "axes", Check: checkAxes},
	{Option: "image_shape", Check: func(o Options) error {
		if s := o.ImageShape; s != nil && (len(s) != 3 || slices.Min(s) < 1 || slices.Max(s) > mostSize) {
			return fmt.Errorf("is %v; it must be three sizes [D, H, W] of 1 to %d", s, mostSize)
		}
		return nil
	}},
	{Option: "scale", Check: func(o Options) error {
		if o.Scale == "" {
			return fmt.Errorf("%w: how the training scaled intensities, one of %s", errMissing, strings.Join(volume.Scalings(), ", "))
		}
		return option.OneOf(o.Scale, volume.Scalings())
	}},
	{Option: "split", Check: func(o Options) error { return option.OneOf(o.Split, SplitSources) }},
	{Option: "split_ratio", Check: checkRatio},
	{Option: "dataset", Check: func(o Options) error { return option.OneOf(o.Dataset, Selections()) }},
	{Option: "max_samples", Check: func(o Options) error {
		if o.MaxSamples < 0 {
			return fmt.Errorf("is %d; it must be at least 0", o.MaxSamples)
		}
		return nil
	}},
}

func present(value string) error {
	if value == "" {
		return errMissing
	}
	return nil
}

func checkAxes(o Options) error {
	axes := o.Axes
	if axes == "" {
		return nil
	}
	for _, a := range "DHW" {
		if strings.Count(axes, string(a)) != 1 {
			return fmt.Errorf("is %q; it must name each of D, H and W once, and C if the file has channels, as in DHW or HWDC", axes)
		}
	}
	if format.CheckAxes(axes) != nil {
		return fmt.Errorf("is %q; only the letters N, C, D, H and W mean something, each once", axes)
	}
	return nil
}

func checkRatio(o Options) error {
	r := o.SplitRatio
	sum := 0.0
	for _, x := range r {
		if !(x >= 0) {
			return fmt.Errorf("is %v; a share cannot be negative", r)
		}
		sum += x
	}
	if len(r) != len(Splits) || math.Abs(sum-1) > 1e-6 {
		return fmt.Errorf("is %v; it must be three shares (train, val, test) whose sum is 1", r)
	}
	return nil
}
