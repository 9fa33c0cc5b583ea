package executor

import (
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
)

// vacate brings the contents of the device, with the next volume, to the host and gives its memory back. A failure is no failure of a
// volume: everything is given back instead.
func (m *Model) vacate() {
	if m.resident == nil || m.net == nil || m.vacated || m.gone() != nil || len(m.net.Passes()) == 0 {
		return
	}
	m.mu.Lock()
	m.net.Buffers.WaitOutputs() // maps are on their way to the host in any case
	start := time.Now()
	var keep []backend.Field
	if m.aheadUsed && m.net.Buffers.Ahead != nil {
		keep = append(keep, m.net.Buffers.Ahead)
	}
	_, err := m.resident.Vacate(keep...)
	m.allowance.stale()
	m.vacated = m.resident.Vacated()
	m.pending.ShuttleOut += time.Since(start).Seconds()
	m.publishState()
	m.mu.Unlock()
	idle := m.betweenVolumes()
	switch {
	case err == nil:
	case m.class(err) == backend.Lost:
		_ = idle.endLost(err) // published with the next volume
	default:
		idle.Record(cam.EventFailed, "all was given back because the device could not be left for a while: %v", err)
		_ = idle.evacuate()
	}
}

// addShuttleOut adds the time of vacating to that of the volume.
func (w *work) addShuttleOut() {
	w.execution.ShuttleOut += w.model.pending.ShuttleOut
	w.model.pending.ShuttleOut = 0
}

// returnToDevice takes the memory again and brings the contents back. mu must be held.
func (w *work) returnToDevice() error {
	m := w.model
	w.addShuttleOut()
	if m.resident == nil || !m.resident.Vacated() {
		m.vacated = false
		return nil
	}
	start := time.Now()
	m.allowance.stale()
	err := m.resident.Return()
	w.execution.ShuttleIn += time.Since(start).Seconds()
	m.vacated = err != nil
	return err
}

// resetIdle starts the idle time anew. It is called when a volume has been begun, and when one has been computed; at its end the device is
// vacated.
func (m *Model) resetIdle() {
	if m.idle != nil {
		m.idle.Reset(m.idleFor)
	}
}

// vacateIdle vacates the device, unless it is in use.
func (m *Model) vacateIdle() {
	select {
	case m.turn <- struct{}{}:
		defer m.endTurn()
		m.vacate()
	default:
		m.resetIdle()
	}
}
