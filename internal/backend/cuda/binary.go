package cuda

import (
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

func buildBinary(row *op.Binary) builder {
	return func(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }
}
