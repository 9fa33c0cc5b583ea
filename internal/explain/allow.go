package explain

import (
	"context"
	"sync"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/network"
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

// recordChange records how plans have changed, once.
func (m *Model) recordChange(e *explanation) {
	n, was := m.net, m.change
	if was == nil || was.level == "" || n.Taken == was.taken {
		return
	}
	kind := cam.EventSmaller
	if n.Taken > was.taken {
		kind = cam.EventLarger
	}
	e.record(kind, "from %s, %s, to %s, %s", was.level, bytesize.FormatMiB(was.taken), n.Level(), bytesize.FormatMiB(n.Taken))
	was.level = ""
}

// settle gives back what plans do not need any more after a change, and notes what there is now.
func (m *Model) settle(e *explanation) error {
	if m.change != nil && m.resident != nil {
		m.allowance.stale()
		if _, err := m.ask(); err != nil {
			return err
		}
		keep := max(0, m.net.Taken-m.allowance.usage.Allocated) // for what is taken later: moments, pictures
		m.allowance.stale()
		if _, err := m.resident.Trim(keep); err != nil {
			return err
		}
	}
	m.change = nil
	s := m.publishState()
	x := &e.result.Execution
	x.Device, x.Level, x.Budget, x.Arena = m.backend.Name(), s.Level, s.Budget, s.Arena
	return nil
}

// between is called before each pass through the network. It gives memory back that others ask for, or that computing may not take any
// more, and then returns errAgain.
func (e *explanation) between(ctx context.Context) error {
	m := e.model
	select {
	case r := <-m.releases:
		return m.release(e, r)
	default:
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if m.opt.Allow == nil {
		return nil
	}
	allowed, fresh, err := m.allow()
	if err != nil {
		return err
	}
	if m.net.Exceeds(allowed) {
		if err := m.shrink(e, allowed, false); err != nil {
			return err
		}
		return errAgain
	}
	if u := m.allowance.usage; fresh && allowed.Bytes > 0 && u.Reserved > max(allowed.Bytes, u.Allocated) {
		m.allowance.stale()
		_, err = m.resident.Trim(max(0, allowed.Bytes-u.Allocated))
	}
	return err
}

// ready makes the plans, programs and device buffers that are needed, within what is allowed.
func (m *Model) ready(ctx context.Context, e *explanation, needed network.Needs) error {
	if err := m.plan(ctx, e, needed); err != nil {
		return err
	}
	m.recordChange(e)
	m.place.Lock()
	defer m.place.Unlock()
	if err := m.arrive(e); err != nil {
		return err
	}
	if err := m.net.TakeBuffers(); err != nil {
		return err
	}
	if err := m.net.Load(ctx); err != nil {
		return err
	}
	return m.settle(e)
}

// plan chooses the placement of device buffers and the plans, and makes room for them.
func (m *Model) plan(ctx context.Context, e *explanation, needed network.Needs) error {
	m.place.Lock()
	defer m.place.Unlock()
	if e.adjust {
		if err := m.adjust(); err != nil {
			return err
		}
		e.adjust = false
	}
	if err := m.net.Require(ctx, needed); err != nil {
		return err
	}
	for _, d := range e.samplings {
		if d.moments != nil && d.where != m.net.Placement.Moments {
			if err := e.leave(d); err != nil {
				return err
			}
		}
	}
	return nil
}
