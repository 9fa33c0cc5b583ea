package cpu

import (
	"math"
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// reduction is a tensor seen as [outer, size, inner], of which the middle is reduced.
type reduction struct{ outer, size, inner int }

// blocks is the number of pieces that the reduced axis is cut into. It depends on the shape alone, so that sums are always
// taken in the same order.
func (r reduction) blocks() int { return min(max(1, r.size*r.inner/(4*grain)), 64, r.size) }

// block is the range of the reduced axis that belongs to a piece.
func (r reduction) block(i int) (from, to int) {
	n := r.blocks()
	return i * r.size / n, (i + 1) * r.size / n
}

// reductionOf finds the form [outer, size, inner] of a reduction. It is not possible where kept axes lie between reduced ones.
func reductionOf(x tensor.Shape, axes []int) (r reduction, ok bool) {
	r = reduction{1, 1, 1}
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

// reducer is what is done to the elements that are reduced, in float64.
type reducer struct {
	start  float64
	rows   func(acc []float64, x []float32)            // accumulates whole rows of len(acc) elements
	one    func(acc float64, x []float32) float64      // accumulates a run of elements
	join   func(a, b float64) float64                  // joins two partial results
	finish func(acc float64, size int) (value float64) // makes the result of size elements
}

func (c *compiler) reduce(n *ir.Node, f reducer) {
	x, y, s, axes := c.in(0), c.out(), n.Inputs[0].Shape(), n.Attr.(op.ReduceAttr).Axes
	r, ok := reductionOf(s, axes)
	switch {
	case !ok:
		c.reduceScattered(x, y, s, axes, f)
	case r.inner == 1:
		// Long runs are cut into pieces, too.
		blocks := r.blocks()
		c.sharedScratch(r.outer * blocks)
		c.rows(r.outer*blocks, r.size/blocks, func(from, to int, s scratch) {
			for i := from; i < to; i++ {
				lo, hi := r.block(i % blocks)
				s.shared[i] = f.one(f.start, x[i/blocks*r.size+lo:i/blocks*r.size+hi])
			}
		})
		c.rows(r.outer, blocks, func(from, to int, s scratch) {
			for i := from; i < to; i++ {
				acc := f.start
				for _, v := range s.shared[i*blocks : (i+1)*blocks] {
					acc = f.join(acc, v)
				}
				y[i] = float32(f.finish(acc, r.size))
			}
		})
	default:
		blocks := r.blocks()
		c.sharedScratch(r.outer * blocks * r.inner)
		c.phase(r.outer*blocks, func(i int, s scratch) {
			acc := s.shared[i*r.inner:][:r.inner]
			for k := range acc {
				acc[k] = f.start
			}
			lo, hi := r.block(i % blocks)
			base := i / blocks * r.size
			f.rows(acc, x[(base+lo)*r.inner:(base+hi)*r.inner])
		})
		c.rows(r.outer*r.inner, blocks, func(from, to int, s scratch) {
			for i := from; i < to; i++ {
				acc, o, k := f.start, i/r.inner, i%r.inner
				for b := range blocks {
					acc = f.join(acc, s.shared[(o*blocks+b)*r.inner+k])
				}
				y[i] = float32(f.finish(acc, r.size))
			}
		})
	}
}

// reduceScattered reduces axes with kept ones between them, an element of the output at a time.
func (c *compiler) reduceScattered(x, y []float32, s tensor.Shape, axes []int, f reducer) {
	kept, reduced := s.Clone(), s.Clone()
	for i := range s {
		if slices.Contains(axes, i) {
			kept[i] = 1
		} else {
			reduced[i] = 1
		}
	}
	outer := merge(kept, [][]int{s.Strides()})
	inner := merge(reduced, [][]int{s.Strides()})
	size, strides := inner.inner()
	count := reduced.Elements()
	c.rows(len(y), count, func(from, to int, _ scratch) {
		for i := from; i < to; i++ {
			acc, base := f.start, outer.position(0, i)
			for r := range inner.outer() {
				at := base + inner.offset(0, r)
				for k := range size {
					at := at + k*strides[0]
					acc = f.one(acc, x[at:at+1])
				}
			}
			y[i] = float32(f.finish(acc, count))
		}
	})
}
