package worker

import (
	"context"

	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/policy"
)

// Engine is run by the child: an engine.Engine, or a stand-in in tests.
type Engine interface {
	explain.Overlapping
	Bind(ctx context.Context, shape [4]int) error
	Prepare(ctx context.Context, methods []string) error
	Order(ctx context.Context, o policy.Order) (policy.Outcome, error)
	State() engine.State
	Notes() (warnings, notes []string)
	Close() error
}

var _ Engine = (*Worker)(nil) // both can be used alike

// Open makes the child's engine.
type Open func(ctx context.Context, o engine.Options) (Engine, error)

// OpenEngine is the Open of the program.
func OpenEngine(ctx context.Context, o engine.Options) (Engine, error) {
	e, err := engine.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	return e, nil
}
