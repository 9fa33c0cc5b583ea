package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/sysmem"
	"github.com/voxcam/voxcam/internal/worker"
)

// reap gives up seats whose process has ended. The turn is held.
func (e *Engine) reap() {
	for _, s := range []*seat{e.seatNow(), e.current()} {
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
	known := s == e.seat || s == e.spare
	spare := s == e.spare
	over := maps.Clone(s.doing)
	affected := slices.Collect(maps.Keys(over))
	for w := range e.untaken {
		if w.doneOn == s && !over[&w.task] {
			affected = append(affected, &w.task)
		}
	}
	maps.Copy(e.suspects, over)
	e.mu.Unlock()
	if known {
		e.deaths++
		for w := range over {
			w.blame(died.Story, len(over) == 1, spare)
		}
	}
	now := policy.Situation{Failure: policy.Died, Processor: s.device.Processor, StandIn: spare, OutOfMemory: died.OutOfMemory, Killed: died.Killed && spare, Deaths: 1, Restarts: e.options.Restarts}
	if t != nil {
		now.Deaths, now.Tries = t.deaths, t.tries
	}
	if !known {
		return now
	}
	less := ""
	if e.options.Policy.Next(now) == policy.SmallerProcess {
		less = e.lessen()
	}
	for _, w := range affected {
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

// replace opens another instance in the place of one whose process ended over a call, unless too many did. The turn is held.
func (e *Engine) replace(ctx context.Context, s *seat, died *worker.DiedError, tries int) error {
	e.mourn(s, died, nil)
	if tries >= e.options.Restarts {
		return fmt.Errorf("%d worker processes ended over this, the last one: %s", tries+1, died.Story)
	}
	_, err := e.place(ctx, &task{engine: e, placed: true})
	return err
}

// await waits until another instance is in the place of one whose process ended over a call. It opens that itself if it gets the turn.
func (e *Engine) await(ctx context.Context, s *seat, died *worker.DiedError, tries int) error {
	for {
		e.mu.Lock()
		seated, same := e.seated, e.seat == s || e.seat == nil
		e.mu.Unlock()
		if !same {
			return nil
		}
		select {
		case e.turn <- struct{}{}:
			err := e.replace(ctx, s, died, tries)
			e.leave()
			return err
		case <-seated:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-e.life.Done():
			return errClosed
		}
	}
}
