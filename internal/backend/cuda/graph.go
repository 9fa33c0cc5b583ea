package cuda

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/invariants"
)

// recorded is a stretch of steps as a CUDA graph, valid for the fields that were bound when it was recorded.
type recorded struct {
	from, to   int
	fields     []*field
	runs       int // before it was recorded
	executable *driver.Executable
}

// keepGraphs is the number of recorded stretches: forward and backward, for a few bindings each.
const keepGraphs = 8

// enqueue launches steps, as a graph from the second time on: most programs that run twice run often.
func (p *Program) enqueue(ctx context.Context, from, to int) error {
	if from == to {
		return nil
	}
	if invariants.Enabled || p.backend.options.LaunchBlocking {
		return p.enqueueSteps(ctx, from, to)
	}
	var fields []*field
	for _, e := range p.external {
		if e != nil {
			fields = append(fields, e.field)
		}
	}
	k := slices.IndexFunc(p.graphs, func(r recorded) bool { return r.from == from && r.to == to && slices.Equal(r.fields, fields) })
	if k < 0 {
		if len(p.graphs) == keepGraphs {
			if x := p.graphs[0].executable; x != nil {
				_ = p.backend.memory.End(x.Close) // a refused call is tried again
			}
			p.graphs = slices.Delete(p.graphs, 0, 1)
		}
		k = len(p.graphs)
		p.graphs = append(p.graphs, recorded{from: from, to: to, fields: fields})
	}
	r := &p.graphs[k]
	if r.executable == nil {
		if r.runs++; r.runs == 1 {
			return p.enqueueSteps(ctx, from, to)
		}
		if err := p.record(ctx, r); err != nil {
			return err
		}
	}
	return r.executable.Launch(p.backend.stream)
}

func (p *Program) record(ctx context.Context, r *recorded) error {
	b := p.backend
	return b.memory.Record(func() error {
		if err := b.stream.BeginCapture(); err != nil {
			return fmt.Errorf("cuda: recording steps %d to %d: %w", r.from, r.to, err)
		}
		err := p.enqueueSteps(ctx, r.from, r.to)
		g, ended := b.endCapture()
		if g != nil {
			defer func() { _ = b.memory.End(g.Close) }() // a refused call is tried again
		}
		if err != nil || ended != nil {
			return errors.Join(err, ended)
		}
		if r.executable, err = g.Instantiate(); err != nil {
			return fmt.Errorf("cuda: a graph of steps %d to %d: %w", r.from, r.to, err)
		}
		return nil
	})
}

// endCapture returns the recorded graph, nil after an error. The stream is of no use before the capture has ended, so that a refused call is
// tried again.
func (b *Backend) endCapture() (*driver.Graph, error) {
	g, err := b.stream.EndCapture()
	if err == nil {
		return g, nil
	}
	_ = b.memory.End(func() error {
		if b.memory.Stream() == nil {
			return nil // Close ends it with the stream
		}
		late, again := b.stream.EndCapture()
		if again == nil {
			return b.memory.End(late.Close)
		}
		if refused, ok := errors.AsType[*driver.Error](again); ok && (refused.Code == driver.CodeCaptureInvalidated || refused.Code == driver.CodeIllegalState) {
			return nil // it had ended with the error
		}
		return again
	})
	return nil, fmt.Errorf("cuda: recording: %w", err)
}

func (p *Program) dropGraphs() error {
	var errs []error
	for _, r := range p.graphs {
		if r.executable != nil {
			errs = append(errs, p.backend.memory.End(r.executable.Close))
		}
	}
	p.graphs = nil
	return errors.Join(errs...)
}
