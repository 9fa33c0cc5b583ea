package executor

import (
	"context"
	"errors"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/policy"
)

// errAgain ends an attempt that has to be begun again because what it used was given back.
var errAgain = errors.New("executor: to be tried again")

// tries counts failures in a row: those between which nothing was finished.
type tries struct {
	n        int
	finished int // methods and points, the most so far
}

// failed counts a failure.
func (t *tries) failed(finished int) {
	if finished > t.finished {
		t.n, t.finished = 0, finished
	}
	t.n++
}

// trouble returns the class of an error.
func (m *Model) trouble(err error) backend.Trouble {
	switch {
	case errors.Is(err, cam.ErrLost):
		return backend.Lost
	case m.resident == nil:
		return backend.Fault
	}
	return m.resident.Trouble(err)
}

// Retryable implements explain.Executor.
func (w *work) Retryable(err error) bool {
	m := w.model
	tooSmall := (*cam.BudgetError)(nil)
	return errors.Is(err, errAgain) || m.trouble(err) != backend.Fault || m.follows() && errors.As(err, &tooSmall)
}

// follows reports whether plans may be made anew for other budgets.
func (m *Model) follows() bool { return m.resident != nil || m.opt.Allow != nil }

// retrying calls try until it succeeds or nothing is left that could mend its error.
func (m *Model) retrying(ctx context.Context, w *work, try func() error) error {
	for {
		if err := m.published.lost(); err != nil {
			return err
		}
		err := try()
		if err == nil {
			return nil
		}
		if err := m.nextAttempt(ctx, w, err); err != nil {
			return err
		}
	}
}

// nextAttempt prepares another attempt after an error, or returns why there is none.
func (m *Model) nextAttempt(ctx context.Context, w *work, err error) error {
	if errors.Is(err, errAgain) && m.trouble(err) == backend.Fault {
		return nil
	}
	if m.trouble(err) == backend.Lost {
		return m.lose(w, err)
	}
	if late := w.e.Collect(); late != nil && m.trouble(late) == backend.Lost {
		return m.lose(w, late)
	}
	if ctx.Err() != nil {
		return m.end(w, context.Cause(ctx))
	}
	tooSmall := (*cam.BudgetError)(nil)
	switch m.trouble(err) {
	case backend.NoMemory:
		return m.less(ctx, w, err)
	case backend.Transient:
		return m.again(w, err)
	}
	if m.follows() && errors.As(err, &tooSmall) {
		return m.least(ctx, w, tooSmall)
	}
	return m.end(w, err)
}

// end gives up with an error. What is loaded stays; of what was gathered stays what is kept outside.
func (m *Model) end(w *work, err error) error {
	if closing := errors.Join(w.e.Rescue(false), w.e.End()); closing != nil {
		if m.trouble(closing) == backend.Lost {
			return m.lose(w, closing)
		}
		err = errors.Join(err, closing)
	}
	return err
}

// lose gives up for good: only closing is left.
func (m *Model) lose(w *work, err error) error {
	w.Record(cam.EventFailed, "%v", err)
	m.place.Lock()
	defer m.place.Unlock()
	err = m.published.lose(err)
	_ = w.e.End() // nothing can be given back to a device that is gone
	return err
}

// giveBack gives back all that lies on the device.
func (m *Model) giveBack() (err error) {
	m.place.Lock()
	defer m.place.Unlock()
	if m.net == nil {
		return nil
	}
	err = m.net.Close()
	if m.resident != nil && m.published.lost() == nil && m.trouble(err) != backend.Lost {
		_, trimmed := m.resident.Trim(0)
		if trimmed != nil && m.trouble(trimmed) != backend.Lost {
			_, trimmed = m.resident.Trim(0) // which ends what the first could not
		}
		m.allowance.stale()
		err = errors.Join(err, trimmed)
	}
	m.publishState()
	return err
}

// evacuate brings what is needed to go on to the host, and gives all back. An error is that the device is lost; what else fails here the
// next Trim makes good.
func (m *Model) evacuate(w *work) error {
	err := w.e.Rescue(true)
	if m.trouble(err) != backend.Lost {
		err = m.giveBack()
	}
	w.there, w.waits = nil, nil
	if m.trouble(err) == backend.Lost {
		return m.lose(w, err)
	}
	return nil
}

// again makes ready for another try after a failure that may pass. A pass writes all that it reads, so that the first try is made with what
// is there; only moments that a call was changing are made anew. For the next ones everything is given back.
func (m *Model) again(w *work, err error) error {
	w.Record(cam.EventFailed, "%v", err)
	w.tries.failed(w.e.Finished())
	n := w.tries.n
	next := (policy.Policy{}).Next(policy.Situation{Failure: policy.Failing, Loaded: true, Tries: n})
	if next == policy.Repeat && w.e.Rescue(false) == nil {
		w.Record(cam.EventRepeated, "began again with what is there")
		return nil
	}
	if lost := m.evacuate(w); lost != nil {
		return lost
	}
	if next == policy.GiveBack {
		w.tries.n = 0
		return &cam.TransientError{Tries: n, Err: err}
	}
	w.Record(cam.EventReloaded, "gave everything back, to load it again")
	return nil
}

// less plans for less memory after a refusal.
func (m *Model) less(ctx context.Context, w *work, refused error) error {
	n := m.net
	usage, err := m.resident.Usage()
	if m.trouble(err) == backend.Lost {
		return m.lose(w, err)
	}
	free := ""
	if err == nil {
		free = "; " + bytesize.FormatMiB(usage.Free) + " were free"
	}
	w.Record(cam.EventRefused, "%v%s", refused, free)
	next := (policy.Policy{}).Next(policy.Situation{Failure: policy.Refused, Loaded: true, Smallest: n == nil || n.Budget.Smallest})
	if next == policy.GiveBack {
		return m.surrender(ctx, w, &cam.MemoryError{Free: usage.Available(), Err: refused})
	}
	bytes := usage.Available()
	if n.Taken > 0 && (err != nil || bytes >= n.Taken) { // it is not the sum that there is too little of
		bytes = n.Taken / 2
	}
	if allowed := m.allowance.latest.Bytes; allowed > 0 {
		bytes = min(bytes, allowed)
	}
	to := cam.Budget{Bytes: bytes}
	if least, err := n.LeastBytes(ctx); err != nil || bytes <= least {
		to = cam.Budget{Smallest: true}
	}
	return m.shrink(w, to, true)
}

// shrink makes room for smaller plans. Draws stay where they are as long as there is room for them there.
func (m *Model) shrink(w *work, to cam.Budget, forced bool) error {
	rescued := w.e.Rescue(false)
	m.place.Lock()
	m.net.Forced = m.net.Forced || forced
	err := errors.Join(rescued, m.replan(to))
	m.place.Unlock()
	if m.trouble(err) == backend.Lost {
		return m.lose(w, err)
	}
	return nil
}

// least goes on after a budget that is too small for any plan: with the least that works, if it was the device that said so.
func (m *Model) least(ctx context.Context, w *work, tooSmall *cam.BudgetError) error {
	switch (policy.Policy{}).Next(policy.Situation{
		Failure: policy.TooSmall, Loaded: true, LeastFits: m.net.Forced && m.allows(tooSmall.Smallest), Fixed: m.opt.Allow == nil,
	}) {
	case policy.Least:
		return m.shrink(w, cam.Budget{Smallest: true}, true)
	case policy.Fail:
		return m.end(w, tooSmall)
	}
	return m.surrender(ctx, w, &cam.MemoryError{Needs: tooSmall.Smallest, Free: tooSmall.Budget, Err: tooSmall})
}

// surrender gives all back when not even the least can be had.
func (m *Model) surrender(ctx context.Context, w *work, why *cam.MemoryError) error {
	if why.Needs == 0 && m.net != nil {
		why.Needs, _ = m.net.LeastBytes(ctx) // of a plan that was made before
	}
	if lost := m.evacuate(w); lost != nil {
		return lost
	}
	return why
}
