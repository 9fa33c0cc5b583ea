package explain

import (
	"context"
	"fmt"

	"github.com/voxcam/voxcam/internal/cam"
	"github.com/voxcam/voxcam/internal/volume"
)

// Staying is a volume that is explained over and over where it is: maps and heatmaps are left there, too.
type Staying struct{ e *explanation }

// Stay uploads a volume for a request.
func (m *Model) Stay(ctx context.Context, v *volume.Volume, req Request) (*Staying, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	choices, err := cam.Choose(req.Methods, req.Convention)
	if err != nil {
		return nil, err
	}
	if err := m.bind([4]int{v.Channels, v.Depth, v.Height, v.Width}); err != nil {
		return nil, err
	}
	e := &explanation{net: m.net, req: req, volume: v, result: &Result{}, stay: true}
	e.low, e.high = extent(v.Data)
	if err := e.prepare(ctx, choices); err != nil {
		return nil, err
	}
	return &Staying{e}, e.upload()
}

// Explain makes all heatmaps.
func (s *Staying) Explain(ctx context.Context) error {
	if err := s.e.run(ctx); err != nil {
		return err
	}
	for i := range s.e.result.Methods {
		m := &s.e.result.Methods[i]
		if m.Status == StatusFailed {
			return fmt.Errorf("%s: %s", m.Method, m.Reason)
		}
		m.Status = ""
	}
	return nil
}

// Gradient makes the scores and the gradient at the volume.
func (s *Staying) Gradient(ctx context.Context) error {
	if err := s.e.classify(ctx, false); err != nil {
		return err
	}
	_, err := s.e.inputGradient(ctx, s.e.net.fields.volume)
	return err
}

// ArenaBytes is the size of the arena.
func (m *Model) ArenaBytes() int { return m.net.arena.Bytes() }
