package executor

import (
	"sync"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
)

// idleFor is the time without any work after which the device is left.
const idleFor = 2 * time.Second

// shuttle brings what lies on the device to the host between volumes, and back.
type shuttle struct {
	out     bool    // all is on the host; guarded by Model.turn
	seconds float64 // spent on leaving since the latest volume

	mu     sync.Mutex
	timer  *time.Timer
	runs   sync.WaitGroup
	closed bool
}

// vacate leaves the device, with the volume that waits there. A failure is none of a volume: all is given back instead.
func (m *Model) vacate() {
	if m.resident == nil || m.net == nil || m.shuttle.out || m.published.lost() != nil || len(m.net.Passes()) == 0 {
		return
	}
	m.place.Lock()
	m.net.Buffers.Settle() // maps come back whether the device is left or not
	start := time.Now()
	var keep []backend.Field
	if m.waits != nil && m.net.Buffers.Ahead != nil {
		keep = append(keep, m.net.Buffers.Ahead)
	}
	_, err := m.resident.Vacate(keep...)
	m.allowance.stale()
	m.shuttle.out = m.resident.Vacated()
	m.shuttle.seconds += time.Since(start).Seconds()
	m.publishState()
	m.place.Unlock()
	idle := m.betweenVolumes()
	switch {
	case err == nil:
	case m.trouble(err) == backend.Lost:
		_ = m.lose(idle, err) // published with the next volume
	default:
		idle.Record(cam.EventFailed, "all was given back because the device could not be left for a while: %v", err)
		_ = m.evacuate(idle)
	}
}

// arrive comes back to the device. Place must be held.
func (m *Model) arrive(w *work) error {
	x := &w.execution
	x.ShuttleOut, m.shuttle.seconds = x.ShuttleOut+m.shuttle.seconds, 0
	if m.resident == nil || !m.resident.Vacated() {
		m.shuttle.out = false
		return nil
	}
	start := time.Now()
	m.allowance.stale()
	err := m.resident.Return()
	x.ShuttleIn += time.Since(start).Seconds()
	m.shuttle.out = err != nil
	return err
}

// rest is called when a volume has been begun, and when one has been computed: it is time to leave the device when nothing happens for a
// while.
func (m *Model) rest() {
	if m.opt.Shuttle != ShuttleIdle || m.resident == nil {
		return
	}
	s := &m.shuttle
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.stop()
	after := m.opt.ShuttleAfter
	if after <= 0 {
		after = idleFor
	}
	s.runs.Add(1)
	s.timer = time.AfterFunc(after, func() {
		defer s.runs.Done()
		select {
		case m.turn <- struct{}{}:
			defer m.leave()
			m.vacate()
		default:
			m.rest()
		}
	})
}

// stop stops the timer, if it has not fired. mu must be held.
func (s *shuttle) stop() {
	if s.timer != nil && s.timer.Stop() {
		s.runs.Done()
	}
	s.timer = nil
}

// close stops the timer for good, and waits for a call that it has begun.
func (s *shuttle) close() {
	s.mu.Lock()
	s.closed = true
	s.stop()
	s.mu.Unlock()
	s.runs.Wait()
}
