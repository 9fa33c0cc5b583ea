// Package voxcam explains 3D image classifiers: it says which voxels of a volume speak for a class, by Grad-CAM, Grad-CAM++,
// SmoothGrad, VarGrad and others, for models in ONNX files, exactly and without Python.
//
//	m, err := voxcam.Open(ctx, "model.onnx", voxcam.Options{TargetLayer: "layer4"})
//	...
//	defer m.Close()
//	v, err := voxcam.Read(ctx, "case.nii.gz", format.Options{})
//	...
//	result, err := m.Explain(ctx, v, cam.Request{Methods: []string{"gradcam"}})
//	...
//	err = m.Save("out", v, result, voxcam.SaveOptions{})
//
// Three packages belong together: this one opens models and runs data sets (Run); package cam has the methods and the words of requests,
// results and errors; package volume has volumes, which package volume/format reads and writes.
//
// It computes on an NVIDIA GPU if there is one, else on the processor; Options.Device chooses. All devices give the same answers to
// rounding. When memory runs short, a model goes on by smaller plans, waits for other programs, and goes to the processor, as its Policy
// says; what happened is in each result's Execution, and no result is less than was asked for without saying so.
//
// Volumes are [C, D, H, W], row-major float32, and are given to the network as they are: scale them as in training (volume.Scale). A result
// says for each method whether its map is ok, degraded (and how) or failed (and why).
package voxcam

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/runner"
	"github.com/voxcam/voxcam/internal/sysmem"
	"github.com/voxcam/voxcam/volume"
	"github.com/voxcam/voxcam/volume/format"
)

// Read reads a volume from a file of any format of package volume/format (format.Extensions). A volume that takes more memory than is free is
// an error, unless opt.Allow decides otherwise: take this function rather than format.Read, which has no such bound.
func Read(ctx context.Context, path string, opt format.Options) (*volume.Volume, error) {
	if opt.Allow == nil {
		opt.Allow = func(bytes int) error { return sysmem.Room(bytes, 1) }
	}
	return format.ReadContext(ctx, path, opt)
}

// Noise is a file of draws, for Request.Noise.
type Noise interface {
	cam.NoiseDraw
	Close() error
}

// OpenNoise opens a .npy file of draws, [n, C, D, H, W], standard normal, that suffice for a request.
func OpenNoise(ctx context.Context, path string, req cam.Request) (Noise, error) {
	req, err := req.Filled()
	if err != nil {
		return nil, err
	}
	draws, err := runner.OpenNoise(ctx, path, req)
	if err != nil {
		return nil, err
	}
	return draws, nil
}

// MaxVoxels bounds the voxels of a volume of NewVolume, over all channels.
const MaxVoxels = 1 << 31

// NewVolume returns a volume of zeros. Sizes below 1, and more than MaxVoxels, give a volume of those sizes without Data, which Explain
// refuses: take this function for sizes that come from outside, and volume.New, which does not check them, for those that are known to be good.
func NewVolume(channels, depth, height, width int) *volume.Volume {
	left := MaxVoxels
	for _, d := range []int{channels, depth, height, width} {
		if left /= max(d, 1); d < 1 || left < 1 {
			return &volume.Volume{Channels: channels, Depth: depth, Height: height, Width: width, Geometry: volume.Identity()}
		}
	}
	return volume.New(channels, depth, height, width)
}

// Model is an opened classifier. It may be used by many goroutines; one volume at a time is computed. Open makes it: of another one, all that
// is said is empty, and Explain is an error.
type Model struct {
	engine *engine.Engine

	using  sync.RWMutex // is read-locked while the engine is used, and locked while it is closed
	closed atomic.Bool  // is set under the lock, after device and before end
	device string       // the device that computed last
	end    error        // of closing
}

// isOpen reports whether Open made the model.
func (m *Model) isOpen() bool { return m != nil && m.engine != nil }

// Open opens an ONNX file. If the file fixes the size of the volume, or opt.Shape gives it, a target layer that does not exist
// is an error now; otherwise with the first volume. Options that are out of range are a *cam.OptionError, several joined. ctx is for opening
// alone.
func Open(ctx context.Context, path string, opt Options) (*Model, error) {
	o, err := opt.engine(path)
	if err != nil {
		return nil, err
	}
	e, err := engine.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	return &Model{engine: e}, nil
}

// use lets the caller use the engine until it calls the function that it gets.
func (m *Model) use() (done func(), err error) {
	if !m.isOpen() {
		return nil, errors.New("the model is not open: voxcam.Open opens one")
	}
	m.using.RLock()
	if m.closed.Load() {
		m.using.RUnlock()
		return nil, cam.ErrClosed
	}
	return m.using.RUnlock, nil
}

// Device names what the model is computed on now, such as "cuda/NVIDIA H200" or "cpu/avx512", or before Close; "" while a GPU is waited for.
func (m *Model) Device() string {
	switch {
	case !m.isOpen():
		return ""
	case m.closed.Load():
		return m.device
	}
	return m.engine.State().Name
}

// Notes returns what is worth knowing of the device: warnings, such as why a GPU that is there is not used, and notes, such as what would make it
// faster.
func (m *Model) Notes() (warnings, notes []string) {
	if !m.isOpen() {
		return nil, nil
	}
	return m.engine.Notes()
}

// Info describes the model. What depends on the volume's size is unknown until the first volume, unless the file fixes it.
func (m *Model) Info() cam.Info {
	if !m.isOpen() {
		return cam.Info{}
	}
	return m.engine.Info()
}

// Prepare makes the plans for methods ready, so that a budget that is too small, a *cam.BudgetError, is known before the first volume. It
// does nothing while the size of the volumes is not known.
func (m *Model) Prepare(ctx context.Context, methods ...string) error {
	done, err := m.use()
	if err != nil {
		return err
	}
	defer done()
	req, err := cam.Request{Methods: methods}.Filled()
	if err != nil {
		return err
	}
	return m.engine.Prepare(ctx, req.Methods)
}

// Explain answers a request. Zeros of it stand for the predicted class, the default conventions, cam.DefaultNSamples draws of noise of
// cam.DefaultNoiseLevel. The failure of one method is that method's status. An error means that nothing could be computed:
//
//   - the volume is none, is not finite, or has another shape than the model takes;
//   - a value of the request is out of range, a *cam.OptionError;
//   - the request's Target names what the model's output does not have, such as a class beyond its last;
//   - no plan that the policy allows fits into memory: a *cam.SkippedError that wraps a *cam.MemoryError, or a *cam.BudgetError;
//   - the device is lost (cam.ErrLost) or fails again and again (*cam.TransientError), and the policy has no processor in its place;
//   - the model is closed (cam.ErrClosed), or ctx has ended, whose error it is.
func (m *Model) Explain(ctx context.Context, v *volume.Volume, req cam.Request) (*cam.Result, error) {
	done, err := m.use()
	if err != nil {
		return nil, err
	}
	defer done()
	if ctx == nil {
		return nil, errors.New("the context is nil: context.Background() never ends")
	}
	return m.engine.Explain(ctx, v, req)
}

// Close gives the model's memory and threads back, after the volumes that are being explained. Closing again only returns the same error.
func (m *Model) Close() error {
	if !m.isOpen() {
		return nil
	}
	m.using.Lock()
	defer m.using.Unlock()
	if !m.closed.Load() {
		m.device = m.engine.State().Name
		m.closed.Store(true)
		if err := m.engine.Close(); err != nil {
			m.end = fmt.Errorf("closing the model: %w", err)
		}
	}
	return m.end
}
