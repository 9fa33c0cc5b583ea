package cuda

import (
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// buildCudnn compiles a convolution, or the gradient of one, for cuDNN; false where it is not there or is slower than our kernels.
func buildCudnn(c *compiler, n *ir.Node, a op.ConvAttr, backward bool) (action, bool, error) {
	return nil, false, nil
}
