package explain

import (
	"context"
	"errors"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/bytesize"
)

// release is somebody's wish for the device's memory.
type release struct {
	meanwhile func() error
	done      chan error
}

// Release gives all memory of the device back, at the next boundary between two passes through the network, or at once where none runs;
// what is needed to go on is kept. It then calls meanwhile, unless that is nil, and lets computing go on with what is allowed then. The
// error is that of giving back, or of meanwhile.
func (m *Model) Release(ctx context.Context, meanwhile func() error) error {
	r := &release{meanwhile, make(chan error, 1)}
	select {
	case m.turn <- struct{}{}:
		defer m.leave()
		if m.closed {
			return cam.ErrClosed
		}
		_ = m.release(m.nobody(), r)
	case m.releases <- r:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return <-r.done
}

// release does it. Its own error says how computing is to go on.
func (m *Model) release(e *explanation, r *release) error {
	err := m.seen.lost()
	if err == nil {
		before := m.reserved()
		if err = m.evacuate(e); err == nil {
			e.tell(cam.EventReleased, "gave %s back, as asked", bytesize.FormatMiB(max(0, before-m.reserved())))
		}
	}
	again := errAgain
	if err != nil {
		again = err
	}
	if err == nil && r.meanwhile != nil {
		err = r.meanwhile()
	}
	e.adjust = true
	r.done <- err
	return again
}

// reserved is what the backend has of its device; 0 where that is not known.
func (m *Model) reserved() int {
	u, _ := m.Usage()
	return u.Reserved
}

// Usage says how the memory of the device is used; false where it cannot be known.
func (m *Model) Usage() (backend.Usage, bool) {
	if m.resident == nil || m.seen.lost() != nil {
		return backend.Usage{}, false
	}
	u, err := m.resident.Usage()
	return u, err == nil
}

// Trim gives back what nothing is in, but for so many bytes. It may be called at any time.
func (m *Model) Trim(keep int) (freed int, err error) {
	if err := m.seen.lost(); err != nil || m.resident == nil {
		return 0, err
	}
	m.allowance.stale()
	freed, err = m.resident.Trim(keep)
	if errors.Is(err, cam.ErrLost) || m.trouble(err) == backend.Lost {
		err = m.seen.lose(err)
	}
	return freed, err
}
