package onnx

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/reference"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/tensor"
)

// importCase is a small model; its input holds 0, 1, 2, ...
type importCase struct {
	name      string
	opset     int
	input     []int64
	constants []*Tensor
	nodes     []*Node
	shape     tensor.Shape
	want      []float64 // nil to check the shape only
}

func one(n *Node) []*Node { return []*Node{n} }

var importCases = []importCase{
	{"convolution in one dimension", 17, []int64{1, 1, 4}, []*Tensor{floats("w", sh{1, 1, 2}, 1, 10)}, one(node("Conv", "x w", "y")),
		sh{1, 1, 3}, []float64{10, 21, 32}},
	{"same padding puts the odd voxel behind", 17, []int64{1, 1, 3}, []*Tensor{floats("w", sh{1, 1, 2}, 1, 10)},
		one(node("Conv", "x w", "y", aText("auto_pad", "SAME_UPPER"))), sh{1, 1, 3}, []float64{10, 21, 2}},
	{"or in front", 17, []int64{1, 1, 3}, []*Tensor{floats("w", sh{1, 1, 2}, 1, 10)},
		one(node("Conv", "x w", "y", aText("auto_pad", "SAME_LOWER"))), sh{1, 1, 3}, []float64{0, 10, 21}},
	{"grouped, dilated, strided", 17, []int64{1, 4, 7, 8, 9}, []*Tensor{floats("w", sh{6, 2, 3, 2, 1}, 1), floats("b", sh{6}, 0)},
		one(node("Conv", "x w b", "y", aInt("group", 2), aInts("strides", 2, 1, 3), aInts("dilations", 2, 1, 1), aInts("pads", 1, 0, 0, 2, 1, 0))),
		sh{1, 6, 3, 8, 3}, nil},
	{"transposed convolution", 17, []int64{1, 1, 2}, []*Tensor{floats("w", sh{1, 1, 3}, 1, 10, 100)},
		one(node("ConvTranspose", "x w", "y", aInts("strides", 2))), sh{1, 1, 5}, []float64{0, 0, 1, 10, 100}},
	{"transposed convolution, output padding", 17, []int64{1, 1, 2}, []*Tensor{floats("w", sh{1, 1, 3}, 1, 10, 100)},
		one(node("ConvTranspose", "x w", "y", aInts("strides", 2), aInts("pads", 1, 1), aInts("output_padding", 1))), sh{1, 1, 4}, []float64{0, 1, 10, 100}},
	{"ceil mode drops a window that starts in the padding", 17, []int64{1, 1, 2, 2}, nil,
		one(node("AveragePool", "x", "y", aInts("kernel_shape", 3, 3), aInts("strides", 3, 3), aInts("pads", 1, 1, 1, 1), aInt("ceil_mode", 1))),
		sh{1, 1, 1, 1}, []float64{1.5}},
	{"ceil mode reaches over the edge", 17, []int64{1, 1, 4}, nil,
		one(node("MaxPool", "x", "y", aInts("kernel_shape", 3), aInts("strides", 2), aInt("ceil_mode", 1))), sh{1, 1, 2}, []float64{2, 3}},
	{"padding in the average", 17, []int64{1, 1, 2}, nil,
		one(node("AveragePool", "x", "y", aInts("kernel_shape", 2), aInts("pads", 1, 0), aInt("count_include_pad", 1))), sh{1, 1, 2}, []float64{0, 0.5}},
	{"padding outside of the average", 17, []int64{1, 1, 2}, nil,
		one(node("AveragePool", "x", "y", aInts("kernel_shape", 2), aInts("pads", 0, 1))), sh{1, 1, 2}, []float64{0.5, 1}},
	{"batch norm", 17, []int64{1, 2, 2}, []*Tensor{floats("g", sh{2}, 2, 3), floats("b", sh{2}, 1, 0), floats("m", sh{2}, 0, 2), floats("v", sh{2}, 4, 1)},
		one(node("BatchNormalization", "x g b m v", "y", aFloat("epsilon", 0))), sh{1, 2, 2}, []float64{1, 2, 0, 3}},
	{"batch norm that lists its statistics", 13, []int64{1, 2}, []*Tensor{floats("g", sh{2}, 1), floats("b", sh{2}, 0), floats("m", sh{2}, 0), floats("v", sh{2}, 4)},
		one(node("BatchNormalization", "x g b m v", "y mean var m2 v2", aFloat("epsilon", 0))), sh{1, 2}, []float64{0, 0.5}},
	{"group norm by group until opset 20", 18, []int64{1, 4, 2}, []*Tensor{floats("g", sh{2}, 1, 2), floats("b", sh{2}, 0, 5)},
		one(node("GroupNormalization", "x g b", "y", aInt("num_groups", 2), aFloat("epsilon", 0))), sh{1, 4, 2},
		[]float64{-3 / rt5, -1 / rt5, 1 / rt5, 3 / rt5, 5 - 6/rt5, 5 - 2/rt5, 5 + 2/rt5, 5 + 6/rt5}},
	{"group norm by channel from opset 21", 21, []int64{1, 4, 2}, []*Tensor{floats("g", sh{4}, 1, 1, 2, 2), floats("b", sh{4}, 0, 0, 5, 5)},
		one(node("GroupNormalization", "x g b", "y", aInt("num_groups", 2), aFloat("epsilon", 0))), sh{1, 4, 2},
		[]float64{-3 / rt5, -1 / rt5, 1 / rt5, 3 / rt5, 5 - 6/rt5, 5 - 2/rt5, 5 + 2/rt5, 5 + 6/rt5}},
	{"softmax over all that follows before opset 13", 11, []int64{1, 2, 2}, nil, one(node("Softmax", "x", "y")), sh{1, 2, 2},
		[]float64{1 / esum, math.E / esum, math.Exp(2) / esum, math.Exp(3) / esum}},
	{"linear layer", 17, []int64{1, 2}, []*Tensor{floats("w", sh{3, 2}, 1, 2, 3, 4, 5, 6), floats("b", sh{3}, 10)},
		one(node("Gemm", "x w b", "y", aInt("transB", 1), aFloat("alpha", 2), aFloat("beta", 3))), sh{1, 3}, []float64{34, 38, 42}},
	{"matrix times vector", 17, []int64{2, 2}, []*Tensor{floats("v", sh{2}, 1, 10)}, one(node("MatMul", "x v", "y")), sh{2}, []float64{10, 32}},
	{"vector times matrix", 17, []int64{2}, []*Tensor{floats("m", sh{2, 2}, 1, 2, 3, 4)}, one(node("MatMul", "x m", "y")), sh{2}, []float64{3, 4}},
	{"einsum of attention", 17, []int64{1, 2, 2, 3}, nil, one(node("Einsum", "x x", "y", aText("equation", "bhid, bhjd -> bhij"))), sh{1, 2, 2, 2},
		[]float64{5, 14, 14, 50, 149, 212, 212, 302}},
	{"einsum with an ellipsis", 17, []int64{2, 1, 2}, []*Tensor{floats("w", sh{2, 2}, 1, 2, 3, 4)},
		one(node("Einsum", "x w", "y", aText("equation", "...c,oc->...o"))), sh{2, 1, 2}, []float64{2, 4, 8, 18}},
	{"einsum of one: trace", 17, []int64{3, 3}, nil, one(node("Einsum", "x", "y", aText("equation", "ii->"))), sh{}, []float64{12}},
	{"einsum without sums", 17, []int64{2}, []*Tensor{floats("w", sh{2}, 3, 4)}, one(node("Einsum", "x w", "y", aText("equation", "i,j->ji"))), sh{2, 2}, []float64{0, 3, 0, 4}},
	{"pad by axes, with a cut", 18, []int64{2, 3}, []*Tensor{list("p", 1, -1), list("a", -1)}, one(node("Pad", "x p _ a", "y")), sh{2, 3}, []float64{0, 0, 1, 0, 3, 4}},
	{"resize by a factor", 17, []int64{1, 1, 2}, []*Tensor{floats("s", sh{3}, 1, 1, 2)}, one(node("Resize", "x _ s", "y", aText("mode", "linear"))), sh{1, 1, 4},
		[]float64{0, 0.25, 0.75, 1}},
	{"resize to a size", 17, []int64{1, 1, 2}, []*Tensor{list("s", 1, 1, 3)},
		one(node("Resize", "x _ _ s", "y", aText("mode", "linear"), aText("coordinate_transformation_mode", "align_corners"))), sh{1, 1, 3}, []float64{0, 0.5, 1}},
	{"upsampling of old files", 9, []int64{1, 1, 2}, []*Tensor{floats("s", sh{3}, 1, 1, 2)}, one(node("Upsample", "x s", "y")), sh{1, 1, 4}, []float64{0, 0, 1, 1}},
	{"gather of a table", 17, []int64{3}, []*Tensor{int64s("i", sh{2, 2}, 2, 0, 0, 2)}, one(node("Gather", "x i", "y")), sh{2, 2}, []float64{2, 0, 0, 2}},
	{"gather evenly is a slice", 17, []int64{5}, []*Tensor{list("i", 0, 2, 4)}, one(node("Gather", "x i", "y")), sh{3}, []float64{0, 2, 4}},
	{"scatter rows", 17, []int64{3, 1}, []*Tensor{int64s("i", sh{1, 1}, 1), floats("u", sh{1, 1}, 9)}, one(node("ScatterND", "x i u", "y")), sh{3, 1}, []float64{0, 9, 2}},
	{"slice backwards", 17, []int64{4}, []*Tensor{list("s", -1), list("e", -100), list("a", 0), list("st", -2)}, one(node("Slice", "x s e a st", "y")), sh{2}, []float64{3, 1}},
	{"split before opset 13", 11, []int64{3}, nil, []*Node{node("Split", "x", "a b", aInts("split", 1, 2)), node("Concat", "b a", "y", aInt("axis", 0))}, sh{3}, []float64{1, 2, 0}},
	{"an empty part joins", 17, []int64{3}, []*Tensor{list("p", 0, 3)}, []*Node{node("Split", "x p", "a b"), node("Concat", "b a", "y", aInt("axis", 0))}, sh{3}, []float64{0, 1, 2}},
	{"cumulative sum", 17, []int64{3}, []*Tensor{int64s("a", sh{}, 0)}, one(node("CumSum", "x a", "y", aInt("exclusive", 1))), sh{3}, []float64{0, 0, 1}},
	{"largest two, of equal ones the first", 17, []int64{4}, []*Tensor{list("k", 2), floats("m", sh{4}, 2)},
		[]*Node{node("Mod", "x m", "r"), node("TopK", "r k", "v i"), node("Identity", "i", "y")}, sh{2}, []float64{1, 3}},
	{"product of an odd number", 17, []int64{1, 3}, []*Tensor{floats("o", sh{1}, 1)},
		[]*Node{node("Add", "x o", "a"), node("ReduceProd", "a", "y", aInts("axes", 1), aInt("keepdims", 0))}, sh{1}, []float64{6}},
	{"no axes can mean none", 18, []int64{2}, []*Tensor{list("a")}, one(node("ReduceSum", "x a", "y", aInt("noop_with_empty_axes", 1))), sh{2}, []float64{0, 1}},
	{"largest along axes", 17, []int64{2, 2}, nil, one(node("ReduceMax", "x", "y", aInts("axes", -1), aInt("keepdims", 0))), sh{2}, []float64{1, 3}},
	{"log of a sum of exponentials", 17, []int64{2}, nil, one(node("ReduceLogSumExp", "x", "y", aInt("keepdims", 0))), sh{}, []float64{math.Log(1 + math.E)}},
	{"power", 17, []int64{3}, []*Tensor{floats("p", sh{}, 2)}, one(node("Pow", "x p", "y")), sh{3}, []float64{0, 1, 4}},
	{"clip below", 17, []int64{3}, []*Tensor{floats("m", sh{}, 1)}, one(node("Clip", "x m", "y")), sh{3}, []float64{1, 1, 2}},
	{"clip of old files", 6, []int64{3}, nil, one(node("Clip", "x", "y", aFloat("max", 1))), sh{3}, []float64{0, 1, 1}},
	{"truth values", 17, []int64{3}, []*Tensor{floats("o", sh{}, 1)},
		[]*Node{node("Greater", "x o", "g"), node("Not", "g", "n"), node("Or", "g n", "t"), node("Cast", "t", "f", aInt("to", 1)), node("Where", "g x f", "y")}, sh{3}, []float64{1, 1, 2}},
	{"whole numbers divide whole", 17, []int64{4}, []*Tensor{list("t", 2)}, []*Node{node("Cast", "x", "i", aInt("to", 7)), node("Div", "i t", "y")}, sh{4}, []float64{0, 0, 1, 1}},
	{"channels by name", 17, []int64{1, 4, 1, 1}, nil, one(node("DepthToSpace", "x", "y", aInt("blocksize", 2))), sh{1, 1, 2, 2}, []float64{0, 1, 2, 3}},
	{"sequence", 17, []int64{4}, []*Tensor{int64s("n", sh{}, 2), int64s("i", sh{}, -1)},
		[]*Node{node("SplitToSequence", "x n", "s"), node("SequenceAt", "s i", "y")}, sh{2}, []float64{2, 3}},
	{"shape arithmetic of a reshape", 17, []int64{1, 2, 3, 2}, []*Tensor{int64s("i", sh{}, 1), list("neg", -1), list("zero", 0)},
		[]*Node{node("Shape", "x", "s"), node("Gather", "s i", "c"), node("Unsqueeze", "c zero", "u"), node("Concat", "u neg", "t", aInt("axis", 0)), node("Reshape", "x t", "y")},
		sh{2, 6}, nil},
}

var (
	rt5  = math.Sqrt(5)
	esum = 1 + math.E + math.Exp(2) + math.Exp(3)
)

func evaluateModel(t *testing.T, im *Imported) []float64 {
	t.Helper()
	x := make([]float64, im.Input.Shape().Elements())
	for i := range x {
		x[i] = float64(i)
	}
	g := im.Graph
	g.Prune()
	values, err := reference.Eval(context.Background(), g, map[*ir.Value][]float64{im.Input: x})
	if err != nil {
		t.Fatal(err)
	}
	return values[g.Outputs[0]]
}

func checkValues(t *testing.T, got, want []float64) {
	t.Helper()
	for i := range want {
		if i >= len(got) || !(math.Abs(got[i]-want[i]) < 1e-6) {
			t.Fatalf("%v, not %v", got, want)
		}
	}
}

func TestImport(t *testing.T) {
	for _, c := range importCases {
		t.Run(c.name, func(t *testing.T) {
			im, err := Import(reread(t, modelOf(c.opset, c.input, c.constants, c.nodes...)), Options{})
			if err != nil {
				t.Fatal(err)
			}
			y := im.Graph.Outputs[0]
			if !y.Shape().Equal(c.shape) {
				t.Fatalf("shape %v, not %v", y.Shape(), c.shape)
			}
			if im.Names["y"] != y {
				t.Error("the output's name does not lead to it")
			}
			checkValues(t, evaluateModel(t, im), c.want)
		})
	}
}

// functionModel calls a function with an attribute, twice.
func functionModel() *Model {
	m := modelOf(17, []int64{2}, nil, node("Scale", "x", "a", aFloat("alpha", 3)), node("Scale", "a", "y"))
	for _, n := range m.Graph.Nodes {
		n.Domain = "local"
	}
	m.Graph.Nodes[0].Metadata["pkg.torch.onnx.name_scopes"] = `['', 'stem', 'scale']`
	leaky := node("LeakyRelu", "in", "act")
	leaky.Attributes["alpha"] = &Attribute{Name: "alpha", Ref: "alpha"}
	neg := node("Neg", "act", "out")
	m.Functions = map[FunctionID]*Function{{Domain: "local", Name: "Scale"}: {
		ID: FunctionID{Domain: "local", Name: "Scale"}, Inputs: []string{"in"}, Outputs: []string{"out"},
		Defaults: map[string]*Attribute{"alpha": aFloat("alpha", 0.5)}, Nodes: []*Node{leaky, neg}, Opsets: map[string]int{"": 17},
	}}
	m.Opsets["local"] = 1
	return m
}

func TestFunctionsAreInlined(t *testing.T) {
	im, err := Import(reread(t, functionModel()), Options{})
	if err != nil {
		t.Fatal(err)
	}
	// x = 0, 1; the first call gives 0, -1; the second, with the default slope, 0, 0.5.
	checkValues(t, evaluateModel(t, im), []float64{0, 0.5})
	var ops []string
	for _, n := range im.Nodes {
		ops = append(ops, n.Op)
	}
	if !slices.Equal(ops, []string{"LeakyRelu", "Neg", "LeakyRelu", "Neg"}) {
		t.Errorf("nodes %v", ops)
	}
	if im.Nodes[0].Scope != "stem" || im.Nodes[2].Scope != "" {
		t.Errorf("scopes %q and %q", im.Nodes[0].Scope, im.Nodes[2].Scope)
	}
	if im.Names["n_a/act"] == nil || im.Names["a"] == nil {
		t.Errorf("names %v", im.Names)
	}
}

func TestRecursiveFunctionsAreRefused(t *testing.T) {
	m := functionModel()
	for _, fn := range m.Functions {
		call := node("Scale", "act", "out")
		call.Domain = "local"
		fn.Nodes[1] = call
	}
	var f *FormatError
	if _, err := Import(reread(t, m), Options{}); !errors.As(err, &f) || !strings.Contains(err.Error(), "deep") {
		t.Errorf("%.300v", err)
	}
}

// ifModel has two branches that read the value outside.
func ifModel(cond int64) *Model {
	branch := func(op string) *Graph {
		return &Graph{Nodes: one(node(op, "x", "inside")), Outputs: []ValueInfo{{Name: "inside"}}}
	}
	return modelOf(17, []int64{2}, []*Tensor{int64s("c", sh{}, cond)},
		node("If", "c", "r", aGraph("then_branch", branch("Neg")), aGraph("else_branch", branch("Exp"))), node("Relu", "r", "y"))
}

func TestKnownBranchesAreInlined(t *testing.T) {
	for cond, want := range [][]float64{{1, math.E}, {0, 0}} {
		im, err := Import(reread(t, ifModel(int64(cond))), Options{})
		if err != nil {
			t.Fatal(err)
		}
		checkValues(t, evaluateModel(t, im), want)
	}
}

func TestDynamicShapesAreBound(t *testing.T) {
	build := func() *Model {
		m := modelOf(17, nil, []*Tensor{floats("w", sh{2, 1, 1, 1, 1}, 1)}, node("Conv", "x w", "a"), node("Flatten", "a", "y"))
		m.Graph.Inputs[0].Dims = []Dim{{Param: "batch"}, {Size: 1}, {Param: "d"}, {Param: "h"}, {Param: "w"}}
		return m
	}
	im, err := Import(reread(t, build()), Options{InputShape: []int{1, 1, 3, 4, 5}})
	if err != nil || !im.Graph.Outputs[0].Shape().Equal(sh{1, 120}) {
		t.Fatalf("%v", err)
	}
	for want, shape := range map[string][]int{
		"[batch,1,d,h,w]":                 nil, // not given
		"channels 2 instead of 1":         {1, 2, 3, 4, 5},
		"[1,channels,depth,height,width]": {1, 3, 4, 5}, // wrong rank
		"has size 0":                      {1, 1, 0, 4, 5},
		"give the size of the volume":     nil,
	} {
		_, err := Import(reread(t, build()), Options{InputShape: shape})
		var in *InputError
		if !errors.As(err, &in) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", shape, err)
		}
	}
}

func TestImagesAreVolumesOfOnePlane(t *testing.T) {
	m := modelOf(17, []int64{1, 3, 8, 9}, []*Tensor{floats("w", sh{2, 3, 3, 3}, 1)}, node("Conv", "x w", "y"))
	im, err := Import(reread(t, m), Options{InputShape: []int{1, 3, 1, 8, 9}})
	if err != nil || !im.Graph.Outputs[0].Shape().Equal(sh{1, 2, 6, 7}) || len(im.Input.Shape()) != 5 {
		t.Errorf("%v", err)
	}
}

func TestUnsupportedOperationsAreDescribed(t *testing.T) {
	lstm := node("LSTM", "a", "y")
	lstm.Name = "/neck/neck.0/LSTM"
	_, err := Import(reread(t, modelOf(17, []int64{1, 2}, nil, node("Relu", "x", "a"), lstm)), Options{})
	var u *UnsupportedError
	if !errors.As(err, &u) {
		t.Fatal(err)
	}
	if u.Op != "LSTM" || u.Opset != 17 || u.Scope != "neck.0" || u.Index != 1 || u.Count != 2 || u.Advice == "" {
		t.Errorf("%+v", u)
	}
	for name, nodes := range map[string][]*Node{
		"model.eval()":   one(node("BatchNormalization", "x a a a a", "y", aInt("training_mode", 1))),
		"com.microsoft":  {func() *Node { n := node("FusedConv", "x", "y"); n.Domain = "com.microsoft"; return n }()},
		"depends on the": {node("NonZero", "x", "i")},
		"antialias":      one(node("Resize", "x _ b", "y", aInt("antialias", 1))),
	} {
		nodes[len(nodes)-1].Outputs = []string{"y"}
		_, err := Import(reread(t, modelOf(17, []int64{1, 2}, []*Tensor{floats("a", sh{2}, 1), floats("b", sh{2}, 1)}, nodes...)), Options{})
		if !errors.As(err, &u) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatNoOutputNeedsMayBeUnsupported(t *testing.T) {
	m := modelOf(17, []int64{1, 2}, nil, node("LSTM", "x", "z"), node("Relu", "x", "y"))
	m.Graph.Outputs = append(m.Graph.Outputs, ValueInfo{Name: "z", Type: typeFloat})
	im, err := Import(reread(t, m), Options{})
	if err != nil || len(im.Graph.Outputs) != 1 || len(im.Notes) != 1 || !strings.Contains(im.Notes[0], "LSTM") {
		t.Errorf("%v", err)
	}
}

func TestContradictionsAreFormatErrors(t *testing.T) {
	for name, m := range map[string]*Model{
		`computes its input "later"`: modelOf(17, []int64{2}, nil, node("Add", "x later", "y")),
		`wait for one another: "n_y" (Add) needs "n_later" (Exp) needs "n_between" (Neg) needs "n_y" (Add)`: modelOf(17, []int64{2}, nil,
			node("Relu", "x", "z"), node("Add", "z later", "y"), node("Exp", "between", "later"), node("Neg", "y", "between")),
		`wait for one another: "n_y" (Exp) needs "n_y" (Exp)`: modelOf(17, []int64{2}, nil, node("Exp", "y", "y")),
		"no output":        func() *Model { m := sampleModel(); m.Graph.Outputs = nil; return m }(),
		"nothing computes": modelOf(17, []int64{2}, nil),
		"does not depend":  modelOf(17, []int64{2}, []*Tensor{list("a", 1)}, node("Identity", "a", "y")),
		"do not fit 2 inp": modelOf(17, []int64{1, 2, 3}, []*Tensor{floats("w", sh{1, 3, 1}, 1)}, node("Conv", "x w", "y")),
		"does not fit 3 p": modelOf(17, []int64{1, 2, 3}, []*Tensor{floats("w", sh{1, 2, 4}, 1)}, node("Conv", "x w", "y")),
		"do not broadcast": modelOf(17, []int64{2}, []*Tensor{floats("w", sh{3}, 1)}, node("Add", "x w", "y")),
		"cannot become":    modelOf(17, []int64{2}, []*Tensor{list("s", 3)}, node("Reshape", "x s", "y")),
	} {
		_, err := Import(reread(t, m), Options{})
		var f *FormatError
		if !errors.As(err, &f) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNamesAndParameters(t *testing.T) {
	conv := node("Conv", "x block.conv.bias2w block.conv.bias", "a")
	conv.Name = "/block/block.0/conv/Conv"
	m := modelOf(17, []int64{1, 1, 3}, []*Tensor{floats("shared.weight", sh{2, 1, 1}, 1), floats("block.conv.bias", sh{2}, 1, 2)},
		node("Identity", "shared.weight", "block.conv.bias2w"), conv, node("Identity", "a", "b"), node("Dropout", "b", "c"), node("Relu", "c", "y"))
	im, err := Import(reread(t, m), Options{})
	if err != nil {
		t.Fatal(err)
	}
	a := im.Names["a"]
	if a == nil || a.Name != "a" || im.Names["b"] != a || im.Names["c"] != a {
		t.Errorf("aliases: %v", im.Names)
	}
	if w := im.Names["block.conv.bias2w"]; w == nil || w.Name != "shared.weight" {
		t.Errorf("the weight's names: %v", im.Names)
	}
	var info *NodeInfo
	for _, n := range im.Nodes {
		if n.Op == "Conv" {
			info = n
		}
	}
	if info.Scope != "block.0.conv" || !slices.Equal(info.Params, []string{"block.conv.bias2w", "block.conv.bias"}) {
		t.Errorf("scope %q, parameters %q", info.Scope, info.Params)
	}
	if info.Outputs[0] != a || a.Def.Scope != "block.0.conv" {
		t.Error("the node's output is another value")
	}
}

func TestScopes(t *testing.T) {
	for _, c := range []struct {
		name  string
		meta  map[string]string
		scope string
	}{
		{"/backbone1/_blocks.0/_conv/Conv", nil, "backbone1._blocks.0._conv"},
		{"/features/features.1/conv/conv.0/conv.0.0/Conv", nil, "features.1.conv.0.0"},
		{"/Relu", nil, ""},
		{"Conv_12", nil, ""},
		{"node_conv3d", map[string]string{"pkg.torch.onnx.name_scopes": `['', 'v', "v.it's", 'conv3d']`}, "v.it's"},
		{"node_conv3d", map[string]string{"namespace": ": M/layer4: torch.nn.Sequential/layer4.0: Block/conv3d: aten.conv3d"}, "layer4.0"},
	} {
		var info NodeInfo
		if info.locate(&Node{Name: c.name, Metadata: c.meta}, ""); info.Scope != c.scope {
			t.Errorf("%s %v: %q, not %q", c.name, c.meta, info.Scope, c.scope)
		}
	}
}
