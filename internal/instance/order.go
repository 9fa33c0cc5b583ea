package instance

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/policy"
)

// operations has the functions of a Local by operation. Each sets the figures after it, and a note.
var operations = map[policy.Operation]func(*Local, context.Context, policy.Order, *policy.Outcome) error{
	policy.Release:    (*Local).release,
	policy.Resume:     (*Local).resume,
	policy.Trim:       (*Local).trim,
	policy.Defragment: (*Local).defragment,
}

// Order implements Instance. A release is done at the next pass through the network.
func (l *Local) Order(ctx context.Context, o policy.Order) (out policy.Outcome, err error) {
	out.Operation = o.Operation
	do, known := operations[o.Operation]
	if !known {
		return out, fmt.Errorf("the operation %q is not known", o.Operation)
	}
	began := time.Now()
	if out.Before, err = l.Usage(ctx); err == nil {
		out.After = out.Before
		err = do(l, ctx, o, &out)
	}
	out.Seconds = time.Since(began).Seconds()
	if err == nil && out.Freed() == 0 && o.Operation != policy.Resume {
		out.AddNote("nothing was given back: there was nothing to give")
	}
	return out, err
}

func (l *Local) release(ctx context.Context, o policy.Order, out *policy.Outcome) error {
	until := time.Time{}
	out.Note = "as little as possible is taken until it is resumed"
	if o.For > 0 {
		until = time.Now().Add(o.For)
		out.Note = fmt.Sprintf("as little as possible is taken for %v", o.For)
	}
	l.governor.Release(until)
	return l.Model.Release(ctx, func() (err error) {
		if l.resident == nil {
			debug.FreeOSMemory()
		}
		out.After, err = l.Usage(ctx)
		return err
	})
}

func (l *Local) resume(_ context.Context, _ policy.Order, out *policy.Outcome) error {
	_, held := l.governor.Held()
	l.governor.Resume()
	out.Note = "the budget holds again; larger plans come with the next volume"
	if !held {
		out.Note = "nothing was held back"
	}
	return nil
}

func (l *Local) trim(ctx context.Context, o policy.Order, out *policy.Outcome) (err error) {
	if l.resident == nil {
		debug.FreeOSMemory()
	} else if _, err := l.Model.Trim(o.Keep); err != nil {
		return err
	}
	out.After, err = l.Usage(ctx)
	return err
}

func (l *Local) defragment(ctx context.Context, _ policy.Order, out *policy.Outcome) error {
	if err := l.trim(ctx, policy.Order{}, out); err != nil {
		return err
	}
	largest := func(u backend.Usage) string {
		return fmt.Sprintf("%s in one block, %.0f %% fragmentation", bytesize.Format(u.Largest), 100*u.Fragmentation())
	}
	out.AddNote(fmt.Sprintf("before: %s; after: %s; no data had to be copied, as memory is mapped in pieces of one size that fit everywhere",
		largest(out.Before), largest(out.After)))
	return nil
}
