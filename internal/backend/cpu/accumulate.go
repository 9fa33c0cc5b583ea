package cpu

import (
	"context"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// accumulation reads the inputs of a reduction plane by plane. The parts of the planes are joined in the order of the
// planes, so that the result does not depend on the heights of the steps.
type accumulation struct {
	values  int // float64 values that are kept from step to step
	partial int // float64 values that are found of a plane
	start   float64
	sums    []float64

	parts  int  // of the work on a plane
	plane  part // finds the partial values of a plane, in scratch.partial
	joins  int  // parts of joining and of finishing
	join   part // adds the partial values of planes [job.z0, job.z1)
	finish part // makes the output
}

// mostPartial is the most partial values that are found before they are joined, if a plane has no more.
const mostPartial = 1 << 16

// chunk returns the number of planes that are worked on at the same time.
func (g *accumulation) chunk() int { return min(max(mostPartial/max(g.partial, 1), 1), 32) }

func (g *accumulation) size() int { return g.values }

// allocate takes the memory of the sums.
func (g *accumulation) allocate() { g.sums = make([]float64, g.values) }

func (g *accumulation) run(ctx context.Context, p *Program, s *step) error {
	pool := p.backend.pool
	if s.z0 == 0 {
		for i := range g.sums {
			g.sums[i] = g.start
		}
	}
	p.job.do, p.job.parts = g.plane, g.parts
	for z := s.z0; z < s.z1; z += g.chunk() {
		p.job.z0, p.job.z1 = z, min(z+g.chunk(), s.z1)
		if err := pool.run(ctx, 0, (p.job.z1-p.job.z0)*g.parts, p.onPlanes, nil, p.scratch); err != nil {
			return err
		}
		if err := pool.run(ctx, 0, g.joins, g.join, s.instance.ops, p.scratch); err != nil {
			return err
		}
	}
	if s.z1 < s.instance.node.Inputs[0].Shape()[1] {
		return nil
	}
	return pool.run(ctx, 0, g.joins, g.finish, s.instance.ops, p.scratch)
}

// accumulateReduction compiles a reduction over depth, and maybe other axes; n is a node of one plane.
func (c *compiler) accumulateReduction(n *ir.Node, f reducer) {
	s, axes, depth := n.Inputs[0].Shape(), n.Attr.(op.ReduceAttr).Axes, c.node.Inputs[0].Shape()[1]
	g := c.inst.accumulation
	g.values, g.start = n.Out().Shape().Elements(), f.start
	r, ok := reductionOf(s, axes)
	r.plane = true
	join := func(acc float64, partial []float64, i int) float64 { return r.join(f, acc, partial, i) }
	units, width, size := r.outer*r.blocks(), r.size/r.blocks()*r.inner, r.size
	work := func(from, to int, s *scratch) { r.pieces(f, s.partial, s.in(0), from, to) }
	g.partial = units * r.inner
	if !ok {
		m := scatteredOf(s, axes)
		join = func(acc float64, partial []float64, i int) float64 { return f.join(acc, partial[i]) }
		units, width, size = m.outputs, m.count, m.count
		work = func(from, to int, s *scratch) {
			x := s.in(0)
			for i := from; i < to; i++ {
				s.partial[i] = m.reduce(f, x, i)
			}
		}
		g.partial = units
	}
	g.parts, g.plane = cut(units, width, work)
	g.joins, g.join = cut(g.values, 8, func(from, to int, s *scratch) {
		for i := from; i < to; i++ {
			acc := g.sums[i]
			for z := range s.job.z1 - s.job.z0 {
				acc = join(acc, s.shared[z*g.partial:], i)
			}
			g.sums[i] = acc
		}
	})
	_, g.finish = cut(g.values, 8, func(from, to int, s *scratch) {
		y := s.out()
		for i := from; i < to; i++ {
			y[i] = float32(f.finish(g.sums[i], size*depth))
		}
	})
	c.sharedScratch(min(g.chunk(), depth) * g.partial)
}

// cut makes parts of n rows of width elements each.
func cut(n, width int, do func(from, to int, s *scratch)) (parts int, _ part) {
	step := max(grain/2/max(width, 1), 1)
	return (n + step - 1) / step, func(i int, s *scratch) { do(i*step, min(n, (i+1)*step), s) }
}
