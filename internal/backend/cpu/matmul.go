package cpu

import (
	"github.com/voxcam/voxcam/internal/backend/cpu/kernel"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// matmulBuilders is the part of builders whose functions are in this file.
var matmulBuilders = map[*ir.Op]builder{
	op.MatMul: buildMatMul,
}

// matrixKey is the form of a constant right operand.
type matrixKey struct {
	k, n  int
	trans bool
}

// blockRows is the number of rows that a part of a product has; the kernels take about as many at a time.
const blockRows = 96

func buildMatMul(c *compiler, n *ir.Node) error {
	t, a, b, out := n.Attr.(op.MatMulAttr), n.Inputs[0].Shape(), n.Inputs[1].Shape(), n.Out().Shape()
	rows, cols := out[len(out)-2], out[len(out)-1]
	depth := a[len(a)-1]
	if t.TransA {
		depth = a[len(a)-2]
	}
	if n.Inputs[1].Const != nil && !t.TransA && b[:len(b)-2].Elements() == 1 {
		return c.linear(n, out.Elements()/cols, depth, cols, t.TransB)
	}

	set := c.backend.set
	c.ownScratch(set.MatMulScratch())
	batch := out[:len(out)-2]
	w := newWalk(batch, a[:len(a)-2], b[:len(b)-2]) // counts matrices
	sizeA, sizeB := rows*depth, depth*cols
	blocks := 1
	if count := batch.Elements(); count < 8 {
		blocks = (rows + blockRows - 1) / blockRows
	}
	step := (rows + blocks - 1) / blocks
	strideA, strideB := a[len(a)-1], b[len(b)-1]
	c.phase(batch.Elements()*blocks, func(i int, s *scratch) {
		matrix, row := i/blocks, i%blocks*step
		count := min(step, rows-row)
		if count <= 0 {
			return
		}
		left := s.in(0)[w.position(0, matrix)*sizeA:][:sizeA]
		if t.TransA {
			left = left[row:]
		} else {
			left = left[row*depth:]
		}
		right := s.in(1)[w.position(1, matrix)*sizeB:][:sizeB]
		set.MatMul(count, cols, depth, s.out()[(matrix*rows+row)*cols:], cols, kernel.Operand{Data: left, Stride: strideA, Trans: t.TransA},
			kernel.Operand{Data: right, Stride: strideB, Trans: t.TransB}, false, s.f32)
	})
	return nil
}

// linear compiles a product with a constant matrix [depth, cols], which is packed once.
func (c *compiler) linear(n *ir.Node, rows, depth, cols int, trans bool) error {
	b := n.Inputs[1]
	if c.node.Out().Shape().Elements()*depth <= c.backend.precise { // whatever the slab
		c.preciseLinear(rows, depth, cols, trans)
		return nil
	}
	c.packed(1)
	packed, err := c.prepare(weightKey{b.Const, matrixKey{depth, cols, trans}}, func() (any, int, error) {
		m := c.backend.set.PackMatrix(depth, cols, kernel.Sized(depth*cols), trans)
		_, _, floats := m.Size()
		return m, 4 * floats, nil
	}, func() (any, error) {
		return c.backend.set.PackMatrix(depth, cols, weights(b), trans), nil
	})
	if err != nil {
		return err
	}
	m := packed.(*kernel.Matrix)
	if rows < blockRows {
		const step = 128 // columns
		c.ranges(cols, max(step, minGrain/(rows*depth)/step*step), func(from, to int, s *scratch) {
			m.MulCols(s.out(), cols, s.in(0), depth, rows, from, to, nil, false)
		})
		return nil
	}
	c.ranges(rows, blockRows*max(1, minGrain/(blockRows*depth*cols)), func(from, to int, s *scratch) {
		m.Mul(s.out()[from*cols:to*cols], cols, s.in(0)[from*depth:to*depth], depth, to-from, nil, false)
	})
	return nil
}
