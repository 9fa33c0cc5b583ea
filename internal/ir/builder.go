package ir

import (
	"fmt"

	"github.com/voxcam/voxcam/internal/tensor"
)

// Builder appends nodes to a graph. Its first error sticks: later calls return a placeholder and change nothing, so that a
// rule can be written as one expression and checked once with Err.
type Builder struct {
	Graph *Graph
	// Name and Scope are given to the nodes that follow.
	Name, Scope string
	err         error
}

// NewBuilder returns a builder that appends to g.Nodes.
func NewBuilder(g *Graph) *Builder { return &Builder{Graph: g} }

// Err returns the first error.
func (b *Builder) Err() error { return b.err }

// Fail records an error as the builder's first.
func (b *Builder) Fail(format string, args ...any) *Value {
	if b.err == nil {
		b.err = fmt.Errorf(format, args...)
	}
	return b.placeholder()
}

func (b *Builder) placeholder() *Value { return &Value{ID: -1} }

// Emit appends a node and returns its first output. Trailing nil inputs are dropped.
func (b *Builder) Emit(op *Op, attr any, inputs ...*Value) *Value {
	n := b.Node(op, attr, inputs...)
	if n == nil {
		return b.placeholder()
	}
	return n.Out()
}

// Node appends a node and returns it, or nil after an error.
func (b *Builder) Node(op *Op, attr any, inputs ...*Value) *Node {
	if b.err != nil {
		return nil
	}
	for len(inputs) > 0 && inputs[len(inputs)-1] == nil {
		inputs = inputs[:len(inputs)-1]
	}
	types, err := op.infer(attr, inputs)
	if err != nil {
		b.err = fmt.Errorf("%s: %w", op.Name, err)
		return nil
	}
	n := &Node{Op: op, Attr: attr, Inputs: inputs, Name: b.Name, Scope: b.Scope}
	for _, t := range types {
		v := b.Graph.NewValue("", t)
		v.Def = n
		n.Outputs = append(n.Outputs, v)
	}
	b.Graph.Nodes = append(b.Graph.Nodes, n)
	return n
}

// Const adds a constant.
func (b *Builder) Const(shape tensor.Shape, values []float32) *Value {
	if shape.Elements() != len(values) {
		return b.Fail("constant of shape %v has %d values", shape, len(values))
	}
	return b.Graph.Constant("", shape, tensor.Floats(values))
}

// Scalar adds a constant without axes.
func (b *Builder) Scalar(v float64) *Value { return b.Const(tensor.Shape{}, []float32{float32(v)}) }
