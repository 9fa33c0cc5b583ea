package executor

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/volume"
)

// work implements explain.Work, and the executor of its explanation.
type work struct {
	model     *Model
	e         *explain.Explanation
	volume    *volume.Volume // nil between volumes
	target    cam.Target
	onEvent   func(cam.Event) // may be nil
	execution cam.Execution

	ahead  backend.Field   // device buffer in which the volume waits; nil while only the caller has it
	loaded backend.Field   // device buffer that the network reads the volume from; nil while it is not there
	freed  sync.Once       // releases Model.begun
	ctx    context.Context // of the latest Compute; Result uses it to compute lost maps again
	adjust bool            // the next attempt may use more memory than the one before

	tries    int // failures in a row: those between which nothing was finished
	finished int // methods and points, the most so far
}

// betweenVolumes returns the work on no volume, whose events are published with the next one.
func (m *Model) betweenVolumes() *work { return &work{model: m, e: new(explain.Explanation)} }

// Record implements explain.Executor. An event between volumes is published with the next one.
func (w *work) Record(kind cam.EventKind, format string, args ...any) {
	event := cam.Event{Time: time.Now(), Kind: kind, Text: fmt.Sprintf(format, args...)}
	if w.volume == nil {
		w.model.pending.Events = append(w.model.pending.Events, event)
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
func (w *work) publishPending() {
	for _, event := range w.model.pending.Events {
		w.publish(event)
	}
	w.model.pending.Events = nil
}

// bringAhead brings the volume to the buffer for the next one, if the device has that.
func (w *work) bringAhead() error {
	m, v := w.model, w.volume
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.gone(); err != nil {
		return err
	}
	n := m.net
	if n == nil || n.Shape != shapeOf(v) || n.Buffers.Ahead == nil || m.vacated {
		return nil
	}
	err := n.Backend.Upload(n.Buffers.Ahead, v.Data, v.Channels)
	switch {
	case err == nil:
		m.aheadUsed, w.ahead = true, n.Buffers.Ahead
	case m.class(err) == backend.Lost:
		return m.markLost(err)
	}
	return err
}

func shapeOf(v *volume.Volume) [4]int { return [4]int{v.Channels, v.Depth, v.Height, v.Width} }

// VolumeRead implements explain.Executor. It frees the buffer in which the volume waited.
func (w *work) VolumeRead() {
	w.ahead = nil
	w.freeAhead()
}

// freeAhead lets the next volume take that buffer.
func (w *work) freeAhead() {
	w.freed.Do(func() {
		m := w.model
		m.mu.Lock()
		m.aheadUsed = false
		m.mu.Unlock()
		<-m.begun
	})
}

// Drop implements explain.Work.
func (w *work) Drop() { w.freeAhead() }

// bring brings the volume to the buffer that the network reads.
func (w *work) bring() (err error) {
	b, f := w.model.backend, &w.model.net.Buffers
	if w.loaded != nil && w.loaded == f.Volume {
		return nil
	}
	if w.ahead != nil && w.ahead == f.Ahead {
		err = b.Copy(f.Volume, f.Ahead)
	} else {
		err = b.Upload(f.Volume, w.volume.Data, w.volume.Channels)
	}
	if err == nil {
		w.loaded = f.Volume
	}
	return err
}

// Take implements explain.Executor. A transfer beside computing is tried again after a failure that may pass.
func (w *work) Take(f backend.Field, behind bool) ([]float32, error) {
	values, err := f.Take()
	if t := w.model.class(err); err != nil && behind && (t == backend.NoMemory || t == backend.Transient) {
		values, err = f.Take() // the output still holds it
	}
	return values, err
}
