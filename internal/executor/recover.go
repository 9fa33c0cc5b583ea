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
var errAgain = errors.New("explain: to be tried again")

// Retryable implements explain.Executor.
func (w *work) Retryable(err error) bool {
	m := w.model
	tooSmall := (*cam.BudgetError)(nil)
	return errors.Is(err, errAgain) || m.trouble(err) != backend.Fault || m.follows() && errors.As(err, &tooSmall)
}

// lose gives up for good: only closing is left.
func (w *work) lose(err error) error {
	m := w.model
	w.Record(cam.EventFailed, "%v", err)
	m.place.Lock()
	defer m.place.Unlock()
	err = m.lose(err)
	_ = w.e.End() // nothing can be given back to a device that is gone
	return err
}

// end gives up with an error. What is loaded stays; of what was gathered stays what is kept outside.
func (w *work) end(err error) error {
	if closing := errors.Join(w.e.Rescue(false), w.e.End()); closing != nil {
		if w.model.trouble(closing) == backend.Lost {
			return w.lose(closing)
		}
		err = errors.Join(err, closing)
	}
	return err
}

// evacuate brings what is needed to go on to the host, and gives all back. An error is that the device is lost; what else fails here the
// next Trim makes good.
func (w *work) evacuate() error {
	m := w.model
	err := w.e.Rescue(true)
	if m.trouble(err) != backend.Lost {
		err = m.giveBack()
	}
	w.there, w.waits = nil, nil
	if m.trouble(err) == backend.Lost {
		return w.lose(err)
	}
	return nil
}

// surrender gives all back when not even the least can be had.
func (w *work) surrender(ctx context.Context, why *cam.MemoryError) error {
	m := w.model
	if why.Needs == 0 && m.net != nil {
		why.Needs, _ = m.net.LeastBytes(ctx) // of a plan that was made before
	}
	if lost := w.evacuate(); lost != nil {
		return lost
	}
	return why
}

// shrink makes room for smaller plans. Draws stay where they are as long as there is room for them there.
func (w *work) shrink(to cam.Budget, forced bool) error {
	m := w.model
	rescued := w.e.Rescue(false)
	m.place.Lock()
	m.net.Forced = m.net.Forced || forced
	err := errors.Join(rescued, m.replan(to))
	m.place.Unlock()
	if m.trouble(err) == backend.Lost {
		return w.lose(err)
	}
	return nil
}

// less plans for less memory after a refusal.
func (w *work) less(ctx context.Context, refused error) error {
	m := w.model
	n := m.net
	usage, err := m.resident.Usage()
	if m.trouble(err) == backend.Lost {
		return w.lose(err)
	}
	free := ""
	if err == nil {
		free = "; " + bytesize.FormatMiB(usage.Free) + " were free"
	}
	w.Record(cam.EventRefused, "%v%s", refused, free)
	next := (policy.Policy{}).Next(policy.Situation{Failure: policy.Refused, Loaded: true, Smallest: n == nil || n.Budget.Smallest})
	if next == policy.GiveBack {
		return w.surrender(ctx, &cam.MemoryError{Free: usage.Available(), Err: refused})
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
	return w.shrink(to, true)
}

// least goes on after a budget that is too small for any plan: with the least that works, if it was the device that said so.
func (w *work) least(ctx context.Context, tooSmall *cam.BudgetError) error {
	m := w.model
	switch (policy.Policy{}).Next(policy.Situation{
		Failure: policy.TooSmall, Loaded: true, LeastFits: m.net.Forced && m.allowance.allows(tooSmall.Smallest), Fixed: m.opt.Allow == nil,
	}) {
	case policy.Least:
		return w.shrink(cam.Budget{Smallest: true}, true)
	case policy.Fail:
		return w.end(tooSmall)
	}
	return w.surrender(ctx, &cam.MemoryError{Needs: tooSmall.Smallest, Free: tooSmall.Budget, Err: tooSmall})
}

// again makes ready for another try after a failure that may pass. A pass writes all that it reads, so that the first try is made with what
// is there; only moments that a call was changing are made anew. For the next ones everything is given back.
func (w *work) again(err error) error {
	w.Record(cam.EventFailed, "%v", err)
	if n := w.e.Finished(); n > w.finished {
		w.tries, w.finished = 0, n
	}
	w.tries++
	n := w.tries
	next := (policy.Policy{}).Next(policy.Situation{Failure: policy.Failing, Loaded: true, Tries: n})
	if next == policy.Repeat && w.e.Rescue(false) == nil {
		w.Record(cam.EventRepeated, "began again with what is there")
		return nil
	}
	if lost := w.evacuate(); lost != nil {
		return lost
	}
	if next == policy.GiveBack {
		w.tries = 0
		return &cam.TransientError{Tries: n, Err: err}
	}
	w.Record(cam.EventReloaded, "gave everything back, to load it again")
	return nil
}

// nextAttempt prepares another attempt after an error, or returns why there is none.
func (w *work) nextAttempt(ctx context.Context, err error) error {
	m := w.model
	if errors.Is(err, errAgain) && m.trouble(err) == backend.Fault {
		return nil
	}
	if m.trouble(err) == backend.Lost {
		return w.lose(err)
	}
	if late := w.e.Collect(); late != nil && m.trouble(late) == backend.Lost {
		return w.lose(late)
	}
	if ctx.Err() != nil {
		return w.end(context.Cause(ctx))
	}
	tooSmall := (*cam.BudgetError)(nil)
	switch m.trouble(err) {
	case backend.NoMemory:
		return w.less(ctx, err)
	case backend.Transient:
		return w.again(err)
	}
	if m.follows() && errors.As(err, &tooSmall) {
		return w.least(ctx, tooSmall)
	}
	return w.end(err)
}

// retrying calls try until it succeeds or nothing is left that could mend its error.
func (w *work) retrying(ctx context.Context, try func() error) error {
	for {
		if err := w.model.gone(); err != nil {
			return err
		}
		err := try()
		if err == nil {
			return nil
		}
		if err := w.nextAttempt(ctx, err); err != nil {
			return err
		}
	}
}
