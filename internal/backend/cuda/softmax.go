package cuda

import (
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/ir"
)

func buildSoftmax(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildSoftmaxBackward(c *compiler, n *ir.Node) (action, error) {
	return nil, backend.ErrUnsupported
}

func buildLogSoftmax(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildLogSoftmaxBackward(c *compiler, n *ir.Node) (action, error) {
	return nil, backend.ErrUnsupported
}
