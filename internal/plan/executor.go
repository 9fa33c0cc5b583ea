package plan

import (
	"fmt"

	"github.com/voxcam/voxcam/internal/ir"
)

// Questions of every executor of plans: the form of a node for a single plane, and whether buffers are sound.

// OnePlane returns n for one of its depth planes: the same node on values of one plane each. It does not hold for operations that work
// across planes.
func OnePlane(n *ir.Node, depth int) *ir.Node {
	cut := func(values []*ir.Value) (out []*ir.Value) {
		for _, v := range values {
			if axis := DepthAxis(v, depth); axis >= 0 {
				plane := *v
				plane.Type.Shape = v.Shape().Clone()
				plane.Type.Shape[axis] = 1
				v = &plane
			}
			out = append(out, v)
		}
		return out
	}
	plane := *n
	plane.Inputs, plane.Outputs = cut(n.Inputs), cut(n.Outputs)
	return &plane
}

// DepthAxis returns the axis of a value that is aligned with the depth of an image of depth planes; -1 if there is none.
// Axes are aligned at the innermost one.
func DepthAxis(v *ir.Value, depth int) int {
	if v == nil {
		return -1
	}
	axis := len(v.Shape()) - 4
	if axis < 0 || axis > 1 || v.Shape()[axis] != depth || axis == 1 && v.Shape()[0] != 1 {
		return -1
	}
	return axis
}

// Check refuses buffers that do not lie in the arena, or are too small for their values.
func (p *Plan) Check() error {
	for i, b := range p.Buffers {
		if !b.External && (b.Offset < 0 || b.Offset%Align != 0 || b.Bytes < 0 || b.Offset+b.Bytes > p.Peak) {
			return fmt.Errorf("buffer %d of the plan (%d bytes at %d) does not lie in an arena of %d bytes", i, b.Bytes, b.Offset, p.Peak)
		}
		for _, v := range b.Values {
			n := v.Type.Elem.Bytes(v.Shape().Elements())
			if b.Planes > 0 {
				if len(v.Shape()) != 5 {
					return fmt.Errorf("buffer %d of the plan has planes, %v has none", i, v)
				}
				n = b.Planes * PlaneBytes(v)
			}
			if n > b.Bytes && !b.External {
				return fmt.Errorf("buffer %d of the plan has %d bytes, %v needs %d", i, b.Bytes, v, n)
			}
		}
	}
	return nil
}
