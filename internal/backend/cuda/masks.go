package cuda

import (
	"fmt"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// masksBuilders is the part of the table of builders whose functions are in this file.
var masksBuilders = map[*ir.Op]builder{
	op.Bits:          buildBits,
	op.MaskBackward:  buildMaskBackward,
	op.PReluBackward: buildPReluBackward,
	op.Where:         buildWhere,
}

// checkBits refuses values that are not tensors of bits.
func checkBits(v *ir.Value) error {
	if v.Type.Elem != tensor.Bit || v.Const != nil {
		return fmt.Errorf("%v is not a tensor of bits", v)
	}
	return nil
}

// bitsParams is BitsParams of masks.cu.
type bitsParams struct {
	X, Y   Planes
	N      int64
	Z0     int32
	Lo, Hi float32
}

func buildBits(c *compiler, n *ir.Node) (action, error) {
	if err := checkBits(n.Out()); err != nil {
		return nil, err
	}
	f, err := c.kernel("bits")
	if err != nil {
		return nil, err
	}
	a, x, y, elements := n.Attr.(op.BitsAttr), c.in(0), c.out(), n.Out().Shape().Elements()
	return func(q *queue, z0, z1 int) error {
		p := bitsParams{X: q.planes(x), Y: q.planes(y), N: int64(elements), Z0: int32(z0), Lo: float32(a.Lo), Hi: float32(a.Hi)}
		return launch(q, f, elementGrid(elements, z1-z0), elementThreads, 0, &p)
	}, nil
}

// maskParams is MaskParams of masks.cu.
type maskParams struct {
	Dy, Bits, Dx Planes
	N            int64
	Z0           int32
	In, Out      float32
	Aligned      int32
}

func buildMaskBackward(c *compiler, n *ir.Node) (action, error) {
	if err := checkBits(n.Inputs[1]); err != nil {
		return nil, err
	}
	f, err := c.kernel("mask_backward")
	if err != nil {
		return nil, err
	}
	a, dy, bits, dx, elements := n.Attr.(op.MaskAttr), c.in(0), c.in(1), c.out(), n.Out().Shape().Elements()
	return func(q *queue, z0, z1 int) error {
		p := maskParams{Dy: q.planes(dy), Bits: q.planes(bits), Dx: q.planes(dx), N: int64(elements), Z0: int32(z0),
			In: float32(a.In), Out: float32(a.Out), Aligned: flag(takesPacks(dy, dx))}
		return launch(q, f, elementGrid(elements, z1-z0), elementThreads, 0, &p)
	}, nil
}

// preluBackwardParams is PReluBackwardParams of masks.cu.
type preluBackwardParams struct {
	Dy, Bits, Slope, Dx Planes
	N                   int64
	Z0                  int32
	Broadcast           Broadcast
}

func buildPReluBackward(c *compiler, n *ir.Node) (action, error) {
	if err := checkBits(n.Inputs[1]); err != nil {
		return nil, err
	}
	f, err := c.kernel("prelu_backward")
	if err != nil {
		return nil, err
	}
	w, err := newBroadcast(n.Out().Shape(), n.Inputs[2].Shape()).device()
	if err != nil {
		return nil, err
	}
	dy, bits, slope, dx, elements := c.in(0), c.in(1), c.in(2), c.out(), n.Out().Shape().Elements()
	return func(q *queue, z0, z1 int) error {
		p := preluBackwardParams{Dy: q.planes(dy), Bits: q.planes(bits), Slope: q.planes(slope), Dx: q.planes(dx),
			N: int64(elements), Z0: int32(z0), Broadcast: w}
		return launch(q, f, elementGrid(elements, z1-z0), elementThreads, 0, &p)
	}, nil
}

// whereParams is WhereParams of masks.cu.
type whereParams struct {
	Condition, X, Y, Out Planes
	N                    int64
	Z0                   int32
	Broadcast            Broadcast
}

func buildWhere(c *compiler, n *ir.Node) (action, error) {
	f, err := c.kernel("where")
	if err != nil {
		return nil, err
	}
	w, err := newBroadcast(n.Out().Shape(), n.Inputs[0].Shape(), n.Inputs[1].Shape(), n.Inputs[2].Shape()).device()
	if err != nil {
		return nil, err
	}
	condition, x, y, out, elements := c.in(0), c.in(1), c.in(2), c.out(), n.Out().Shape().Elements()
	return func(q *queue, z0, z1 int) error {
		p := whereParams{Condition: q.planes(condition), X: q.planes(x), Y: q.planes(y), Out: q.planes(out),
			N: int64(elements), Z0: int32(z0), Broadcast: w}
		return launch(q, f, elementGrid(elements, z1-z0), elementThreads, 0, &p)
	}, nil
}
