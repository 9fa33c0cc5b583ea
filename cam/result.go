package cam

import "time"

// Status of a result. Nothing else is ever reported.
type Status string

const (
	StatusOK       Status = "ok"
	StatusDegraded Status = "degraded"           // there is a result, but not all that was asked for: see Reason
	StatusFailed   Status = "failed"             // there is no result: see Reason
	StatusSkipped  Status = "skipped_low_memory" // of a sample: there was not enough memory for any plan that the policy allows
)

// Level names the kind of plans that a volume was explained with, from the most memory to the least. All give the same result but for rounding.
type Level string

const (
	LevelWhole    Level = "whole"    // whole tensors
	LevelStreamed Level = "streamed" // plans within a budget
	LevelSmallest Level = "smallest" // the smallest plans
	LevelHost     Level = "host"     // plans on a device, with volumes in the host's memory, and gradients, moments and maps, too, or part of them
	LevelCPU      Level = "cpu"      // on the processor, because the device could not
)

// Levels returns all levels, from the most memory to the least.
func Levels() []Level {
	return []Level{LevelWhole, LevelStreamed, LevelSmallest, LevelHost, LevelCPU}
}

// Execution records the device, plans and events of explaining a volume.
type Execution struct {
	Device string `json:"device"` // the device that computed, such as cuda/NVIDIA H200
	Level  Level  `json:"level"`
	Budget int    `json:"budget_bytes"` // of the last plans; 0: none
	Arena  int    `json:"arena_bytes"`  // bytes of the arena of the last plans
	// Seconds that it took to leave the device and to come back to it between volumes, where that was asked for.
	ShuttleOut float64 `json:"shuttle_out_seconds,omitempty"`
	ShuttleIn  float64 `json:"shuttle_in_seconds,omitempty"`

	Events []Event `json:"incidents,omitempty"`
}

// Event is something that happened to memory or device while a volume was explained, and the answer to it.
type Event struct {
	Time time.Time `json:"time"` // when it happened
	Kind EventKind `json:"kind"`
	Text string    `json:"text"` // for people
}

// EventKind names a kind of event, for programs.
type EventKind string

const (
	EventRefused  EventKind = "refused"       // memory was refused
	EventFailed   EventKind = "failed"        // a call failed, or the context was lost
	EventSmaller  EventKind = "smaller"       // went on with less memory
	EventLarger   EventKind = "larger"        // took memory back that other programs had given back
	EventWaited   EventKind = "waited"        // for other programs to give memory back
	EventReleased EventKind = "released"      // gave memory back because it was asked to
	EventRepeated EventKind = "repeated"      // began a pass again with the same plans and memory
	EventReloaded EventKind = "reloaded"      // gave everything back and took it again
	EventRestart  EventKind = "restarted"     // the context or the worker process
	EventResumed  EventKind = "resumed"       // went on from draws that were kept
	EventCPU      EventKind = "cpu"           // went on on the processor
	EventFewer    EventKind = "fewer_samples" // the policy took fewer draws
	EventSkipped  EventKind = "skipped"       // the policy gave the sample up
)

// Result is the answer for one volume.
type Result struct {
	Head          Head           // of the model's output
	Logits        []float32      // by class, as Head.Logits has them
	Probabilities []float64      // by class; nil of a regression
	Predicted     int            // the class of the largest logit
	Labels        []float32      // of an output with space, [D, H, W]: the class of each voxel; else nil
	TargetClass   int            // the class whose score is explained
	Score         Score          // that is explained
	TargetLayer   string         // its name, as the user would write it
	Layer         *Layer         // the target layer; nil where there is none
	CellSize      [3]float64     // voxels of the volume per cell of the target layer, along depth, height, width
	Methods       []MethodResult // in the order asked for, each once
	Execution     Execution
}

// MethodResult is the map of one method.
type MethodResult struct {
	Method     string // its name
	Input      string // name of the input that it looks at, of a model with several; "" where there is one, and of methods that look at the layer
	Status     Status
	Reason     string         // of StatusDegraded and StatusFailed
	Seconds    float64        // time for the method; methods that share passes share their time
	Parameters map[string]any // n_samples, noise_level, convention, ... as used
	Dims       [3]int         // of Map: depth, height, width
	Map        []float32      // signed map at the layer's resolution, before ReLU
	HeatDims   [3]int         // of Heatmap: the volume's
	Heatmap    []float32      // in [0, 1]
}

// CellSize is the extent of a cell of the map in voxels of the volume, along depth, height and width.
func (r *MethodResult) CellSize() (cell [3]float64) {
	for i := range cell {
		cell[i] = float64(r.HeatDims[i]) / float64(r.Dims[i])
	}
	return cell
}

// Layer describes the tensor that is explained, and the layer that it stands for.
type Layer struct {
	Name  string `json:"name"`  // as it was asked for, or as a user would name the default
	Value string `json:"value"` // name in the model's file
	Shape []int  `json:"shape"` // of the value, in the file's order
	Axes  string `json:"axes"`  // a letter for each axis
	// Module is the PyTorch module whose output the value is, or stands for; "" where the value itself was named. The module is called
	// Calls times in the file; this is call number Call, from 1.
	Module string `json:"module,omitempty"`
	Call   int    `json:"call,omitempty"`
	Calls  int    `json:"calls,omitempty"`
	// AnotherTensor is the reason why the value is not the module's own output, which the file does not have; "" if it is that output.
	// Methods that look at the layer are then degraded.
	AnotherTensor string   `json:"another_tensor,omitempty"`
	Warnings      []string `json:"warnings,omitempty"` // assumptions, and other things that the user should know
	Notes         []string `json:"notes,omitempty"`    // choices that follow from the file
}

// Info describes a model before a volume is seen.
type Info struct {
	Path        string // the model's file
	SHA256      string // hex digest of the model's file and of its external data files
	Classes     int
	Head        Head   // of the output; zero while it is not known
	TargetLayer string // resolved name of the target layer, as the user would write it
	Layer       *Layer // the target layer; nil while it is not known, or where there is none
	InputShape  [4]int // [C, D, H, W]; -1 where the model leaves a size open
	Warnings    []string
	Notes       []string // choices that were made, for readers who want to know
}

// Degrade marks the map as degraded, for one more reason. Without a map it changes nothing.
func (r *MethodResult) Degrade(reason string) {
	if r.Status == StatusFailed || r.Status == "" {
		return
	}
	if r.Reason != "" {
		reason = r.Reason + "; " + reason
	}
	r.Status, r.Reason = StatusDegraded, reason
}
