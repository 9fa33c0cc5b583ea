package layer

import (
	"errors"
	"fmt"
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// ErrNoSpatialLayer is wrapped when a model has no layer with more than one place in space.
var ErrNoSpatialLayer = errors.New("the model has no layer with spatial extent before its scores")

// last finds the last layer with spatial extent: what is pooled. Where a class token alone goes on to the scores, the gradient
// at the other tokens behind the last attention is zero, and the layer is the norm in front of that attention.
func (idx *index) last(req Request) (Target, error) {
	g := idx.m.Graph
	scores := ancestors(g, g.Outputs)
	mixed := ancestors(g, attentions(g)) // values that attention reads, directly or not
	best, thin := -1, -1                 // thin: places along one letter alone, such as the features of slices
	for i, n := range idx.m.Nodes {
		if len(n.Outputs) == 0 || n.Outputs[0] == nil || n.Outputs[0].Const != nil {
			continue
		}
		v := n.Outputs[0]
		axes := idx.axes[v]
		if !scores[v] || axes.cells() < 2 {
			continue
		}
		if idx.place(&Target{Target: ir.Target{Value: v}}, Request{Volume: req.Volume}) != nil {
			continue
		}
		if axes.prefix() > 0 && !(mixed[v] && n.Op == "LayerNormalization") {
			continue
		}
		if axes.letters() < 2 {
			thin = i
			continue
		}
		best = i
	}
	if best < 0 {
		best = thin
	}
	if best < 0 {
		return Target{}, fmt.Errorf("%w; name one with --target-layer", ErrNoSpatialLayer)
	}
	return idx.label(idx.m.Nodes[best].Outputs[0]), nil
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
