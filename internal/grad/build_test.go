package grad_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/reference"
	"github.com/voxcam/voxcam/internal/grad"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// small is f(x, z) = sum(relu(x)*z + z) - sum(x) with a branch that does not count, for inputs x and z and a weight.
type small struct {
	g              *ir.Graph
	x, z, aside    *ir.Value
	relu, floor, y *ir.Value
}

func newSmall(t *testing.T) small {
	t.Helper()
	s := small{g: &ir.Graph{}}
	b := ir.NewBuilder(s.g)
	s.x, s.z, s.aside = s.g.Input("x", ir.F32(3)), s.g.Input("z", ir.F32(3)), s.g.Input("aside", ir.F32(3))
	sum := func(v *ir.Value) *ir.Value { return b.Emit(op.ReduceSum, op.ReduceAttr{Axes: []int{0}}, v) }
	b.Name = "relu"
	s.relu = b.Emit(op.UnaryOp("Relu"), op.UnaryAttr{}, s.x)
	b.Name = ""
	both := b.Emit(op.BinaryOp("Add"), nil, b.Emit(op.BinaryOp("Mul"), nil, s.relu, s.z), s.z)
	s.floor = b.Emit(op.UnaryOp("Floor"), op.UnaryAttr{}, s.z)
	b.Emit(op.BinaryOp("Mul"), nil, s.aside, s.x) // which nobody reads
	s.y = b.Emit(op.BinaryOp("Sub"), nil, sum(b.Emit(op.BinaryOp("Add"), nil, both, s.floor)), sum(s.x))
	if err := b.Err(); err != nil {
		t.Fatal(err)
	}
	s.g.Outputs = []*ir.Value{s.y}
	return s
}

// Gradients of a function that can be differentiated by hand: sums over branches, in the order that was asked for, also in the middle
// of the graph.
func TestGradientsByHand(t *testing.T) {
	s := newSmall(t)
	seed, d, err := grad.Build(s.g, s.y, []*ir.Value{s.z, s.x, s.relu, s.floor, s.y})
	if err != nil {
		t.Fatal(err)
	}
	if seed.Name != "seed" || !seed.Shape().Equal(s.y.Shape()) || !slices.Contains(s.g.Inputs, seed) {
		t.Errorf("the seed is %q of %v", seed.Name, seed.Shape())
	}
	s.g.Outputs = append(s.g.Outputs, d...)
	if err := s.g.Verify(); err != nil {
		t.Fatal(err)
	}
	values, err := reference.Eval(context.Background(), s.g, map[*ir.Value][]float64{
		s.x: {-1, 2, 3}, s.z: {4, 5, -6}, s.aside: {0, 0, 0}, seed: {10},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]float64{{10, 30, 40}, {-10, 40, -70}, {40, 50, -60}, {10, 10, 10}, {10}} {
		if got := values[d[i]]; !slices.Equal(got, want) {
			t.Errorf("gradient %d is %v, want %v", i, got, want)
		}
	}
}

// The gradient by one operand is that of the operand, and nothing is computed for the other.
func TestGradientByOneOperand(t *testing.T) {
	for i := range 2 {
		g := &ir.Graph{}
		b := ir.NewBuilder(g)
		in := []*ir.Value{g.Input("x", ir.F32(3)), g.Input("z", ir.F32(3))}
		y := b.Emit(op.BinaryOp("Mul"), nil, b.Emit(op.UnaryOp("Silu"), op.UnaryAttr{}, in[1-i]), in[i])
		swapped := b.Emit(op.BinaryOp("Mul"), nil, in[i], y)
		if err := b.Err(); err != nil {
			t.Fatal(err)
		}
		before := len(g.Nodes)
		seed, d, err := grad.Build(g, swapped, []*ir.Value{in[i]})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(g.Nodes) - before; got != 4 { // two products for the outer node, one for the inner, and their sum
			t.Errorf("operand %d: %d nodes", i, got)
		}
		values, err := reference.Eval(context.Background(), g, map[*ir.Value][]float64{in[i]: {1, 2, 3}, in[1-i]: {20, 30, 40}, seed: {1, 1, 1}})
		if err != nil {
			t.Fatal(err)
		}
		for k, want := range []float64{2 * 20, 4 * 30, 6 * 40} { // of x^2 silu(z), silu being z that far from zero
			if got := values[d[0]][k]; got < want-1e-6 || got > want+1e-6 {
				t.Errorf("operand %d: gradient %d is %v, want %v", i, k, got, want)
			}
		}
	}
}

// What does not count has no gradient, which is an error that names it; what only counts by steps has the gradient zero.
func TestGradientsThatAreNone(t *testing.T) {
	s := newSmall(t)
	if _, _, err := grad.Build(s.g, s.y, []*ir.Value{s.x, s.aside}); err == nil || !strings.Contains(err.Error(), `does not depend on "aside"`) {
		t.Errorf("%v", err)
	}
	unnamed := s.g.Nodes[len(s.g.Nodes)-5].Out()
	for _, n := range s.g.Nodes {
		if n.Op.Name == "Mul" && slices.Contains(n.Inputs, s.aside) {
			unnamed = n.Out()
		}
	}
	if _, _, err := grad.Build(s.g, s.y, []*ir.Value{unnamed}); err == nil || !strings.Contains(err.Error(), "does not depend on "+unnamed.String()) {
		t.Errorf("%v", err)
	}

	g := &ir.Graph{}
	b := ir.NewBuilder(g)
	x := g.Input("x", ir.F32(3))
	y := b.Emit(op.UnaryOp("Floor"), op.UnaryAttr{}, x)
	seed, d, err := grad.Build(g, y, []*ir.Value{x})
	if err != nil {
		t.Fatal(err)
	}
	values, err := reference.Eval(context.Background(), g, map[*ir.Value][]float64{x: {1.5, 2.5, 3}, seed: {1, 1, 1}})
	if err != nil || !slices.Equal(values[d[0]], []float64{0, 0, 0}) {
		t.Errorf("the gradient of floor is %v, %v", values[d[0]], err)
	}
}

// The error of a rule names the node.
func TestErrorsNameTheNode(t *testing.T) {
	g := &ir.Graph{}
	b := ir.NewBuilder(g)
	x, w := g.Input("x", ir.F32(2, 3)), g.Input("w", ir.F32(3))
	b.Name = "norm1"
	y := b.Emit(op.Affine, nil, x, w, w)
	if _, _, err := grad.Build(g, y, []*ir.Value{w}); err == nil || !strings.Contains(err.Error(), `"norm1" (Affine)`) {
		t.Errorf("%v", err)
	}

	// A rule that gives something of another shape is a fault of the table.
	bad := &ir.Op{Name: "Bad", MinIn: 1, MaxIn: 1, Infer: op.UnaryOp("Relu").Infer,
		Grad: func(b *ir.Builder, _ *ir.Node, dy []*ir.Value, _ []bool) []*ir.Value {
			return []*ir.Value{b.Emit(op.Reshape, op.ReshapeAttr{Shape: tensor.Shape{3, 2}}, dy[0])}
		}}
	g = &ir.Graph{}
	b = ir.NewBuilder(g)
	x = g.Input("x", ir.F32(2, 3))
	b.Name = "bad1"
	y = b.Emit(bad, op.UnaryAttr{}, x)
	if err := b.Err(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := grad.Build(g, y, []*ir.Value{x}); err == nil || !strings.Contains(err.Error(), `"bad1" (Bad): input 0 is [2,3], its gradient [3,2]`) {
		t.Errorf("%v", err)
	}
}

// Nodes bear the name and the module of the one that they are the gradient of, and what only records a value in fewer bits comes right
// behind it, so that the value need not be kept.
func TestOrderAndNames(t *testing.T) {
	s := newSmall(t)
	forward := len(s.g.Nodes)
	if _, _, err := grad.Build(s.g, s.y, []*ir.Value{s.x}); err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(s.g.Nodes, func(n *ir.Node) bool { return n.Op == op.Bits })
	if at < 1 || s.g.Nodes[at-1].Out() != s.relu || at >= forward {
		t.Errorf("signs are taken by node %d of %d", at, forward)
	}
	for _, n := range s.g.Nodes {
		if (n.Op == op.Bits || n.Op == op.MaskBackward) && n.Name != "relu" {
			t.Errorf("%s is named %q", n.Op.Name, n.Name)
		}
	}

	// What records an input comes first.
	g := &ir.Graph{}
	b := ir.NewBuilder(g)
	x := g.Input("x", ir.F32(3))
	y := b.Emit(op.UnaryOp("LeakyRelu"), op.UnaryAttr{Alpha: 0.1}, b.Emit(op.Reshape, op.ReshapeAttr{Shape: tensor.Shape{3}}, x))
	y = b.Emit(op.BinaryOp("Add"), nil, y, b.Emit(op.UnaryOp("Clip"), op.UnaryAttr{Alpha: 0, Beta: 6}, x))
	if _, _, err := grad.Build(g, y, []*ir.Value{x}); err != nil {
		t.Fatal(err)
	}
	if err := g.Verify(); err != nil {
		t.Error(err)
	}
	if first := g.Nodes[0]; first.Op != op.Bits || first.Inputs[0] != x {
		t.Errorf("the first node is %s", first.Op.Name)
	}
}
