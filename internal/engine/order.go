package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/sysmem"
)

// operations lists the orders that an engine takes. Each returns a note, and an error if it is not done; before and after are the
// driver's figures, measured by the caller unless the operation measures itself.
var operations = map[policy.Operation]func(*Engine, context.Context, policy.Order, *policy.Outcome) error{
	policy.Release:    (*Engine).release,
	policy.Resume:     (*Engine).resume,
	policy.Trim:       (*Engine).trim,
	policy.Defragment: (*Engine).defragment,
	policy.Restart:    (*Engine).restart,
}

// Order does something with the memory that the engine holds, and says what came of it. It may be called while a volume is explained, and
// returns when the operation is done, at the next pass through the network. Figures are of the device, or, where the processor was asked
// for, of this process.
func (e *Engine) Order(ctx context.Context, o policy.Order) (policy.Outcome, error) {
	outcome := policy.Outcome{Operation: o.Operation}
	do, known := operations[o.Operation]
	if !known {
		return outcome, fmt.Errorf("the operation %q is not known", o.Operation)
	}
	began := time.Now()
	err := do(e, ctx, o, &outcome)
	outcome.Seconds = time.Since(began).Seconds()
	if err == nil && outcome.Freed() == 0 && o.Operation != policy.Resume {
		note(&outcome, "nothing was given back: there was nothing to give")
	}
	return outcome, err
}

// note adds to what is said of an outcome.
func note(out *policy.Outcome, text string) {
	if out.Note != "" {
		text = out.Note + "; " + text
	}
	out.Note = text
}

// usage returns the use of the device's memory; on the processor, that of this process.
func (s *seat) usage() (backend.Usage, error) {
	if s.resident != nil {
		return s.resident.Usage()
	}
	resident, err := sysmem.Resident(os.Getpid())
	if err != nil {
		return backend.Usage{}, err
	}
	free, err := s.free()
	return backend.Usage{Free: free, Largest: free, Reserved: resident, Allocated: resident}, err
}

// measured runs f between two measurements. Without a seat there is nothing to measure.
func (e *Engine) measured(o *policy.Outcome, f func(s *seat) error) error {
	s, _, done := e.use()
	defer done()
	if s == nil {
		return errors.New("the device is being opened: try again in a moment")
	}
	var err error
	if o.Before, err = s.usage(); err != nil {
		return err
	}
	o.After = o.Before
	if err := f(s); err != nil {
		return err
	}
	return nil
}

func (e *Engine) release(ctx context.Context, o policy.Order, out *policy.Outcome) error {
	until := time.Time{}
	out.Note = "as little as possible is taken until it is resumed"
	if o.For > 0 {
		until = time.Now().Add(o.For)
		out.Note = fmt.Sprintf("as little as possible is taken for %v", o.For)
	}
	e.governor.Release(until)
	return e.measured(out, func(s *seat) error {
		return s.model.Release(ctx, func() (err error) {
			if s.resident == nil {
				debug.FreeOSMemory()
			}
			out.After, err = s.usage()
			return err
		})
	})
}

func (e *Engine) resume(_ context.Context, _ policy.Order, out *policy.Outcome) error {
	_, held := e.governor.Held()
	e.governor.Resume()
	out.Note = "the budget holds again; larger plans come with the next volume"
	if !held {
		out.Note = "nothing was held back"
	}
	return e.measured(out, func(*seat) error { return nil })
}

func (e *Engine) trim(_ context.Context, o policy.Order, out *policy.Outcome) error {
	return e.measured(out, func(s *seat) (err error) {
		if s.resident == nil {
			debug.FreeOSMemory()
		} else if _, err := s.model.Trim(o.Keep); err != nil {
			return err
		}
		out.After, err = s.usage()
		return err
	})
}

func (e *Engine) defragment(ctx context.Context, o policy.Order, out *policy.Outcome) error {
	if err := e.trim(ctx, policy.Order{}, out); err != nil {
		return err
	}
	largest := func(u backend.Usage) string {
		return fmt.Sprintf("%s in one block, %.0f %% fragmentation", bytesize.Format(u.Largest), 100*u.Fragmentation())
	}
	note(out, fmt.Sprintf("before: %s; after: %s; no data had to be copied, as memory is mapped in pieces of one size that fit everywhere",
		largest(out.Before), largest(out.After)))
	return nil
}

// order is a restart that wants the turn.
type order struct {
	context context.Context
	outcome policy.Outcome
	err     error
	done    chan struct{}
}

func (e *Engine) restart(ctx context.Context, _ policy.Order, out *policy.Outcome) error {
	o := &order{context: ctx, outcome: *out, done: make(chan struct{})}
	e.mu.Lock()
	e.orders = append(e.orders, o)
	if e.stop != nil {
		e.stop(errOrdered)
	}
	e.mu.Unlock()
	select {
	case e.turn <- struct{}{}:
		e.serve()
		e.leave()
		<-o.done // who had the turn before may have begun it
	case <-o.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	*out = o.outcome
	return o.err
}

// serve carries out the orders, and reports whether one made a new context. The turn is held.
func (e *Engine) serve() (anew bool) {
	e.mu.Lock()
	orders := e.orders
	e.orders = nil
	e.mu.Unlock()
	before := e.seatNow()
	for _, o := range orders {
		if o.err = o.context.Err(); o.err == nil {
			o.err = e.makeAnew(o.context, &o.outcome)
		}
		close(o.done)
	}
	now := e.seatNow()
	return now != nil && now != before
}

// makeAnew closes the device and opens it again, with a context that nothing is in.
func (e *Engine) makeAnew(ctx context.Context, out *policy.Outcome) (err error) {
	s := e.seatNow()
	if s != nil {
		if out.Before, err = s.usage(); err != nil && s.resident == nil {
			return err
		}
		if out.After = out.Before; s.resident == nil {
			out.Note = "the processor has no context"
			return nil
		}
	}
	if e.lost != nil {
		return fmt.Errorf("only another process gets another context: %w", e.lost)
	}
	e.enter(StateRestarting)
	defer e.enter(StateComputing)
	e.shut()
	if err := e.unseat(&e.seat); err != nil {
		out.Note = fmt.Sprintf("when it was closed: %v", err)
	}
	if s, err = e.place(ctx, &task{engine: e, placed: true}); err != nil {
		return fmt.Errorf("the context is closed, and could not be made anew; the next volume tries again: %w", err)
	}
	out.After, err = s.usage()
	return err
}
