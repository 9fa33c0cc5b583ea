package explain

import (
	"fmt"
	"slices"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/layer"
	"github.com/voxcam/voxcam/internal/onnx"
	"github.com/voxcam/voxcam/internal/option"
)

// mostSize bounds an axis of the token grid.
const mostSize = 1 << 16

// optionRules are those of Options.
var optionRules = []option.Rule[Options]{
	{Option: "input_axes", Check: func(o Options) error { return option.Prefix("cannot be used: ", onnx.CheckInputAxes(o.InputAxes)) }},
	{Option: "prefix_tokens", Check: func(o Options) error {
		if o.PrefixTokens < 0 {
			return fmt.Errorf("is %d; it must be at least 0, which stands for what the graph shows", o.PrefixTokens)
		}
		return nil
	}},
	{Option: "layer_layout", Check: func(o Options) error { return option.Prefix("cannot be used: ", layer.CheckLayout(o.LayerLayout)) }},
	{Option: "token_grid", Check: func(o Options) error {
		if o.TokenGrid == [3]int{} {
			return nil
		}
		_, err := TokenGrid(o.TokenGrid[:])
		return err
	}},
	{Option: "volume_shape", Check: func(o Options) error {
		if slices.Min(o.Shape[:]) < 0 {
			return fmt.Errorf("is %v; sizes must be at least 0, which stands for that of the model's file", o.Shape)
		}
		return nil
	}},
	{Option: "memory_budget", Check: func(o Options) error {
		if b := o.Budget; b.Bytes < 0 || b.Arena < 0 {
			return fmt.Errorf("is %d bytes (arena: %d); it must be at least 0, which stands for no bound", b.Bytes, b.Arena)
		}
		return nil
	}},
}

// Check returns all that is wrong with options, each an *OptionError, joined.
func (o Options) Check() error { return option.CheckAll(optionRules, o, cam.NewOptionError) }

// CheckOption is Check for one option, as OptionError spells it. The error begins with the value.
func (o Options) CheckOption(name string) error { return option.CheckOne(optionRules, name, o) }

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
