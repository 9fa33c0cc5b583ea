package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/internal/explain"
)

// seat is the model on a device.
type seat struct {
	*machine
	model    model
	resident backend.Resident // nil on the processor
	budget   cam.Budget       // on the processor; fixed when it is opened
	least    int              // bytes that are known to be the least that works; changed while mu is held
	users    sync.WaitGroup   // who asks something of it without the turn; added to while mu is held
}

// gate lets callers of Begin through to the model on the device. Who shuts it has the model alone.
type gate struct {
	context context.Context // ends when it is being shut
	cancel  context.CancelFunc
	inside  sync.WaitGroup // added to while mu is held
}

// errShut is the cause of not bringing a volume ahead.
var errShut = errors.New("the device is busy with its memory")

// through goes through the gate, if it is open. The caller leaves gate.inside.
func (e *Engine) through() (*seat, *gate) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gate == nil || e.seat == nil {
		return nil, nil
	}
	e.gate.inside.Add(1)
	return e.seat, e.gate
}

// openGate lets volumes be brought ahead to the device, unless the processor stands in for it. The turn is held.
func (e *Engine) openGate() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gate == nil && e.seat != nil && e.spare == nil {
		g := &gate{}
		g.context, g.cancel = context.WithCancel(context.Background())
		e.gate = g
	}
}

// shut takes back all volumes that were brought ahead, and keeps others from it, until openGate. The turn is held.
func (e *Engine) shut() {
	e.mu.Lock()
	g := e.gate
	e.gate = nil
	e.mu.Unlock()
	if g == nil {
		return
	}
	g.cancel()
	e.dropAhead() // a Begin may wait for the place of one of them
	g.inside.Wait()
	e.dropAhead()
}

func (e *Engine) dropAhead() {
	e.mu.Lock()
	var drop []explain.Work
	for w := range e.ahead {
		drop = append(drop, w.inner)
		w.inner, w.seat = nil, nil
	}
	clear(e.ahead)
	e.mu.Unlock()
	for _, inner := range drop {
		inner.Drop()
	}
}

// opens bounds the tries in a row to open a device whose driver fails in a way that may pass.
const opens = 3

// openMachine opens a device. That it has no memory for its context is a *cam.MemoryError.
func (e *Engine) openMachine(t *task, name, precision string) (d *machine, err error) {
	for tries := range opens {
		if tries > 0 {
			t.tell(cam.EventFailed, "the device is tried again: %s", brief(err))
		}
		d, err = e.parts.device(device.Options{Name: name, Precision: precision, LaunchBlocking: e.options.LaunchBlocking, Threads: e.options.Threads})
		if err == nil {
			return d, nil
		}
		switch e.parts.trouble(err) {
		case backend.NoMemory:
			return nil, &cam.MemoryError{Err: err}
		case backend.Fault:
			return nil, err
		}
	}
	return nil, err
}

// openOn opens the model on a device, and closes that if it fails.
func (e *Engine) openOn(ctx context.Context, d *machine) (_ *seat, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	s := &seat{machine: d}
	s.resident, _ = d.Backend.(backend.Resident)
	if s.resident == nil {
		if s.budget, err = BudgetOf(e.budget, d.free); err != nil {
			return nil, err
		}
	}
	o := e.options
	s.model, err = e.parts.model(ctx, o.Model, d.Backend, executor.Options{
		ModelOptions: o.ModelOptions, Ahead: o.Ahead, Budget: s.budget, Allow: func(u backend.Usage) cam.Budget { return e.allow(s, u) }, Shuttle: e.shuttle,
	})
	return s, err
}

// BudgetOf returns the bytes of a budget, of memory of which free tells how much is left.
func BudgetOf(b bytesize.Budget, free func() (int, error)) (cam.Budget, error) {
	if b.Min() {
		return cam.Budget{Smallest: true}, nil
	}
	n, err := b.Bytes(free)
	if err != nil && b == (bytesize.Budget{}) {
		return cam.Budget{}, nil // auto, on a system that does not say what is free: whole tensors
	}
	return cam.Budget{Bytes: n}, err
}

// allow returns what computing may take on a seat now: at least the least that works, unless the budget is a size.
func (e *Engine) allow(s *seat, u backend.Usage) cam.Budget {
	b := s.budget
	bytes, least := e.governor.Allow(u)
	if s.resident != nil {
		b = cam.Budget{Bytes: bytes}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if least || b.Bytes > 0 && b.Bytes < s.least && (e.size == 0 || e.size >= s.least) {
		return cam.Budget{Smallest: true}
	}
	return b
}

// openDevice opens the device that was asked for, and the model on it. The turn is held.
func (e *Engine) openDevice(ctx context.Context, t *task) (*seat, error) {
	name := e.options.Device
	if name == "" || name == "auto" {
		// A GPU that is there and has no memory now is waited for; one that does not work, or is not there, makes place for the processor.
		d, err := e.openMachine(t, "cuda", e.options.Precision)
		if short := (*cam.MemoryError)(nil); errors.As(err, &short) {
			return nil, err
		}
		if err == nil {
			return e.openOn(ctx, d)
		}
		name = "auto"
	}
	d, err := e.openMachine(t, name, e.options.Precision)
	if err != nil {
		return nil, err
	}
	return e.openOn(ctx, d)
}

// unseat closes a seat, which no volume is computed on. The turn is held, and the gate shut.
func (e *Engine) unseat(at **seat) error {
	e.mu.Lock()
	s := *at
	*at = nil
	var works []*work
	for w := range e.untaken {
		if w.doneOn == s {
			works = append(works, w)
		}
	}
	e.mu.Unlock()
	if s == nil {
		return nil
	}
	for _, w := range works {
		_, _ = w.take() // an error is that of its Result
	}
	s.users.Wait()
	return errors.Join(s.model.Close(), s.close())
}

// current is the seat that volumes are explained on; nil if there is none at the moment.
func (e *Engine) current() *seat {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.spare != nil {
		return e.spare
	}
	return e.seat
}

// use is the seat on the device, or else the one in its place, and the one that volumes are explained on, for calls without the turn; nil
// while there is none. Done lets them be closed again.
func (e *Engine) use() (s, now *seat, done func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, now = e.seat, e.spare
	if s == nil {
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

// place returns the seat for a task, and opens it if it is needed. The turn is held.
func (e *Engine) place(ctx context.Context, t *task) (*seat, error) {
	e.mu.Lock()
	s, spare := e.seat, e.spare
	e.mu.Unlock()
	if !t.placed && spare != nil {
		if why := e.stillShort(s); why != "" {
			e.toProcessor(t, errors.New(why))
		}
	}
	t.placed = true
	if t.processor {
		return e.openSpare(ctx, t)
	}
	if s != nil {
		return s, nil
	}
	if e.lost != nil {
		return nil, e.lost
	}
	s, err := e.openDevice(ctx, t)
	if err != nil {
		e.tried = time.Now()
		switch {
		case passing(err) || !e.opened:
			return nil, err
		case spare == nil: // it worked before
			return nil, fmt.Errorf("%w: %w", cam.ErrLost, err)
		}
		e.toProcessor(t, err)
		return spare, nil
	}
	e.mu.Lock()
	e.seat = s
	e.mu.Unlock()
	switch {
	case t.failed != nil:
		t.tell(cam.EventRestart, "the context was made anew after: %v", t.failed)
	case spare != nil:
		t.tell(cam.EventLarger, "the device is used again: it has memory for its context")
	}
	return s, nil
}

// stillShort returns why the device, where the last volume could not be explained, is not tried again now; "" if it is.
func (e *Engine) stillShort(s *seat) string {
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
	if short := e.short; short != nil && s.resident != nil {
		u, err := s.resident.Usage()
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

// openSpare opens the model on the processor. The turn is held.
func (e *Engine) openSpare(ctx context.Context, t *task) (*seat, error) {
	e.mu.Lock()
	s := e.spare
	e.mu.Unlock()
	if s != nil {
		return s, nil
	}
	d, err := e.openMachine(t, "cpu", "") // computes in float32 whatever the precision of the device
	if err == nil {
		s, err = e.openOn(ctx, d)
	}
	if err != nil {
		return nil, fmt.Errorf("the processor cannot take the device's place: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.spare = s
	return s, nil
}
