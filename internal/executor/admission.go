package executor

import (
	"context"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/network"
)

// ready makes the needed plans, programs and device buffers, within the allowed budget.
func (w *work) ready(ctx context.Context, needed network.Needs) error {
	m := w.model
	if err := w.plan(ctx, needed); err != nil {
		return err
	}
	w.recordChange()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := w.returnToDevice(); err != nil {
		return err
	}
	if err := m.net.TakeBuffers(); err != nil {
		return err
	}
	if err := m.net.Load(ctx); err != nil {
		return err
	}
	return w.finishChange()
}

// adjust sets the budget to the allowed one, before a volume: it makes larger plans only if they are worth the time. mu must be held.
func (m *Model) adjust() error {
	n, a := m.net, &m.allowance
	if _, err := a.update(); err != nil {
		return err
	}
	allowed := a.latest
	if n.Forced { // as much as the device has now
		if _, err := a.ask(); err != nil {
			return err
		}
		most := tighter(allowed, cam.Budget{Bytes: max(1, a.usage.Available())})
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

// plan chooses the placement of device buffers and the plans, and makes room for them.
func (w *work) plan(ctx context.Context, needed network.Needs) error {
	m := w.model
	m.mu.Lock()
	defer m.mu.Unlock()
	if w.adjust {
		if err := m.adjust(); err != nil {
			return err
		}
		w.adjust = false
	}
	if err := m.net.Require(ctx, needed); err != nil {
		return err
	}
	return w.e.Relocate(m.net.Placement.Moments)
}

// BeforePass implements explain.Executor. It gives memory back that was asked for, or that the budget does not allow any more, and
// then returns errAgain.
func (w *work) BeforePass(ctx context.Context) error {
	m := w.model
	select {
	case r := <-m.releases:
		return w.release(r)
	default:
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if m.opt.Allow == nil {
		return nil
	}
	a := &m.allowance
	fresh, err := a.update()
	if err != nil {
		return err
	}
	allowed := a.latest
	if m.net.Exceeds(allowed) {
		if err := w.shrink(allowed, false); err != nil {
			return err
		}
		return errAgain
	}
	if u := a.usage; fresh && allowed.Bytes > 0 && u.Reserved > max(allowed.Bytes, u.Allocated) {
		a.stale()
		_, err = m.resident.Trim(max(0, allowed.Bytes-u.Allocated))
	}
	return err
}

// finishChange gives back memory that plans do not need any more after a change, and records the new state.
func (w *work) finishChange() error {
	m := w.model
	if m.change != nil && m.resident != nil {
		m.allowance.stale()
		if _, err := m.allowance.ask(); err != nil {
			return err
		}
		keep := max(0, m.net.Taken-m.allowance.usage.Allocated) // for memory that is taken later: moments, maps
		m.allowance.stale()
		if _, err := m.resident.Trim(keep); err != nil {
			return err
		}
	}
	m.change = nil
	s := m.publishState()
	x := &w.execution
	x.Device, x.Level, x.Budget, x.Arena = m.backend.Name(), s.Level, s.Budget, s.Arena
	return nil
}

// recordChange records how plans have changed, once.
func (w *work) recordChange() {
	n, was := w.model.net, w.model.change
	if was == nil || was.level == "" || n.Taken == was.taken {
		return
	}
	kind := cam.EventSmaller
	if n.Taken > was.taken {
		kind = cam.EventLarger
	}
	w.Record(kind, "from %s, %s, to %s, %s", was.level, bytesize.FormatMiB(was.taken), n.Level(), bytesize.FormatMiB(n.Taken))
	was.level = ""
}
