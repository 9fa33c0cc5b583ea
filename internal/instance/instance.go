// Package instance holds a model on one device, ready to explain volumes. It carries out the decisions of package engine, and decides nothing
// about other devices or processes. A Local is an instance in this process; package worker has those in a process of their own.
package instance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/policy"
)

// Instance explains volumes with a model on a device. Its methods may be called by many goroutines; one volume is computed at a time. Works of
// explain.Overlapping.Begin continue when Compute is called again after a *cam.MemoryError, a *cam.TransientError, a
// *cam.BudgetError, or an interruption.
type Instance interface {
	explain.Overlapping
	// Bind prepares the model for volumes of a shape, [C, D, H, W].
	Bind(ctx context.Context, shape [4]int) error
	// Prepare makes the plans for methods ready. A budget that is too small is a *cam.BudgetError, too little memory a *cam.MemoryError.
	Prepare(ctx context.Context, methods []string) error
	// Order carries out any operation but policy.Restart. It may be called while a volume is computed.
	Order(ctx context.Context, o policy.Order) (policy.Outcome, error)
	// Usage returns the use of the device's memory; on the processor, that of the process and the system's free memory.
	Usage(ctx context.Context) (backend.Usage, error)
	// UseLeast lets computing take the least that works, which is that many bytes, if the budget is less. It reports whether that changes
	// anything.
	UseLeast(ctx context.Context, bytes int) (bool, error)
	// Device describes the device. It does not change.
	Device() DeviceInfo
	// State returns the instance's plans and memory. It waits for nothing, and may be a second old.
	State() Snapshot
	// Close gives the device back. All works must have ended.
	Close() error
}

// Options choose the model, the device and the budget. As JSON they go from one process to another.
type Options struct {
	Model string `json:"model"` // ONNX file
	network.ModelOptions
	Ahead bool `json:"ahead,omitempty"` // as in executor.Options

	// Of the device, as in device.Options.
	Device    string `json:"device,omitempty"`
	Precision string `json:"precision,omitempty"`
	Threads   int    `json:"threads,omitempty"` // of the processor; 0: all

	Budget  string `json:"budget,omitempty"` // as bytesize.ParseBudget reads it
	Shuttle string `json:"shuttle,omitempty"`

	// LaunchBlocking waits after every step on a GPU, so that an error names its step.
	LaunchBlocking bool `json:"launch_blocking,omitempty"`
	// Held holds computing down to the least that works from the start, until Until or, if that is zero, until policy.Resume.
	Held  bool      `json:"held,omitempty"`
	Until time.Time `json:"until,omitzero"`
}

// DeviceInfo describes an opened device.
type DeviceInfo struct {
	Name            string // of the backend, such as cuda/NVIDIA H200
	UUID            string // of the GPU
	Processor       bool
	Warnings, Notes []string
	Failures        []string // errors of tries to open it, before the last one
}

// Snapshot describes an instance at one moment.
type Snapshot struct {
	Usage  backend.Usage // as Instance.Usage returns it; zero if it is not known
	Budget int           // budget now, in bytes; 0: the least that works, or no bound
	Held   bool          // down to the least
	Until  time.Time     // while held; zero: until policy.Resume
	network.State
}

// Shuttles are the values of Options.Shuttle, by which a GPU's memory is given back between volumes: never is the first, and the default.
var Shuttles = []string{"never", "idle", "always"}

// shuttle returns the setting of package executor for a name of Shuttles; "" is the first.
func shuttle(name string) (executor.Shuttle, error) {
	if name == "" {
		name = Shuttles[0]
	}
	i := slices.Index(Shuttles, name)
	if i < 0 {
		return 0, fmt.Errorf("shuttle %q is not known: choose from %s", name, strings.Join(Shuttles, ", "))
	}
	return []executor.Shuttle{executor.ShuttleNever, executor.ShuttleIdle, executor.ShuttleAlways}[i], nil
}
