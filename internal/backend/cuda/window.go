package cuda

import (
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/ir"
)

func buildMaxPool(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildMaxPoolIndex(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildMaxPoolBackward(c *compiler, n *ir.Node) (action, error) {
	return nil, backend.ErrUnsupported
}

func buildAvgPool(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildAvgPoolBackward(c *compiler, n *ir.Node) (action, error) {
	return nil, backend.ErrUnsupported
}
