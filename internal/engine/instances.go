package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/worker"
)

// openInstance is an instance on which volumes are explained.
type openInstance struct {
	instance.Instance
	device instance.DeviceInfo
	size   int            // of its budget, if that is one in bytes
	users  sync.WaitGroup // callers without the turn; added to while mu is held
	doing  map[*task]bool // works that it computes for, or that its process ended over; guarded by Engine.mu
	held   bool           // when it was put in its place, with until
	until  time.Time
	forget func() bool // forgets to interrupt it when the engine is closed
}

// process has the further methods of an instance in a process of its own.
type process interface {
	Gone() <-chan struct{}
	Died() *worker.DiedError
	End(reason string) *worker.DiedError
	Interrupt()
	PID() int
}

var _ process = (*worker.Worker)(nil)

// process returns the instance's process; nil if that is this one.
func (s *openInstance) process() process {
	p, _ := s.Instance.(process)
	return p
}

// gone reports whether the instance's process has ended.
func (s *openInstance) gone() bool {
	if p := s.process(); p != nil {
		select {
		case <-p.Gone():
			return true
		default:
		}
	}
	return false
}

// interrupt makes all calls to the instance's process return.
func (s *openInstance) interrupt() {
	if p := s.process(); p != nil {
		p.Interrupt()
	}
}

func (s *openInstance) close() error {
	defer s.forget()
	return s.Close()
}

// runFor runs do, a call to an instance for a work. If the process ends during it, the work is a suspect.
func (e *Engine) runFor(s *openInstance, w *work, do func() error) error {
	e.mu.Lock()
	if !s.gone() {
		s.doing[&w.task] = true
	}
	e.mu.Unlock()
	err := do()
	if died := (*worker.DiedError)(nil); !errors.As(err, &died) {
		e.mu.Lock()
		delete(s.doing, &w.task)
		e.mu.Unlock()
	}
	return err
}

// gate lets callers of Begin through to the model on the device. A caller that has shut it has the model alone.
type gate struct {
	context context.Context // ends when the gate is shut
	cancel  context.CancelFunc
	inside  sync.WaitGroup // added to while mu is held
}

// errShut is the cause with which bringing a volume ahead is stopped.
var errShut = errors.New("the device is busy with its memory")

// enterGate adds the caller to gate.inside, if the gate is open. The caller must call inside.Done.
func (e *Engine) enterGate() (*openInstance, *gate) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gate == nil || e.primary == nil {
		return nil, nil
	}
	e.gate.inside.Add(1)
	return e.primary, e.gate
}

// openGate lets volumes be brought ahead to the device, unless the processor is in its place, or a volume is to be explained alone. The turn is
// held.
func (e *Engine) openGate() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gate == nil && e.primary != nil && e.fallback == nil && len(e.suspects) == 0 {
		g := &gate{}
		g.context, g.cancel = context.WithCancel(context.Background())
		e.gate = g
	}
}

// shutGate drops all volumes that were brought ahead, and lets no others be brought until openGate. The turn is held.
func (e *Engine) shutGate() {
	e.mu.Lock()
	g := e.gate
	e.gate = nil
	e.mu.Unlock()
	if g == nil {
		return
	}
	g.cancel()
	e.dropAhead() // a Begin may wait for the buffer of one of them
	g.inside.Wait()
	e.dropAhead()
}

func (e *Engine) dropAhead() {
	e.mu.Lock()
	var drop []explain.Work
	for w := range e.ahead {
		drop = append(drop, w.inner)
		w.inner, w.on = nil, nil
	}
	clear(e.ahead)
	e.mu.Unlock()
	for _, inner := range drop {
		inner.Drop()
	}
}

// starts is the number of failures in a row to start an instance in another process after which the processor has a try.
const starts = 3

// backOff returns the pause before another process, by the number of processes that ended since a volume was explained.
func backOff(deaths int) time.Duration {
	if deaths <= 1 {
		return 0
	}
	return min(200*time.Millisecond<<min(deaths-2, 10), 5*time.Second)
}

// openOn opens an instance on a device.
func (e *Engine) openOn(ctx context.Context, t *task, o instance.Options) (*openInstance, error) {
	if o.Device == processor || e.host {
		o.Budget = e.processor
	}
	budget, err := bytesize.ParseBudget(o.Budget)
	if err != nil {
		return nil, err
	}
	x, err := e.start(ctx, o)
	if err != nil {
		return nil, err
	}
	s := &openInstance{Instance: x, device: x.Device(), size: budget.Size(), doing: map[*task]bool{}, held: o.Held, until: o.Until}
	s.forget = context.AfterFunc(e.life, s.interrupt)
	for _, failure := range s.device.Failures {
		t.record(cam.EventFailed, "the device is tried again: %s", failure)
	}
	return s, nil
}

// processor is the name of the fallback device.
const processor = "cpu"

// fill opens an instance and puts it in a place, &e.primary or &e.fallback. A process that does not start is tried again; failures counts the
// tries in a row. The turn is held.
func (e *Engine) fill(ctx context.Context, t *task, at **openInstance, failures *int) (*openInstance, error) {
	for {
		if err := sleep(ctx, e.options.BackOff(e.deaths)); err != nil {
			return nil, err
		}
		o := e.instanceOptions()
		if at == &e.fallback {
			o.Device, o.Precision = processor, "" // computes in float32 at any precision of the device
		}
		s, err := e.openOn(ctx, t, o)
		if err == nil {
			err = e.install(ctx, at, s)
		}
		if err == nil {
			*failures = 0
			return s, nil
		}
		died, short, changed := (*worker.DiedError)(nil), (*cam.MemoryError)(nil), (*input.ChangedError)(nil)
		if e.options.Worker == nil || ctx.Err() != nil || errors.As(err, &short) || errors.As(err, &changed) || !e.opened && !errors.As(err, &died) {
			return nil, err
		}
		*failures++
		e.deaths++
		if *failures >= starts {
			*failures = starts - 1 // the next volume has one try
			if errors.As(err, &died) {
				err = fmt.Errorf("the worker process has ended while it opened the model: %s", died.Reason)
			}
			return nil, err
		}
	}
}

// instanceOptions returns the options of an instance that is opened now.
func (e *Engine) instanceOptions() instance.Options {
	e.mu.Lock()
	defer e.mu.Unlock()
	o := e.options.Options
	if e.opened && !e.host && (o.Device == "" || o.Device == "auto") { // a GPU that has worked is one to come back to
		o.Device = "cuda"
	}
	o.Held, o.Until = e.holding()
	return o
}

// holding reports whether computing is held down now, and until when; zero: until it is resumed. mu is held.
func (e *Engine) holding() (held bool, until time.Time) {
	if !e.held || !e.until.IsZero() && time.Until(e.until) <= 0 {
		return false, time.Time{}
	}
	return true, e.until
}

// install puts a new instance in its place. Orders that came while it was opened go to it first. The turn is held.
func (e *Engine) install(ctx context.Context, at **openInstance, s *openInstance) error {
	for {
		e.mu.Lock()
		held, until := e.holding()
		if held == s.held && until.Equal(s.until) {
			*at = s
			e.announceChange()
			e.mu.Unlock()
			return nil
		}
		e.mu.Unlock()
		o := policy.Order{Operation: policy.Resume}
		if held {
			o.Operation = policy.Release
			if !until.IsZero() {
				o.For = max(time.Until(until), 1)
			}
		}
		if _, err := s.Order(ctx, o); err != nil {
			return errors.Join(err, s.close())
		}
		s.held, s.until = held, until
	}
}

// closeInstance closes an instance while no volume is computed on it. The turn is held, and the gate shut.
func (e *Engine) closeInstance(at **openInstance) error {
	e.mu.Lock()
	s := *at
	*at = nil
	e.announceChange()
	var works []*work
	for w := range e.unfetched {
		if w.doneOn == s {
			works = append(works, w)
		}
	}
	e.mu.Unlock()
	if s == nil {
		return nil
	}
	for _, w := range works {
		_, _ = w.fetch() // an error is that of its Result
	}
	s.users.Wait()
	return s.close()
}

// announceChange wakes callers that wait for another instance. mu is held.
func (e *Engine) announceChange() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// current returns the instance that volumes are explained on; nil if there is none at the moment.
func (e *Engine) current() *openInstance {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fallback != nil {
		return e.fallback
	}
	return e.primary
}

// use returns the instance on the device, or else the fallback, and the instance that volumes are explained on, for calls without the turn; nil
// while there is none. done lets them be closed again.
func (e *Engine) use() (s, now *openInstance, done func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, now = e.primary, e.fallback
	if s == nil || now != nil && s.gone() {
		s = now
	}
	if now == nil {
		now = s
	}
	if s == nil {
		return nil, nil, func() {}
	}
	s.users.Add(1)
	now.users.Add(1)
	return s, now, func() {
		s.users.Done()
		now.users.Done()
	}
}

// instanceFor returns the instance for a task, and opens it if need be. The turn is held.
func (e *Engine) instanceFor(ctx context.Context, t *task) (*openInstance, error) {
	if e.life.Err() != nil {
		return nil, errClosed
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(e.life, func() { cancel(errClosed) })()
	e.reapAll()
	e.mu.Lock()
	s, fallback := e.primary, e.fallback
	e.mu.Unlock()
	if !t.decided && fallback != nil {
		if why := e.stillShort(ctx, s); why != "" {
			e.toProcessor(ctx, t, errors.New(why))
		}
	}
	t.decided = true
	if t.processor {
		return e.openFallback(ctx, t)
	}
	if s != nil {
		return s, nil
	}
	if e.lost != nil {
		return nil, e.lost
	}
	s, err := e.fill(ctx, t, &e.primary, &e.failures)
	if err != nil {
		if e.options.Worker == nil {
			e.tried = time.Now()
		}
		changed := (*input.ChangedError)(nil)
		switch {
		case passing(err) || !e.opened || errors.As(err, &changed) || ctx.Err() != nil:
			return nil, err
		case fallback == nil: // it worked before
			return nil, fmt.Errorf("%w: %w", cam.ErrLost, err)
		}
		e.toProcessor(ctx, t, err)
		return fallback, nil
	}
	switch {
	case t.failed != nil && !t.renewed:
		t.renewed = true
		t.record(cam.EventRestart, "the context was made anew after: %v", t.failed)
	case fallback != nil:
		t.record(cam.EventLarger, "the device is used again: it has memory for its context")
	}
	return s, nil
}

// stillShort returns the reason why the device, which failed for the last volume, is not tried again now; "" if it is.
func (e *Engine) stillShort(ctx context.Context, s *openInstance) string {
	recently := time.Since(e.tried) < retry
	if s == nil {
		if e.lost != nil {
			return e.lost.Error()
		}
		if recently {
			return "the device could not be used a short while ago"
		}
		return ""
	}
	if short := e.short; short != nil && !s.device.Processor {
		u, err := s.Usage(ctx)
		if err == nil && short.Needs > 0 {
			if u.Available() < short.Needs {
				return fmt.Sprintf("the device has %s of memory, %s are needed", bytesize.FormatUp(u.Available()), bytesize.FormatUp(short.Needs))
			}
			return ""
		}
	}
	if recently {
		return "the device had too little memory a short while ago"
	}
	return ""
}

// openFallback opens the model on the processor. The turn is held.
func (e *Engine) openFallback(ctx context.Context, t *task) (*openInstance, error) {
	e.mu.Lock()
	s := e.fallback
	e.mu.Unlock()
	if s != nil {
		return s, nil
	}
	s, err := e.fill(ctx, t, &e.fallback, new(int))
	if err != nil {
		return nil, fmt.Errorf("the processor cannot take the device's place: %w", err)
	}
	return s, nil
}
