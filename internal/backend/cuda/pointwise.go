package cuda

import (
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// pointwiseThreads is the size of blocks of elementwise kernels, each thread of which makes four elements.
const pointwiseThreads = 256

// unaryParams is UnaryParams of pointwise.cu.
type unaryParams struct {
	X, Y        Planes
	N           int32 // elements of a plane
	Z0          int32
	Alpha, Beta float32
}

// buildUnary compiles an elementwise function of one variable.
func buildUnary(u *op.Unary) builder {
	return func(c *compiler, n *ir.Node) (action, error) {
		a := n.Attr.(op.UnaryAttr)
		name := "unary_" + u.Name
		x, y, elements := c.in(0), c.out(), n.Out().Shape().Elements()
		if x.stride%16 == 0 && y.stride%16 == 0 || x.places == 1 && y.places == 1 {
			name += "_4"
		}
		f, err := c.kernel(name)
		if err != nil {
			return nil, err
		}
		return func(q *queue, z0, z1 int) error {
			p := unaryParams{X: q.planes(x), Y: q.planes(y), N: int32(elements), Z0: int32(z0), Alpha: float32(a.Alpha), Beta: float32(a.Beta)}
			return launch(q, f, [3]uint32{uint32(ceilDiv(elements, 4*pointwiseThreads)), uint32(z1 - z0), 1}, pointwiseThreads, 0, &p)
		}, nil
	}
}
