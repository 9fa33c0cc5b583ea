package executor

import (
	"sync"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
)

// askEvery bounds the age of the device's figures that a pass is admitted by: asking takes a call of the driver, a pass as little as a
// millisecond.
const askEvery = 20 * time.Millisecond

// allowance holds what computing may take, and the device's figures that this follows from.
type allowance struct {
	every  time.Duration
	mu     sync.Mutex
	asked  time.Time // of usage; zero: it is out of date
	usage  backend.Usage
	latest cam.Budget
}

// stale marks the figures as out of date.
func (a *allowance) stale() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = time.Time{}
}

// allow returns what computing may take now. Fresh reports whether the device was asked for it.
func (m *Model) allow() (b cam.Budget, fresh bool, err error) {
	a := &m.allowance
	a.latest = m.opt.Budget
	if m.opt.Allow == nil {
		return a.latest, false, nil
	}
	if fresh, err = m.ask(); err != nil {
		return b, false, err
	}
	a.latest = m.opt.Allow(a.usage)
	return a.latest, fresh, nil
}

// ask updates the figures of the device's memory, if they are old.
func (m *Model) ask() (fresh bool, err error) {
	a := &m.allowance
	if m.resident == nil || !a.old() {
		return false, nil
	}
	u, err := m.resident.Usage()
	if err != nil {
		return false, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.usage, a.asked = u, time.Now()
	return true, nil
}

// old reports whether the figures are.
func (a *allowance) old() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked.IsZero() || time.Since(a.asked) >= a.every
}

// allows reports whether the latest allowance is at least so many bytes.
func (m *Model) allows(bytes int) bool {
	b := m.allowance.latest
	return b.Bytes == 0 || b.Bytes >= bytes
}

// adjust makes the budget what is allowed now, before a volume: with larger plans only where they are worth the time. Place must be held.
func (m *Model) adjust() error {
	n := m.net
	allowed, _, err := m.allow()
	if err != nil {
		return err
	}
	if n.Forced { // as much as the device has now
		if _, err := m.ask(); err != nil {
			return err
		}
		most := tighter(allowed, cam.Budget{Bytes: max(1, m.allowance.usage.Available())})
		n.Forced = most != allowed && !n.Full()
		allowed = most
	}
	switch {
	case len(n.Passes()) == 0:
		n.Budget, n.Placed = allowed, false
	case n.Exceeds(allowed), n.Outgrown(allowed):
		return m.replan(allowed)
	}
	return nil
}

// tighter returns the smaller of two budgets.
func tighter(a, b cam.Budget) cam.Budget {
	if !a.Bounded() || !a.Smallest && (b.Smallest || b.Bytes > 0 && b.Bytes < a.Bytes) {
		return b
	}
	return a
}

// change describes the plans before a change of plans.
type change struct {
	level cam.Level // "" where there were none, or once the change was recorded
	taken int
}

// replan forgets the plans, and gives back what others have no use for. Place must be held.
func (m *Model) replan(to cam.Budget) error {
	m.change = &change{m.net.Level(), m.net.Taken}
	m.allowance.stale()
	return m.net.Replan(to)
}
