// Package explain answers the question that the program exists for: which voxels of a volume speak for a class. It has the methods over one
// volume, on a network whose programs are ready, and the interfaces through which volumes are explained; it reads and writes no files.
//
// An Explanation is computed in attempts (attempt.go). An error ends one, and the executor decides whether there is another, which does
// the rest: methods that have their maps are finished, and the sums over points are kept (kept.go).
package explain

import (
	"context"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/volume"
)

// Explainer explains one volume at a time. It is the boundary between the engine and everything that handles files.
type Explainer interface {
	// Explain returns one MethodResult for each requested method, in the order asked for, each method once. An error means that nothing
	// could be computed for the volume (wrong shape, non-finite voxels, cancelled context); the failure of one method
	// is that method's status.
	Explain(ctx context.Context, v *volume.Volume, req cam.Request) (*cam.Result, error)
	// Info describes the model, its classes and the target layer.
	Info() cam.Info
}

// Overlapping is an Explainer that works on several volumes at a time, each at another stage: while one is explained, the next one
// is brought to the device, and the maps of the last one come back.
type Overlapping interface {
	Explainer
	// Begin checks a volume and brings it to the device, when the one before has left that place. The caller ends the work by
	// Result, after Compute, or by Drop.
	Begin(ctx context.Context, v *volume.Volume, req cam.Request) (Work, error)
}

// One explains one volume from Begin to Result.
func One(ctx context.Context, ex Overlapping, v *volume.Volume, req cam.Request) (*cam.Result, error) {
	w, err := ex.Begin(ctx, v, req)
	if err != nil {
		return nil, err
	}
	if err := w.Compute(ctx); err != nil {
		return nil, err
	}
	return w.Result()
}

// Work is the work on one volume. Compute explains it, one volume at a time in the order in which they were begun; Result waits for
// maps on their way to the host, and may be called while another volume is explained. Errors are those of Explain.
type Work interface {
	Compute(ctx context.Context) error
	Result() (*cam.Result, error)
	Drop() // ends work that is begun and not to be computed; does nothing afterwards
}

// Executor carries explanations out: it has the device, and decides how to go on after an error.
type Executor interface {
	// BeforePass is called before each pass through the network. An error ends the attempt.
	BeforePass(ctx context.Context) error
	// VolumeRead is called after the first pass through the network.
	VolumeRead()
	// Take brings a map to the host. Behind is set when another goroutine calls it while the device goes on.
	Take(f backend.Field, behind bool) ([]float32, error)
	// Retryable reports whether another attempt may mend an error. Other errors of methods are their status.
	Retryable(err error) bool
	// Record makes an event.
	Record(kind cam.EventKind, format string, args ...any)
}
