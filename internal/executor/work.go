package executor

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/volume"
)

// work implements explain.Work, and the executor of its explanation.
type work struct {
	model     *Model
	e         *explain.Explanation
	volume    *volume.Volume // nil between volumes
	class     cam.Class
	onEvent   func(cam.Event) // may be nil
	execution cam.Execution

	waits  backend.Field   // device buffer in which the volume waits; nil while only the caller has it
	there  backend.Field   // device buffer that the network reads it from; nil while it is not there
	place  sync.Once       // gives Model.begun back
	ctx    context.Context // of the latest Compute; Result computes with it what did not come back
	adjust bool            // the next attempt may use more memory than the one before
	tries  tries
}

// Begin implements explain.Overlapping. On a backend without memory for it, the volume waits where the caller has it.
func (m *Model) Begin(ctx context.Context, v *volume.Volume, req cam.Request) (explain.Work, error) {
	w := &work{model: m, volume: v, class: req.Target.Class, onEvent: req.OnEvent}
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
	if err := w.wait(); err != nil {
		switch m.trouble(err) {
		case backend.NoMemory, backend.Transient: // it is brought when its turn comes
			w.Record(cam.EventFailed, "the volume could not wait on the device: %v", err)
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
	m, v := w.model, w.volume
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
		m.waits, w.waits = w, n.Buffers.Ahead
	case m.trouble(err) == backend.Lost:
		return m.published.lose(err)
	}
	return err
}

func shapeOf(v *volume.Volume) [4]int { return [4]int{v.Channels, v.Depth, v.Height, v.Width} }

// VolumeRead implements explain.Executor. It frees the buffer in which the volume waited.
func (w *work) VolumeRead() {
	w.waits = nil
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
	m := w.model
	defer w.left()
	if err := m.enter(ctx); err != nil {
		return err
	}
	defer m.rest()
	defer m.leave()
	w.ctx, w.adjust = ctx, true
	m.publishPending(w)
	err := m.retrying(ctx, w, func() error { return w.attempt(ctx) })
	if w.waits = nil; err != nil {
		return err
	}
	if m.opt.Shuttle == ShuttleAlways {
		m.vacate()
		w.execution.ShuttleOut, m.shuttle.seconds = w.execution.ShuttleOut+m.shuttle.seconds, 0
	}
	return nil
}

// attempt binds the model to the volume's shape and makes an attempt.
func (w *work) attempt(ctx context.Context) error {
	m := w.model
	if err := m.bind(ctx, shapeOf(w.volume)); err != nil {
		return network.SuggestAxes(err, w.volume)
	}
	if c := w.class; c.Kind != cam.ClassPredicted && (c.Index < 0 || c.Index >= m.net.ClassCount) {
		return fmt.Errorf("class %d is out of range: %s has classes 0 to %d", c.Index, m.file.Path(), m.net.ClassCount-1)
	}
	err := m.ready(ctx, w, w.e.Needs())
	if err == nil {
		err = w.bring()
	}
	if err == nil {
		err = w.e.Attempt(ctx, m.net)
	}
	return m.intact(err)
}

// bring brings the volume to where the network reads it.
func (w *work) bring() (err error) {
	b, f := w.model.backend, &w.model.net.Buffers
	if w.there != nil && w.there == f.Volume {
		return nil
	}
	if w.waits != nil && w.waits == f.Ahead {
		err = b.Copy(f.Volume, f.Ahead)
	} else {
		err = b.Upload(f.Volume, w.volume.Data, w.volume.Channels)
	}
	if err == nil {
		w.there = f.Volume
	}
	return err
}

// Take implements explain.Executor. What comes back while the device goes on is taken again after a failure that may pass.
func (w *work) Take(f backend.Field, behind bool) ([]float32, error) {
	values, err := f.Take()
	if t := w.model.trouble(err); err != nil && behind && (t == backend.NoMemory || t == backend.Transient) {
		values, err = f.Take() // the output still holds it
	}
	return values, err
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

// complete waits for what comes back, and computes again what could not.
func (w *work) complete() error {
	m := w.model
	late := w.e.Complete()
	if late == nil {
		return nil
	}
	if err := m.enter(w.ctx); err != nil {
		return err
	}
	defer m.rest()
	defer m.leave()
	w.there, w.waits = nil, nil
	if err := m.nextAttempt(w.ctx, w, late); err != nil {
		return err
	}
	return m.retrying(w.ctx, w, func() error { return w.attempt(w.ctx) })
}

// Record implements explain.Executor. An event between volumes is published with the next one.
func (w *work) Record(kind cam.EventKind, format string, args ...any) {
	event := cam.Event{Time: time.Now(), Kind: kind, Text: fmt.Sprintf(format, args...)}
	if w.volume == nil {
		w.model.unpublished = append(w.model.unpublished, event)
		return
	}
	w.publish(event)
}

// publish appends an event to the volume's, and hands it to the caller.
func (w *work) publish(event cam.Event) {
	w.execution.Events = append(w.execution.Events, event)
	if w.onEvent != nil {
		w.onEvent(event)
	}
}

// publishPending publishes the events from before the volume.
func (m *Model) publishPending(w *work) {
	for _, event := range m.unpublished {
		w.publish(event)
	}
	m.unpublished = nil
}
