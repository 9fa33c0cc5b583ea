package cuda

import (
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/ir"
)

func buildReshape(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildTranspose(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildExpand(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildSlice(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildSliceBackward(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildConcat(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildPad(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildPadBackward(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildGather(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }

func buildGatherBackward(c *compiler, n *ir.Node) (action, error) { return nil, backend.ErrUnsupported }
