// Package ir is the program's representation of a network: a graph of operations on values with static shapes.
//
// A Graph is a list of nodes in topological order. Every value is defined once: by a node, as an input, or as a constant.
// Tensors are row-major in the order of their axes; operations on images are channels-last, [N, D, H, W, C]. The meaning of an
// operation, its shape rule and its gradient are one entry in package op.
//
// Invariants, checked by Verify:
//
//	G1 a node's inputs are defined before it: inputs, constants, or outputs of earlier nodes
//	G2 a value is defined once
//	G3 output shapes and types follow from the operation's shape rule
//	G4 outputs and targets are values of the graph
package ir

import (
	"fmt"
	"slices"

	"github.com/voxcam/voxcam/internal/tensor"
)

// Type is the shape and element type of a value, which are known before anything runs.
type Type struct {
	Shape tensor.Shape
	Elem  tensor.Type
}

func (t Type) String() string { return t.Elem.String() + t.Shape.String() }

// F32 returns the type of a float32 tensor.
func F32(shape ...int) Type { return Type{Shape: shape} }

// Value is a tensor that flows through the graph.
type Value struct {
	ID    int    // unique in the graph, stable over passes
	Name  string // name in the file, or "" for a value that a pass made
	Type  Type
	Const *tensor.Const // the data of a constant, else nil
	Def   *Node         // the node that computes it, nil for inputs and constants
}

// Shape returns v.Type.Shape.
func (v *Value) Shape() tensor.Shape { return v.Type.Shape }

func (v *Value) String() string { return fmt.Sprintf("%%%d", v.ID) }

// Node is one operation applied to values.
type Node struct {
	Op      *Op
	Attr    any // a value of the operation's attribute struct, nil where it has none
	Inputs  []*Value
	Outputs []*Value
	Name    string // name of the node in the file that it came from
	Scope   string // path of the PyTorch module that it belongs to, dots between names; "" if unknown
}

// Out returns the node's first output.
func (n *Node) Out() *Value { return n.Outputs[0] }

// In returns input i, or nil when an optional input is absent.
func (n *Node) In(i int) *Value {
	if i < len(n.Inputs) {
		return n.Inputs[i]
	}
	return nil
}

// Op is an operation: the facts that passes, the differentiator and the planner need. Package op has the table.
type Op struct {
	Name   string
	MinIn  int
	MaxIn  int // -1 for any number
	Attr   any // zero value of the attribute struct, nil for none
	Inputs []string
	// Infer returns the types of the outputs.
	Infer func(attr any, in []Type) ([]Type, error)
	// Grad emits the gradients of the inputs from those of the outputs (nil where an output has none). want says which
	// inputs need one; others may stay nil. A nil rule means that the operation has no gradient, for the reason NoGrad.
	Grad   func(b *Builder, n *Node, dy []*Value, want []bool) []*Value
	NoGrad string
	// Permute returns the attributes of the same operation on tensors whose axes were all reordered, axis i of the new ones
	// being axis perm[i] of the old. It is nil where the operation cannot be reordered.
	Permute func(attr any, perm []int) any
	// InPlace says that the first output may overwrite the first input of the same type and shape.
	InPlace bool
	// View says that the output is the input's storage with another shape.
	View bool
	// Slab says which planes [lo, hi) of an input, along depth (axis 1), planes [z0, z1) of the output are made of; lo and hi
	// grow with z0 and z1 and lie inside the input. ok is false when this node needs its inputs whole. Only inputs and outputs
	// that HasDepth are asked about. Nil means that no node of the operation can run on slabs, for the reason NoSlab unless Accumulates is
	// set.
	Slab   func(n *Node, input, z0, z1 int) (lo, hi int, ok bool)
	NoSlab string
	// AcrossPlanes says that a plane of the output needs other planes of the inputs than the one in the same place: backends see
	// the whole node and find the planes themselves. To them, each plane of another operation is a node of its own.
	AcrossPlanes bool
	// Accumulates reports whether the node is a reduction along depth: its output has no depth, and can be accumulated from its inputs
	// some planes at a time, in order. Nil means that it is not.
	Accumulates func(n *Node) bool
	// Separable returns the sources of the output's elements, for operations that move elements along each axis by itself. Backends
	// compute all of them by the same kernels. Nil for other operations.
	Separable func(n *Node) Separable
	// Flops is the number of floating-point operations of a node, for the planner. Nil means one for each element of the output.
	Flops func(n *Node) float64
}

// HasDepth reports whether a value is an image that can be cut along depth: [1, D, H, W, C] with more than one plane.
func (v *Value) HasDepth() bool {
	s := v.Shape()
	return v.Const == nil && len(s) == 5 && s[0] == 1 && s[1] > 1
}

// Target is an activation that is explained: the output of the target layer.
type Target struct {
	Value *Value
	// Axes has the meaning of each axis of Value.
	Axes Axes
	// Label is the layer as the user named it.
	Label string
}

// Graph is a network with static shapes.
type Graph struct {
	Nodes   []*Node
	Inputs  []*Value
	Outputs []*Value
	Targets []Target
	nextID  int
}

// NewValue makes a value of the graph that nothing defines yet.
func (g *Graph) NewValue(name string, t Type) *Value {
	v := &Value{ID: g.nextID, Name: name, Type: t}
	g.nextID++
	return v
}

// Input adds an input.
func (g *Graph) Input(name string, t Type) *Value {
	v := g.NewValue(name, t)
	g.Inputs = append(g.Inputs, v)
	return v
}

// Constant adds a float32 constant. The number of elements must be the shape's.
func (g *Graph) Constant(name string, shape tensor.Shape, c *tensor.Const) *Value {
	v := g.NewValue(name, Type{Shape: shape})
	v.Const = c
	return v
}

// Uses maps each value to the nodes that read it, in order, a node once for each input that does.
func (g *Graph) Uses() map[*Value][]*Node {
	uses := make(map[*Value][]*Node, len(g.Nodes)*2)
	for _, n := range g.Nodes {
		for _, v := range n.Inputs {
			if v != nil {
				uses[v] = append(uses[v], n)
			}
		}
	}
	return uses
}

// Replace makes every reader of old, the outputs and the targets included, read the equal value new instead.
func (g *Graph) Replace(old, new *Value) {
	for _, n := range g.Nodes {
		for i, v := range n.Inputs {
			if v == old {
				n.Inputs[i] = new
			}
		}
	}
	for i, v := range g.Outputs {
		if v == old {
			g.Outputs[i] = new
		}
	}
	for i := range g.Targets {
		if g.Targets[i].Value == old {
			g.Targets[i].Value = new
		}
	}
	if new.Name == "" {
		new.Name = old.Name
	}
}

// Prune removes the nodes that no output and no target depends on.
func (g *Graph) Prune() {
	live := map[*Value]bool{}
	for _, v := range g.Outputs {
		live[v] = true
	}
	for _, t := range g.Targets {
		live[t.Value] = true
	}
	kept := make([]*Node, 0, len(g.Nodes))
	for _, n := range slices.Backward(g.Nodes) {
		if !slices.ContainsFunc(n.Outputs, func(v *Value) bool { return live[v] }) {
			continue
		}
		for _, v := range n.Inputs {
			if v != nil {
				live[v] = true
			}
		}
		kept = append(kept, n)
	}
	slices.Reverse(kept)
	g.Nodes = kept
}

// Clone returns a graph of its own nodes and values (IDs kept); constants are shared.
func (g *Graph) Clone() (*Graph, map[*Value]*Value) {
	out := &Graph{nextID: g.nextID}
	twin := map[*Value]*Value{nil: nil}
	value := func(v *Value) *Value {
		if t, ok := twin[v]; ok {
			return t
		}
		c := *v
		c.Def = nil
		twin[v] = &c
		return &c
	}
	values := func(vs []*Value) []*Value {
		if vs == nil {
			return nil
		}
		out := make([]*Value, len(vs))
		for i, v := range vs {
			out[i] = value(v)
		}
		return out
	}
	out.Inputs = values(g.Inputs)
	for _, n := range g.Nodes {
		c := *n
		c.Inputs, c.Outputs = values(n.Inputs), values(n.Outputs)
		for _, v := range c.Outputs {
			v.Def = &c
		}
		out.Nodes = append(out.Nodes, &c)
	}
	out.Outputs = values(g.Outputs)
	for _, t := range g.Targets {
		t.Value = value(t.Value)
		out.Targets = append(out.Targets, t)
	}
	return out, twin
}

// Verify checks the invariants G1 to G4.
func (g *Graph) Verify() error {
	defined := map[*Value]bool{}
	ids := map[int]*Value{}
	define := func(v *Value, what string) error {
		if defined[v] {
			return fmt.Errorf("ir: G2: %v is defined twice, the second time by %s", v, what)
		}
		if other := ids[v.ID]; other != nil && other != v {
			return fmt.Errorf("ir: G2: two values are called %v", v)
		}
		defined[v], ids[v.ID] = true, v
		return nil
	}
	for _, v := range g.Inputs {
		if err := define(v, "the inputs"); err != nil {
			return err
		}
	}
	for _, n := range g.Nodes {
		types := make([]Type, len(n.Inputs))
		for i, v := range n.Inputs {
			if v == nil {
				continue
			}
			if v.Const == nil && !defined[v] {
				return fmt.Errorf("ir: G1: %s reads %v before it is defined", n.describe(), v)
			}
			types[i] = v.Type
		}
		want, err := n.Op.infer(n.Attr, n.Inputs)
		if err != nil {
			return fmt.Errorf("ir: G3: %s: %w", n.describe(), err)
		}
		if len(want) != len(n.Outputs) {
			return fmt.Errorf("ir: G3: %s has %d outputs, not %d", n.describe(), len(n.Outputs), len(want))
		}
		for i, v := range n.Outputs {
			if v.Type.Elem != want[i].Elem || !v.Type.Shape.Equal(want[i].Shape) {
				return fmt.Errorf("ir: G3: %s: output %d is %v, not %v", n.describe(), i, v.Type, want[i])
			}
			if v.Def != n {
				return fmt.Errorf("ir: G2: %v does not know that %s defines it", v, n.describe())
			}
			if err := define(v, n.describe()); err != nil {
				return err
			}
		}
	}
	for _, v := range g.Outputs {
		if !defined[v] && v.Const == nil {
			return fmt.Errorf("ir: G4: output %v is not defined", v)
		}
	}
	for _, t := range g.Targets {
		if !defined[t.Value] || len(t.Axes) != len(t.Value.Shape()) {
			return fmt.Errorf("ir: G4: target %s (%v, axes %v) is not a defined value of that rank", t.Label, t.Value, t.Axes)
		}
	}
	return nil
}

func (n *Node) describe() string {
	if n.Name != "" {
		return fmt.Sprintf("%s %q", n.Op.Name, n.Name)
	}
	return n.Op.Name
}

func (op *Op) infer(attr any, inputs []*Value) ([]Type, error) {
	if len(inputs) < op.MinIn || op.MaxIn >= 0 && len(inputs) > op.MaxIn {
		return nil, fmt.Errorf("%s takes %d to %d inputs, not %d", op.Name, op.MinIn, op.MaxIn, len(inputs))
	}
	types := make([]Type, len(inputs))
	for i, v := range inputs {
		if v == nil {
			if i < op.MinIn {
				return nil, fmt.Errorf("%s: input %d is missing", op.Name, i)
			}
			continue
		}
		types[i] = v.Type
	}
	out, err := op.Infer(attr, types)
	if err != nil {
		return nil, err
	}
	for _, t := range out {
		if err := t.Shape.Check(); err != nil {
			return nil, fmt.Errorf("%s: %w", op.Name, err)
		}
	}
	return out, nil
}
