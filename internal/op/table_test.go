package op_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/grad"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

func TestNames(t *testing.T) {
	for _, o := range op.All {
		if got, ok := op.Named(o.Name); !ok || got != o {
			t.Errorf("%s is not found by its name", o.Name)
		}
	}
	if _, ok := op.Named("Nope"); ok {
		t.Error("an operation that there is not was found")
	}
	for _, name := range []string{"Min", "Equal"} {
		if row, ok := op.BinaryNamed(name); !ok || row.Name != name {
			t.Errorf("%s is not found", name)
		}
	}
	if row, ok := op.BinaryNamed("Relu"); ok {
		t.Errorf("a function of two variables called Relu: %+v", row)
	}
	if row, ok := op.UnaryNamed("Mish"); !ok || row.Name != "Mish" {
		t.Error("Mish is not found")
	}
	if row, ok := op.UnaryNamed("Add"); ok {
		t.Errorf("a function of one variable called Add: %+v", row)
	}
}

// What has no gradient is only known by its values; so are functions at their edges.
func TestValues(t *testing.T) {
	for name, values := range map[string][][2]float64{
		"Floor":           {{-1.5, -2}, {1.5, 1}, {2, 2}},
		"Ceil":            {{-1.5, -1}, {1.5, 2}, {2, 2}},
		"Round":           {{0.5, 0}, {1.5, 2}, {-2.5, -2}, {2.4, 2}}, // half to even, as ONNX and PyTorch
		"Sign":            {{-3, -1}, {0, 0}, {2, 1}},
		"Relu":            {{-1, 0}, {0, 0}, {2, 2}},
		"HardSwish":       {{-3, 0}, {-4, 0}, {3, 3}, {4, 4}, {0, 0}, {1, 2. / 3}},
		"Softplus":        {{-800, 0}, {800, 800}, {0, math.Ln2}},
		"Sigmoid":         {{-800, 0}, {800, 1}, {0, 0.5}},
		"Erf":             {{0, 0}, {1, 0.8427007929497149}},
		"Gelu":            {{0, 0}, {1, 0.8413447460685429}, {-1, -0.15865525393145707}},
		"GeluTanh":        {{0, 0}, {1, 0.8411919906082768}},
		"Mish":            {{0, 0}, {1, 0.8650983882673103}},
		"Silu":            {{0, 0}, {1, 0.7310585786300049}},
		"Abs":             {{-2, 2}, {3, 3}},
		"ThresholdedRelu": {{0.2, 0}, {0.3, 0}, {0.4, 0.4}},
		"LeakyRelu":       {{-2, -0.6}, {0, 0}, {3, 3}},
		"Elu":             {{-1, 0.3 * (1/math.E - 1)}, {0, 0}, {3, 3}},
		"Celu":            {{-0.3, 0.3 * (1/math.E - 1)}, {0, 0}, {3, 3}},
		"Selu":            {{-1, 2 * 0.3 * (1/math.E - 1)}, {0, 0}, {3, 6}},
		"HardSigmoid":     {{-10, 0}, {10, 1}, {-5, 0.5}},
		"Clip":            {{-1, 0.3}, {1, 1}, {5, 2}},
		"Linear":          {{2, 2.6}},
	} {
		row, ok := op.UnaryNamed(name)
		if !ok {
			t.Fatal(name)
		}
		for _, v := range values {
			if got := row.Apply(v[0], op.UnaryAttr{Alpha: 0.3, Beta: 2}); math.Abs(got-v[1]) > 1e-14*max(1, math.Abs(v[1])) {
				t.Errorf("%s(%v) is %v, want %v", name, v[0], got, v[1])
			}
		}
	}
	for name, want := range map[string][3]float64{ // of (1, 2), (2, 2), (3, 2)
		"Greater": {0, 0, 1}, "GreaterOrEqual": {0, 1, 1}, "Less": {1, 0, 0}, "LessOrEqual": {1, 1, 0}, "Equal": {0, 1, 0},
		"Max": {2, 2, 3}, "Min": {1, 2, 2}, "Sub": {-1, 0, 1}, "Div": {0.5, 1, 1.5}, "Pow": {1, 4, 9},
	} {
		row, _ := op.BinaryNamed(name)
		for i, x := range []float64{1, 2, 3} {
			if got := row.Apply(x, 2); got != want[i] {
				t.Errorf("%s(%v, 2) is %v, want %v", name, x, got, want[i])
			}
		}
	}
}

// Slopes at kinks and in limits, which PyTorch defines.
func TestSlopes(t *testing.T) {
	for _, c := range []struct {
		name     string
		at, want float64
		a        op.UnaryAttr
	}{
		{"HardSwish", -3, 0, op.UnaryAttr{}}, {"HardSwish", 3, 1, op.UnaryAttr{}}, {"HardSwish", 0, 0.5, op.UnaryAttr{}},
		{"Abs", 0, 0, op.UnaryAttr{}}, {"Abs", -2, -1, op.UnaryAttr{}},
		{"Elu", 0, 0.5, op.UnaryAttr{Alpha: 0.5}}, {"Celu", 0, 1, op.UnaryAttr{Alpha: 0.5}}, {"Selu", 0, 1, op.UnaryAttr{Alpha: 0.5, Beta: 2}},
		{"PowConst", 0, 0, op.UnaryAttr{}}, {"PowConst", 0, 0, op.UnaryAttr{Alpha: 2}}, {"PowConst", 3, 6, op.UnaryAttr{Alpha: 2}},
	} {
		row, _ := op.UnaryNamed(c.name)
		if got := row.Slope(c.at, c.a); got != c.want {
			t.Errorf("the slope of %s %+v at %v is %v, want %v", c.name, c.a, c.at, got, c.want)
		}
	}
}

// Weights and parameters are constants: a gradient with respect to one is refused, with the reason.
func TestGradientsThatThereAreNot(t *testing.T) {
	one := [3]int{1, 1, 1}
	conv := op.ConvAttr{Stride: one, Dilation: one, Groups: 1}
	x := tensor.Shape{1, 2, 2, 2, 3}
	for _, c := range []struct {
		op   *ir.Op
		attr any
		in   []tensor.Shape
	}{
		{op.Conv, conv, []tensor.Shape{x, {3, 3, 1, 1, 1}, {3}}},
		{op.ConvBackwardData, op.ConvBackwardDataAttr{Conv: conv, In: [3]int{2, 2, 2}}, []tensor.Shape{x, {3, 3, 1, 1, 1}, {3}}},
		{op.Affine, nil, []tensor.Shape{x, {3}, {3}}},
		{op.GroupNorm, op.GroupNormAttr{Groups: 1}, []tensor.Shape{x, {3}, {3}}},
		{op.LayerNorm, op.LayerNormAttr{Axes: 1}, []tensor.Shape{x, {3}, {3}}},
		{op.PRelu, nil, []tensor.Shape{x, {3}}},
	} {
		for i := range c.in {
			g := &ir.Graph{}
			b := ir.NewBuilder(g)
			var in []*ir.Value
			for _, s := range c.in {
				in = append(in, g.Input("", ir.Type{Shape: s}))
			}
			y := b.Emit(c.op, c.attr, in...)
			if err := b.Err(); err != nil {
				t.Fatal(err)
			}
			_, _, err := grad.Build(g, y, []*ir.Value{in[i]})
			if refused := err != nil && strings.Contains(err.Error(), "must be constant"); refused != (i > 0) {
				t.Errorf("the gradient of %s by input %d: %v", c.op.Name, i, err)
			}
		}
	}
}

// Nothing is computed that is not needed: a gradient by one operand has no node for the other, and sums, scales and reshapes that change
// nothing are none.
func TestGradientsAreSmall(t *testing.T) {
	s := tensor.Shape{2, 3}
	for _, c := range []struct {
		op   *ir.Op
		attr any
		in   []tensor.Shape
		by   int
		want string // the nodes
	}{
		{op.BinaryOp("Add"), nil, []tensor.Shape{s, s}, 0, ""},
		{op.BinaryOp("Add"), nil, []tensor.Shape{s, {3}}, 1, "ReduceSum Reshape"},
		{op.BinaryOp("Add"), nil, []tensor.Shape{s, {2, 1}}, 1, "ReduceSum"},
		{op.BinaryOp("Add"), nil, []tensor.Shape{s, {1, 2, 3}}, 0, "ReduceSum Reshape"},
		{op.BinaryOp("Sub"), nil, []tensor.Shape{s, s}, 0, ""},
		{op.BinaryOp("Sub"), nil, []tensor.Shape{s, s}, 1, "Linear"},
		{op.BinaryOp("Mul"), nil, []tensor.Shape{s, s}, 0, "Mul"},
		{op.BinaryOp("Mul"), nil, []tensor.Shape{s, s}, 1, "Mul"},
		{op.BinaryOp("Div"), nil, []tensor.Shape{s, s}, 0, "Div"},
		{op.BinaryOp("Div"), nil, []tensor.Shape{s, s}, 1, "Mul Div Linear"},
		{op.BinaryOp("Pow"), nil, []tensor.Shape{s, s}, 0, "Linear Mul Pow Mul"},
		{op.BinaryOp("Pow"), nil, []tensor.Shape{s, s}, 1, "Mul Log Mul"},
		{op.BinaryOp("Max"), nil, []tensor.Shape{s, s}, 0, "GreaterOrEqual Equal Linear Sub Mul"},
		{op.BinaryOp("Min"), nil, []tensor.Shape{s, s}, 1, "LessOrEqual Equal Linear Sub Mul"},
		{op.Where, nil, []tensor.Shape{s, s, s}, 1, "Where"},
		{op.Where, nil, []tensor.Shape{s, s, s}, 2, "Where"},
		{op.UnaryOp("Linear"), op.UnaryAttr{Alpha: 1, Beta: 3}, []tensor.Shape{s}, 0, ""},
		{op.UnaryOp("Linear"), op.UnaryAttr{Alpha: 2, Beta: 3}, []tensor.Shape{s}, 0, "Linear"},
		{op.UnaryOp("Silu"), op.UnaryAttr{}, []tensor.Shape{s}, 0, "UnaryBackward"},
		{op.MatMul, op.MatMulAttr{}, []tensor.Shape{s, {3, 4}}, 0, "MatMul"},
		{op.MatMul, op.MatMulAttr{}, []tensor.Shape{s, {3, 4}}, 1, "MatMul"},
		{op.Reshape, op.ReshapeAttr{Shape: s}, []tensor.Shape{s}, 0, ""},
		{op.ReduceSum, op.ReduceAttr{Axes: []int{1}}, []tensor.Shape{{2, 1}}, 0, ""},
		{op.ReduceSum, op.ReduceAttr{Axes: []int{1}}, []tensor.Shape{s}, 0, "Expand"},
		{op.Concat, op.ConcatAttr{Axis: 1}, []tensor.Shape{s, s}, 1, "Slice"},
	} {
		g := &ir.Graph{}
		b := ir.NewBuilder(g)
		var in []*ir.Value
		for _, s := range c.in {
			in = append(in, g.Input("", ir.Type{Shape: s}))
		}
		y := b.Emit(c.op, c.attr, in...)
		if err := b.Err(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := grad.Build(g, y, []*ir.Value{in[c.by]}); err != nil {
			t.Fatal(err)
		}
		var nodes []string
		for _, n := range g.Nodes[1:] {
			nodes = append(nodes, n.Op.Name)
		}
		if got := strings.Join(nodes, " "); got != c.want {
			t.Errorf("the gradient of %s %v by input %d is %q, want %q", c.op.Name, c.in, c.by, got, c.want)
		}
	}
}

// A sum over nothing is a reshape. Rules go on with what there is after an error, which is reported in the end.
func TestSumTo(t *testing.T) {
	g := &ir.Graph{}
	b := ir.NewBuilder(g)
	x := g.Input("x", ir.F32(2, 3))
	if v := op.SumTo(b, x, tensor.Shape{1, 2, 3}); v.Def.Op != op.Reshape || v.Def.Inputs[0] != x {
		t.Errorf("another axis is %v", v.Def.Op.Name)
	}
	nodes := len(g.Nodes)
	if v := op.SumTo(b, nil, tensor.Shape{3}); v != nil || b.Err() != nil {
		t.Errorf("the sum of nothing: %v, %v", v, b.Err())
	}
	b.Fail("deliberate")
	if v := op.SumTo(b, x, tensor.Shape{3}); v != x || len(g.Nodes) > nodes {
		t.Errorf("the sum after an error: %v, %d nodes", v, len(g.Nodes))
	}
	if v := op.SumTo(b, nil, tensor.Shape{3}); v != nil {
		t.Errorf("the sum of nothing after an error: %v", v)
	}
}

// The gradient of relu keeps the sign of its output, which may overwrite the input; that of others keeps what their slope is written in.
func TestWhatGradientsRead(t *testing.T) {
	for name, output := range map[string]bool{"Relu": true, "LeakyRelu": false, "Sigmoid": true, "Tanh": true, "Silu": false, "Exp": true, "Log": false} {
		g := &ir.Graph{}
		b := ir.NewBuilder(g)
		x := g.Input("x", ir.F32(4))
		y := b.Emit(op.UnaryOp(name), op.UnaryAttr{Alpha: 0.1}, x)
		if _, _, err := grad.Build(g, y, []*ir.Value{x}); err != nil {
			t.Fatal(err)
		}
		read := func(v *ir.Value) bool {
			return slices.ContainsFunc(g.Nodes, func(n *ir.Node) bool { return n != y.Def && slices.Contains(n.Inputs, v) })
		}
		if read(y) != output || read(x) == output {
			t.Errorf("the gradient of %s reads the output: %v, the input: %v", name, read(y), read(x))
		}
	}
}
