// Package reference evaluates graphs in float64 on whole tensors, naively. It is the oracle of the backends' tests, of the
// finite differences that check gradient rules. It is meant to be read and believed, not to be fast.
//
// All values are []float64 in row-major order, whatever their element type: bits are 0 or 1, pooling indices are numbers.
package reference

import (
	"context"
	"fmt"
	"maps"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// A kernel computes the outputs of a node. Inputs that are absent are nil. The sizes have been checked.
type kernel func(n *ir.Node, in [][]float64) ([]float64, error)

// kernels has one entry for each operation of op.All; each of them has one output.
var kernels = makeKernels()

func makeKernels() map[*ir.Op]kernel {
	m := map[*ir.Op]kernel{}
	for _, table := range []map[*ir.Op]kernel{
		pointwiseKernels, windowKernels, statisticsKernels, momentsKernels, shapeKernels,
	} {
		maps.Copy(m, table)
	}
	for i := range op.Unaries {
		m[op.UnaryOp(op.Unaries[i].Name)] = unary(&op.Unaries[i])
	}
	for _, rows := range [][]op.Binary{op.Binaries, op.Compares} {
		for i := range rows {
			m[op.BinaryOp(rows[i].Name)] = binary(&rows[i])
		}
	}
	return m
}

// Eval computes every value of the graph from those of its inputs; constants that the graph uses are in the result too.
func Eval(ctx context.Context, g *ir.Graph, inputs map[*ir.Value][]float64) (map[*ir.Value][]float64, error) {
	values := make(map[*ir.Value][]float64, len(g.Nodes)+len(inputs))
	for _, v := range g.Inputs {
		x, ok := inputs[v]
		if !ok {
			return nil, fmt.Errorf("reference: input %v (%q) has no data", v, v.Name)
		}
		if len(x) != v.Shape().Elements() {
			return nil, fmt.Errorf("reference: input %v (%q) has %d values, its shape %v wants %d",
				v, v.Name, len(x), v.Shape(), v.Shape().Elements())
		}
		values[v] = x
	}
	for _, v := range g.Outputs {
		if v.Const != nil {
			values[v] = Const(v.Const)
		}
	}
	for _, n := range g.Nodes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		in := make([][]float64, len(n.Inputs))
		for i, v := range n.Inputs {
			if v == nil {
				continue
			}
			if v.Const != nil && values[v] == nil {
				values[v] = Const(v.Const)
			}
			in[i] = values[v]
		}
		out, err := Node(n, in)
		if err != nil {
			return nil, err
		}
		values[n.Out()] = out
	}
	return values, nil
}

// Node computes the output of one node from its inputs (nil where an optional one is absent). The result may be an input.
func Node(n *ir.Node, in [][]float64) ([]float64, error) {
	f := kernels[n.Op]
	if f == nil {
		return nil, fmt.Errorf("reference: no rule for %s", n.Op.Name)
	}
	for i, v := range n.Inputs {
		if v != nil && len(in[i]) != v.Shape().Elements() {
			return nil, fmt.Errorf("reference: %s %q: input %d has %d values, its shape is %v", n.Op.Name, n.Name, i, len(in[i]), v.Shape())
		}
	}
	out, err := f(n, in)
	if err == nil && len(out) != n.Out().Shape().Elements() {
		err = fmt.Errorf("%d values instead of %v", len(out), n.Out().Shape())
	}
	if err != nil {
		return nil, fmt.Errorf("reference: %s %q: %w", n.Op.Name, n.Name, err)
	}
	return out, nil
}

// Const decodes a constant.
func Const(c *tensor.Const) []float64 {
	out := make([]float64, c.Len())
	for i := range out {
		out[i] = c.At(i)
	}
	return out
}

// each calls f for every index of a shape, in row-major order. The index is reused.
func each(s tensor.Shape, f func(flat int, index []int)) {
	index := make([]int, len(s))
	for flat := range s.Elements() {
		f(flat, index)
		for i := len(s) - 1; i >= 0; i-- {
			index[i]++
			if index[i] < s[i] {
				break
			}
			index[i] = 0
		}
	}
}

// at returns the row-major position of an index in a tensor of shape s that broadcasts: axes are aligned at the innermost one, and
// axes of size 1 ignore the index.
func at(s tensor.Shape, index []int) int {
	flat, lead := 0, len(index)-len(s)
	for i, d := range s {
		flat *= d
		if d != 1 {
			flat += index[lead+i]
		}
	}
	return flat
}

func shapeOf(n *ir.Node, i int) tensor.Shape { return n.Inputs[i].Shape() }
