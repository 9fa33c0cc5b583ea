package cuda

import (
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/ir"
)

func buildGroupNorm(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildGroupNormBackward(c *compiler, n *ir.Node) (action, error) {
	return nil, backend.ErrUnsupported
}

func buildGroupMoments(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildGroupNormApply(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildGroupGradMoments(c *compiler, n *ir.Node) (action, error) {
	return nil, backend.ErrUnsupported
}

func buildGroupGradApply(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildLayerNorm(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildLayerNormBackward(c *compiler, n *ir.Node) (action, error) {
	return nil, backend.ErrUnsupported
}
