package executor

import (
	"context"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/network"
)

// ready makes the plans, programs and device buffers that are needed, within what is allowed.
func (m *Model) ready(ctx context.Context, w *work, needed network.Needs) error {
	if err := m.plan(ctx, w, needed); err != nil {
		return err
	}
	m.recordChange(w)
	m.place.Lock()
	defer m.place.Unlock()
	if err := m.arrive(w); err != nil {
		return err
	}
	if err := m.net.TakeBuffers(); err != nil {
		return err
	}
	if err := m.net.Load(ctx); err != nil {
		return err
	}
	return m.settle(w)
}

// plan chooses the placement of device buffers and the plans, and makes room for them.
func (m *Model) plan(ctx context.Context, w *work, needed network.Needs) error {
	m.place.Lock()
	defer m.place.Unlock()
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

// BeforePass implements explain.Executor. It gives memory back that others ask for, or that computing may not take any more, and then
// returns errAgain.
func (w *work) BeforePass(ctx context.Context) error {
	m := w.model
	select {
	case r := <-m.releases:
		return m.release(w, r)
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
		if err := m.shrink(w, allowed, false); err != nil {
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

// settle gives back what plans do not need any more after a change, and notes what there is now.
func (m *Model) settle(w *work) error {
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
	x := &w.execution
	x.Device, x.Level, x.Budget, x.Arena = m.backend.Name(), s.Level, s.Budget, s.Arena
	return nil
}

// recordChange records how plans have changed, once.
func (m *Model) recordChange(w *work) {
	n, was := m.net, m.change
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
