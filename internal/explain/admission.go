package explain

import (
	"context"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/network"
)

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
