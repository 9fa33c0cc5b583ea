package cuda

import (
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// buildDepthwise compiles a convolution, or the gradient of one, with one channel in each group; false where this is none.
func buildDepthwise(c *compiler, n *ir.Node, a op.ConvAttr, backward bool) (action, bool, error) {
	return nil, false, nil
}
