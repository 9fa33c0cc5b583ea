package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/voxcam/voxcam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/layer"
	"github.com/voxcam/voxcam/internal/network"
)

// modelFlags are the flags of commands that open a model.
type modelFlags struct {
	model string
	network.ModelOptions
	grid []int // TokenGrid, as it was given
	deviceFlags
	budget bytesize.Budget
	ahead  bool // volumes come one after the other
}

const inputAxesHelp = "axes of the model's input in its order, such as NDHWC (Keras, JAX) or NDCHW (video) (default: as its operations show)"

func (f *modelFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.model, "model", "", "ONNX file of the classifier")
	f.addOptions(cmd)
	f.deviceFlags.add(cmd)
}

// addOptions adds the options of the model, and the budget that it has.
func (f *modelFlags) addOptions(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.TargetLayer, "target-layer", "", "layer to explain: a PyTorch module path (of the second call: PATH@2) or a name in the file (default: the last before the scores that has features at places of the volume)")
	fl.StringVar(&f.InputAxes, "input-axes", "", inputAxesHelp)
	fl.StringVar(&f.LayerLayout, "layer-layout", layer.Layouts[0], "axes of the target layer: "+layer.LayoutHelp)
	fl.IntSliceVar(&f.grid, "token-grid", nil, "place the tokens of the layer in space: depth,height,width (default: as the graph shows)")
	fl.IntVar(&f.PrefixTokens, "prefix-tokens", 0, "tokens of the layer in front of those in space, such as class tokens (default: as the graph shows)")
	fl.Var(&f.budget, "memory-budget", "most memory for computing: a size (512MiB), a share of what is free (50%), auto, or min; the answer stays the same")
}

// engine returns the options of model, device and budget, for volumes of a shape, [C, D, H, W], zero where it is not known.
func (f *modelFlags) engine(shape [4]int) (engine.Options, error) {
	if f.model == "" {
		return engine.Options{}, usage(errors.New("--model is missing: the ONNX file of the classifier"))
	}
	o, err := f.modelOptions(shape)
	return engine.Options{Options: instance.Options{
		Model: f.model, ModelOptions: o, Ahead: f.ahead, Device: f.device, Precision: f.precision, Budget: f.budget.String(),
	}}, err
}

// library returns the options of engine as the library has them.
func (f *modelFlags) library(shape [4]int) (voxcam.Options, error) {
	o, err := f.engine(shape)
	return voxcam.Options{
		TargetLayer: o.TargetLayer, LayerLayout: o.LayerLayout, TokenGrid: o.TokenGrid, PrefixTokens: o.PrefixTokens, InputAxes: o.InputAxes, Shape: o.Shape,
		Device: o.Device, Precision: o.Precision, Budget: o.Budget,
	}, err
}

// modelOptions returns the options of the model, for volumes of a shape.
func (f *modelFlags) modelOptions(shape [4]int) (o network.ModelOptions, err error) {
	o = f.ModelOptions
	o.Shape = shape
	if o.TokenGrid, err = network.TokenGrid(f.grid); err != nil {
		return o, usage(fmt.Errorf("--token-grid %w", err))
	}
	return o, flagged(o.Check())
}
