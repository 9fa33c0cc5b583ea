package engine

import (
	"context"
	"fmt"
	"maps"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/sysmem"
	"github.com/voxcam/voxcam/internal/worker"
)

// reapAll reaps the instances whose process has ended. The turn is held.
func (e *Engine) reapAll() {
	e.mu.Lock()
	opened := []*openInstance{e.primary, e.fallback}
	e.mu.Unlock()
	for _, s := range opened {
		if s != nil && s.gone() {
			e.reap(s, s.process().Died(), nil)
		}
	}
}

// reap closes an instance whose process has ended, records that with the works that lose something by it, and counts the end against the work
// that caused it, if that is clear. Otherwise the suspects are explained alone from then on, until it is. It returns the situation of a task,
// which may be nil. The turn is held.
func (e *Engine) reap(s *openInstance, died *worker.DiedError, t *task) policy.Situation {
	e.mu.Lock()
	fallback := s == e.fallback
	affected := maps.Clone(s.doing)
	for w := range e.unfetched {
		if w.doneOn == s {
			affected[&w.task] = true
		}
	}
	over := maps.Clone(s.doing)
	if len(over) == 0 { // it may have failed behind, on the way of maps to the host
		over = maps.Clone(affected)
	}
	for w := range affected {
		if w.ended {
			delete(affected, w)
		} else if over[w] {
			e.suspects[w] = true
		}
	}
	e.mu.Unlock()
	e.deaths++
	for w := range over {
		w.countDeath(died.Reason, len(over) == 1, fallback)
	}
	now := policy.Situation{Failure: policy.Died, Processor: s.device.Processor, StandIn: fallback, OutOfMemory: died.OutOfMemory, Killed: died.Killed && fallback, Deaths: 1, Restarts: e.options.Restarts}
	if t != nil {
		now.Deaths, now.Tries = t.deaths, t.tries
	}
	less := ""
	if e.options.Policy.Next(now) == policy.SmallerProcess {
		less = e.halveBudget()
	}
	for w := range affected {
		w.record(cam.EventRestart, "the worker process was started again: %s%s", died.Reason, less)
	}
	e.shutGate()
	at := &e.primary
	if fallback {
		at = &e.fallback
	}
	_ = e.closeInstance(at) // nothing can be given back to a process that has ended
	return now
}

// countDeath counts an end of a process over a task, if it was alone. Points that were kept since the last end are progress.
func (t *task) countDeath(reason string, alone, fallback bool) {
	points := 0
	if t.kept != nil {
		points = t.kept.sum()
	}
	if points > t.points {
		t.deaths = 0
	}
	if alone {
		t.deaths++
	}
	if alone && fallback {
		t.tries++
	}
	t.points, t.lastExit = points, reason
}

// halveBudget gives the next instances on the processor half the budget, and after that the least. It returns a text that says so.
func (e *Engine) halveBudget() string {
	budget := "min"
	if !e.reduced {
		budget = halved(e.processor)
	}
	e.processor, e.reduced = budget, true
	return "; the system was short of memory, the next one on the processor computes within a budget of " + budget
}

// halved returns half a budget, as bytesize.ParseBudget reads it.
func halved(text string) string {
	b, err := bytesize.ParseBudget(text)
	if err != nil || b.Min() {
		return "min"
	}
	n, err := b.Bytes(sysmem.Free)
	if err != nil || n < 2 {
		return "min"
	}
	return fmt.Sprint(n / 2)
}

// deathError returns the error of a task that processes ended over, the last one in a situation.
func (t *task) deathError(now policy.Situation) error {
	where := ", the last one"
	switch {
	case now.StandIn:
		where = ", the last one on the processor"
	case !now.Processor && !t.engine.options.Policy.CPU:
		where = ", and the policy does not allow the processor; the last one"
	}
	return fmt.Errorf("%d worker processes ended over this volume%s: %s", t.deaths, where, t.lastExit)
}

// overCall returns the error of a call over which that many processes ended.
func overCall(ended int, died *worker.DiedError) error {
	return fmt.Errorf("%d worker processes ended over this, the last one: %s", ended, died.Reason)
}

// awaitInstance waits until there is an instance other than but, whose process ended over a call; but may be nil. If it gets the turn, it opens
// the instance itself.
func (e *Engine) awaitInstance(ctx context.Context, but *openInstance) error {
	for {
		e.mu.Lock()
		changed, there := e.changed, e.primary != nil || e.fallback != nil
		if but != nil && (e.primary == but || e.fallback == but) {
			there = false
		}
		e.mu.Unlock()
		if there {
			return nil
		}
		select {
		case e.turn <- struct{}{}:
			_, err := e.instanceFor(ctx, &task{engine: e, decided: true})
			e.endTurn()
			return e.explained(err)
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-e.life.Done():
			return errClosed
		}
	}
}
