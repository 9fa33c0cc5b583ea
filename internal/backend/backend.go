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
	// Load takes the plan's arena and prepares the weights. The plan must not change afterwards. Weights that an earlier
	// program of this backend prepared from the same constants are shared.
	Load(ctx context.Context, p *plan.Plan) (Program, error)
}

// Program is a plan that is ready to run. It is used by one goroutine at a time.
type Program interface {
	// Run executes steps [from, to) of the plan.
	Run(ctx context.Context, from, to int) error
	// Write copies float32 data into an input.
	Write(v *ir.Value, data []float32) error
	// Read copies a float32 value that is live (an input, or an output after its step) out of the arena.
	Read(v *ir.Value, dst []float32) error
	// Close gives the arena back.
	Close() error
}
