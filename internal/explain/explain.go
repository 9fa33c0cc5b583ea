// Package explain answers the question that the program exists for: which voxels of a volume speak for a class. It ties a
// model, a target layer, a class and a list of methods together and returns maps; it reads and writes no result files.
//
// A Model goes on by itself after everything that another plan, or another try on the same device, can mend. A volume is computed in
// attempts (explanation.go); an error that ends one is looked at in one place (recover.go), and the next attempt does what is left:
// methods that have their maps are finished, and draws that were added up stay so (draws.go). Before each volume and each pass the budget
// is asked for (allow.go) and whoever wants the memory gets it (release.go); between volumes it can be left altogether (shuttle.go).
package explain

import (
	"context"
	"time"

	"github.com/voxcam/voxcam/volume"
)

// Explainer explains one volume at a time. It is the boundary between the engine and everything that handles files.
type Explainer interface {
	// Explain returns one MethodResult for each requested method, in the order asked for, each method once. An error means that nothing
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

// One explains one volume from Begin to Result.
func One(ctx context.Context, ex Overlapping, v *volume.Volume, req Request) (*Result, error) {
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
	Result() (*Result, error)
	Drop() // what was begun and is not to be computed; nothing afterwards
}

// Info is what is known of a model before a volume is seen.
type Info struct {
	Path        string // the model's file
	SHA256      string // hex digest of the model's file and of its external data files
	Classes     int
	TargetLayer string // resolved name of the target layer, as the user would write it
	Layer       *Layer // the target layer; nil while it is not known, or where there is none
	InputShape  [4]int // [C, D, H, W]; -1 where the model leaves a size open
	Warnings    []string
	Notes       []string // choices that were made, of interest to those who wonder
}

// Layer says which tensor is explained, and what it stands for.
type Layer struct {
	Name  string `json:"name"`  // as it was asked for, or as a user would name the default
	Value string `json:"value"` // name in the model's file
	Shape []int  `json:"shape"`
	Axes  string `json:"axes"` // a letter for each axis
	// Module is the PyTorch module whose output the value is, or stands for; "" where the value itself was named. Of its Calls in the
	// file it is number Call, the first being 1.
	Module string `json:"module,omitempty"`
	Call   int    `json:"call,omitempty"`
	Calls  int    `json:"calls,omitempty"`
	// AnotherTensor says why the value is not the module's own output, which is not in the file; "" if it is. Methods that look at the
	// layer are then degraded.
	AnotherTensor string   `json:"another_tensor,omitempty"`
	Warnings      []string `json:"warnings,omitempty"` // what was assumed, and what the user should know
	Notes         []string `json:"notes,omitempty"`    // choices that follow from the file
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

// Request is one question about one volume. Values that are out of range are an *OptionError.
type Request struct {
	Methods    []string // names from cam.Methods, or groups of them ("both", "all"); at least one
	Class      Class
	NSamples   int     // draws of the noise methods, 1 to 2^31-1; 0 is DefaultNSamples
	NoiseLevel float64 // standard deviation of the noise in units of the volume as the network sees it; 0 is DefaultNoiseLevel
	Seed       uint64
	SampleID   string    // keys the noise together with Seed: in a run, the case ID of the labels
	Noise      NoiseDraw // injected draws; nil for the generator
	Convention map[string]string
	Progress   func(done, total int) // passes through the network; may be nil
	Incident   func(Incident)        // hears at once what lands in Result.Execution; may be nil
	Checkpoint Checkpoint            // where unfinished draws are kept; nil: nowhere
}

// Checkpoint keeps the state of unfinished draws of one volume outside of what can fail: another explanation of the same volume for the
// same request goes on from there.
type Checkpoint interface {
	// Latest is the state that was kept last under a key, to be read, and of how many draws it is; nil if there is none.
	Latest(key string) (state []float32, draws int)
	// Keep keeps a state, which is the caller's again when it returns. What was kept before stays until the new one is complete.
	Keep(key string, state []float32, draws int) error
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
	StatusDegraded Status = "degraded"           // Reason says how
	StatusFailed   Status = "failed"             // Reason says why
	StatusSkipped  Status = "skipped_low_memory" // of a sample: there was not enough memory for any plan that the policy allows
)

// Level says how a volume was explained, from the most memory to the least. All give the same result but for rounding.
type Level string

const (
	LevelWhole    Level = "whole"    // whole tensors
	LevelStreamed Level = "streamed" // plans within a budget
	LevelSmallest Level = "smallest" // the smallest plans
	LevelHost     Level = "host"     // plans on a device, with volumes in the host's memory, and gradients, moments and maps, too, or part of them
	LevelCPU      Level = "cpu"      // on the processor, because the device could not
)

// Execution says how a volume was explained, and what happened meanwhile.
type Execution struct {
	Device string `json:"device"`
	Level  Level  `json:"level"`
	Budget int    `json:"budget_bytes"` // of the last plans; 0: none
	Arena  int    `json:"arena_bytes"`
	// What it took to leave the device and to come back to it between volumes; see Options.Shuttle.
	ShuttleOut float64 `json:"shuttle_out_seconds,omitempty"`
	ShuttleIn  float64 `json:"shuttle_in_seconds,omitempty"`

	Incidents []Incident `json:"incidents,omitempty"`
}

// Incident is something that happened to memory or device while a volume was explained, and what was done about it.
type Incident struct {
	Time time.Time    `json:"time"`
	Kind IncidentKind `json:"kind"`
	Text string       `json:"text"` // for people
}

// IncidentKind tells programs what an incident was.
type IncidentKind string

const (
	IncidentRefused  IncidentKind = "refused"       // memory was refused
	IncidentFailed   IncidentKind = "failed"        // a call failed, or the context was lost
	IncidentSmaller  IncidentKind = "smaller"       // went on with less memory
	IncidentLarger   IncidentKind = "larger"        // took memory back that others had left
	IncidentWaited   IncidentKind = "waited"        // for others to leave memory
	IncidentReleased IncidentKind = "released"      // gave memory back because it was asked to
	IncidentRepeated IncidentKind = "repeated"      // began a pass again with what was there
	IncidentReloaded IncidentKind = "reloaded"      // gave everything back and took it again
	IncidentRestart  IncidentKind = "restarted"     // the context or the worker process
	IncidentResumed  IncidentKind = "resumed"       // went on from draws that were kept
	IncidentCPU      IncidentKind = "cpu"           // went on on the processor
	IncidentFewer    IncidentKind = "fewer_samples" // the policy took fewer draws
	IncidentSkipped  IncidentKind = "skipped"       // the policy gave the sample up
)

// Result is the answer for one volume.
type Result struct {
	Logits        []float32
	Probabilities []float64 // softmax of the logits
	Predicted     int
	TargetClass   int
	TargetLayer   string
	Layer         *Layer     // the target layer; nil where there is none
	CellSize      [3]float64 // voxels of the volume per cell of the target layer, along depth, height, width
	Methods       []MethodResult
	Execution     Execution
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
