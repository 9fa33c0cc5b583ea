package cuda

import (
	"fmt"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// pointwiseBuilders is the part of the table of builders whose functions are in this file.
var pointwiseBuilders = map[*ir.Op]builder{
	op.UnaryBackward: buildUnaryBackward,
	op.Affine:        buildAffine,
}

// unaryParams is UnaryParams of pointwise.cu.
type unaryParams struct {
	X, Y        Planes
	N           int64 // elements of a plane
	Z0          int32
	Alpha, Beta float32
	Aligned     int32
}

// buildUnary compiles an elementwise function of one variable.
func buildUnary(u *op.Unary) builder {
	return func(c *compiler, n *ir.Node) (action, error) {
		f, err := c.kernel("unary_" + u.Name)
		if err != nil {
			return nil, err
		}
		a, x, y, elements := n.Attr.(op.UnaryAttr), c.in(0), c.out(), n.Out().Shape().Elements()
		return func(q *queue, z0, z1 int) error {
			p := unaryParams{X: q.planes(x), Y: q.planes(y), N: int64(elements), Z0: int32(z0),
				Alpha: float32(a.Alpha), Beta: float32(a.Beta), Aligned: flag(takesPacks(x, y))}
			return launch(q, f, elementGrid(elements, z1-z0), elementThreads, 0, &p)
		}, nil
	}
}

// slopeParams is SlopeParams of pointwise.cu.
type slopeParams struct {
	Dy, S, Dx   Planes
	N           int64
	Z0          int32
	Alpha, Beta float32
	Aligned     int32
}

func buildUnaryBackward(c *compiler, n *ir.Node) (action, error) {
	a := n.Attr.(op.UnaryBackwardAttr)
	if u, ok := op.UnaryNamed(a.Func); !ok || u.Slope == nil {
		return nil, fmt.Errorf("%q has no derivative", a.Func)
	}
	f, err := c.kernel("slope_" + a.Func)
	if err != nil {
		return nil, err
	}
	if a.Func == "PowConst" {
		a.Beta = a.Alpha - 1
	}
	dy, s, dx, elements := c.in(0), c.in(1), c.out(), n.Out().Shape().Elements()
	return func(q *queue, z0, z1 int) error {
		p := slopeParams{Dy: q.planes(dy), S: q.planes(s), Dx: q.planes(dx), N: int64(elements), Z0: int32(z0),
			Alpha: float32(a.Alpha), Beta: float32(a.Beta), Aligned: flag(takesPacks(dy, s, dx))}
		return launch(q, f, elementGrid(elements, z1-z0), elementThreads, 0, &p)
	}, nil
}

// affineParams is AffineParams of pointwise.cu.
type affineParams struct {
	X, Scale, Shift, Y Planes
	Rows               Rows
	Z0                 int32
}

func buildAffine(c *compiler, n *ir.Node) (action, error) {
	f, err := c.kernel("affine")
	if err != nil {
		return nil, err
	}
	x, scale, shift, y, channels := c.in(0), c.in(1), c.in(2), c.out(), n.Inputs[1].Shape()[0]
	rows := rowsOf(n.Out().Shape().Elements()/channels, channels, takesPacks(x, scale, shift, y))
	return func(q *queue, z0, z1 int) error {
		p := affineParams{X: q.planes(x), Scale: q.planes(scale), Shift: q.planes(shift), Y: q.planes(y), Rows: rows, Z0: int32(z0)}
		return launch(q, f, [3]uint32{uint32(rows.blocks()), uint32(z1 - z0), 1}, elementThreads, 0, &p)
	}, nil
}
