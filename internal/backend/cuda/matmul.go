package cuda

import (
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/ir"
)

func buildMatMul(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }
