package executor

import (
	"context"
	"fmt"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/volume"
)

// Begin implements explain.Overlapping. On a backend without memory for it, the volume waits where the caller has it.
func (m *Model) Begin(ctx context.Context, v *volume.Volume, req cam.Request) (explain.Work, error) {
	w := &work{model: m, volume: v, target: req.Target, onEvent: req.OnEvent}
	e, err := explain.New(v, req, w)
	if err != nil {
		return nil, err
	}
	w.e = e
	select {
	case m.begun <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if m.closed {
		<-m.begun
		return nil, cam.ErrClosed
	}
	if err := w.bringAhead(); err != nil {
		switch m.class(err) {
		case backend.NoMemory, backend.Transient: // it is brought when its turn comes
			w.Record(cam.EventFailed, "the volume could not wait on the device: %v", err)
		default:
			w.freeAhead()
			return nil, err
		}
	}
	m.resetIdle()
	return w, nil
}

// Compute implements explain.Work. After a *MemoryError or a *TransientError it may be called again, and goes on.
func (w *work) Compute(ctx context.Context) error {
	m := w.model
	defer w.freeAhead()
	if err := m.takeTurn(ctx); err != nil {
		return err
	}
	defer m.resetIdle()
	defer m.endTurn()
	w.ctx, w.adjust = ctx, true
	w.publishPending()
	err := w.retrying(ctx, func() error { return w.attempt(ctx) })
	if w.ahead = nil; err != nil {
		return err
	}
	if m.opt.Shuttle == ShuttleAlways {
		m.vacate()
		w.addShuttleOut()
	}
	return nil
}

// attempt binds the model to the volume's shape and makes an attempt.
func (w *work) attempt(ctx context.Context) error {
	m := w.model
	if err := m.bind(ctx, shapeOf(w.volume)); err != nil {
		return network.SuggestAxes(err, w.volume)
	}
	if _, err := m.net.Head.Settle(w.target, 0); err != nil {
		return fmt.Errorf("%s: %w", m.file.Path(), err)
	}
	err := w.ready(ctx, w.e.Needs())
	if err == nil {
		err = w.bring()
	}
	if err == nil {
		err = w.e.Attempt(ctx, m.net)
	}
	return m.intact(err)
}

// Result implements explain.Work.
func (w *work) Result() (*cam.Result, error) {
	if err := w.complete(); err != nil {
		return nil, err
	}
	r := w.e.Result()
	r.Execution = w.execution
	return r, nil
}

// complete waits for maps that are on their way to the host, and computes again those that got lost.
func (w *work) complete() error {
	m := w.model
	late := w.e.Complete()
	if late == nil {
		return nil
	}
	if err := m.takeTurn(w.ctx); err != nil {
		return err
	}
	defer m.resetIdle()
	defer m.endTurn()
	w.loaded, w.ahead = nil, nil
	if err := w.nextAttempt(w.ctx, late); err != nil {
		return err
	}
	return w.retrying(w.ctx, func() error { return w.attempt(w.ctx) })
}

// Explain implements explain.Explainer.
func (m *Model) Explain(ctx context.Context, v *volume.Volume, req cam.Request) (*cam.Result, error) {
	return explain.One(ctx, m, v, req)
}
