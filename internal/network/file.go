package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/layer"
	"github.com/voxcam/voxcam/internal/onnx"
	"github.com/voxcam/voxcam/internal/option"
)

// ModelFile is an opened file of a model, with the options by which it is understood.
type ModelFile struct {
	onnx    *onnx.Model
	options ModelOptions // with InputAxes as they are
	assumed string       // about InputAxes; "" if nothing is
	confirm bool         // InputAxes are to be confirmed once the volume's size is known
}

// OpenFile opens an ONNX file. Finding the order of the input's axes, where the options do not state it, may take the given bytes of
// memory. ctx stops it.
func OpenFile(ctx context.Context, path string, o ModelOptions, memory int) (*ModelFile, error) {
	m, err := onnx.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	f := &ModelFile{onnx: m, options: o}
	if o.SHA256 != "" && o.SHA256 != m.SHA256() {
		err = &input.ChangedError{Path: path}
	}
	if err == nil {
		if err = m.ChooseInput(o.Input); err != nil {
			err = cam.NewOptionError("input", err)
		}
	}
	if err == nil {
		err = f.findInput(ctx, memory)
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return f, nil
}

// findInput finds the order of the input's axes, if the options do not state it, and notes assumptions.
func (f *ModelFile) findInput(ctx context.Context, memory int) error {
	if f.options.InputAxes != "" {
		return onnx.CheckInputAxes(f.options.InputAxes)
	}
	order, err := layer.InputAxes(ctx, f.onnx, memory)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Path(), err)
	}
	f.options.InputAxes, f.confirm, f.assumed = order.Axes, order.Open, order.Assumed
	return nil
}

// Path returns where the file lies.
func (f *ModelFile) Path() string { return f.onnx.Path }

// SHA256 returns the hex digest of the model's file and of its external data files.
func (f *ModelFile) SHA256() string { return f.onnx.SHA256() }

// Err returns an *input.ChangedError once the file, or a file of its weights, turned out to hold other bytes than the hashed ones.
func (f *ModelFile) Err() error { return f.onnx.Err() }

// Assumed returns the assumption about the order of the input's axes; "" if there is none.
func (f *ModelFile) Assumed() string { return f.assumed }

// Shape returns [C, D, H, W] of the volumes that the model takes: from the options or, where they leave a size open, from the file. -1 is
// unknown.
func (f *ModelFile) Shape() [4]int {
	shape := f.options.Shape
	for i, d := range f.onnx.VolumeShape(f.options.InputAxes) {
		if shape[i] <= 0 {
			shape[i] = d
		}
	}
	return shape
}

// inputAxes returns the axes of the model's input in the file's order.
func (f *ModelFile) inputAxes() string { return cmp.Or(f.options.InputAxes, f.onnx.DefaultInputAxes()) }

// FullShape returns Shape; an unknown size is an error.
func (f *ModelFile) FullShape() ([4]int, error) {
	shape := f.Shape()
	if slices.Min(shape[:]) < 1 {
		return shape, fmt.Errorf("%s leaves the size of the volume open: give %s channels,depth,height,width", f.Path(), option.Mention("volume_shape"))
	}
	return shape, nil
}

// Close closes the file. Networks that were bound to it must have been closed.
func (f *ModelFile) Close() error { return f.onnx.Close() }
