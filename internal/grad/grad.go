// Package grad differentiates a graph by a reverse sweep over its nodes.
//
// Vocabulary: the score is the value that is differentiated, a vector of class scores; the seed is an input that holds the
// gradient with respect to the score itself (one-hot: the gradient of one class). The adjoint of a value is the sum, over its
// readers, of the terms of their gradient rules; a value needs one when it lies on a path from a wanted value to the score.
// Weights are never wanted, so nothing is saved for their sake.
package grad

import (
	"fmt"
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Build appends to g the nodes that compute the gradients of sum(seed*score) with respect to the values wrt, and returns the
// seed, a new input of the score's shape, and the gradients in the order of wrt. A value that the score does not depend on is
// an error.
func Build(g *ir.Graph, score *ir.Value, wrt []*ir.Value) (seed *ir.Value, gradients []*ir.Value, err error) {
	forward := slices.Clone(g.Nodes)
	needs := needed(forward, score, wrt)
	for _, v := range wrt {
		if !needs[v] {
			return nil, nil, fmt.Errorf("the score does not depend on %s", valueName(v))
		}
	}

	seed = g.Input("seed", score.Type)
	b := ir.NewBuilder(g)
	adjoint := map[*ir.Value]*ir.Value{score: seed}
	for _, n := range slices.Backward(forward) {
		dy := make([]*ir.Value, len(n.Outputs))
		reached := false
		for i, v := range n.Outputs {
			dy[i] = adjoint[v]
			reached = reached || dy[i] != nil
		}
		want := make([]bool, len(n.Inputs))
		wanted := false
		for i, v := range n.Inputs {
			want[i] = v != nil && needs[v]
			wanted = wanted || want[i]
		}
		if !reached || !wanted || n.Op.NoGrad != "" {
			continue
		}
		b.Name, b.Scope = n.Name, n.Scope
		dx := n.Op.Grad(b, n, dy, want)
		if err := b.Err(); err != nil {
			return nil, nil, fmt.Errorf("gradient of node %q (%s): %w", n.Name, n.Op.Name, err)
		}
		for i, v := range n.Inputs {
			if !want[i] || dx[i] == nil {
				continue
			}
			if !dx[i].Shape().Equal(v.Shape()) {
				return nil, nil, fmt.Errorf("gradient of node %q (%s): input %d is %v, its gradient %v", n.Name, n.Op.Name, i, v.Shape(), dx[i].Shape())
			}
			if sum := adjoint[v]; sum != nil {
				adjoint[v] = b.Emit(op.BinaryOp("Add"), nil, sum, dx[i])
			} else {
				adjoint[v] = dx[i]
			}
		}
	}
	if err := b.Err(); err != nil {
		return nil, nil, err
	}
	for _, v := range wrt {
		d := adjoint[v]
		if d == nil { // every path runs through operations that are constant almost everywhere
			d = op.Scale(b, b.Const(v.Shape(), make([]float32, v.Shape().Elements())), 2)
		}
		gradients = append(gradients, d)
	}
	if err := b.Err(); err != nil {
		return nil, nil, err
	}
	hoistTape(g, len(forward))
	return seed, gradients, nil
}

// Depends reports whether score is computed from v.
func Depends(g *ir.Graph, score, v *ir.Value) bool { return needed(g.Nodes, score, []*ir.Value{v})[v] }

// needed finds the values on a path from one of wrt to score.
func needed(nodes []*ir.Node, score *ir.Value, wrt []*ir.Value) map[*ir.Value]bool {
	after := map[*ir.Value]bool{}
	for _, v := range wrt {
		after[v] = true
	}
	for _, n := range nodes {
		for _, v := range n.Inputs {
			if v != nil && after[v] {
				for _, o := range n.Outputs {
					after[o] = true
				}
			}
		}
	}
	before := map[*ir.Value]bool{score: true}
	for _, n := range slices.Backward(nodes) {
		if slices.ContainsFunc(n.Outputs, func(o *ir.Value) bool { return before[o] }) {
			for _, v := range n.Inputs {
				if v != nil {
					before[v] = true
				}
			}
		}
	}
	for v := range after {
		if !before[v] {
			delete(after, v)
		}
	}
	return after
}

// hoistTape moves the nodes that record a value in fewer bits (signs, pooling indices) from the backward part, g.Nodes[from:],
// to right behind the definition of that value, so that the value itself need not be kept.
func hoistTape(g *ir.Graph, from int) {
	tape := map[*ir.Node][]*ir.Node{} // nodes by the one to follow; nil for inputs and constants
	var backward []*ir.Node
	for _, n := range g.Nodes[from:] {
		if n.Out().Type.Elem != tensor.Float32 {
			tape[n.Inputs[0].Def] = append(tape[n.Inputs[0].Def], n)
		} else {
			backward = append(backward, n)
		}
	}
	nodes := slices.Clone(tape[nil])
	for _, n := range slices.Concat(g.Nodes[:from], backward) {
		nodes = append(nodes, n)
		nodes = append(nodes, tape[n]...)
	}
	g.Nodes = nodes
}

func valueName(v *ir.Value) string {
	if v.Name != "" {
		return fmt.Sprintf("%q", v.Name)
	}
	return v.String()
}
