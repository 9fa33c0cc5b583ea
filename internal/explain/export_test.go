package explain

import (
	"context"
	"fmt"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/volume"
)

// Place makes a network ready for an explanation, and brings the volume to where it reads it.
func Place(ctx context.Context, n *network.Network, v *volume.Volume, e *Explanation) error {
	if err := n.Require(ctx, e.Needs()); err != nil {
		return err
	}
	if err := n.TakeBuffers(); err != nil {
		return err
	}
	if err := n.Load(ctx); err != nil {
		return err
	}
	return n.Backend.Upload(n.Buffers.Volume, v.Data, v.Channels)
}

// Staying is a volume that is explained over and over where it is: maps and heatmaps are left there, too.
type Staying struct{ e *Explanation }

// Stay brings a volume to a network for a request.
func Stay(ctx context.Context, n *network.Network, v *volume.Volume, req cam.Request) (*Staying, error) {
	e, err := New(v, req, stays{})
	if err != nil {
		return nil, err
	}
	e.net = n
	return &Staying{e}, Place(ctx, n, v, e)
}

// stays is an Executor that leaves maps where they are.
type stays struct{}

func (stays) BeforePass(ctx context.Context) error                 { return ctx.Err() }
func (stays) VolumeRead()                                          {}
func (stays) Take(backend.Field, bool) (values []float32, _ error) { return values, nil }
func (stays) Retryable(error) bool                                 { return false }
func (stays) Record(cam.EventKind, string, ...any)                 {}

// Explain makes all heatmaps.
func (s *Staying) Explain(ctx context.Context) error {
	s.e.seed = nil
	if err := s.e.Attempt(ctx, s.e.net); err != nil {
		return err
	}
	for i := range s.e.result.Methods {
		m := &s.e.result.Methods[i]
		if m.Status == cam.StatusFailed {
			return fmt.Errorf("%s: %s", m.Method, m.Reason)
		}
		m.Status = ""
	}
	return nil
}

// Gradient makes the scores and the gradient at the volume.
func (s *Staying) Gradient(ctx context.Context) error {
	s.e.ready = nil
	if err := s.e.classify(ctx, false); err != nil {
		return err
	}
	_, err := s.e.inputGradient(ctx, s.e.net.Buffers.Volume)
	return err
}
