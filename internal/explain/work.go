package explain

import (
	"context"
	"fmt"
	"sync"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/volume"
)

// work implements Work.
type work struct {
	model *Model
	e     explanation
	place sync.Once       // gives Model.begun back
	ctx   context.Context // of the latest Compute; Result computes with it what did not come back
}

// Begin implements Overlapping. On a backend without memory for it, the volume waits where the caller has it.
func (m *Model) Begin(ctx context.Context, v *volume.Volume, req cam.Request) (Work, error) {
	req, err := req.Filled()
	if err != nil {
		return nil, err
	}
	choices, err := cam.Choose(req.Methods, req.Convention)
	if err != nil {
		return nil, err
	}
	if err := v.CheckSize(); err != nil {
		return nil, err
	}
	if err := v.CheckFinite(); err != nil {
		return nil, err
	}
	w := &work{model: m}
	w.e = explanation{model: m, req: req, volume: v, result: &cam.Result{}, entered: w.enter}
	w.e.low, w.e.high = extent(v.Data)
	if err := w.e.begin(choices); err != nil {
		return nil, err
	}
	select {
	case m.begun <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if m.closed {
		<-m.begun
		return nil, cam.ErrClosed
	}
	if err := w.wait(); err != nil {
		switch m.trouble(err) {
		case backend.NoMemory, backend.Transient: // it is brought when its turn comes
			w.e.record(cam.EventFailed, "the volume could not wait on the device: %v", err)
		default:
			w.left()
			return nil, err
		}
	}
	m.rest()
	return w, nil
}

// wait brings the volume to where it waits, if there is such a place on the device.
func (w *work) wait() error {
	m, v := w.model, w.e.volume
	m.place.Lock()
	defer m.place.Unlock()
	if err := m.published.lost(); err != nil {
		return err
	}
	n := m.net
	if n == nil || n.Shape != shapeOf(v) || n.Buffers.Ahead == nil || m.shuttle.out {
		return nil
	}
	err := n.Backend.Upload(n.Buffers.Ahead, v.Data, v.Channels)
	switch {
	case err == nil:
		m.waits, w.e.waits = w, n.Buffers.Ahead
	case m.trouble(err) == backend.Lost:
		return m.published.lose(err)
	}
	return err
}

func shapeOf(v *volume.Volume) [4]int { return [4]int{v.Channels, v.Depth, v.Height, v.Width} }

func extent(x []float32) (low, high float32) {
	low, high = x[0], x[0]
	for _, v := range x {
		if v < low {
			low = v
		}
		if v > high {
			high = v
		}
	}
	return low, high
}

// enter frees the buffer in which the volume waited.
func (w *work) enter() {
	w.e.waits = nil
	w.left()
}

// left lets the next volume take the buffer.
func (w *work) left() {
	w.place.Do(func() {
		m := w.model
		m.place.Lock()
		if m.waits == w {
			m.waits = nil
		}
		m.place.Unlock()
		<-m.begun
	})
}

// Drop implements Work.
func (w *work) Drop() { w.left() }

// Compute implements Work. After a *MemoryError or a *TransientError it may be called again, and goes on.
func (w *work) Compute(ctx context.Context) error {
	m, e := w.model, &w.e
	defer w.left()
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.rest()
	defer m.leave()
	w.ctx, e.adjust = ctx, true
	m.publishPending(e)
	err := m.retrying(ctx, e, func() error { return w.attempt(ctx) })
	if e.waits = nil; err != nil {
		return err
	}
	if m.opt.Shuttle == ShuttleAlways {
		m.vacate()
		e.result.Execution.ShuttleOut, m.shuttle.seconds = e.result.Execution.ShuttleOut+m.shuttle.seconds, 0
	}
	return nil
}

// attempt binds the model to the volume's shape and makes an attempt.
func (w *work) attempt(ctx context.Context) error {
	m, e := w.model, &w.e
	if err := m.bind(ctx, shapeOf(e.volume)); err != nil {
		return network.SuggestAxes(err, e.volume)
	}
	if c := e.req.Target.Class; c.Kind != cam.ClassPredicted && (c.Index < 0 || c.Index >= m.net.ClassCount) {
		return fmt.Errorf("class %d is out of range: %s has classes 0 to %d", c.Index, m.file.Path(), m.net.ClassCount-1)
	}
	if e.net != m.net { // what lies on the device is that of another network
		e.there = nil
	}
	e.net, e.result.TargetLayer, e.result.Layer = m.net, m.net.Target.Label, m.net.Layer
	return m.intact(e.attempt(ctx))
}

// Result implements Work.
func (w *work) Result() (*cam.Result, error) {
	if err := w.complete(); err != nil {
		return nil, err
	}
	w.e.verify()
	for i := range w.e.result.Methods {
		if m := &w.e.result.Methods[i]; m.Status == cam.StatusFailed {
			m.Map, m.Heatmap = nil, nil
		}
	}
	return w.e.result, nil
}

// complete waits for what comes back, and computes again what could not.
func (w *work) complete() error {
	m, e := w.model, &w.e
	late := e.collect()
	if late == nil {
		return nil
	}
	if err := m.enter(w.ctx); err != nil {
		return err
	}
	defer m.rest()
	defer m.leave()
	e.atOnce, e.there, e.waits = true, nil, nil
	if err := m.nextAttempt(w.ctx, e, late); err != nil {
		return err
	}
	return m.retrying(w.ctx, e, func() error { return w.attempt(w.ctx) })
}
