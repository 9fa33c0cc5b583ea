package executor

import (
	"context"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
)

// Release gives all memory of the device back, at the next boundary between two passes through the network, or at once if none runs. The
// state of the explanation is kept. It then calls meanwhile, unless that is nil, and lets computing go on within the budget of that moment.
// The error is that of giving back, or of meanwhile.
func (m *Model) Release(ctx context.Context, meanwhile func() error) error {
	r := &release{meanwhile, make(chan error, 1)}
	select {
	case m.turn <- struct{}{}:
		defer m.endTurn()
		if m.closed {
			return cam.ErrClosed
		}
		_ = m.betweenVolumes().release(r)
	case m.releases <- r:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return <-r.done
}

// release serves a request. It returns errAgain, or the error with which the work ends.
func (w *work) release(r *release) error {
	m := w.model
	err := m.gone()
	if err == nil {
		before, _ := m.Usage()
		if err = w.evacuate(); err == nil {
			after, _ := m.Usage()
			w.Record(cam.EventReleased, "gave %s back, as asked", bytesize.FormatMiB(max(0, before.Reserved-after.Reserved)))
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
