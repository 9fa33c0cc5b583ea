package network

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

// ModelOptions choose the target layer, and resolve what a model's file leaves open. As JSON they go from one process to another.
type ModelOptions struct {
	// TargetLayer is a PyTorch module path, perhaps with the number of a call ("layer4.1.relu@1"), or the name of a node or value in the
	// file; "" is the last layer before the scores that has features at places of the volume.
	TargetLayer string `json:"target_layer,omitempty"`
	// LayerLayout names the axes of the target layer, as layer.LayoutHelp says; "" recognises them.
	LayerLayout string `json:"layer_layout,omitempty"`
	// TokenGrid places the tokens of a layer in space: depth, height, width; zero takes it from the graph.
	TokenGrid [3]int `json:"token_grid,omitzero"`
	// PrefixTokens is the number of tokens without a place (class tokens, registers) in front of the others; 0 takes it from the graph.
	PrefixTokens int `json:"prefix_tokens,omitzero"`
	// Input is the name of the input that is explained, of a model with several; the others are in cam.Request.Inputs.
	Input string `json:"input,omitempty"`
	// Output is the name of the output that is explained; "" is the first that is a vector.
	Output string `json:"output,omitempty"`
	// Task names the meaning of that output, as cam.Tasks has it; "" takes it from the end of the file, or assumes it.
	Task string `json:"task,omitempty"`
	// InputAxes are the axes of the model's input in the file's order, letters of N C D H W such as "NDHWC"; "" recognises them.
	InputAxes string `json:"input_axes,omitempty"`
	// Shape is [C, D, H, W] of the volumes to come, where it is known; zero sizes are taken from the model's file.
	Shape [4]int `json:"shape,omitzero"`
	// SHA256 is the digest of an earlier opening: a file that holds another model by now is an *input.ChangedError. "" takes any.
	SHA256 string `json:"sha256,omitempty"`
}

// optionRules are the rules of ModelOptions.
var optionRules = []option.Rule[ModelOptions]{
	{Option: "input_axes", Check: func(o ModelOptions) error { return option.Prefix("cannot be used: ", onnx.CheckInputAxes(o.InputAxes)) }},
	{Option: "prefix_tokens", Check: func(o ModelOptions) error {
		if o.PrefixTokens < 0 {
			return fmt.Errorf("is %d; it must be at least 0, which stands for what the graph shows", o.PrefixTokens)
		}
		return nil
	}},
	{Option: "layer_layout", Check: func(o ModelOptions) error { return option.Prefix("cannot be used: ", layer.CheckLayout(o.LayerLayout)) }},
	{Option: "token_grid", Check: func(o ModelOptions) error {
		if o.TokenGrid == [3]int{} {
			return nil
		}
		_, err := TokenGrid(o.TokenGrid[:])
		return err
	}},
	{Option: "task", Check: func(o ModelOptions) error {
		if o.Task == "" {
			return nil
		}
		return option.OneOf(o.Task, cam.TaskNames())
	}},
	{Option: "volume_shape", Check: func(o ModelOptions) error {
		if slices.Min(o.Shape[:]) < 0 {
			return fmt.Errorf("is %v; sizes must be at least 0, which stands for that of the model's file", o.Shape)
		}
		return nil
	}},
}

// Check returns all that is wrong with options, each an *OptionError, joined.
func (o ModelOptions) Check() error { return option.CheckAll(optionRules, o, cam.NewOptionError) }

// CheckBudget returns the fault of a budget, as an *OptionError; nil for none.
func CheckBudget(b cam.Budget) error {
	if b.Bytes < 0 || b.Arena < 0 {
		return cam.NewOptionError("memory_budget", fmt.Errorf("is %d bytes (arena: %d); it must be at least 0, which stands for no bound", b.Bytes, b.Arena))
	}
	return nil
}

// CheckOption is Check for one option, as OptionError spells it. The error begins with the value.
func (o ModelOptions) CheckOption(name string) error { return option.CheckOne(optionRules, name, o) }

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
