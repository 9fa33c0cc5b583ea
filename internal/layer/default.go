package layer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// ErrNoSpatialLayer is wrapped when a model has no layer with more than one place in space.
var ErrNoSpatialLayer = errors.New("the model has no layer with spatial extent before its scores")

// last finds the last layer with spatial extent: what is pooled. Where a class token alone goes on to the scores, the gradient
// at the other tokens behind the last attention is zero, and the layer is the norm in front of that attention.
func (idx *index) last(req Request) (Target, error) {
	g := idx.m.Graph
	scores := ancestors(g, g.Outputs)
	mixed := ancestors(g, attentions(g)) // values that attention reads, directly or not
	best := -1
	for i, n := range idx.m.Nodes {
		if len(n.Outputs) == 0 || n.Outputs[0] == nil || n.Outputs[0].Const != nil {
			continue
		}
		v := n.Outputs[0]
		axes := idx.axes[v]
		if !scores[v] || !strings.Contains(axes, "C") || cells(axes, v.Shape()) < 2 || batched(axes, v.Shape()) {
			continue
		}
		if strings.Contains(axes, "T") && idx.classToken(v) && !(mixed[v] && n.Op == "LayerNormalization") {
			continue
		}
		best = i
	}
	if best < 0 {
		return Target{}, fmt.Errorf("%w; name one with --target-layer", ErrNoSpatialLayer)
	}
	return Target{Target: ir.Target{Value: idx.m.Nodes[best].Outputs[0], Label: idx.label(best)}}, nil
}

func batched(axes string, s tensor.Shape) bool {
	n := strings.IndexByte(axes, 'N')
	return n >= 0 && s[n] != 1 && strings.Contains(axes, "D")
}

// classToken reports whether the tokens of v are one more than the cells of a convolution before it.
func (idx *index) classToken(v *ir.Value) bool {
	tokens := cells(idx.axes[v], v.Shape())
	return slices.ContainsFunc(idx.m.Graph.Nodes, func(n *ir.Node) bool {
		s := n.Out().Shape()
		return n.Op == op.Conv && len(s) == 5 && s[1]*s[2]*s[3] == tokens-1
	})
}

func attentions(g *ir.Graph) (values []*ir.Value) {
	for _, n := range g.Nodes {
		if n.Op == op.Softmax && len(n.Out().Shape()) >= 3 {
			values = append(values, n.Out())
		}
	}
	return values
}

// ancestors are the values that the given ones depend on, themselves included.
func ancestors(g *ir.Graph, of []*ir.Value) map[*ir.Value]bool {
	found := map[*ir.Value]bool{}
	for _, v := range of {
		found[v] = true
	}
	for _, n := range slices.Backward(g.Nodes) {
		if slices.ContainsFunc(n.Outputs, func(v *ir.Value) bool { return found[v] }) {
			for _, v := range n.Inputs {
				found[v] = true
			}
		}
	}
	return found
}
