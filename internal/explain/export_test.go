package explain

import (
	"context"
	"fmt"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/volume"
)

// Staying is a volume that is explained over and over where it is: maps and heatmaps are left there, too.
type Staying struct{ e *explanation }

// Stay uploads a volume for a request.
func (m *Model) Stay(ctx context.Context, v *volume.Volume, req cam.Request) (*Staying, error) {
	leave, err := m.exclusive()
	if err != nil {
		return nil, err
	}
	defer leave()
	choices, err := cam.Choose(req.Methods, req.Convention)
	if err != nil {
		return nil, err
	}
	if err := m.bind(ctx, [4]int{v.Channels, v.Depth, v.Height, v.Width}); err != nil {
		return nil, err
	}
	e := &explanation{model: m, net: m.net, req: req, volume: v, result: &cam.Result{}, stay: true, adjust: true}
	e.low, e.high = extent(v.Data)
	if err := e.begin(choices); err != nil {
		return nil, err
	}
	if err := m.ready(ctx, e, e.needs); err != nil {
		return nil, err
	}
	return &Staying{e}, e.bring()
}

// Explain makes all heatmaps.
func (s *Staying) Explain(ctx context.Context) error {
	s.e.result.Logits = nil
	if err := s.e.run(ctx); err != nil {
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

// ArenaBytes is the size of the arena.
func (m *Model) ArenaBytes() int { return m.net.Arena.Bytes() }

// AskAlways lets Allow know the device's usage of the moment.
func (m *Model) AskAlways() { m.allowance.every = 0 }
