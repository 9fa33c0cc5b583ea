package reference

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

func TestEveryOperationHasARule(t *testing.T) {
	for _, o := range op.All {
		if kernels[o] == nil {
			t.Errorf("no rule for %s: write one in a file of internal/backend/reference and name it in that file's table", o.Name)
		}
	}
	if len(kernels) != len(op.All) {
		t.Errorf("%d rules for %d operations", len(kernels), len(op.All))
	}
}

// Values worked out by hand or by PyTorch, one for each family that loops in a way of its own.
func TestKnownValues(t *testing.T) {
	unit := [3]int{1, 1, 1}
	tests := map[string]struct {
		op     *ir.Op
		attr   any
		shapes []tensor.Shape
		in     [][]float64
		want   []float64
	}{
		"conv": {op.Conv, op.ConvAttr{Stride: unit, Dilation: unit, Groups: 1, Before: [3]int{0, 0, 1}},
			[]tensor.Shape{{1, 1, 1, 3, 1}, {1, 1, 1, 1, 2}, {1}}, [][]float64{{1, 2, 3}, {10, 1}, {100}}, []float64{101, 112, 123}},
		"grouped conv": {op.Conv, op.ConvAttr{Stride: unit, Dilation: unit, Groups: 2},
			[]tensor.Shape{{1, 1, 1, 1, 2}, {4, 1, 1, 1, 1}}, [][]float64{{2, 3}, {1, 10, 100, 1000}}, []float64{2, 20, 300, 3000}},
		"transposed conv": {op.ConvBackwardData, op.ConvBackwardDataAttr{Conv: op.ConvAttr{Stride: [3]int{1, 1, 2}, Dilation: unit, Groups: 1}, In: [3]int{1, 1, 5}},
			[]tensor.Shape{{1, 1, 1, 2, 1}, {1, 1, 1, 1, 3}}, [][]float64{{1, 2}, {1, 10, 100}}, []float64{1, 10, 102, 20, 200}},
		"max pool, first of equals": {op.MaxPoolIndex, op.PoolAttr{Kernel: [3]int{1, 1, 3}, Stride: unit, Dilation: unit, Before: [3]int{0, 0, 1}},
			[]tensor.Shape{{1, 1, 1, 3, 1}}, [][]float64{{5, 5, 1}}, []float64{1, 0}},
		"average beyond the end": {op.AvgPool, op.PoolAttr{Kernel: [3]int{1, 1, 2}, Stride: [3]int{1, 1, 2}, Dilation: unit, Ceil: [3]int{0, 0, 1}, CountPad: true},
			[]tensor.Shape{{1, 1, 1, 3, 1}}, [][]float64{{2, 4, 7}}, []float64{3, 7}},
		"group norm": {op.GroupNorm, op.GroupNormAttr{Groups: 2, Eps: 0},
			[]tensor.Shape{{1, 2, 2}}, [][]float64{{1, 10, 3, 20}}, []float64{-1, -1, 1, 1}},
		"layer norm": {op.LayerNorm, op.LayerNormAttr{Axes: 1, Eps: 0},
			[]tensor.Shape{{2, 2}, {2}, {2}}, [][]float64{{1, 3, 20, 10}, {2, 3}, {0, 1}}, []float64{-2, 4, 2, -2}},
		"softmax": {op.Softmax, op.SoftmaxAttr{Axis: 0},
			[]tensor.Shape{{2, 1}}, [][]float64{{math.Log(1), math.Log(3)}}, []float64{0.25, 0.75}},
		"matmul": {op.MatMul, op.MatMulAttr{TransB: true},
			[]tensor.Shape{{1, 2}, {2, 2}}, [][]float64{{1, 2}, {3, 4, 5, 6}}, []float64{11, 17}},
		"broadcast": {op.BinaryOp("Sub"), nil,
			[]tensor.Shape{{2, 1}, {3}}, [][]float64{{10, 20}, {1, 2, 3}}, []float64{9, 8, 7, 19, 18, 17}},
		"transpose": {op.Transpose, op.TransposeAttr{Perm: []int{2, 0, 1}},
			[]tensor.Shape{{1, 2, 3}}, [][]float64{{1, 2, 3, 4, 5, 6}}, []float64{1, 4, 2, 5, 3, 6}},
		"slice backwards": {op.Slice, op.SliceAttr{Start: []int{3}, Step: []int{-2}, Count: []int{2}},
			[]tensor.Shape{{4}}, [][]float64{{1, 2, 3, 4}}, []float64{4, 2}},
		"concat": {op.Concat, op.ConcatAttr{Axis: 1},
			[]tensor.Shape{{2, 1}, {2, 2}}, [][]float64{{1, 2}, {3, 4, 5, 6}}, []float64{1, 3, 4, 2, 5, 6}},
		"reflect": {op.Pad, op.PadAttr{Before: []int{2}, After: []int{1}, Mode: op.PadReflect},
			[]tensor.Shape{{3}}, [][]float64{{1, 2, 3}}, []float64{3, 2, 1, 2, 3, 2}},
		"linear resize": {op.Resize, op.ResizeAttr{Out: tensor.Shape{4}, Scale: []float64{2}, Mode: "linear", Coord: "half_pixel"},
			[]tensor.Shape{{2}}, [][]float64{{0, 4}}, []float64{0, 1, 3, 4}},
		"reduce": {op.ReduceMean, op.ReduceAttr{Axes: []int{0}},
			[]tensor.Shape{{2, 2}}, [][]float64{{1, 2, 3, 6}}, []float64{2, 4}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			g := &ir.Graph{}
			inputs, data := []*ir.Value{}, map[*ir.Value][]float64{}
			for i, s := range tt.shapes {
				v := g.Input("", ir.F32(s...))
				inputs, data[v] = append(inputs, v), tt.in[i]
			}
			b := ir.NewBuilder(g)
			y := b.Emit(tt.op, tt.attr, inputs...)
			if b.Err() != nil {
				t.Fatal(b.Err())
			}
			values, err := Eval(context.Background(), g, data)
			if err != nil {
				t.Fatal(err)
			}
			if len(values[y]) != len(tt.want) {
				t.Fatalf("%v, want %v", values[y], tt.want)
			}
			for i, want := range tt.want {
				if math.Abs(values[y][i]-want) > 1e-12*math.Max(1, math.Abs(want)) {
					t.Fatalf("%v, want %v", values[y], tt.want)
				}
			}
		})
	}
}

func TestEvalReportsMissingInputsAndCancelling(t *testing.T) {
	g := &ir.Graph{}
	x := g.Input("x", ir.F32(2))
	b := ir.NewBuilder(g)
	b.Emit(op.UnaryOp("Relu"), op.UnaryAttr{}, x)
	if _, err := Eval(context.Background(), g, nil); err == nil {
		t.Error("a missing input was accepted")
	}
	if _, err := Eval(context.Background(), g, map[*ir.Value][]float64{x: {1}}); err == nil {
		t.Error("a short input was accepted")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Eval(ctx, g, map[*ir.Value][]float64{x: {1, 2}}); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancelling: %v", err)
	}
}
