package cuda

import (
	"context"
	"errors"
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
	if invariants.Enabled {
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
				if err := x.Close(); err != nil {
					return err
				}
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
	s := p.backend.stream
	if err := s.BeginCapture(); err != nil {
		return err
	}
	err := p.enqueueSteps(ctx, r.from, r.to)
	g, ended := s.EndCapture()
	if err := errors.Join(err, ended); err != nil {
		return err
	}
	r.executable, err = g.Instantiate()
	return errors.Join(err, g.Close())
}

func (p *Program) dropGraphs() error {
	var errs []error
	for _, r := range p.graphs {
		if r.executable != nil {
			errs = append(errs, p.backend.context.Do(r.executable.Close))
		}
	}
	p.graphs = nil
	return errors.Join(errs...)
}
