package worker

import (
	"context"
	"time"

	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/memory"
)

// Engine is what the child runs.
type Engine interface {
	explain.Overlapping
	Bind(shape [4]int) error
	Prepare(ctx context.Context, methods []string) error
	Order(ctx context.Context, o memory.Order) (memory.Outcome, error)
	State() engineState
	Notes() (warnings, notes []string)
	Close() error
}

// Open makes the child's engine.
type Open func(ctx context.Context, o engineOptions) (Engine, error)

// TODO(merge): engine.Options, engine.State.
type engineOptions struct {
	Model, Device, Precision, Budget string
	Policy                           memory.Policy
}

type engineState struct {
	Device string    `json:"device"`
	Name   string    `json:"name"`
	Held   bool      `json:"held"`
	Until  time.Time `json:"until,omitzero"`
	State  string    `json:"state"`
}

const (
	stateComputing  = "computing"
	stateRestarting = "restarting"
)
