package executor

import (
	"context"
	"errors"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/policy"
)

// errAgain ends an attempt that has to be begun again because its memory was given back.
var errAgain = errors.New("explain: to be tried again")

// Retryable implements explain.Executor.
func (w *work) Retryable(err error) bool {
	m := w.model
	tooSmall := (*cam.BudgetError)(nil)
	return errors.Is(err, errAgain) || m.class(err) != backend.Fault || m.follows() && errors.As(err, &tooSmall)
}

// endLost gives up after the device was lost: after that the model can only be closed.
func (w *work) endLost(err error) error {
	m := w.model
	w.Record(cam.EventFailed, "%v", err)
	m.mu.Lock()
	defer m.mu.Unlock()
	err = m.markLost(err)
	_ = w.e.Close() // nothing can be given back to a device that is gone
	return err
}

// end gives up with an error. Programs stay loaded; of the sums over points only those in the checkpoint stay.
func (w *work) end(err error) error {
	if closing := errors.Join(w.e.Rescue(false), w.e.Close()); closing != nil {
		if w.model.class(closing) == backend.Lost {
			return w.endLost(closing)
		}
		err = errors.Join(err, closing)
	}
	return err
}

// evacuate brings the state of the explanation to the host, and gives all memory of the device back. An error means that the device is lost;
// after other failures the next Trim returns the rest.
func (w *work) evacuate() error {
	m := w.model
	err := w.e.Rescue(true)
	if m.class(err) != backend.Lost {
		err = m.giveBack()
	}
	w.loaded, w.ahead = nil, nil
	if m.class(err) == backend.Lost {
		return w.endLost(err)
	}
	return nil
}

// surrender gives all memory back when not even the smallest plan fits.
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

// shrink makes room for smaller plans. Sums over draws stay in their place as long as that has room.
func (w *work) shrink(to cam.Budget, forced bool) error {
	m := w.model
	rescued := w.e.Rescue(false)
	m.mu.Lock()
	m.net.Forced = m.net.Forced || forced
	err := errors.Join(rescued, m.replan(to))
	m.mu.Unlock()
	if m.class(err) == backend.Lost {
		return w.endLost(err)
	}
	return nil
}

// planLess plans for less memory after a refusal.
func (w *work) planLess(ctx context.Context, refused error) error {
	m := w.model
	n := m.net
	usage, err := m.resident.Usage()
	if m.class(err) == backend.Lost {
		return w.endLost(err)
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
	if n.Taken > 0 && (err != nil || bytes >= n.Taken) { // the driver refused although there seems to be enough
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

// planLeast goes on after a budget that is too small for any plan: with the smallest plan, if the budget came from a refusal of the device.
func (w *work) planLeast(ctx context.Context, tooSmall *cam.BudgetError) error {
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

// retry prepares another try after a failure that may pass. A pass writes all that it reads, so the first try uses what is loaded; only
// moments that a call was changing are made anew. For later tries everything is given back.
func (w *work) retry(err error) error {
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

// nextAttempt prepares another attempt after an error, or returns the error that ends the work.
func (w *work) nextAttempt(ctx context.Context, err error) error {
	m := w.model
	if errors.Is(err, errAgain) && m.class(err) == backend.Fault {
		return nil
	}
	if m.class(err) == backend.Lost {
		return w.endLost(err)
	}
	if late := w.e.Collect(); late != nil && m.class(late) == backend.Lost {
		return w.endLost(late)
	}
	if ctx.Err() != nil {
		return w.end(context.Cause(ctx))
	}
	tooSmall := (*cam.BudgetError)(nil)
	switch m.class(err) {
	case backend.NoMemory:
		return w.planLess(ctx, err)
	case backend.Transient:
		return w.retry(err)
	}
	if m.follows() && errors.As(err, &tooSmall) {
		return w.planLeast(ctx, tooSmall)
	}
	return w.end(err)
}

// retrying calls try until it succeeds, or until no other attempt can mend its error.
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
