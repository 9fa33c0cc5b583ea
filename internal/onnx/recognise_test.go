package onnx

import (
	"context"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/pass"
	"github.com/voxcam/voxcam/internal/tensor"
)

func constant(name string, v float32) *Tensor { return floats(name, sh{}, v) }

// recogniseCases spell out an operation in one of the ways that exporters do.
var recogniseCases = []struct {
	importCase
	ops []string // what is left
}{
	{importCase{name: "silu", nodes: []*Node{node("Sigmoid", "x", "s"), node("Mul", "s x", "y")}}, []string{"Silu"}},
	{importCase{name: "mish", nodes: []*Node{node("Softplus", "x", "s"), node("Tanh", "s", "t"), node("Mul", "x t", "y")}}, []string{"Mish"}},
	{importCase{name: "gelu", constants: []*Tensor{constant("r", 1.4142135), constant("one", 1), constant("half", 0.5)},
		nodes: []*Node{node("Div", "x r", "d"), node("Erf", "d", "e"), node("Add", "e one", "p"), node("Mul", "x p", "m"), node("Mul", "m half", "y")}}, []string{"Gelu"}},
	{importCase{name: "gelu, half first", constants: []*Tensor{constant("r", 0.70710677), constant("one", 1), constant("half", 0.5)},
		nodes: []*Node{node("Mul", "x half", "h"), node("Mul", "x r", "d"), node("Erf", "d", "e"), node("Add", "one e", "p"), node("Mul", "h p", "y")}}, []string{"Gelu"}},
	{importCase{name: "gelu by tanh", constants: []*Tensor{constant("c", 0.7978846), constant("k", 0.044715), constant("three", 3), constant("one", 1), constant("half", 0.5)},
		nodes: []*Node{node("Pow", "x three", "p3"), node("Mul", "p3 k", "kp"), node("Add", "x kp", "in"), node("Mul", "in c", "ci"), node("Tanh", "ci", "t"),
			node("Add", "t one", "t1"), node("Mul", "x half", "h"), node("Mul", "h t1", "y")}}, []string{"GeluTanh"}},
	{importCase{name: "hard swish", constants: []*Tensor{constant("three", 3), constant("zero", 0), constant("six", 6)},
		nodes: []*Node{node("Add", "x three", "a"), node("Clip", "a zero six", "c"), node("Mul", "x c", "m"), node("Div", "m six", "y")}}, []string{"HardSwish"}},
	{importCase{name: "another slope is no silu", constants: []*Tensor{constant("k", 1.702)},
		nodes: []*Node{node("Mul", "x k", "k1"), node("Sigmoid", "k1", "s"), node("Mul", "x s", "y")}}, []string{"Linear", "Sigmoid", "Mul"}},
	{importCase{name: "group norm", constants: []*Tensor{list("to", 0, 2, -1), floats("one", sh{2}, 1), floats("zero", sh{2}, 0), list("back", 1, 4, 2, 3, 2),
		floats("g", sh{4, 1, 1, 1}, 1, 2, 3, 4), floats("b", sh{4, 1, 1, 1}, 4, 3, 2, 1)},
		nodes: []*Node{node("Reshape", "x to", "r"), node("InstanceNormalization", "r one zero", "i"), node("Reshape", "i back", "q"), node("Mul", "q g", "m"), node("Add", "m b", "y")}},
		[]string{"Transpose", "GroupNorm", "Transpose"}},
	{importCase{name: "group norm without parameters", constants: []*Tensor{list("to", 0, 2, -1), floats("one", sh{2}, 1), floats("zero", sh{2}, 0), list("back", 1, 4, 2, 3, 2)},
		nodes: []*Node{node("Reshape", "x to", "r"), node("InstanceNormalization", "r one zero", "i"), node("Reshape", "i back", "y")}},
		[]string{"Transpose", "GroupNorm", "Transpose"}},
	{importCase{name: "layer norm of channels, mean taken twice", constants: []*Tensor{constant("two", 2), constant("eps", 1e-6), floats("g", sh{4, 1, 1, 1}, 1, 2, 3, 4), floats("b", sh{4, 1, 1, 1}, 4, 3, 2, 1)},
		nodes: []*Node{node("ReduceMean", "x", "u", aInts("axes", 1)), node("Sub", "x u", "d1"), node("Pow", "d1 two", "p"), node("ReduceMean", "p", "v", aInts("axes", 1)),
			node("Sub", "x u", "d2"), node("Add", "v eps", "ve"), node("Sqrt", "ve", "s"), node("Div", "d2 s", "q"), node("Mul", "g q", "m"), node("Add", "m b", "y")}},
		[]string{"Transpose", "LayerNorm", "Transpose"}},
	{importCase{name: "layer norm of the last axis", constants: []*Tensor{constant("eps", 1e-6), floats("g", sh{2}, 1, 2)},
		nodes: []*Node{node("ReduceMean", "x", "u", aInts("axes", -1)), node("Sub", "x u", "d"), node("Mul", "d d", "p"), node("ReduceMean", "p", "v", aInts("axes", -1)),
			node("Add", "v eps", "ve"), node("Sqrt", "ve", "s"), node("Reciprocal", "s", "i"), node("Mul", "d i", "q"), node("Mul", "q g", "y")}},
		[]string{"LayerNorm"}},
	{importCase{name: "zeros before a convolution", constants: []*Tensor{list("p", 0, 0, 1, 0, 1, 0, 0, 0, 1, 2), floats("w", sh{1, 4, 2, 2, 2}, 1, -1, 2)},
		nodes: []*Node{node("Pad", "x p", "z"), node("Conv", "z w", "y")}}, []string{"Transpose", "Conv", "Transpose"}},
	{importCase{name: "an edge before a convolution stays", constants: []*Tensor{list("p", 0, 0, 1, 0, 1, 0, 0, 0, 1, 2), floats("w", sh{1, 4, 2, 2, 2}, 1)},
		nodes: []*Node{node("Pad", "x p", "z", aText("mode", "edge")), node("Conv", "z w", "y")}}, []string{"Pad", "Transpose", "Conv", "Transpose"}},
	{importCase{name: "zeros before an average", constants: []*Tensor{list("p", 0, 0, 1, 0, 1, 0, 0, 0, 1, 2)},
		nodes: []*Node{node("Pad", "x p", "z"), node("AveragePool", "z", "y", aInts("kernel_shape", 2, 2, 2))}}, []string{"Transpose", "AvgPool", "Transpose"}},
	{importCase{name: "zeros before a maximum stay", constants: []*Tensor{list("p", 0, 0, 1, 0, 1, 0, 0, 0, 1, 2)},
		nodes: []*Node{node("Pad", "x p", "z"), node("MaxPool", "z", "y", aInts("kernel_shape", 2, 2, 2))}}, []string{"Pad", "Transpose", "MaxPool", "Transpose"}},
}

func opsOf(g *ir.Graph) (ops []string) {
	for _, n := range g.Nodes {
		ops = append(ops, n.Op.Name)
	}
	return ops
}

func TestRecognise(t *testing.T) {
	for _, c := range recogniseCases {
		t.Run(c.name, func(t *testing.T) {
			im := importOf(t, c.importCase)
			want := evaluateModel(t, im)
			y := im.Graph.Outputs[0]
			if err := pass.Run(context.Background(), im.Graph, nil, pass.Recognition); err != nil {
				t.Fatal(err)
			}
			if got := opsOf(im.Graph); !slices.Equal(got, c.ops) {
				t.Errorf("%v is left, not %v", got, c.ops)
			}
			if im.Graph.Outputs[0] != y || y.Name != "y" {
				t.Error("the output is another value now")
			}
			got := evaluateModel(t, im)
			if d := distance(t, got, want); !(d < 1e-6) {
				t.Errorf("values differ by %g", d)
			}
		})
	}
}

func importOf(t *testing.T, c importCase) *Imported {
	t.Helper()
	im, err := Import(reread(t, modelOf(17, []int64{1, 4, 2, 3, 2}, c.constants, c.nodes...)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// A target inside a pattern must stay on the way to the scores: recognising around it would cut it off.
func TestRecogniseKeepsTargets(t *testing.T) {
	for _, c := range recogniseCases {
		inner := importOf(t, c.importCase)
		for name, v := range inner.Names {
			if v.Def == nil || name == "y" {
				continue
			}
			im := importOf(t, c.importCase)
			target := im.Names[name]
			axes := make(ir.Axes, len(target.Shape()))
			im.Graph.Targets = []ir.Target{{Value: target, Axes: axes, Label: name}}
			if err := pass.Run(context.Background(), im.Graph, nil, pass.Recognition); err != nil {
				t.Fatalf("%s with target %s: %v", c.name, name, err)
			}
			if im.Graph.Targets[0].Value != target || !reaches(im.Graph, target, im.Graph.Outputs[0]) {
				t.Errorf("%s: the output does not depend on %s any more", c.name, name)
			}
		}
	}
}

func reaches(g *ir.Graph, from, to *ir.Value) bool {
	seen := map[*ir.Value]bool{from: true}
	for _, n := range g.Nodes {
		if slices.ContainsFunc(n.Inputs, func(v *ir.Value) bool { return seen[v] }) {
			for _, v := range n.Outputs {
				seen[v] = true
			}
		}
	}
	return seen[to]
}

func TestConstantsReferToTheFile(t *testing.T) {
	m := reread(t, sampleModel())
	im, err := Import(m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := im.Names["c.weight"]
	if w == nil || w.Const.Elem() != tensor.F32 || w.Const.Len() != 162 {
		t.Fatalf("%v", w)
	}
	data := m.Graph.Initializers[0].Data
	before := w.Const.At(0)
	data[3] ^= 0x80 // the sign of the first weight
	if w.Const.At(0) != -before {
		t.Error("the weights were copied")
	}
}
