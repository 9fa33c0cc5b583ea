package cpu

import (
	"math"

	"github.com/voxcam/voxcam/internal/backend/cpu/kernel"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// binaryBuilders is the part of builders whose functions are in this file.
var binaryBuilders = map[*ir.Op]builder{
	op.PRelu:         buildPRelu,
	op.PReluBackward: buildPReluBackward,
	op.Where:         buildWhere,
	op.Affine:        buildAffine,
}

// pairKernels are the vector kernels of a function of two variables, by which of them stretches along the innermost axis. Those
// that are nil are left to a loop.
type pairKernels struct {
	both   func(s *kernel.Set, dst, x, y []float32)                   // neither
	first  func(s *kernel.Set, dst, x []float32, y float32)           // y does
	second func(s *kernel.Set, dst []float32, x float32, y []float32) // x does
	// rows has y repeat for each row of len(y) elements of x.
	rows func(s *kernel.Set, dst, x, y []float32)
	// swaps says that the operands may be exchanged.
	swaps bool
	loop  func(x, y float32) float32
}

var pairTable = map[string]pairKernels{
	"Add": {
		both:  (*kernel.Set).Add,
		first: func(s *kernel.Set, dst, x []float32, y float32) { s.Affine(dst, x, 1, y) },
		rows:  (*kernel.Set).AddRow,
		swaps: true,
	},
	"Sub": {
		both:   (*kernel.Set).Sub,
		first:  func(s *kernel.Set, dst, x []float32, y float32) { s.Affine(dst, x, 1, -y) },
		second: func(s *kernel.Set, dst []float32, x float32, y []float32) { s.Affine(dst, y, -1, x) },
	},
	"Mul": {
		both:  (*kernel.Set).Mul,
		first: func(s *kernel.Set, dst, x []float32, y float32) { s.Affine(dst, x, y, 0) },
		rows:  func(s *kernel.Set, dst, x, y []float32) { s.ScaleShift(dst, x, y, nil) },
		swaps: true,
	},
	"Div":            {both: (*kernel.Set).Div},
	"Pow":            {loop: func(x, y float32) float32 { return float32(math.Pow(float64(x), float64(y))) }},
	"Max":            {loop: func(x, y float32) float32 { return max(x, y) }},
	"Min":            {loop: func(x, y float32) float32 { return min(x, y) }},
	"Greater":        {loop: func(x, y float32) float32 { return float32(bit(x > y)) }},
	"GreaterOrEqual": {loop: func(x, y float32) float32 { return float32(bit(x >= y)) }},
	"Less":           {loop: func(x, y float32) float32 { return float32(bit(x < y)) }},
	"LessOrEqual":    {loop: func(x, y float32) float32 { return float32(bit(x <= y)) }},
	"Equal":          {loop: func(x, y float32) float32 { return float32(bit(x == y)) }},
	"PRelu": {
		rows: (*kernel.Set).PRelu,
		loop: func(x, slope float32) float32 {
			if x <= 0 {
				x *= slope
			}
			return x
		},
	},
}

func buildBinary(row *op.Binary) builder {
	return func(c *compiler, n *ir.Node) error {
		k := pairTable[row.Name]
		if k.loop == nil {
			k.loop = func(x, y float32) float32 { return float32(row.Apply(float64(x), float64(y))) }
		}
		c.pairs(k, n)
		return nil
	}
}

func buildPRelu(c *compiler, n *ir.Node) error {
	c.pairs(pairTable["PRelu"], n)
	return nil
}

// pairs compiles a function of two variables that broadcast.
func (c *compiler) pairs(k pairKernels, n *ir.Node) {
	set, first, second := c.backend.set, 0, 1 // the inputs that are x and y
	w := newWalk(n.Out().Shape(), n.Inputs[0].Shape(), n.Inputs[1].Shape())
	size, strides := w.inner()
	if k.swaps && strides[0] == 0 && strides[1] != 0 {
		first, second = second, first
		w.strides[0], w.strides[1] = w.strides[1], w.strides[0]
		strides[0], strides[1] = strides[1], strides[0]
	}
	if last := len(w.dims) - 2; k.rows != nil && last >= 0 && strides[0] == 1 && strides[1] == 1 {
		if k.swaps && w.strides[0][last] == 0 {
			first, second = second, first
			w.strides[0], w.strides[1] = w.strides[1], w.strides[0]
		}
		if w.strides[0][last] == size && w.strides[1][last] == 0 {
			c.repeated(k, w, first, second)
			return
		}
	}

	row := func(dst, x, y []float32) { // one row; a stretched operand has one element
		for i := range dst {
			dst[i] = k.loop(x[i*strides[0]], y[i*strides[1]])
		}
	}
	switch {
	case strides[0] == 1 && strides[1] == 1 && k.both != nil:
		row = func(dst, x, y []float32) { k.both(set, dst, x[:len(dst)], y[:len(dst)]) }
	case strides[0] == 1 && strides[1] == 0 && k.first != nil:
		row = func(dst, x, y []float32) { k.first(set, dst, x[:len(dst)], y[0]) }
	case strides[0] == 0 && strides[1] == 1 && k.second != nil:
		row = func(dst, x, y []float32) { k.second(set, dst, x[0], y[:len(dst)]) }
	}
	if len(w.dims) == 1 {
		c.ranges(size, grain, func(from, to int, s *scratch) {
			row(s.out()[from:to], s.in(first)[from*strides[0]:], s.in(second)[from*strides[1]:])
		})
		return
	}
	c.rows(w.outer(), size, func(from, to int, s *scratch) {
		x, y, out := s.in(first), s.in(second), s.out()
		for i := from; i < to; i++ {
			row(out[i*size:(i+1)*size], x[w.offset(0, i):], y[w.offset(1, i):])
		}
	})
}

// repeated compiles the case that y, an input, is the same for all rows of input x along the last axis but one.
func (c *compiler) repeated(k pairKernels, w walk, x, y int) {
	set, last := c.backend.set, len(w.dims)-1
	size, repeat := w.dims[last], w.dims[last-1]
	chunk := max(1, grain/size)
	chunks := (repeat + chunk - 1) / chunk
	c.phase(w.outer()/repeat*chunks, func(i int, s *scratch) {
		row := i / chunks * repeat // of the walk
		from := i % chunks * chunk
		n := min(chunk, repeat-from) * size
		k.rows(set, s.out()[(row+from)*size:][:n], s.in(x)[w.offset(0, row)+from*size:][:n], s.in(y)[w.offset(1, row):][:size])
	})
}

func buildAffine(c *compiler, n *ir.Node) error {
	set, width := c.backend.set, n.Inputs[1].Shape()[0]
	c.rows(n.Out().Shape().Elements()/width, width, func(from, to int, s *scratch) {
		set.ScaleShift(s.out()[from*width:to*width], s.in(0)[from*width:to*width], s.in(1), s.in(2))
	})
	return nil
}

func buildWhere(c *compiler, n *ir.Node) error {
	w := newWalk(n.Out().Shape(), n.Inputs[0].Shape(), n.Inputs[1].Shape(), n.Inputs[2].Shape())
	size, strides := w.inner()
	c.rows(w.outer(), size, func(from, to int, s *scratch) {
		condition, x, y, out := s.in(0), s.in(1), s.in(2), s.out()
		for r := from; r < to; r++ {
			at, atX, atY := w.offset(0, r), w.offset(1, r), w.offset(2, r)
			for i := range size {
				v := y[atY+i*strides[2]]
				if condition[at+i*strides[0]] != 0 {
					v = x[atX+i*strides[1]]
				}
				out[r*size+i] = v
			}
		}
	})
	return nil
}

func buildPReluBackward(c *compiler, n *ir.Node) error {
	if err := checkBits(n.Inputs[1]); err != nil {
		return err
	}
	w := newWalk(n.Out().Shape(), n.Inputs[2].Shape())
	size, strides := w.inner()
	c.rows(w.outer(), size, func(from, to int, s *scratch) {
		dy, words, slope, dx := s.in(0), as[uint64](s.ops[1]), s.in(2), s.out()
		for r := from; r < to; r++ {
			at := w.offset(0, r)
			for k := range size {
				i := r*size + k
				v := dy[i]
				if words[i/64]>>(i%64)&1 == 0 {
					v *= slope[at+k*strides[0]]
				}
				dx[i] = v
			}
		}
	})
	return nil
}
