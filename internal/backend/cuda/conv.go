package cuda

import (
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

func buildConv(c *compiler, n *ir.Node) (action, error) {
	return c.conv(n, n.Attr.(op.ConvAttr), false)
}

func buildConvBackwardData(c *compiler, n *ir.Node) (action, error) {
	return c.conv(n, n.Attr.(op.ConvBackwardDataAttr).Conv, true)
}

// conv compiles a convolution, or the gradient of one with respect to its input.
func (c *compiler) conv(n *ir.Node, a op.ConvAttr, backward bool) (action, error) {
	return nil, backend.ErrUnsupported
}
