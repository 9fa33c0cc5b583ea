package cpu

import (
	"github.com/voxcam/voxcam/internal/backend/cpu/kernel"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

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

	set, x, y, z := c.backend.set, c.in(0), c.in(1), c.out()
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
	c.phase(batch.Elements()*blocks, func(i int, s scratch) {
		matrix, row := i/blocks, i%blocks*step
		count := min(step, rows-row)
		if count <= 0 {
			return
		}
		left := x[w.position(0, matrix)*sizeA:][:sizeA]
		if t.TransA {
			left = left[row:]
		} else {
			left = left[row*depth:]
		}
		right := y[w.position(1, matrix)*sizeB:][:sizeB]
		set.MatMul(count, cols, depth, z[(matrix*rows+row)*cols:], cols, kernel.Operand{Data: left, Stride: strideA, Trans: t.TransA},
			kernel.Operand{Data: right, Stride: strideB, Trans: t.TransB}, false, s.f32)
	})
	return nil
}

// linear compiles a product with a constant matrix [depth, cols], which is packed once.
func (c *compiler) linear(n *ir.Node, rows, depth, cols int, trans bool) error {
	b := n.Inputs[1]
	if rows*depth*cols <= c.backend.precise {
		c.preciseLinear(rows, depth, cols, trans)
		return nil
	}
	packed, err := c.backend.prepare(c.program, weightKey{b.Const, matrixKey{depth, cols, trans}}, func() (any, error) {
		return c.backend.set.PackMatrix(depth, cols, weights(b), trans), nil
	})
	if err != nil {
		return err
	}
	m, x, y := packed.(*kernel.Matrix), c.in(0), c.out()
	if rows < blockRows {
		const step = 128 // columns
		c.ranges(cols, max(step, minGrain/(rows*depth)/step*step), func(from, to int, _ scratch) {
			m.MulCols(y, cols, x, depth, rows, from, to, nil, false)
		})
		return nil
	}
	c.ranges(rows, blockRows*max(1, minGrain/(blockRows*depth*cols)), func(from, to int, _ scratch) {
		m.Mul(y[from*cols:to*cols], cols, x[from*depth:to*depth], depth, to-from, nil, false)
	})
	return nil
}
