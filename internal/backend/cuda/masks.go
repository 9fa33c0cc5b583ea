package cuda

import (
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/ir"
)

func buildUnaryBackward(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildBits(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildMaskBackward(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildPRelu(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildPReluBackward(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildWhere(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildAffine(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }
