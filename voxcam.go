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
// It computes on an NVIDIA GPU if there is one, else on the processor; Options.Device chooses. All devices give the same answers to
// rounding.
//
// Volumes are [C, D, H, W], row-major float32, and are given to the network as they are: scale them as in training. A result
// says for each method whether its map is ok, degraded (and how) or failed (and why).
package voxcam

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/sysmem"
	"github.com/voxcam/voxcam/volume"
	"github.com/voxcam/voxcam/volume/format"
)

// Types of requests and results.
type (
	// Volume is a multi-channel image, [C, D, H, W], with its place in space.
	Volume = volume.Volume
	// ReadOptions say what to read from a file and how to understand its axes.
	ReadOptions = format.Options
	// Budget bounds the memory that computing takes.
	Budget = cam.Budget
	// Request is one question about one volume. Zero values: the predicted class, the default conventions, DefaultNSamples draws of
	// noise of DefaultNoiseLevel. Values out of range are an *OptionError.
	Request = cam.Request
	// OptionError says that an option of Options or Request has a value that it cannot have.
	OptionError = cam.OptionError
	// Target says which score is explained.
	Target = cam.Target
	// Class says which class score is explained.
	Class = cam.Class
	// Result is the answer for one volume.
	Result = cam.Result
	// Layer says which tensor was explained, and what it stands for.
	Layer = cam.Layer
	// MethodResult is the map of one method.
	MethodResult = cam.MethodResult
	// Info is what is known of a model.
	Info = cam.Info
	// Status is ok, degraded or failed.
	Status = cam.Status
)

// Options say how a model is opened. The zero value explains the last layer with spatial extent, on a GPU if there is one. Values out of
// range are an *OptionError.
type Options struct {
	// TargetLayer is a PyTorch module path, perhaps with the number of a call ("layer4.1.relu@1"), or the name of a node or value in the
	// file; "" is the last layer with spatial extent. Result.Layer says which tensor that is, and what was assumed.
	TargetLayer string
	// InputAxes are the axes of the model's input in the file's order: letters of N (batch), C (channels), D, H, W (depth, height, width),
	// such as "NDHWC" (Keras, JAX) or "NDCHW" (video). "" recognises them where the model's operations show them. Volumes, maps and
	// heatmaps are [C, D, H, W] and [D, H, W] in any case.
	InputAxes string
	// TokenGrid places the tokens of a layer in space: depth, height, width, each 1 to 65536; zero takes it from the graph.
	TokenGrid [3]int
	// PrefixTokens are tokens of the layer in front of those in space, such as class tokens; 0 takes their number from the graph.
	PrefixTokens int
	// LayerLayout names the axes of the target layer: auto, channels-first or channels-last, or a letter for each axis, T for tokens, such
	// as "NDHWC" or "DTC"; "" is auto.
	LayerLayout string
	// Shape is [C, D, H, W] of the volumes to come, where it is known; zero sizes are taken from the model's file.
	Shape [4]int
	// Budget bounds the memory that computing takes: on a GPU, all that the model has in its memory. The zero value is no bound.
	Budget Budget
	// Device is where it is computed: auto, cpu, cuda, or cuda:N for GPU N; "" is auto: the first GPU, or the processor where there is
	// none or it does not work (Model.Notes says so).
	Device string
	// Precision of products on a GPU: fp32, faster and less exact tf32 (10 bits of mantissa) and bf16 (7 bits), or fp64 (sums); "" is
	// fp32. The processor computes in fp32 only.
	Precision string
}

// Ways of choosing a class, and the states of a result.
const (
	ClassPredicted = cam.ClassPredicted
	ClassIndex     = cam.ClassIndex
	StatusOK       = cam.StatusOK
	StatusDegraded = cam.StatusDegraded
	StatusFailed   = cam.StatusFailed
)

// Defaults of a Request.
const (
	DefaultNSamples   = cam.DefaultNSamples
	DefaultNoiseLevel = cam.DefaultNoiseLevel
)

// Methods returns the names of all methods.
func Methods() []string { return cam.Methods() }

// Read reads a volume from a file of any format of package volume/format (format.Extensions).
// One that takes more memory than is free is an error; opt.Allow decides instead.
func Read(path string, opt ReadOptions) (*Volume, error) {
	if opt.Allow == nil {
		opt.Allow = func(bytes int) error { return sysmem.Room(bytes, 1) }
	}
	return format.Read(path, opt)
}

// MaxVoxels bounds the voxels of a volume of NewVolume, over all channels.
const MaxVoxels = 1 << 31

// NewVolume returns a volume of zeros. Sizes below 1, and more than MaxVoxels, give a volume of those sizes without Data, which Explain
// refuses.
func NewVolume(channels, depth, height, width int) *Volume {
	left := MaxVoxels
	for _, d := range []int{channels, depth, height, width} {
		if left /= max(d, 1); d < 1 || left < 1 {
			return &Volume{Channels: channels, Depth: depth, Height: height, Width: width, Geometry: volume.Identity()}
		}
	}
	return volume.New(channels, depth, height, width)
}

// Model is an opened classifier. It may be used by many goroutines; one at a time computes. Open makes it: of another one, all that is
// said is empty, and Explain is an error.
type Model struct {
	model  *explain.Model
	device *device.Device
	close  func() error // once
}

// ErrClosed is the error of Explain behind Close.
var ErrClosed = cam.ErrClosed

// isOpen reports whether Open made the model.
func (m *Model) isOpen() bool { return m != nil && m.model != nil }

// Open opens an ONNX file. If the file fixes the size of the volume, or opt.Shape gives it, a target layer that does not exist
// is an error now; otherwise with the first volume.
func Open(path string, opt Options) (*Model, error) {
	d, err := device.Open(opt.Device, opt.Precision)
	if err != nil {
		return nil, err
	}
	m, err := explain.Open(context.Background(), path, d.Backend, explain.Options{
		ModelOptions: network.ModelOptions{
			TargetLayer: opt.TargetLayer, InputAxes: opt.InputAxes, TokenGrid: opt.TokenGrid, PrefixTokens: opt.PrefixTokens,
			LayerLayout: opt.LayerLayout, Shape: opt.Shape,
		}, Budget: opt.Budget,
	})
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return &Model{m, d, sync.OnceValue(func() error { return errors.Join(m.Close(), d.Close()) })}, nil
}

// Device names what the model is computed on, such as "cuda/NVIDIA H200" or "cpu/avx512".
func (m *Model) Device() string {
	if !m.isOpen() {
		return ""
	}
	return m.device.Name()
}

// Notes are what is worth knowing of the device: why a GPU that is there is not used, or what would make it faster.
func (m *Model) Notes() []string {
	if !m.isOpen() {
		return nil
	}
	return slices.Concat(m.device.Warnings, m.device.Notes)
}

// Info describes the model. What depends on the volume's size is unknown until the first volume, unless the file fixes it.
func (m *Model) Info() Info {
	if !m.isOpen() {
		return Info{}
	}
	return m.model.Info()
}

// Explain answers a request. An error means that nothing could be computed: the volume is none or has another shape than the model takes,
// a value is out of range, ctx has ended, the model is closed. The failure of one method is that method's status.
func (m *Model) Explain(ctx context.Context, v *Volume, req Request) (*Result, error) {
	switch {
	case !m.isOpen():
		return nil, errors.New("the model is not open: voxcam.Open opens one")
	case ctx == nil:
		return nil, errors.New("the context is nil: context.Background() never ends")
	}
	return m.model.Explain(ctx, v, req)
}

// Close gives the model's memory and threads back, after the volume that is being explained. Closing again only returns the same error.
func (m *Model) Close() error {
	if !m.isOpen() {
		return nil
	}
	return m.close()
}
