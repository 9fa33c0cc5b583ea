package cpu

import (
	"context"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/plan"
)

// sizes are the memory that instances need besides their operands and weights.
type sizes struct {
	own         int // float32 values for each worker
	shared      int // float64 values
	accumulated int // float64 values that accumulating instances keep between steps
	operands    int
}

func (c *compiler) sizes(instances []*instance) (s sizes) {
	for _, inst := range instances {
		s.own, s.shared, s.operands = max(s.own, inst.own), max(s.shared, inst.shared), max(s.operands, len(inst.places))
		if inst.accumulation != nil {
			s.accumulated += inst.accumulation.size()
		}
	}
	return s
}

// ScratchBytes implements backend.Backend. It depends on the number of threads.
func (b *Backend) ScratchBytes(p *plan.Plan) (int, error) {
	c := &compiler{backend: b, plan: p, weights: map[weightKey]int{}}
	_, instances, err := c.steps(context.Background())
	if err != nil {
		return 0, err
	}
	s := c.sizes(instances)
	return 8 * (b.pool.size()*((s.own+1)/2) + s.shared + s.accumulated), nil
}

// ArenaBytes implements backend.Backend.
func (b *Backend) ArenaBytes(p *plan.Plan) (int, error) { return p.Peak, nil }

// WeightBytes implements backend.Backend. Constants that are read as they are stored count as if they were copied.
func (b *Backend) WeightBytes(graphs ...*ir.Graph) (int, error) {
	weights := map[weightKey]int{}
	for _, g := range graphs {
		c := &compiler{backend: b, plan: plan.Make(g), weights: weights}
		_, instances, err := c.steps(context.Background())
		if err != nil {
			return 0, err
		}
		for _, inst := range instances {
			for i, v := range inst.node.Inputs {
				if v != nil && v.Const != nil && inst.places[i].bytes > 0 {
					weights[weightKey{v.Const, "float32"}] = 4 * v.Const.Len()
				}
			}
		}
	}
	total := 0
	for _, n := range weights {
		total += n
	}
	return total, nil
}

// Scratch returns the bytes of scratch memory, as ScratchBytes said before.
func (p *Program) Scratch() int {
	n := 8 * len(p.scratch[0].shared)
	for _, s := range p.scratch {
		n += 8 * len(s.f64)
	}
	for _, inst := range p.instances {
		if inst.accumulation != nil {
			n += 8 * len(inst.accumulation.sums)
		}
	}
	return n
}
