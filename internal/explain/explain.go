// Package explain answers the question that the program exists for: which voxels of a volume speak for a class. It ties a
// model, a target layer, a class and a list of methods together and returns maps; it reads and writes no result files.
package explain

import (
	"context"

	"github.com/voxcam/voxcam/internal/volume"
)

// Explainer explains one volume at a time. It is the boundary between the engine and everything that handles files.
type Explainer interface {
	// Explain returns one MethodResult for each requested method, in the order asked for. An error means that nothing
	// could be computed for the volume (wrong shape, non-finite voxels, cancelled context); the failure of one method
	// is that method's status.
	Explain(ctx context.Context, v *volume.Volume, req Request) (*Result, error)
	// Info describes the model, its classes and the target layer.
	Info() Info
}

// Overlapping is an Explainer that works on several volumes at a time, each at another stage: while one is explained, the next one
// is brought to the device, and the maps of the last one come back.
type Overlapping interface {
	Explainer
	// Begin checks a volume and brings it to the device, when the one before has left that place. The caller ends the work by
	// Result, after Compute, or by Drop.
	Begin(ctx context.Context, v *volume.Volume, req Request) (Work, error)
}

// Work is the work on one volume. Compute explains it, one volume at a time in the order in which they were begun; Result waits for
// what comes back, and may be called while another volume is explained. Errors are those of Explain.
type Work interface {
	Compute(ctx context.Context) error
	Result() (*Result, error)
	Drop() // what was begun and is not to be computed; nothing afterwards
}

// Info is what is known of a model before a volume is seen.
type Info struct {
	Path        string // the model's file
	SHA256      string // hex digest of the model's file and of its external data files
	Classes     int
	TargetLayer string // resolved name of the target layer, as the user would write it
	InputShape  [4]int // [C, D, H, W]; -1 where the model leaves a size open
	Warnings    []string
	Notes       []string // choices that were made, of interest to those who wonder
}

// Class says which class score is explained.
type Class struct {
	Kind  ClassKind
	Index int // for ClassIndex and ClassTrue
}

// ClassKind is a way of choosing the target class.
type ClassKind int

const (
	ClassPredicted ClassKind = iota // the class with the largest logit
	ClassIndex                      // the class Index
	ClassTrue                       // the sample's label, in Index
)

// Request is one question about one volume.
type Request struct {
	Methods    []string // names from cam.Methods, expanded (no groups)
	Class      Class
	NSamples   int     // draws of the noise methods; 50 by default
	NoiseLevel float64 // standard deviation of the noise in units of the volume as the network sees it; 0.15 by default
	Seed       uint64
	SampleID   string    // keys the noise together with Seed
	Noise      NoiseDraw // injected draws; nil for the generator
	Convention map[string]string
	Progress   func(done, total int) // passes through the network; may be nil
}

// NoiseDraw fills dst ([C, D, H, W], standard normal) with the draw of that number.
type NoiseDraw interface {
	Draw(draw int, dst []float32) error
	Len() int
}

// Status of a result. Nothing else is ever reported.
type Status string

const (
	StatusOK       Status = "ok"
	StatusDegraded Status = "degraded" // Reason says how
	StatusFailed   Status = "failed"   // Reason says why
)

// Result is the answer for one volume.
type Result struct {
	Logits        []float32
	Probabilities []float64 // softmax of the logits
	Predicted     int
	TargetClass   int
	TargetLayer   string
	CellSize      [3]float64 // voxels of the volume per cell of the target layer, along depth, height, width
	Methods       []MethodResult
}

// MethodResult is the map of one method.
type MethodResult struct {
	Method     string
	Status     Status
	Reason     string // for StatusDegraded and StatusFailed
	Seconds    float64
	Parameters map[string]any // n_samples, noise_level, convention, ... as used
	Dims       [3]int         // of Map: depth, height, width
	Map        []float32      // signed map at the layer's resolution, before ReLU
	HeatDims   [3]int         // of Heatmap: the volume's
	Heatmap    []float32      // in [0, 1]
}
