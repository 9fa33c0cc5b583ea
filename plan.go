package voxcam

import (
	"context"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/fit"
	"github.com/voxcam/voxcam/internal/network"
)

// Inspect lists the layers of a model, and marks those that CAM methods can look at. Of opt it needs Input, InputAxes, Output, Task and, for
// sizes that the file leaves open, Shape. It opens no device.
func Inspect(ctx context.Context, path string, opt Options) (*cam.Summary, error) {
	o, err := opt.engine(path)
	if err != nil {
		return nil, err
	}
	return network.Inspect(ctx, path, network.ModelOptions{Shape: o.Shape, Input: o.Input, InputAxes: o.InputAxes, Output: o.Output, Task: o.Task})
}

// Plan returns the passes that a request would take on the device of opt, without running anything. A pass that does not fit the
// budget has the reason in Err. The size of the volumes must be known, from the file or from opt.Shape.
func Plan(ctx context.Context, path string, opt Options, req cam.Request) ([]cam.Pass, error) {
	q, err := question(path, opt, req)
	if err != nil {
		return nil, err
	}
	return fit.Plan(ctx, q)
}

// Fit reports whether a request would fit into the memory that is free now, and by which plans, as Explain would decide with the same options. The
// size of the volumes must be known, from the file or from opt.Shape.
func Fit(ctx context.Context, path string, opt Options, req cam.Request) (*cam.Fit, error) {
	q, err := question(path, opt, req)
	if err != nil {
		return nil, err
	}
	return fit.Ask(ctx, q)
}

func question(path string, opt Options, req cam.Request) (q fit.Question, err error) {
	q.Request = req
	q.Engine, err = opt.engine(path)
	return q, err
}
