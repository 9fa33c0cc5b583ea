package layer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/onnx"
	"github.com/voxcam/voxcam/internal/op"
)

// ErrNoSpatialLayer is wrapped when a model has no layer with more than one place in space.
var ErrNoSpatialLayer = errors.New("the model has no layer with spatial extent before its scores")

// last finds the layer that an expert takes: the last one that has places, in at least two directions if any layer has, that the graph can
// place in the volume, that has features and not yet class scores by place, and whose gradient is not zero by construction. The layout of an
// exporter does not matter: of one tensor in several layouts, it is the tensor as it was computed.
func (idx *index) last(req Request) (Match, error) {
	d := idx.depend()
	for _, letters := range []int{2, 1} {
		found := idx.ends(d, letters, req)
		if len(found) == 0 {
			continue
		}
		// Of branches that meet behind all places, the one with the most channels is the main one.
		best := found[0]
		for _, v := range found {
			if idx.channels(v) > idx.channels(best) {
				best = v
			}
		}
		t := idx.label(best)
		if t.Module == "" {
			t = idx.moved(t)
		}
		var others []string
		for _, v := range found {
			if v != best {
				others = append(others, idx.label(v).Label)
			}
		}
		if len(others) > 0 {
			t.warn("the scores also depend on %s, beside the default layer %s: its map does not show that", strings.Join(others[:min(len(others), 4)], ", "), t.Label)
		}
		return t, nil
	}
	if why := idx.unplaced(d, req); why != nil {
		return Match{}, fmt.Errorf("%w that can be placed: %w", ErrNoSpatialLayer, why)
	}
	return Match{}, fmt.Errorf("%w; name one by the option target_layer", ErrNoSpatialLayer)
}

// unplaced returns why the last layer that could be the default one, were its axes known, cannot be placed in the volume; nil if there is none.
func (idx *index) unplaced(d *dependence, req Request) error {
	for _, n := range slices.Backward(idx.m.Nodes) {
		if len(n.Outputs) == 0 || n.Outputs[0] == nil {
			continue
		}
		v := n.Outputs[0]
		if v.Const != nil || d.reach[v] != whole || !d.weighted[v] || d.projection[v] || len(v.Shape()) < 3 {
			continue
		}
		if _, unknown := idx.axes[v].public(); unknown != nil {
			t := idx.label(v)
			return idx.place(&t, Request{Volume: req.Volume})
		}
	}
	return nil
}

// moved returns the layer in the layout of a module's output: convolutional networks move channels to the end for a norm
// and back again. It is the layer itself if there is no such module.
func (idx *index) moved(t Match) Match {
	for v := t.Value; len(idx.readers[v]) == 1; {
		n := idx.m.Nodes[idx.readers[v][0]]
		if n.Op != "Transpose" || n.Outputs[0] == nil {
			break
		}
		v = n.Outputs[0]
		if other := idx.label(v); other.Module != "" {
			return other
		}
	}
	return t
}

// ends returns the values that could be the default layer and that no other such value is computed from, the last first.
func (idx *index) ends(d *dependence, letters int, req Request) (found []*ir.Value) {
	fits := func(v *ir.Value) bool {
		if v == nil || v.Const != nil || d.reach[v] != whole || !d.weighted[v] || d.projection[v] || idx.axes[v].letters() < letters {
			return false
		}
		return idx.place(&Match{Target: ir.Target{Value: v}}, Request{Volume: req.Volume}) == nil
	}
	before := map[*ir.Value]bool{}
	for _, n := range slices.Backward(idx.m.Nodes) {
		if len(n.Outputs) == 0 || n.Outputs[0] == nil || before[n.Outputs[0]] {
			continue
		}
		if v := n.Outputs[0]; fits(v) && !fits(idx.copied(n)) {
			found = append(found, v)
			for a := range ancestors(idx.m.Graph, []*ir.Value{v}) {
				before[a] = true
			}
		}
	}
	return found
}

// copies are operations whose output has only features of the input: other layouts, borders, means.
var copies = map[string]bool{
	"AveragePool": true, "Cast": true, "Dropout": true, "Expand": true, "Flatten": true, "Gather": true, "Identity": true, "Pad": true,
	"Reshape": true, "Resize": true, "Slice": true, "Split": true, "Squeeze": true, "Tile": true, "Transpose": true, "Unsqueeze": true,
	"Upsample": true,
}

// copied returns the value that a node's output is a copy of, through all nodes that only copy; nil if the node computes.
func (idx *index) copied(n *onnx.NodeInfo) (v *ir.Value) {
	for copies[n.Op] && len(n.Inputs) > 0 && n.Inputs[0] != nil {
		v = n.Inputs[0]
		made := idx.maker(v)
		if made < 0 {
			return v
		}
		if idx.m.Nodes[made] == n {
			break
		}
		n = idx.m.Nodes[made]
	}
	return v
}

// channels returns the number of features of a place.
func (idx *index) channels(v *ir.Value) int {
	return v.Shape().Elements() / max(idx.axes[v].cells(), 1)
}

// reach is the part of a value that the scores depend on.
type reach int

const (
	nothing reach = iota
	part          // some places: the class token, a slice in the middle
	whole
)

// dependence has the part of each value that the scores depend on.
type dependence struct {
	reach      map[*ir.Value]reach
	weighted   map[*ir.Value]bool // a product with weights lies between: the value is not the scores of classes by place
	projection map[*ir.Value]bool // queries, keys, values and their products: they go nowhere but into attention
}

func (idx *index) depend() *dependence {
	g := idx.m.Graph
	d := &dependence{reach: map[*ir.Value]reach{}, weighted: map[*ir.Value]bool{}, projection: map[*ir.Value]bool{}}
	for _, v := range g.Outputs {
		d.reach[v] = whole
	}
	into := map[*ir.Value]bool{}  // goes into attention
	other := map[*ir.Value]bool{} // goes elsewhere, too
	for _, n := range slices.Backward(g.Nodes) {
		out := n.Out()
		r := nothing
		for _, o := range n.Outputs {
			r = max(r, d.reach[o])
		}
		if r == nothing {
			continue
		}
		projected := into[out] && !other[out]
		d.projection[out] = projected && (projects(n) || n.Op == op.Softmax)
		for i, v := range n.Inputs {
			if v == nil || v.Const != nil {
				continue
			}
			d.reach[v] = max(d.reach[v], idx.through(n, v, r))
			d.weighted[v] = d.weighted[v] || d.weighted[out] || weighs(n, i)
			if attends(n) || projected && passes(n) {
				into[v] = true
			} else {
				other[v] = true
			}
		}
	}
	return d
}

// through returns the part of a node's input that the scores depend on, where r is that of its output.
func (idx *index) through(n *ir.Node, v *ir.Value, r reach) reach {
	before, after := idx.axes[v].cells(), idx.axes[n.Out()].cells()
	switch n.Op {
	case op.Slice, op.Gather:
		if before > 1 && 2*after <= before {
			return part
		}
		return r
	case op.Conv:
		if w := n.Inputs[1].Shape(); w[2]*w[3]*w[4] == 1 {
			return r
		}
		return whole
	case op.MatMul:
		if constant(n) {
			return r
		}
		return whole
	case op.ReduceSum, op.ReduceMean, op.ReduceMax:
		if before == after {
			return r
		}
		return whole
	case op.ConvBackwardData, op.MaxPool, op.AvgPool, op.Softmax, op.LogSoftmax, op.GroupNorm, op.Resize:
		return whole
	}
	return r
}

// constant reports whether an input of a node is a constant.
func constant(n *ir.Node) bool {
	return slices.ContainsFunc(n.Inputs, func(v *ir.Value) bool { return v != nil && v.Const != nil })
}

// weighs reports whether a node multiplies features of its input i with weights.
func weighs(n *ir.Node, i int) bool {
	return i == 0 && (n.Op == op.Conv || n.Op == op.ConvBackwardData) || n.Op == op.MatMul && constant(n)
}

// linear scales and shifts by constants.
var linear = op.UnaryOp("Linear")

// attends reports whether a node is a product of two values, as attention is.
func attends(n *ir.Node) bool { return n.Op == op.MatMul && !constant(n) }

// passes reports whether a node hands on its input, in another form or scaled.
func passes(n *ir.Node) bool {
	switch n.Op {
	case op.Reshape, op.Transpose, op.Expand, op.Slice, op.Concat, op.Gather, op.Pad, op.Softmax, op.LayerNorm, op.Affine, linear:
		return true
	}
	return n.Op.MinIn == 2 && n.Op.MaxIn == 2 && n.Op != op.MatMul && constant(n)
}

// projects reports whether the output of a node is a linear function of features.
func projects(n *ir.Node) bool {
	return n.Op == op.MatMul || n.Op == op.Conv || n.Op != op.Softmax && n.Op != op.LayerNorm && passes(n)
}

// ancestors returns the values that the given ones depend on, themselves included.
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
