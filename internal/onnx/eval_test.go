package onnx

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/tensor"
)

// evalCase is a node with constant inputs a, b, c and its first result.
type evalCase struct {
	name   string
	inputs []*Tensor
	node   *Node
	shape  tensor.Shape
	want   []float64
}

type sh = tensor.Shape

var evalCases = []evalCase{
	{"add wraps nothing at 2^53+1", []*Tensor{list("a", 1<<53), list("b", 1)}, node("Add", "a b", "y"), sh{1}, []float64{1<<53 + 0}},
	{"integer division cuts", []*Tensor{list("a", -7, 7), list("b", 2)}, node("Div", "a b", "y"), sh{2}, []float64{-3, 3}},
	{"division by zero", []*Tensor{list("a", 7), list("b", 0)}, node("Div", "a b", "y"), sh{1}, []float64{0}},
	{"remainder has the divisor's sign", []*Tensor{list("a", -7, 7), list("b", 3, -3)}, node("Mod", "a b", "y"), sh{2}, []float64{2, -2}},
	{"broadcast", []*Tensor{int64s("a", sh{2, 1}, 10, 20), list("b", 1, 2, 3)}, node("Add", "a b", "y"), sh{2, 3}, []float64{11, 12, 13, 21, 22, 23}},
	{"power", []*Tensor{list("a", 3, -2), list("b", 4, 3)}, node("Pow", "a b", "y"), sh{2}, []float64{81, -8}},
	{"float is rounded", []*Tensor{floats("a", sh{1}, 1), floats("b", sh{1}, 3)}, node("Div", "a b", "y"), sh{1}, []float64{float64(float32(1) / 3)}},
	{"compare", []*Tensor{list("a", 1, 2, 3), list("b", 2)}, node("GreaterOrEqual", "a b", "y"), sh{3}, []float64{0, 1, 1}},
	{"where", []*Tensor{list("c", 1, 0), list("a", 5), list("b", 6)}, node("Where", "c a b", "y"), sh{2}, []float64{5, 6}},
	{"shape of a constant", []*Tensor{floats("a", sh{2, 3}, 0)}, node("Shape", "a", "y"), sh{2}, []float64{2, 3}},
	{"shape from the end", []*Tensor{floats("a", sh{2, 3, 4}, 0)}, node("Shape", "a", "y", aInt("start", -2)), sh{2}, []float64{3, 4}},
	{"size", []*Tensor{floats("a", sh{2, 3}, 0)}, node("Size", "a", "y"), nil, []float64{6}},
	{"slice", []*Tensor{list("a", 0, 1, 2, 3, 4), list("b", 1), list("c", 4)}, node("Slice", "a b c", "y"), sh{3}, []float64{1, 2, 3}},
	{"slice backwards to the front", []*Tensor{list("a", 0, 1, 2, 3, 4), list("b", -1), list("c", math.MinInt64), list("d", 0), list("e", -2)},
		node("Slice", "a b c d e", "y"), sh{3}, []float64{4, 2, 0}},
	{"slice past the end", []*Tensor{list("a", 0, 1, 2), list("b", 1), list("c", math.MaxInt64)}, node("Slice", "a b c", "y"), sh{2}, []float64{1, 2}},
	{"slice of nothing", []*Tensor{list("a", 0, 1, 2), list("b", 2), list("c", 1)}, node("Slice", "a b c", "y"), sh{0}, nil},
	{"gather", []*Tensor{int64s("a", sh{2, 2}, 1, 2, 3, 4), list("b", -1, 0)}, node("Gather", "a b", "y", aInt("axis", 1)), sh{2, 2}, []float64{2, 1, 4, 3}},
	{"gather a number", []*Tensor{list("a", 7, 8, 9), int64s("b", sh{}, 1)}, node("Gather", "a b", "y"), sh{}, []float64{8}},
	{"gather elements", []*Tensor{int64s("a", sh{2, 2}, 1, 2, 3, 4), int64s("b", sh{2, 1}, 1, 0)},
		node("GatherElements", "a b", "y", aInt("axis", 1)), sh{2, 1}, []float64{2, 3}},
	{"gather tuples", []*Tensor{int64s("a", sh{2, 2}, 1, 2, 3, 4), int64s("b", sh{2, 2}, 0, 1, 1, 0)}, node("GatherND", "a b", "y"), sh{2}, []float64{2, 3}},
	{"gather tuples in batches", []*Tensor{int64s("a", sh{2, 2}, 1, 2, 3, 4), int64s("b", sh{2, 1}, 1, 0)},
		node("GatherND", "a b", "y", aInt("batch_dims", 1)), sh{2}, []float64{2, 3}},
	{"scatter rows", []*Tensor{int64s("a", sh{3, 2}, 0, 0, 0, 0, 0, 0), int64s("b", sh{1, 1}, 2), int64s("c", sh{1, 2}, 5, 6)},
		node("ScatterND", "a b c", "y"), sh{3, 2}, []float64{0, 0, 0, 0, 5, 6}},
	{"scatter and add", []*Tensor{list("a", 1, 1), int64s("b", sh{2, 1}, 0, 0), list("c", 5, 6)},
		node("ScatterND", "a b c", "y", aText("reduction", "add")), sh{2}, []float64{12, 1}},
	{"scatter elements", []*Tensor{list("a", 0, 0, 0), list("b", 2, 0), list("c", 5, 6)}, node("ScatterElements", "a b c", "y"), sh{3}, []float64{6, 0, 5}},
	{"concat", []*Tensor{int64s("a", sh{1, 2}, 1, 2), int64s("b", sh{1, 1}, 3)}, node("Concat", "a b", "y", aInt("axis", -1)), sh{1, 3}, []float64{1, 2, 3}},
	{"concat with nothing", []*Tensor{list("a"), list("b", 3)}, node("Concat", "a b", "y", aInt("axis", 0)), sh{1}, []float64{3}},
	{"split", []*Tensor{list("a", 1, 2, 3, 4, 5)}, node("Split", "a", "y z", aInt("num_outputs", 2)), sh{3}, []float64{1, 2, 3}},
	{"reshape keeps and infers", []*Tensor{int64s("a", sh{2, 3}, 1, 2, 3, 4, 5, 6), list("b", 0, -1, 1)}, node("Reshape", "a b", "y"), sh{2, 3, 1}, []float64{1, 2, 3, 4, 5, 6}},
	{"transpose", []*Tensor{int64s("a", sh{2, 3}, 1, 2, 3, 4, 5, 6)}, node("Transpose", "a", "y"), sh{3, 2}, []float64{1, 4, 2, 5, 3, 6}},
	{"squeeze", []*Tensor{int64s("a", sh{1, 2, 1}, 1, 2), list("b", 0)}, node("Squeeze", "a b", "y"), sh{2, 1}, []float64{1, 2}},
	{"unsqueeze", []*Tensor{list("a", 1, 2), list("b", 0, -1)}, node("Unsqueeze", "a b", "y"), sh{1, 2, 1}, []float64{1, 2}},
	{"range down", []*Tensor{int64s("a", sh{}, 5), int64s("b", sh{}, 0), int64s("c", sh{}, -2)}, node("Range", "a b c", "y"), sh{3}, []float64{5, 3, 1}},
	{"expand", []*Tensor{int64s("a", sh{2, 1}, 1, 2), list("b", 1, 3)}, node("Expand", "a b", "y"), sh{2, 3}, []float64{1, 1, 1, 2, 2, 2}},
	{"tile", []*Tensor{int64s("a", sh{1, 2}, 1, 2), list("b", 2, 2)}, node("Tile", "a b", "y"), sh{2, 4}, []float64{1, 2, 1, 2, 1, 2, 1, 2}},
	{"constant of a huge shape is one number", []*Tensor{list("a", 1<<20, 1<<20)}, node("ConstantOfShape", "a", "y", aTensor("value", list("", 4))), sh{1 << 20, 1 << 20}, nil},
	{"nonzero", []*Tensor{int64s("a", sh{2, 2}, 0, 1, 1, 0)}, node("NonZero", "a", "y"), sh{2, 2}, []float64{0, 1, 1, 0}},
	{"cumulative sum, from the end", []*Tensor{list("a", 1, 2, 3), int64s("b", sh{}, 0)}, node("CumSum", "a b", "y", aInt("reverse", 1)), sh{3}, []float64{6, 5, 3}},
	{"lower triangle", []*Tensor{int64s("a", sh{2, 2}, 1, 2, 3, 4)}, node("Trilu", "a", "y", aInt("upper", 0)), sh{2, 2}, []float64{1, 0, 3, 4}},
	{"one hot", []*Tensor{list("a", 1, -1), int64s("b", sh{}, 3), list("c", 0, 9)}, node("OneHot", "a b c", "y"), sh{2, 3}, []float64{0, 9, 0, 0, 0, 9}},
	{"argmax", []*Tensor{int64s("a", sh{2, 2}, 1, 2, 4, 3)}, node("ArgMax", "a", "y", aInt("axis", 1), aInt("keepdims", 0)), sh{2}, []float64{1, 0}},
	{"product", []*Tensor{list("a", 2, 3, 4)}, node("ReduceProd", "a", "y", aInt("keepdims", 0)), sh{}, []float64{24}},
	{"maximum along an axis", []*Tensor{int64s("a", sh{2, 2}, 1, 2, 4, 3), list("b", -1)}, node("ReduceMax", "a b", "y"), sh{2, 1}, []float64{2, 4}},
	{"matrix product", []*Tensor{int64s("a", sh{2, 2}, 1, 2, 3, 4), list("b", 5, 6)}, node("MatMul", "a b", "y"), sh{2}, []float64{17, 39}},
	{"cast cuts", []*Tensor{floats("a", sh{2}, -1.9, 2.7)}, node("Cast", "a", "y", aInt("to", 7)), sh{2}, []float64{-1, 2}},
	{"cast to bool", []*Tensor{floats("a", sh{3}, -1.9, 0, 0.1)}, node("Cast", "a", "y", aInt("to", typeBool)), sh{3}, []float64{1, 0, 1}},
	{"cast to a small type wraps", []*Tensor{list("a", 300)}, node("Cast", "a", "y", aInt("to", 2)), sh{1}, []float64{44}},
	{"pad by reflection", []*Tensor{list("a", 1, 2, 3), list("b", 2, 1)}, node("Pad", "a b", "y", aText("mode", "reflect")), sh{6}, []float64{3, 2, 1, 2, 3, 2}},
	{"identity matrix", []*Tensor{int64s("a", sh{2, 3}, 0, 0, 0, 0, 0, 0)}, node("EyeLike", "a", "y", aInt("k", 1)), sh{2, 3}, []float64{0, 1, 0, 0, 0, 1}},
	{"square root", []*Tensor{floats("a", sh{1}, 2)}, node("Sqrt", "a", "y"), sh{1}, []float64{float64(float32(math.Sqrt2))}},
	{"not", []*Tensor{list("a", 0, 2)}, node("Not", "a", "y"), sh{2}, []float64{1, 0}},
}

func evalModel(c evalCase) *Model {
	m := modelOf(18, []int64{1, 1}, c.inputs, c.node)
	m.Graph.Inputs = nil
	return m
}

// evaluateNodes runs a model without inputs and returns what y stands for.
func evaluateNodes(m *Model) (*slot, error) {
	im := &importer{ctx: context.Background(), m: m, g: &ir.Graph{}, folded: 1 << 16, maxOne: 1 << 16, out: &Imported{Names: map[string]*ir.Value{}, ParamElements: map[string]int{}}}
	f := &frame{slots: map[string]*slot{}, opsets: m.Opsets}
	if err := im.initializers(f, m.Graph); err != nil {
		return nil, err
	}
	if err := im.run(f, m.Graph.Nodes); err != nil {
		return nil, err
	}
	s := f.find("y")
	return s, s.err
}

func TestEval(t *testing.T) {
	for _, c := range evalCases {
		t.Run(c.name, func(t *testing.T) {
			s, err := evaluateNodes(reread(t, evalModel(c)))
			if err != nil {
				t.Fatal(err)
			}
			if s.lit == nil {
				t.Fatal("not computed at import")
			}
			if !s.lit.shape.Equal(c.shape) {
				t.Fatalf("shape %v, not %v", s.lit.shape, c.shape)
			}
			for i, want := range c.want {
				if got := s.lit.float(i); got != want {
					t.Errorf("element %d is %g, not %g", i, got, want)
				}
			}
		})
	}
}

func TestEvalIsExactForLargeIntegers(t *testing.T) {
	s, err := evaluateNodes(reread(t, evalModel(evalCase{inputs: []*Tensor{list("a", 1<<53), list("b", 1)}, node: node("Add", "a b", "y")})))
	if err != nil || s.lit.int(0) != 1<<53+1 {
		t.Errorf("%v, %v", s, err)
	}
}

func TestEvalRefuses(t *testing.T) {
	for _, c := range []evalCase{
		{"index outside", []*Tensor{list("a", 1), list("b", 1)}, node("Gather", "a b", "y"), nil, nil},
		{"shapes do not broadcast", []*Tensor{list("a", 1, 2), list("b", 1, 2, 3)}, node("Add", "a b", "y"), nil, nil},
		{"reshape to another size", []*Tensor{list("a", 1, 2), list("b", 3)}, node("Reshape", "a b", "y"), nil, nil},
		{"two open axes", []*Tensor{list("a", 1, 2), list("b", -1, -1)}, node("Reshape", "a b", "y"), nil, nil},
		{"step 0", []*Tensor{list("a", 1, 2), list("b", 0), list("c", 2), list("d", 0), list("e", 0)}, node("Slice", "a b c d e", "y"), nil, nil},
		{"range without end", []*Tensor{int64s("a", sh{}, 0), int64s("b", sh{}, math.MaxInt64), int64s("c", sh{}, 1)}, node("Range", "a b c", "y"), nil, nil},
		{"too large to hold", []*Tensor{list("a", 1, 2), list("b", 1<<20, 2)}, node("Tile", "a b", "y"), nil, nil},
		{"impossible shape", []*Tensor{list("a", 1<<40, 1<<40)}, node("ConstantOfShape", "a", "y"), nil, nil},
		{"missing input", []*Tensor{list("a", 1)}, node("Gather", "a", "y"), nil, nil},
		{"wrong axis", []*Tensor{list("a", 1)}, node("Concat", "a", "y", aInt("axis", 3)), nil, nil},
	} {
		_, err := evaluateNodes(reread(t, evalModel(c)))
		var f *FormatError
		var u *UnsupportedError
		var internal *internalError
		if !errors.As(err, &f) && !errors.As(err, &u) || errors.As(err, &internal) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
