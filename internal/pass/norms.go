package pass

import (
	"fmt"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// splitNorms takes group norms of images, and their gradients, apart into accumulating the statistics and applying them, each of
// which a plan can do slab by slab.
func splitNorms(g *ir.Graph) error {
	type statistics struct {
		x *ir.Value
		a op.GroupNormAttr
	}
	moments := map[statistics]*ir.Value{}
	nodes := g.Nodes
	g.Nodes = make([]*ir.Node, 0, len(nodes))
	b := ir.NewBuilder(g)
	for _, n := range nodes {
		if n.Op != op.GroupNorm && n.Op != op.GroupNormBackward || !n.Out().HasDepth() {
			g.Nodes = append(g.Nodes, n)
			continue
		}
		b.Name, b.Scope = n.Name, n.Scope
		a, x := n.Attr.(op.GroupNormAttr), n.Inputs[0]
		if n.Op == op.GroupNormBackward {
			x = n.Inputs[1]
		}
		m := moments[statistics{x, a}]
		if m == nil {
			m = b.Emit(op.GroupMoments, a, x)
			moments[statistics{x, a}] = m
		}
		inputs := []*ir.Value{x, m, n.In(1), n.In(2)}
		apply := op.GroupNormApply
		if n.Op == op.GroupNormBackward {
			dy, gamma := n.Inputs[0], n.In(2)
			apply = op.GroupGradApply
			inputs = []*ir.Value{dy, x, m, b.Emit(op.GroupGradMoments, a, dy, x, m, gamma), gamma}
		}
		made := b.Node(apply, a, inputs...)
		if err := b.Err(); err != nil {
			return fmt.Errorf("%s %q: %w", n.Op.Name, n.Name, err)
		}
		// The value stays the same one: callers and other nodes hold it.
		made.Outputs[0] = n.Out()
		n.Out().Def = made
	}
	return nil
}
