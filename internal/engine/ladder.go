package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/worker"
)

// Pauses between measurements of the free memory: each twice as long as the one before.
const (
	shortestPause = 100 * time.Millisecond
	longestPause  = 2 * time.Second
)

// errOrdered is the cause of interrupting a volume for an order.
var errOrdered = errors.New("an order came in between")

// explainOnLadder explains a volume, with the actions of the ladder after each failure, until it succeeds or the ladder gives up. The turn is
// held.
func (e *Engine) explainOnLadder(ctx context.Context, w *work) error {
	e.setState(StateComputing)
	for _, i := range e.pending {
		w.publish(i)
	}
	e.pending = nil
	defer e.closeFallback(w)
	for {
		if e.serveRestarts() {
			w.record(cam.EventRestart, "the context was made anew, as asked")
		}
		s, err := e.instanceFor(ctx, &w.task)
		if err == nil {
			err = e.applyThresholds(ctx, &w.task, s)
		}
		if err == nil {
			err = e.attempt(ctx, s, w)
		}
		if err == nil {
			e.reportWait(&w.task)
			e.succeeded(s)
			return nil
		}
		if err := e.recover(ctx, s, &w.task, err); err != nil {
			w.Drop()
			return err
		}
	}
}

// explained returns the error with which explaining ends: errClosed, once the engine is.
func (e *Engine) explained(err error) error {
	if err != nil && e.life.Err() != nil {
		return errClosed
	}
	return err
}

// closeFallback closes the processor if it took the device's place because processes ended over a volume: the next volume has the device again.
func (e *Engine) closeFallback(w *work) {
	if !w.processor || w.deaths == 0 {
		return
	}
	e.shutGate()
	if err := e.closeInstance(&e.fallback); err != nil {
		e.warn("the processor's memory is not given back: %v", err)
	}
}

// attempt explains a volume on an instance. Another attempt there goes on from the finished parts.
func (e *Engine) attempt(ctx context.Context, s *openInstance, w *work) (err error) {
	e.mu.Lock()
	inner := w.inner
	if w.on != s || w.draws < w.begun {
		inner = nil
	} else {
		w.inner, w.on = nil, nil
		delete(e.ahead, w)
	}
	fallback := s == e.fallback
	e.mu.Unlock()
	if w.tried != nil && inner == nil && w.triedOn == s {
		inner = w.tried
	} else if w.tried != nil {
		w.tried.Drop()
	}
	if inner == nil {
		e.shutGate()
		err = e.runFor(s, w, func() (err error) {
			inner, err = s.Begin(ctx, w.volume, w.request())
			return err
		})
		if err != nil {
			return err
		}
	}
	w.tried, w.triedOn = inner, s
	inside, stop := context.WithCancelCause(ctx) // lives until the result is there
	err = e.runFor(s, w, func() error { return e.during(ctx, inside, stop, inner.Compute) })
	if err != nil {
		stop(nil)
		return err
	}
	w.tried, w.triedOn = nil, nil
	w.doneOn, w.onFallback = s, fallback
	w.fetching.Lock()
	w.done, w.inside, w.stop = inner, inside, stop
	w.fetching.Unlock()
	e.mu.Lock()
	e.unfetched[w] = true
	suspect := e.suspects[&w.task]
	e.mu.Unlock()
	if !suspect {
		return nil
	}
	_, err = w.fetch()
	return err
}

// during runs f with the context inside, a child of ctx. An order that needs the turn stops it; then the error is errOrdered.
func (e *Engine) during(ctx, inside context.Context, stop context.CancelCauseFunc, f func(context.Context) error) error {
	e.mu.Lock()
	e.stop = stop
	if len(e.orders) > 0 {
		stop(errOrdered)
	}
	e.mu.Unlock()
	forget := context.AfterFunc(e.life, func() { stop(errClosed) })
	err := f(inside)
	forget()
	e.mu.Lock()
	e.stop = nil
	e.mu.Unlock()
	if died := (*worker.DiedError)(nil); err != nil && !errors.As(err, &died) && ctx.Err() == nil && context.Cause(inside) == errOrdered {
		return errOrdered
	}
	return err
}

// succeeded is called when an instance has explained a volume.
func (e *Engine) succeeded(s *openInstance) {
	e.updateInfo(s)
	e.deaths = 0
	e.mu.Lock()
	back := s == e.primary && e.fallback != nil
	e.mu.Unlock()
	if !back {
		return
	}
	e.short, e.tried = nil, time.Time{}
	e.shutGate()
	if err := e.closeInstance(&e.fallback); err != nil {
		e.warn("the processor's memory is not given back: %v", err)
	}
}

// recover carries out the action after an error of a task, or returns the error with which the task ends. s is the instance of the error; nil if
// there is none.
func (e *Engine) recover(ctx context.Context, s *openInstance, t *task, err error) error {
	var skipped *cam.SkippedError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case e.life.Err() != nil:
		return errClosed
	case err == errOrdered: // explainOnLadder serves it
		return nil
	case errors.As(err, &skipped):
		return err
	}
	e.shutGate() // nothing is brought ahead while a volume fails
	now, short, err := e.situation(ctx, s, t, err)
	if short != nil && !now.Processor && !now.Fixed && !now.LeastFits {
		e.short, e.tried = short, time.Now()
	}
	return e.act(ctx, s, t, now, short, err)
}

// situation classifies an error. It returns the missing memory, nil for other errors, and the error without parts that no caller needs.
func (e *Engine) situation(ctx context.Context, s *openInstance, t *task, err error) (policy.Situation, *cam.MemoryError, error) {
	var short *cam.MemoryError
	var small *cam.BudgetError
	var died *worker.DiedError
	now := policy.Situation{Processor: e.host, StandIn: e.onProcessor(), Renewed: t.failed != nil}
	if s != nil {
		now.Processor, now.Process = s.device.Processor, s.process() != nil
	} else if t.processor { // it did not open
		now.Processor, now.StandIn = true, true
	}
	switch {
	case s != nil && errors.As(err, &died):
		now = e.reap(s, died, t)
		return now, nil, t.deathError(now)
	case s != nil && errors.As(err, &small):
		now.Failure, now.Fixed, now.LeastFits = policy.TooSmall, s.refuses(small), e.usesLeast(ctx, s, small)
		if !errors.As(err, &short) {
			short = &cam.MemoryError{Needs: small.Smallest, Free: small.Budget, Err: small}
		}
		if now.Fixed {
			err = small
		}
	case errors.As(err, &short):
		now.Failure = policy.Short
	case errors.Is(err, cam.ErrLost):
		now.Failure = policy.Lost
		if e.primaryNow() != nil && !now.Process { // otherwise it did not open, or another process can open it later
			e.lost = err
		}
	case passing(err):
		now.Failure = policy.Persistent
	case t.processor && t.deaths > 0:
		err = fmt.Errorf("on the processor, after %d worker processes ended over this volume: %w", t.deaths, err)
	}
	return now, short, err
}

// act carries out the policy's action in a situation that an error led to, or returns the error with which the task ends. short is the missing
// memory; nil for other errors.
func (e *Engine) act(ctx context.Context, s *openInstance, t *task, now policy.Situation, short *cam.MemoryError, err error) error {
	for {
		now.Waited = t.waited
		switch e.options.Policy.Next(now) {
		case policy.Least, policy.NewProcess, policy.SmallerProcess:
			return nil
		case policy.EndProcess:
			e.mu.Lock()
			s.doing[t] = true
			e.mu.Unlock()
			now = e.reap(s, s.process().End(err.Error()), t)
			err = t.deathError(now)
		case policy.Wait:
			if again, failed := e.wait(ctx, s, t, short); again || failed != nil {
				return failed
			}
		case policy.NewContext:
			e.dropContext(t, err)
			return nil
		case policy.Processor:
			if short == nil {
				// Its errors are about memory of a lost context, which ends with that.
				_ = e.closeInstance(&e.primary)
				e.short, e.tried = nil, time.Now()
				if e.options.Worker != nil { // the next volume has another process
					e.tried = time.Time{}
				}
			}
			e.toProcessor(ctx, t, err)
			return nil
		case policy.Skip:
			return e.skip(t, err)
		default:
			if short != nil && (now.Processor || !now.Fixed) {
				e.reportWait(t)
			}
			return err
		}
	}
}

// usesLeast reports whether another try computes within the least that works, after a budget turned out too small.
func (e *Engine) usesLeast(ctx context.Context, s *openInstance, small *cam.BudgetError) bool {
	if s.refuses(small) {
		return false
	}
	changes, err := s.UseLeast(ctx, small.Smallest)
	return changes && err == nil
}

// refuses reports whether the budget is a size that is too small for any plan.
func (s *openInstance) refuses(small *cam.BudgetError) bool {
	return s.size > 0 && s.size < small.Smallest
}

func (e *Engine) isFallback(s *openInstance) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return s == e.fallback
}

// wait waits for other programs to leave memory, and reports whether to try again.
func (e *Engine) wait(ctx context.Context, s *openInstance, t *task, short *cam.MemoryError) (again bool, err error) {
	e.setState(StateWaiting)
	defer e.setState(StateComputing)
	for limit := e.options.Policy.Wait; t.waited < limit; {
		t.pause = min(max(2*t.pause, shortestPause), longestPause)
		began := time.Now()
		inside, stop := context.WithCancelCause(ctx)
		err := e.during(ctx, inside, stop, func(ctx context.Context) error { return sleep(ctx, min(t.pause, limit-t.waited)) })
		stop(nil)
		t.waited += time.Since(began)
		if err == errOrdered {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if s == nil {
			return true, nil // only opening shows whether there is enough
		}
		u, err := s.Usage(ctx)
		switch {
		case err != nil:
			return true, nil // the attempt will find the fault
		case short.Needs > 0 && u.Available() >= short.Needs, short.Needs == 0 && u.Available() > short.Free:
			return true, nil
		}
	}
	return false, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// reportWait records the time that a task has waited since the last report.
func (e *Engine) reportWait(t *task) {
	if t.waited > t.reported {
		t.record(cam.EventWaited, "waited %.1f s for other programs to leave memory", (t.waited - t.reported).Seconds())
		t.reported = t.waited
	}
}

func (e *Engine) onProcessor() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.fallback != nil
}

// dropContext ends the context of the device, so that the next attempt makes another one.
func (e *Engine) dropContext(t *task, err error) {
	e.setState(StateRestarting)
	defer e.setState(StateComputing)
	_ = e.closeInstance(&e.primary) // its errors are those of a context that is given up
	t.failed = err
}

// toProcessor lets a task continue on the processor.
func (e *Engine) toProcessor(ctx context.Context, t *task, err error) {
	e.reportWait(t)
	t.processor = true
	t.record(cam.EventCPU, "the processor takes the device's place: %s", brief(err))
	if e.options.Policy.Fewer && t.draws > 0 {
		free := 0
		if s := e.primaryNow(); s != nil && !s.device.Processor {
			if u, err := s.Usage(ctx); err == nil {
				free = u.Available()
			}
		}
		t.fewer(e.options.Policy.SamplesOnProcessor(t.draws, free), "the processor computes, and the policy allows fewer")
	}
}

func (e *Engine) primaryNow() *openInstance {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.primary
}

// brief returns the text of an error without advice.
func brief(err error) string {
	short := (*cam.MemoryError)(nil)
	switch {
	case !errors.As(err, &short):
		return err.Error()
	case short.Needs > 0:
		return fmt.Sprintf("the least that works is %s, and there are %s", bytesize.FormatUp(short.Needs), bytesize.Format(short.Free))
	}
	return short.Err.Error()
}

// skip gives a task up for want of memory.
func (e *Engine) skip(t *task, err error) error {
	e.reportWait(t)
	t.record(cam.EventSkipped, "%s", brief(err))
	return &cam.SkippedError{Err: err}
}

// applyThresholds takes fewer draws, or gives a volume up, if the policy is that of the original system.
func (e *Engine) applyThresholds(ctx context.Context, t *task, s *openInstance) error {
	if t.thresholds || !e.options.Policy.Original {
		return nil
	}
	t.thresholds = true
	free, err := s.available(ctx)
	if err != nil {
		return nil // this system does not report free memory: no threshold applies
	}
	draws, begins := e.options.Policy.Begin(t.draws, free)
	if !begins {
		if _, err := s.Order(ctx, policy.Order{Operation: policy.Trim}); err != nil && passing(err) {
			return err
		}
		if free, err = s.available(ctx); err == nil {
			if draws, begins = e.options.Policy.Begin(t.draws, free); !begins {
				short := &cam.MemoryError{Free: free, Err: fmt.Errorf("the policy %v begins no volume with so little memory", e.options.Policy)}
				return e.act(ctx, s, t, policy.Situation{Failure: policy.Declined}, short, short)
			}
		}
	}
	if t.draws > 0 {
		t.fewer(draws, fmt.Sprintf("%s of memory are free, and the policy is %v", bytesize.Format(free), e.options.Policy))
	}
	return nil
}

// available returns the most bytes that computing could take on the instance.
func (s *openInstance) available(ctx context.Context) (int, error) {
	u, err := s.Usage(ctx)
	if s.device.Processor {
		return u.Free, err
	}
	return u.Available(), err
}
