package reference

import (
	"fmt"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// pointwiseKernels is the part of kernels whose functions are in this file.
var pointwiseKernels = map[*ir.Op]kernel{
	op.UnaryBackward: unaryBackward,
	op.Bits:          bits,
	op.MaskBackward:  maskBackward,
	op.PRelu:         prelu,
	op.PReluBackward: preluBackward,
	op.Where:         where,
	op.Affine:        affine,
}

func unary(u *op.Unary) kernel {
	return func(n *ir.Node, in [][]float64) ([]float64, error) {
		a, out := n.Attr.(op.UnaryAttr), make([]float64, len(in[0]))
		for i, x := range in[0] {
			out[i] = u.Apply(x, a)
		}
		return out, nil
	}
}

func binary(b *op.Binary) kernel {
	return func(n *ir.Node, in [][]float64) ([]float64, error) {
		s := n.Out().Shape()
		out := make([]float64, s.Elements())
		each(s, func(flat int, index []int) {
			out[flat] = b.Apply(in[0][at(shapeOf(n, 0), index)], in[1][at(shapeOf(n, 1), index)])
		})
		return out, nil
	}
}

func unaryBackward(n *ir.Node, in [][]float64) ([]float64, error) {
	a := n.Attr.(op.UnaryBackwardAttr)
	u, ok := op.UnaryNamed(a.Func)
	if !ok || u.Slope == nil {
		return nil, fmt.Errorf("%q has no derivative", a.Func)
	}
	out := make([]float64, len(in[0]))
	for i, dy := range in[0] {
		out[i] = dy * u.Slope(in[1][i], op.UnaryAttr{Alpha: a.Alpha, Beta: a.Beta})
	}
	return out, nil
}

func bits(n *ir.Node, in [][]float64) ([]float64, error) {
	a, out := n.Attr.(op.BitsAttr), make([]float64, len(in[0]))
	for i, x := range in[0] {
		if a.Lo < x && x < a.Hi {
			out[i] = 1
		}
	}
	return out, nil
}

func maskBackward(n *ir.Node, in [][]float64) ([]float64, error) {
	a, out := n.Attr.(op.MaskAttr), make([]float64, len(in[0]))
	for i, dy := range in[0] {
		if in[1][i] != 0 {
			out[i] = dy * a.In
		} else {
			out[i] = dy * a.Out
		}
	}
	return out, nil
}

func prelu(n *ir.Node, in [][]float64) ([]float64, error) {
	out := make([]float64, len(in[0]))
	each(shapeOf(n, 0), func(flat int, index []int) {
		if out[flat] = in[0][flat]; out[flat] <= 0 {
			out[flat] *= in[1][at(shapeOf(n, 1), index)]
		}
	})
	return out, nil
}

func preluBackward(n *ir.Node, in [][]float64) ([]float64, error) {
	out := make([]float64, len(in[0]))
	each(shapeOf(n, 0), func(flat int, index []int) {
		if out[flat] = in[0][flat]; in[1][flat] == 0 {
			out[flat] *= in[2][at(shapeOf(n, 2), index)]
		}
	})
	return out, nil
}

func where(n *ir.Node, in [][]float64) ([]float64, error) {
	s := n.Out().Shape()
	out := make([]float64, s.Elements())
	each(s, func(flat int, index []int) {
		chosen := 2
		if in[0][at(shapeOf(n, 0), index)] != 0 {
			chosen = 1
		}
		out[flat] = in[chosen][at(shapeOf(n, chosen), index)]
	})
	return out, nil
}

func affine(n *ir.Node, in [][]float64) ([]float64, error) {
	out, c := make([]float64, len(in[0])), len(in[1])
	for i, x := range in[0] {
		out[i] = x*in[1][i%c] + in[2][i%c]
	}
	return out, nil
}
