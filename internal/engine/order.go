package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/worker"
)

// Order carries out an operation on the memory that the engine holds, and returns its outcome. It may be called while a volume is explained,
// and returns when the operation is done, at the next pass through the network. Figures are of the device or, if that is the processor, of its
// process.
func (e *Engine) Order(ctx context.Context, o policy.Order) (policy.Outcome, error) {
	if o.Operation == policy.Restart {
		return e.restart(ctx)
	}
	e.hold(o)
	for ended := 0; ; {
		s, out, err := e.forward(ctx, o)
		if died := (*worker.DiedError)(nil); errors.As(err, &died) {
			if ended++; ended > e.options.Restarts {
				return out, overCall(ended, died)
			}
		} else if s != nil {
			return out, e.explained(err)
		}
		if err := e.awaitInstance(ctx, s); err != nil {
			return out, err
		}
	}
}

// hold notes the effect of an order on instances that are opened from now on.
func (e *Engine) hold(o policy.Order) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch o.Operation {
	case policy.Release:
		e.held, e.until = true, time.Time{}
		if o.For > 0 {
			e.until = time.Now().Add(o.For)
		}
	case policy.Resume:
		e.held, e.until = false, time.Time{}
	}
}

// forward passes an order on to the instances. It returns the last one that it came to; nil if there is none.
func (e *Engine) forward(ctx context.Context, o policy.Order) (*openInstance, policy.Outcome, error) {
	s, now, done := e.use()
	defer done()
	if s == nil {
		return nil, policy.Outcome{Operation: o.Operation}, nil
	}
	out, err := s.Order(ctx, o)
	if err == nil && now != s && (o.Operation == policy.Release || o.Operation == policy.Resume) {
		_, err = now.Order(ctx, o)
		return now, out, err
	}
	return s, out, err
}

// order is a restart that waits for the turn.
type order struct {
	context context.Context
	outcome policy.Outcome
	err     error
	done    chan struct{}
}

// restart makes the context of the device anew, between two passes of a volume that is explained.
func (e *Engine) restart(ctx context.Context) (policy.Outcome, error) {
	began := time.Now()
	o := &order{context: ctx, outcome: policy.Outcome{Operation: policy.Restart}, done: make(chan struct{})}
	if s := e.primaryNow(); s != nil && s.device.Processor { // nothing is interrupted for nothing
		err := e.renewContext(ctx, &o.outcome)
		return o.outcome, err
	}
	e.mu.Lock()
	e.orders = append(e.orders, o)
	if e.stop != nil {
		e.stop(errOrdered)
	}
	e.mu.Unlock()
	select {
	case e.turn <- struct{}{}:
		e.serveRestarts()
		e.endTurn()
		<-o.done // the earlier holder of the turn may have begun it
	case <-o.done:
	case <-ctx.Done():
		return policy.Outcome{Operation: policy.Restart}, context.Cause(ctx)
	}
	o.outcome.Seconds = time.Since(began).Seconds()
	if o.err == nil && o.outcome.Freed() == 0 {
		o.outcome.AddNote("nothing was given back: there was nothing to give")
	}
	return o.outcome, o.err
}

// serveRestarts carries out the orders, and reports whether one made a new context. The turn is held.
func (e *Engine) serveRestarts() (anew bool) {
	e.mu.Lock()
	orders := e.orders
	e.orders = nil
	e.mu.Unlock()
	before := e.primaryNow()
	for _, o := range orders {
		if o.err = o.context.Err(); o.err == nil {
			o.err = e.explained(e.renewContext(o.context, &o.outcome))
		}
		close(o.done)
	}
	now := e.primaryNow()
	return now != nil && now != before
}

// renewContext closes the device and opens it again, with an empty context.
func (e *Engine) renewContext(ctx context.Context, out *policy.Outcome) (err error) {
	s := e.primaryNow()
	if s != nil {
		if out.Before, err = s.Usage(ctx); err != nil && s.device.Processor {
			return err
		}
		if out.After = out.Before; s.device.Processor {
			out.Note = "the processor has no context"
			return nil
		}
	}
	if e.lost != nil {
		return fmt.Errorf("only another process gets another context: %w", e.lost)
	}
	e.setState(StateRestarting)
	defer e.setState(StateComputing)
	e.shutGate()
	if err := e.closeInstance(&e.primary); err != nil {
		out.Note = fmt.Sprintf("when it was closed: %v", err)
	}
	if s, err = e.instanceFor(ctx, &task{engine: e, decided: true}); err != nil {
		return fmt.Errorf("the context is closed, and could not be made anew; the next volume tries again: %w", err)
	}
	out.After, err = s.Usage(ctx)
	return err
}
