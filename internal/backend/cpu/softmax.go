package cpu

import (
	"math"

	"github.com/voxcam/voxcam/internal/backend/cpu/kernel"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// softmaxBuilders is the part of builders whose functions are in this file.
var softmaxBuilders = map[*ir.Op]builder{
	op.Softmax:            buildSoftmax,
	op.SoftmaxBackward:    buildSoftmaxBackward,
	op.LogSoftmax:         buildLogSoftmax,
	op.LogSoftmaxBackward: buildLogSoftmaxBackward,
}

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
	set := c.backend.set
	s, axis := n.Out().Shape(), n.Attr.(op.SoftmaxAttr).Axis
	size, inner, lines := s[axis], s[axis+1:].Elements(), s.Elements()/s[axis]
	if inner == 1 {
		c.rows(lines, size, func(from, to int, s *scratch) {
			x, y, out := s.in(0), s.in(1), s.out()
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
	c.rows(lines, size, func(from, to int, s *scratch) {
		x, y, out := s.in(0), s.in(1), s.out()
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

// largest returns the maximum of x; four chains of comparisons keep the processor busy.
func largest(x []float32) float32 {
	low := float32(math.Inf(-1))
	a, b, c, d := low, low, low, low
	for ; len(x) >= 4; x = x[4:] {
		a, b, c, d = max(a, x[0]), max(b, x[1]), max(c, x[2]), max(d, x[3])
	}
	for _, v := range x {
		a = max(a, v)
	}
	return max(a, b, c, d)
}

// total returns the sum of x in float64, in four chains.
func total(x []float32) float64 {
	var a, b, c, d float64
	for ; len(x) >= 4; x = x[4:] {
		a, b, c, d = a+float64(x[0]), b+float64(x[1]), c+float64(x[2]), d+float64(x[3])
	}
	for _, v := range x {
		a += float64(v)
	}
	return (a + b) + (c + d)
}

func softmaxLine(set *kernel.Set, dst, x, _ []float32) {
	set.Exp(dst, x, 1, -largest(x))
	set.Affine(dst, dst, float32(1/total(dst)), 0)
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
	sum = top + math.Log(sum)
	for i, v := range x {
		dst[i] = float32(float64(v) - sum)
	}
}

func logSoftmaxBackwardLine(_ *kernel.Set, dst, dy, y []float32) {
	sum := total(dy)
	for i, v := range dy {
		dst[i] = float32(float64(v) - math.Exp(float64(y[i]))*sum)
	}
}
