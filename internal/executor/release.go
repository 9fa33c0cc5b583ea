package executor

import (
	"context"
	"errors"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/bytesize"
)

// release is a request to give the device's memory back.
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
		_ = m.release(m.betweenVolumes(), r)
	case m.releases <- r:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return <-r.done
}

// release serves a request. Its own error says how computing is to go on.
func (m *Model) release(w *work, r *release) error {
	err := m.published.lost()
	if err == nil {
		before := m.reserved()
		if err = m.evacuate(w); err == nil {
			w.Record(cam.EventReleased, "gave %s back, as asked", bytesize.FormatMiB(max(0, before-m.reserved())))
		}
	}
	again := errAgain
	if err != nil {
		again = err
	}
	if err == nil && r.meanwhile != nil {
		err = r.meanwhile()
	}
	w.adjust = true
	r.done <- err
	return again
}

// reserved returns the bytes that the backend has of its device; 0 where that is not known.
func (m *Model) reserved() int {
	u, _ := m.Usage()
	return u.Reserved
}

// Usage returns the use of the device's memory; false where it is not known.
func (m *Model) Usage() (backend.Usage, bool) {
	if m.resident == nil || m.published.lost() != nil {
		return backend.Usage{}, false
	}
	u, err := m.resident.Usage()
	return u, err == nil
}

// Trim gives unused memory back, but for keep bytes. It may be called at any time.
func (m *Model) Trim(keep int) (freed int, err error) {
	if err := m.published.lost(); err != nil || m.resident == nil {
		return 0, err
	}
	m.allowance.stale()
	freed, err = m.resident.Trim(keep)
	if errors.Is(err, cam.ErrLost) || m.trouble(err) == backend.Lost {
		err = m.published.lose(err)
	}
	return freed, err
}
