package cuda

import (
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/ir"
)

func buildReduceSum(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildReduceMean(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildReduceMax(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }
