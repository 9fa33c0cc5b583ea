// Package backend is the boundary between plans and the devices that run them. A backend holds the kernels of the operation
// table; backendtest holds the suite that every backend must pass.
package backend

import (
	"context"
	"errors"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/plan"
)

// ErrUnsupported is wrapped when a backend has no kernel for an operation.
var ErrUnsupported = errors.New("operation is not supported by this backend")

// Backend makes plans ready to run on a device.
type Backend interface {
	Name() string
	// Costs describe the device to the planner.
	Costs() plan.Costs
	Attribution
	// NewField takes memory for n float32 values outside of arenas.
	NewField(n int, where Place) (Field, error)
	// FieldBytes returns the bytes of a field of n values that a budget counts.
	FieldBytes(n int, where Place) int
	// NewArena takes memory for the activations of programs that are used one after the other.
	NewArena(bytes int) (Arena, error)
	// Load prepares the weights of a plan and puts its activations into the arena, which must be large enough; nil makes one that
	// the program owns. The plan must not change afterwards. Weights that an earlier program of this backend prepared from the
	// same constants are shared. Programs that share an arena destroy each other's values: write the inputs again before a run.
	Load(ctx context.Context, p *plan.Plan, a Arena) (Program, error)
	// ArenaBytes returns the size of the arena of a program of the plan, with all that can lie in it: no less than the plan's peak.
	ArenaBytes(p *plan.Plan) (int, error)
	// WeightBytes returns the memory, in bytes, that the weights of graphs take besides the constants themselves, once plans of all of them are
	// loaded and no other program has prepared them.
	WeightBytes(graphs ...*ir.Graph) (int, error)
	// ScratchBytes returns the bytes that steps of a program of the plan need besides weights and an arena of ArenaBytes.
	ScratchBytes(p *plan.Plan) (int, error)
}

// Place is the memory that a field lies in. For a backend whose device has no memory of its own, both are the same.
type Place uint8

const (
	OnDevice Place = iota // in the device's memory
	OnHost                // in the host's; steps move planes to and from the device as they need them
)

// Field is float32 memory outside of arenas that programs can be bound to: a volume, [D, H, W, C], or the gradient with respect to it.
// On a device, Write, Read, Take and Attribution.Upload may be called while other goroutines use the backend without the field.
type Field interface {
	Len() int
	// Write copies Len values into the field, Read out of it.
	Write(src []float32) error
	Read(dst []float32) error
	// Take returns the values, to be read. The slice stays valid and unchanged after the field is written or closed.
	Take() ([]float32, error)
	Close() error
}

// Arena is the memory of activations.
type Arena interface {
	// Bytes returns its size.
	Bytes() int
	// HighWater returns the end of the highest byte that a program has written so far, rounded up to plan.Align.
	HighWater() int
	// Close gives the memory back; programs in it must not run any more.
	Close() error
}

// Program is a plan that is ready to run. It is used by one goroutine at a time.
type Program interface {
	// Run executes steps [from, to) of the plan.
	Run(ctx context.Context, from, to int) error
	// Bind makes a field of the same backend the storage of a float32 value whose buffer is External: steps read and write it
	// there. All external buffers that steps touch must be bound before they run. The field stays the caller's; another field can
	// be bound at any time between runs.
	Bind(v *ir.Value, f Field) error
	// Field returns a float32 value that is live and kept whole, without a copy: the field that an external value is bound to, or a part
	// of the arena, to be used before the next run of any program there. It need not be closed.
	Field(v *ir.Value) (Field, error)
	// Write copies float32 data into an input.
	Write(v *ir.Value, data []float32) error
	// Read copies a float32 value that is live and kept whole (an input, or an output after its step) out of its buffer.
	Read(v *ir.Value, dst []float32) error
	// Close gives back the program's memory; an arena that was handed to Load stays.
	Close() error
}
