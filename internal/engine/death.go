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

// reap gives up seats whose process has ended. The turn is held.
func (e *Engine) reap() {
	e.mu.Lock()
	seats := []*seat{e.seat, e.spare}
	e.mu.Unlock()
	for _, s := range seats {
		if s != nil && s.gone() {
			e.mourn(s, s.process().Died(), nil)
		}
	}
}

// mourn gives up a seat whose process has ended, tells the works that lose something by that, and counts the end against the work that it was
// over, if that is clear. The others are explained alone from then on, until it is. It returns the situation of a task, which may be nil. The
// turn is held.
func (e *Engine) mourn(s *seat, died *worker.DiedError, t *task) policy.Situation {
	e.mu.Lock()
	spare := s == e.spare
	affected := maps.Clone(s.doing)
	for w := range e.untaken {
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
		w.blame(died.Story, len(over) == 1, spare)
	}
	now := policy.Situation{Failure: policy.Died, Processor: s.device.Processor, StandIn: spare, OutOfMemory: died.OutOfMemory, Killed: died.Killed && spare, Deaths: 1, Restarts: e.options.Restarts}
	if t != nil {
		now.Deaths, now.Tries = t.deaths, t.tries
	}
	less := ""
	if e.options.Policy.Next(now) == policy.SmallerProcess {
		less = e.lessen()
	}
	for w := range affected {
		w.tell(cam.EventRestart, "the worker process was started again: %s%s", died.Story, less)
	}
	e.shut()
	at := &e.seat
	if spare {
		at = &e.spare
	}
	_ = e.unseat(at) // nothing can be given back to a process that has ended
	return now
}

// blame counts an end of a process over a task, if it was alone. Points that were kept since the last time show that it gets on.
func (t *task) blame(story string, alone, spare bool) {
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
	if alone && spare {
		t.tries++
	}
	t.points, t.story = points, story
}

// lessen gives the next instances on the processor half the budget, and then the least; it says so.
func (e *Engine) lessen() string {
	budget := "min"
	if !e.lessened {
		budget = halved(e.processor)
	}
	e.processor, e.lessened = budget, true
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

// overError returns the error of a task that processes ended over, the last one in a situation.
func (t *task) overError(now policy.Situation) error {
	where := ", the last one"
	switch {
	case now.StandIn:
		where = ", the last one on the processor"
	case !now.Processor && !t.engine.options.Policy.CPU:
		where = ", and the policy does not allow the processor; the last one"
	}
	return fmt.Errorf("%d worker processes ended over this volume%s: %s", t.deaths, where, t.story)
}

// overCall returns the error of a call that so many processes ended over.
func overCall(ended int, died *worker.DiedError) error {
	return fmt.Errorf("%d worker processes ended over this, the last one: %s", ended, died.Story)
}

// await waits until there is an instance, but for one whose process ended over a call; nil for none. It opens that itself if it gets the turn.
func (e *Engine) await(ctx context.Context, but *seat) error {
	for {
		e.mu.Lock()
		seated, there := e.seated, e.seat != nil || e.spare != nil
		if but != nil && (e.seat == but || e.spare == but) {
			there = false
		}
		e.mu.Unlock()
		if there {
			return nil
		}
		select {
		case e.turn <- struct{}{}:
			_, err := e.place(ctx, &task{engine: e, placed: true})
			e.leave()
			return e.explained(err)
		case <-seated:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-e.life.Done():
			return errClosed
		}
	}
}
