package executor

import (
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
)

// vacate leaves the device, with the volume that waits there. A failure is none of a volume: all is given back instead.
func (m *Model) vacate() {
	if m.resident == nil || m.net == nil || m.out || m.gone() != nil || len(m.net.Passes()) == 0 {
		return
	}
	m.place.Lock()
	m.net.Buffers.WaitOutputs() // maps come back whether the device is left or not
	start := time.Now()
	var keep []backend.Field
	if m.waits && m.net.Buffers.Ahead != nil {
		keep = append(keep, m.net.Buffers.Ahead)
	}
	_, err := m.resident.Vacate(keep...)
	m.allowance.stale()
	m.out = m.resident.Vacated()
	m.pending.ShuttleOut += time.Since(start).Seconds()
	m.publishState()
	m.place.Unlock()
	idle := m.betweenVolumes()
	switch {
	case err == nil:
	case m.trouble(err) == backend.Lost:
		_ = idle.lose(err) // published with the next volume
	default:
		idle.Record(cam.EventFailed, "all was given back because the device could not be left for a while: %v", err)
		_ = idle.evacuate()
	}
}

// addShuttleOut adds the time of leaving the device to that of the volume.
func (w *work) addShuttleOut() {
	w.execution.ShuttleOut += w.model.pending.ShuttleOut
	w.model.pending.ShuttleOut = 0
}

// arrive comes back to the device. place must be held.
func (w *work) arrive() error {
	m := w.model
	w.addShuttleOut()
	if m.resident == nil || !m.resident.Vacated() {
		m.out = false
		return nil
	}
	start := time.Now()
	m.allowance.stale()
	err := m.resident.Return()
	w.execution.ShuttleIn += time.Since(start).Seconds()
	m.out = err != nil
	return err
}

// rest is called when a volume has been begun, and when one has been computed: it is time to leave the device when nothing happens for a
// while.
func (m *Model) rest() {
	if m.idle != nil {
		m.idle.Reset(m.idleFor)
	}
}

// vacateIdle leaves the device, unless somebody uses it.
func (m *Model) vacateIdle() {
	select {
	case m.turn <- struct{}{}:
		defer m.leave()
		m.vacate()
	default:
		m.rest()
	}
}
