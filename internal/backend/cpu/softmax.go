package cpu

import (
	"math"

	"github.com/voxcam/voxcam/internal/backend/cpu/kernel"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// lineFunc works on one line along the axis that sums to one; dst may be x or y.
type lineFunc func(set *kernel.Set, dst, x, y []float32)

func buildSoftmax(c *compiler, n *ir.Node) error         { return c.lines(n, softmaxLine) }
func buildSoftmaxBackward(c *compiler, n *ir.Node) error { return c.lines(n, softmaxBackwardLine) }
func buildLogSoftmax(c *compiler, n *ir.Node) error      { return c.lines(n, logSoftmaxLine) }
func buildLogSoftmaxBackward(c *compiler, n *ir.Node) error {
	return c.lines(n, logSoftmaxBackwardLine)
}

// lines compiles a function of the lines along an axis. Lines that are not contiguous are copied to scratch and back.
func (c *compiler) lines(n *ir.Node, f lineFunc) error {
	x, y, out, set := c.in(0), c.in(1), c.out(), c.backend.set
	s, axis := n.Out().Shape(), n.Attr.(op.SoftmaxAttr).Axis
	size, inner := s[axis], s[axis+1:].Elements()
	if inner == 1 {
		c.rows(len(out)/size, size, func(from, to int, _ scratch) {
			for i := from; i < to; i++ {
				lo, hi := i*size, (i+1)*size
				var second []float32
				if y != nil {
					second = y[lo:hi]
				}
				f(set, out[lo:hi], x[lo:hi], second)
			}
		})
		return nil
	}
	c.ownScratch(2 * size)
	c.rows(len(out)/size, size, func(from, to int, s scratch) {
		for i := from; i < to; i++ {
			base := i/inner*size*inner + i%inner
			first, second := s.f32[:size], s.f32[size:2*size]
			for k := range size {
				first[k] = x[base+k*inner]
				if y != nil {
					second[k] = y[base+k*inner]
				}
			}
			f(set, first, first, second)
			for k := range size {
				out[base+k*inner] = first[k]
			}
		}
	})
	return nil
}

func largest(x []float32) float32 {
	top := float32(math.Inf(-1))
	for _, v := range x {
		top = max(top, v)
	}
	return top
}

func softmaxLine(set *kernel.Set, dst, x, _ []float32) {
	set.Exp(dst, x, 1, -largest(x))
	sum := 0.0
	for _, v := range dst {
		sum += float64(v)
	}
	set.Affine(dst, dst, float32(1/sum), 0)
}

func softmaxBackwardLine(_ *kernel.Set, dst, dy, y []float32) {
	along := 0.0
	for i, v := range dy {
		along += float64(v) * float64(y[i])
	}
	for i, v := range dy {
		dst[i] = float32(float64(y[i]) * (float64(v) - along))
	}
}

func logSoftmaxLine(_ *kernel.Set, dst, x, _ []float32) {
	top := float64(largest(x))
	sum := 0.0
	for _, v := range x {
		sum += math.Exp(float64(v) - top)
	}
	total := top + math.Log(sum)
	for i, v := range x {
		dst[i] = float32(float64(v) - total)
	}
}

func logSoftmaxBackwardLine(_ *kernel.Set, dst, dy, y []float32) {
	sum := 0.0
	for _, v := range dy {
		sum += float64(v)
	}
	for i, v := range dy {
		dst[i] = float32(float64(v) - math.Exp(float64(y[i]))*sum)
	}
}
