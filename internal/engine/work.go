package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/worker"
	"github.com/voxcam/voxcam/volume"
)

// task is the progress of a volume, or of opening a device, on the ladder.
type task struct {
	engine     *Engine
	decided    bool  // it was decided whether the device is tried
	processor  bool  // it continues on the processor
	thresholds bool  // those of the policy original were applied
	failed     error // the reason why the context was, or has to be, made anew
	renewed    bool  // that was done, and recorded
	waited     time.Duration
	reported   time.Duration // the part of waited that an event has reported
	pause      time.Duration // the last one
	ended      bool          // no caller needs it any more; guarded by Engine.mu

	// Of worker processes that ended over it.
	deaths   int    // in a row, without further points
	tries    int    // those on the processor in the device's place
	points   int    // points kept when the last one ended
	lastExit string // reason of the last end

	asked, draws int    // draws that were requested, and that are taken; 0 for methods without
	why          string // the reason for fewer draws
	kept         *checkpoint

	mu        sync.Mutex
	incidents []cam.Event
	listener  func(cam.Event)
}

// publish keeps an event for the result, and hands it to the caller of the work, one at a time.
func (t *task) publish(i cam.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.incidents = append(t.incidents, i)
	if t.listener != nil {
		t.listener(i)
	}
}

func (t *task) record(kind cam.EventKind, format string, args ...any) {
	t.publish(cam.Event{Time: time.Now(), Kind: kind, Text: fmt.Sprintf(format, args...)})
}

// fewer takes fewer draws, but no fewer than were taken.
func (t *task) fewer(n int, why string) {
	if t.kept != nil {
		n = max(n, t.kept.draws())
	}
	if n >= t.draws {
		return
	}
	t.draws, t.why = n, why
	t.record(cam.EventFewer, "%s", t.reason())
}

// reason returns the reason for fewer draws than requested.
func (t *task) reason() string {
	return fmt.Sprintf("%d draws instead of %d: %s", t.draws, t.asked, t.why)
}

// work implements explain.Work.
type work struct {
	task
	volume  *volume.Volume
	req     cam.Request
	drawing []bool // by method: it has draws

	// Of the volume brought ahead; guarded by Engine.mu.
	inner explain.Work
	on    *openInstance
	begun int // draws at that time

	// Of the latest failed attempt; guarded by the turn.
	tried   explain.Work
	triedOn *openInstance

	// Of the explained volume.
	context    context.Context
	doneOn     *openInstance
	onFallback bool // explained by the fallback
	fetching   sync.Mutex
	done       explain.Work    // until its result is fetched
	inside     context.Context // that it was computed in
	stop       context.CancelCauseFunc
	result     *cam.Result
	failed     error // the error in place of the result
}

func newWork(e *Engine, v *volume.Volume, req cam.Request, choices []cam.Choice) *work {
	w := &work{volume: v, req: req}
	w.engine, w.listener = e, req.OnEvent
	for _, c := range choices {
		w.drawing = append(w.drawing, c.Convention.Sampling() == cam.Noisy)
		if c.Convention.Sampling() != cam.Once && w.kept == nil {
			w.kept = &checkpoint{outer: req.Checkpoint}
		}
	}
	if slices.Contains(w.drawing, true) {
		w.asked, w.draws = req.NSamples, req.NSamples
	}
	return w
}

// request returns the request for the instance.
func (w *work) request() cam.Request {
	r := w.req
	r.OnEvent = w.publish
	if w.kept != nil {
		r.Checkpoint = w.kept
	}
	if w.asked > 0 {
		r.NSamples = w.draws
	}
	return r
}

// Compute implements explain.Work.
func (w *work) Compute(ctx context.Context) error { return w.compute(ctx, nil) }

// compute explains the volume, after an error of its result, which may be nil.
func (w *work) compute(ctx context.Context, late error) error {
	e := w.engine
	if err := e.takeTurn(ctx); err != nil {
		w.Drop()
		return err
	}
	defer e.endTurn()
	w.context = ctx
	if s := w.doneOn; errors.Is(late, cam.ErrLost) && s.process() != nil && !s.gone() {
		if err := e.recover(ctx, s, &w.task, late); err != nil {
			w.Drop()
			return e.explained(err)
		}
	}
	return e.explained(e.explainOnLadder(ctx, w))
}

// fetch waits for the result from the instance, which must not have been closed before.
func (w *work) fetch() (*cam.Result, error) {
	w.fetching.Lock()
	defer w.fetching.Unlock()
	e := w.engine
	first := w.done != nil
	if first {
		w.failed = e.runFor(w.doneOn, w, func() (err error) {
			w.result, err = w.done.Result()
			return err
		})
		if w.failed != nil && !passing(w.failed) && context.Cause(w.inside) == errOrdered { // which came when it had been computed
			w.failed = errOrdered
		}
		w.stop(nil)
		w.tried, w.triedOn, w.done = w.done, w.doneOn, nil // after a failure another attempt goes on from it
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if died := (*worker.DiedError)(nil); !first || !errors.As(w.failed, &died) { // otherwise reap is to know that it lost its result
		delete(e.unfetched, w)
	}
	if w.failed == nil {
		delete(e.suspects, &w.task)
	}
	return w.result, w.failed
}

// Result implements explain.Work. If maps get lost on their way to the host, the volume is explained again.
func (w *work) Result() (*cam.Result, error) {
	r, err := w.fetch()
	for tries := 0; (err == errOrdered || passing(err)) && w.context.Err() == nil && tries < 2; tries++ {
		if died := (*worker.DiedError)(nil); err == errOrdered || errors.As(err, &died) {
			tries-- // the ladder, or the last order, ends that
		}
		if again := w.compute(w.context, err); again != nil {
			return nil, again
		}
		r, err = w.fetch()
	}
	if err != nil {
		w.Drop()
		return nil, w.engine.explained(err)
	}
	w.mu.Lock()
	r.Execution.Events = slices.Clone(w.incidents)
	w.mu.Unlock()
	if w.onFallback {
		r.Execution.Level = cam.LevelCPU
	}
	for i := range r.Methods {
		if m := &r.Methods[i]; w.draws < w.asked && w.drawing[i] && m.Status != cam.StatusFailed {
			if m.Reason != "" {
				m.Reason += "; "
			}
			m.Status, m.Reason = cam.StatusDegraded, m.Reason+w.reason()
		}
	}
	return r, nil
}

// Drop implements explain.Work.
func (w *work) Drop() {
	e := w.engine
	e.mu.Lock()
	inner, tried := w.inner, w.tried
	w.inner, w.on, w.tried, w.triedOn = nil, nil, nil, nil
	delete(e.ahead, w)
	delete(e.suspects, &w.task)
	w.ended = true
	e.mu.Unlock()
	for _, of := range []explain.Work{inner, tried} {
		if of != nil {
			of.Drop()
		}
	}
}

// checkpoint keeps unfinished points for another attempt, in the caller's checkpoint if there is one.
type checkpoint struct {
	outer cam.Checkpoint // the caller's; nil: values are in states

	mu     sync.Mutex
	states map[string]worker.SavedState // without values if outer has them
}

var _ worker.States = (*checkpoint)(nil)

// All implements worker.States.
func (c *checkpoint) All() iter.Seq2[string, worker.SavedState] {
	c.mu.Lock()
	states := maps.Clone(c.states)
	c.mu.Unlock()
	return func(yield func(string, worker.SavedState) bool) {
		for key, s := range states {
			if c.outer != nil {
				s.Values, s.Points = c.outer.Latest(key)
			}
			if s.Points > 0 && !yield(key, s) {
				return
			}
		}
	}
}

// Latest implements cam.Checkpoint.
func (c *checkpoint) Latest(key string) ([]float32, int) {
	if c.outer != nil {
		values, draws := c.outer.Latest(key)
		c.note(key, nil, draws)
		return values, draws
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.states[key]
	return s.Values, s.Points
}

// Keep implements cam.Checkpoint.
func (c *checkpoint) Keep(key string, values []float32, draws int) error {
	if c.outer == nil {
		c.note(key, values, draws)
		return nil
	}
	if err := c.outer.Keep(key, values, draws); err != nil {
		return err
	}
	c.note(key, nil, draws)
	return nil
}

func (c *checkpoint) note(key string, values []float32, points int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.states == nil {
		c.states = map[string]worker.SavedState{}
	}
	c.states[key] = worker.SavedState{Values: append(c.states[key].Values[:0], values...), Points: points}
}

// draws returns the largest number of draws that any state has.
func (c *checkpoint) draws() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, s := range c.states {
		if cam.OfDraws(key) {
			n = max(n, s.Points)
		}
	}
	return n
}

// sum returns the number of points that all states have.
func (c *checkpoint) sum() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.states {
		n += s.Points
	}
	return n
}
