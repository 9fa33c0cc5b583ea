// Package voxcam explains 3D image classifiers: it says which voxels of a volume speak for a class, by Grad-CAM, Grad-CAM++,
// SmoothGrad, VarGrad and others, for models in ONNX files, exactly and without Python.
//
//	m, err := voxcam.Open("model.onnx", voxcam.Options{TargetLayer: "layer4"})
//	...
//	defer m.Close()
//	v, err := voxcam.Read("case.nii.gz", voxcam.ReadOptions{})
//	...
//	result, err := m.Explain(ctx, v, voxcam.Request{Methods: []string{"gradcam"}})
//
// Volumes are [C, D, H, W], row-major float32, and are given to the network as they are: scale them as in training. A result
// says for each method whether its map is ok, degraded (and how) or failed (and why).
package voxcam

import (
	"context"
	"errors"

	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/cam"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/volume"
	"github.com/voxcam/voxcam/internal/volume/format"
)

// Types of requests and results.
type (
	// Volume is a multi-channel image, [C, D, H, W], with its place in space.
	Volume = volume.Volume
	// ReadOptions say what to read from a file and how to understand its axes.
	ReadOptions = format.Options
	// Options choose the target layer of a model.
	Options = explain.Options
	// Request is one question about one volume. Zero values: the predicted class, the default conventions.
	Request = explain.Request
	// Class says which class score is explained.
	Class = explain.Class
	// Result is the answer for one volume.
	Result = explain.Result
	// MethodResult is the map of one method.
	MethodResult = explain.MethodResult
	// Info is what is known of a model.
	Info = explain.Info
	// Status is ok, degraded or failed.
	Status = explain.Status
)

// Ways of choosing a class, and the states of a result.
const (
	ClassPredicted = explain.ClassPredicted
	ClassIndex     = explain.ClassIndex
	StatusOK       = explain.StatusOK
	StatusDegraded = explain.StatusDegraded
	StatusFailed   = explain.StatusFailed
)

// Methods returns the names of all methods.
func Methods() []string { return cam.Methods() }

// Read reads a volume from a file: .npy, .npz, .mat (up to v7.2), .nii or .nii.gz.
func Read(path string, opt ReadOptions) (*Volume, error) { return format.Read(path, opt) }

// NewVolume returns a volume of zeros.
func NewVolume(channels, depth, height, width int) *Volume {
	return volume.New(channels, depth, height, width)
}

// Model is an opened classifier. It may be used by many goroutines; one at a time computes.
type Model struct {
	model   *explain.Model
	backend *cpu.Backend
}

// Open opens an ONNX file. If the file fixes the size of the volume, or opt.Shape gives it, a target layer that does not exist
// is an error now; otherwise with the first volume.
func Open(path string, opt Options) (*Model, error) {
	b, err := cpu.New(cpu.Options{})
	if err != nil {
		return nil, err
	}
	m, err := explain.Open(path, b, opt)
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return &Model{m, b}, nil
}

// Info describes the model. What depends on the volume's size is unknown until the first volume, unless the file fixes it.
func (m *Model) Info() Info { return m.model.Info() }

// Explain answers a request. An error means that nothing could be computed; the failure of one method is that method's status.
func (m *Model) Explain(ctx context.Context, v *Volume, req Request) (*Result, error) {
	return m.model.Explain(ctx, v, req)
}

// Close gives the model's memory and threads back.
func (m *Model) Close() error { return errors.Join(m.model.Close(), m.backend.Close()) }
