package cuda

import (
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// softmaxBuilders is the part of the table of builders whose functions are in this file.
var softmaxBuilders = map[*ir.Op]builder{
	op.Softmax:            buildSoftmax,
	op.SoftmaxBackward:    buildSoftmaxBackward,
	op.LogSoftmax:         buildLogSoftmax,
	op.LogSoftmaxBackward: buildLogSoftmaxBackward,
}

func buildSoftmax(c *compiler, n *ir.Node) (action, error)            { return c.lines(n) }
func buildSoftmaxBackward(c *compiler, n *ir.Node) (action, error)    { return c.lines(n) }
func buildLogSoftmax(c *compiler, n *ir.Node) (action, error)         { return c.lines(n) }
func buildLogSoftmaxBackward(c *compiler, n *ir.Node) (action, error) { return c.lines(n) }

// softmaxParams is SoftmaxParams of softmax.cu.
type softmaxParams struct {
	X, S, Y         Planes
	Z0, Lines, Size int32
	Inner           Divide
}

// lines compiles a function of the lines along an axis. A warp works on a line whose numbers lie behind each other, or a block if
// the line is long; on neighbouring lines along another axis a thread each.
func (c *compiler) lines(n *ir.Node) (action, error) {
	s, axis := n.Out().Shape(), n.Attr.(op.SoftmaxAttr).Axis
	size, inner, lines := s[axis], s[axis+1:].Elements(), s.Elements()/s[axis]
	name, threads := n.Op.Name+"_1", 1
	if inner == 1 && size > 4 {
		if name, threads = n.Op.Name+"_32", 32; size > warpLine {
			name, threads = n.Op.Name+"_256", elementThreads
		}
	}
	f, err := c.kernel(name)
	if err != nil {
		return nil, err
	}
	x, saved, y := c.in(0), c.in(len(n.Inputs)-1), c.out()
	return func(q *queue, z0, z1 int) error {
		p := softmaxParams{X: q.planes(x), S: q.planes(saved), Y: q.planes(y), Z0: int32(z0), Lines: int32(lines), Size: int32(size), Inner: divideBy(inner)}
		return launch(q, f, [3]uint32{uint32(ceilDiv(lines*threads, elementThreads)), uint32(z1 - z0), 1}, elementThreads, 0, &p)
	}, nil
}
