// Package explain answers the question that the program exists for: which voxels of a volume speak for a class. It ties a
// model, a target layer, a class and a list of methods together and returns maps; it reads and writes no result files.
//
// A Model goes on by itself after everything that another plan, or another try on the same device, can mend. A volume is computed in
// attempts (explanation.go); an error that ends one is looked at in one place (recover.go), and the next attempt does what is left:
// methods that have their maps are finished, and what was gathered at points stays so (points.go). Before each volume and each pass the budget
// is asked for (allow.go, admission.go) and memory that others ask for is given back (release.go); between volumes it can be left altogether (shuttle.go).
package explain

import (
	"context"

	"github.com/voxcam/voxcam/cam"
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
// what comes back, and may be called while another volume is explained. Errors are those of Explain.
type Work interface {
	Compute(ctx context.Context) error
	Result() (*cam.Result, error)
	Drop() // what was begun and is not to be computed; nothing afterwards
}
