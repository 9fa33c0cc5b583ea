package op

import (
	"fmt"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/tensor"
)

// MatMulAttr transposes the last two axes of an operand.
type MatMulAttr struct{ TransA, TransB bool }

// MatMul multiplies matrices a [..., M, K] and b [..., K, N] (before transposition); the leading axes broadcast.
var MatMul = &ir.Op{Name: "MatMul", MinIn: 2, MaxIn: 2, Attr: MatMulAttr{}, Inputs: []string{"a", "b"},
	Infer: one(func(attr any, in []ir.Type) (tensor.Shape, error) {
		t, a, b := attr.(MatMulAttr), in[0].Shape, in[1].Shape
		if len(a) < 2 || len(b) < 2 {
			return nil, fmt.Errorf("matrices expected, not %v and %v", a, b)
		}
		m, k := matrix(a, t.TransA)
		k2, n := matrix(b, t.TransB)
		if k != k2 {
			return nil, fmt.Errorf("%v and %v do not multiply", a, b)
		}
		batch, err := tensor.Broadcast(a[:len(a)-2], b[:len(b)-2])
		if err != nil {
			return nil, err
		}
		return append(batch, m, n), nil
	}),
	Slab: func(n *ir.Node, input, z0, z1 int) (int, int, bool) {
		// Rows are voxels, and the other operand is a matrix without depth.
		return z0, z1, input == 0 && !n.Attr.(MatMulAttr).TransA && len(n.Inputs[1].Shape()) == 2
	},
	Flops: func(n *ir.Node) float64 {
		_, k := matrix(n.Inputs[0].Shape(), n.Attr.(MatMulAttr).TransA)
		return 2 * float64(n.Out().Shape().Elements()) * float64(k)
	}}

func matrix(s tensor.Shape, transposed bool) (rows, columns int) {
	rows, columns = s[len(s)-2], s[len(s)-1]
	if transposed {
		return columns, rows
	}
	return rows, columns
}

var matMulOps = []*ir.Op{MatMul}

func init() {
	MatMul.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, want []bool) []*ir.Value {
		t, x, y := n.Attr.(MatMulAttr), n.Inputs[0], n.Inputs[1]
		out := make([]*ir.Value, 2)
		mul := func(p, q *ir.Value, transP, transQ bool, shape tensor.Shape) *ir.Value {
			return SumTo(b, b.Emit(MatMul, MatMulAttr{transP, transQ}, p, q), shape)
		}
		if want[0] {
			if t.TransA {
				out[0] = mul(y, dy[0], t.TransB, true, x.Shape())
			} else {
				out[0] = mul(dy[0], y, false, !t.TransB, x.Shape())
			}
		}
		if want[1] {
			if t.TransB {
				out[1] = mul(dy[0], x, true, t.TransA, y.Shape())
			} else {
				out[1] = mul(x, dy[0], !t.TransA, false, y.Shape())
			}
		}
		return out
	}
}
