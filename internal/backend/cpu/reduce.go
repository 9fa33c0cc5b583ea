package cpu

import (
	"math"
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// reduceBuilders is the part of builders whose functions are in this file.
var reduceBuilders = map[*ir.Op]builder{
	op.ReduceSum:  buildReduceSum,
	op.ReduceMean: buildReduceMean,
	op.ReduceMax:  buildReduceMax,
}

// reduction is a tensor seen as [outer, size, inner]; the middle axis is reduced.
type reduction struct {
	outer, size, inner int
	plane              bool // of one plane, which has few parts: they are smaller
}

// blocks returns the number of pieces that the reduced axis is cut into. It depends on the shape alone, so that sums are always
// taken in the same order.
func (r reduction) blocks() int {
	piece := 4 * grain
	if r.plane {
		piece = grain / 2
	}
	return min(max(1, r.size*r.inner/piece), 64, r.size)
}

// block returns the range of the reduced axis that belongs to a piece.
func (r reduction) block(i int) (from, to int) {
	n := r.blocks()
	return i * r.size / n, (i + 1) * r.size / n
}

// reductionOf finds the form [outer, size, inner] of a reduction. It is not possible where kept axes lie between reduced ones.
func reductionOf(x tensor.Shape, axes []int) (r reduction, ok bool) {
	r = reduction{outer: 1, size: 1, inner: 1}
	for i, d := range x {
		switch {
		case d == 1:
		case slices.Contains(axes, i):
			if r.inner > 1 {
				return r, false
			}
			r.size *= d
		case r.size > 1:
			r.inner *= d
		default:
			r.outer *= d
		}
	}
	return r, true
}

func buildReduceSum(c *compiler, n *ir.Node) error {
	c.reduceSum(n, func(int) float64 { return 1 })
	return nil
}

func buildReduceMean(c *compiler, n *ir.Node) error {
	c.reduceSum(n, func(size int) float64 { return 1 / float64(size) })
	return nil
}

// reduceSum compiles a sum over axes, times a factor of the number of elements.
func (c *compiler) reduceSum(n *ir.Node, factor func(size int) float64) {
	set := c.backend.set
	c.reduce(n, reducer{
		rows:   func(sum []float64, x []float32) { set.SumRows(sum, x) },
		one:    func(sum float64, x []float32) float64 { return sum + total(x) },
		join:   func(a, b float64) float64 { return a + b },
		finish: func(sum float64, size int) float64 { return sum * factor(size) },
	})
}

func buildReduceMax(c *compiler, n *ir.Node) error {
	c.reduce(n, reducer{
		start: math.Inf(-1),
		rows: func(top []float64, x []float32) {
			for len(x) > 0 {
				for i, v := range x[:len(top)] {
					top[i] = max(top[i], float64(v))
				}
				x = x[len(top):]
			}
		},
		one: func(top float64, x []float32) float64 {
			return max(top, float64(largest(x)))
		},
		join:   func(a, b float64) float64 { return max(a, b) },
		finish: func(top float64, _ int) float64 { return top },
	})
	return nil
}

// reducer is the arithmetic on the elements that are reduced, in float64.
type reducer struct {
	start  float64
	rows   func(acc []float64, x []float32)            // accumulates whole rows of len(acc) elements
	one    func(acc float64, x []float32) float64      // accumulates a run of elements
	join   func(a, b float64) float64                  // joins two partial results
	finish func(acc float64, size int) (value float64) // makes the result of size elements
}

func (c *compiler) reduce(n *ir.Node, f reducer) {
	s, axes := n.Inputs[0].Shape(), n.Attr.(op.ReduceAttr).Axes
	if c.inst.accumulation != nil {
		c.accumulateReduction(n, f)
		return
	}
	r, ok := reductionOf(s, axes)
	if !ok {
		m := scatteredOf(s, axes)
		c.rows(m.outputs, m.count, func(from, to int, s *scratch) {
			x, y := s.in(0), s.out()
			for i := from; i < to; i++ {
				y[i] = float32(f.finish(m.reduce(f, x, i), m.count))
			}
		})
		return
	}
	// Long runs are cut into pieces, which are joined afterwards.
	blocks := r.blocks()
	c.sharedScratch(r.outer * blocks * r.inner)
	c.rows(r.outer*blocks, r.size/blocks*r.inner, func(from, to int, s *scratch) { r.pieces(f, s.shared, s.in(0), from, to) })
	c.rows(r.outer*r.inner, blocks, func(from, to int, s *scratch) {
		y := s.out()
		for i := from; i < to; i++ {
			y[i] = float32(f.finish(r.join(f, f.start, s.shared, i), r.size))
		}
	})
}

// pieces reduces pieces [from, to), counted over the outer axis and the blocks, each to inner values.
func (r reduction) pieces(f reducer, partial []float64, x []float32, from, to int) {
	blocks := r.blocks()
	for i := from; i < to; i++ {
		lo, hi := r.block(i % blocks)
		part := x[(i/blocks*r.size+lo)*r.inner : (i/blocks*r.size+hi)*r.inner]
		if r.inner == 1 {
			partial[i] = f.one(f.start, part)
			continue
		}
		acc := partial[i*r.inner:][:r.inner]
		for k := range acc {
			acc[k] = f.start
		}
		f.rows(acc, part)
	}
}

// join adds the pieces of output i to acc.
func (r reduction) join(f reducer, acc float64, partial []float64, i int) float64 {
	blocks := r.blocks()
	for b := range blocks {
		acc = f.join(acc, partial[(i/r.inner*blocks+b)*r.inner+i%r.inner])
	}
	return acc
}

// scattered is a reduction with kept axes between reduced ones; it is done an element of the output at a time.
type scattered struct {
	outer, inner   walk
	outputs, count int
}

func scatteredOf(s tensor.Shape, axes []int) scattered {
	kept, reduced := s.Clone(), s.Clone()
	for i := range s {
		if slices.Contains(axes, i) {
			kept[i] = 1
		} else {
			reduced[i] = 1
		}
	}
	return scattered{merge(kept, [][]int{s.Strides()}), merge(reduced, [][]int{s.Strides()}), kept.Elements(), reduced.Elements()}
}

func (m *scattered) reduce(f reducer, x []float32, i int) float64 {
	acc, base := f.start, m.outer.position(0, i)
	last := len(m.inner.dims) - 1
	size, stride := m.inner.dims[last], m.inner.strides[0][last]
	for r := range m.inner.outer() {
		at := base + m.inner.offset(0, r)
		for k := range size {
			at := at + k*stride
			acc = f.one(acc, x[at:at+1])
		}
	}
	return acc
}
