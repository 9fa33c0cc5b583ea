package cuda

import (
	"context"
	"math"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// TestLarge holds operations against the reference at sizes at which their kernels cut the work: several blocks a plane, tiles of
// channels, chunks of sums, groups of planes, tiles of matrices. The suite's cases are too small for that.
func TestLarge(t *testing.T) {
	b := open(t, Options{})
	unary := func(name string) func(*ir.Builder, []*ir.Value) *ir.Value {
		return node(op.UnaryOp(name), op.UnaryAttr{})
	}
	binary := func(name string) func(*ir.Builder, []*ir.Value) *ir.Value { return node(op.BinaryOp(name), nil) }
	reduce := func(o *ir.Op, axes ...int) func(*ir.Builder, []*ir.Value) *ir.Value {
		return node(o, op.ReduceAttr{Axes: axes})
	}
	groups := op.GroupNormAttr{Groups: 20, Eps: 1e-5}
	type shapes = []tensor.Shape
	for _, c := range []struct {
		name   string
		limit  float64
		shapes shapes
		build  func(*ir.Builder, []*ir.Value) *ir.Value
	}{
		{"unary", 5e-7, shapes{{1, 3, 37, 40, 8}}, unary("Silu")},
		{"unary of odd planes", 5e-7, shapes{{1, 3, 37, 41, 3}}, unary("Silu")},
		{"unary of odd tensors", 5e-7, shapes{{37, 113}}, unary("Relu")},
		{"slope", 1e-6, shapes{{1, 3, 37, 40, 4}, {1, 3, 37, 40, 4}}, node(op.UnaryBackward, op.UnaryBackwardAttr{Func: "Silu"})},
		{"mask", 5e-7, shapes{{1, 3, 32, 33, 4}, {1, 3, 32, 33, 4}}, func(b *ir.Builder, in []*ir.Value) *ir.Value {
			bits := b.Emit(op.Bits, op.BitsAttr{Hi: math.Inf(1)}, in[0])
			return b.Emit(op.MaskBackward, op.MaskAttr{In: 1}, in[1], bits)
		}},
		{"same", 5e-7, shapes{{1, 3, 37, 40, 4}, {1, 3, 37, 40, 4}}, binary("Add")},
		{"number", 5e-7, shapes{{1, 3, 37, 40, 4}, {}}, binary("Sub")},
		{"gate in tiles", 5e-7, shapes{{1, 3, 5, 7, 260}, {1, 1, 1, 1, 260}}, binary("Mul")},
		{"gate in odd tiles", 5e-7, shapes{{1, 1, 1, 1, 1030}, {1, 3, 3, 5, 1030}}, binary("Div")},
		{"gates of samples", 5e-7, shapes{{3, 2, 5, 7, 36}, {3, 1, 1, 1, 36}}, binary("Max")},
		{"map", 5e-7, shapes{{1, 3, 5, 7, 260}, {1, 3, 5, 7, 1}}, binary("Mul")},
		{"planes", 5e-7, shapes{{1, 3, 5, 7, 12}, {1, 3, 1, 1, 12}}, binary("Add")},
		{"affine", 5e-7, shapes{{1, 3, 9, 7, 260}, {260}, {260}}, node(op.Affine, nil)},

		{"mean of channels", 2e-6, shapes{{1, 5, 40, 60, 32}}, reduce(op.ReduceMean, 1, 2, 3)},
		{"sum of tiles", 2e-6, shapes{{1, 4, 9, 9, 1152}}, reduce(op.ReduceSum, 1, 2, 3)},
		{"sum of odd channels", 2e-6, shapes{{1, 3, 50, 50, 33}}, reduce(op.ReduceSum, 1, 2, 3)},
		{"maximum of all", 5e-7, shapes{{1, 3, 150, 151, 1}}, reduce(op.ReduceMax, 1, 2, 3, 4)},
		{"sum in groups of planes", 2e-6, shapes{{1, 3, 2, 4, 16384}}, reduce(op.ReduceSum, 1, 2, 3)},
		{"sum along depth", 2e-6, shapes{{1, 5, 20, 30, 8}}, reduce(op.ReduceSum, 1)},
		{"sum of depth and channels", 2e-6, shapes{{1, 5, 20, 30, 8}}, reduce(op.ReduceSum, 1, 4)},
		{"sum of planes", 2e-6, shapes{{1, 3, 40, 60, 32}}, reduce(op.ReduceSum, 2, 3)},
		{"sum of rows", 2e-6, shapes{{1, 3, 40, 60, 32}}, reduce(op.ReduceSum, 3)},
		{"maximum of channels", 5e-7, shapes{{1, 3, 20, 30, 200}}, reduce(op.ReduceMax, 4)},
		{"sum of samples", 2e-6, shapes{{2, 3, 40, 60, 32}}, reduce(op.ReduceSum, 1, 2, 3)},
		{"sum of a long run", 2e-6, shapes{{3, 40001}}, reduce(op.ReduceSum, 1)},

		{"group norm", 2e-6, shapes{{2, 3, 20, 30, 260}, {260}, {260}}, node(op.GroupNorm, groups)},
		{"group norm backward", 2e-6, shapes{{2, 3, 20, 30, 260}, {2, 3, 20, 30, 260}, {260}}, node(op.GroupNormBackward, groups)},
		{"moments", 2e-6, shapes{{1, 5, 20, 30, 260}}, node(op.GroupMoments, groups)},
		{"moments of gradients", 2e-6, shapes{{1, 5, 20, 30, 260}, {1, 5, 20, 30, 260}, {260}}, func(b *ir.Builder, in []*ir.Value) *ir.Value {
			return b.Emit(op.GroupGradMoments, groups, in[0], in[1], b.Emit(op.GroupMoments, groups, in[1]), in[2])
		}},
		{"layer norm", 2e-6, shapes{{3, 5001}, {5001}, {5001}}, node(op.LayerNorm, op.LayerNormAttr{Axes: 1, Eps: 1e-6})},
		{"layer norm backward", 2e-6, shapes{{3, 5001}, {3, 5001}, {5001}}, node(op.LayerNormBackward, op.LayerNormAttr{Axes: 1, Eps: 1e-6})},
		{"softmax", 5e-6, shapes{{3, 5001}}, node(op.Softmax, op.SoftmaxAttr{Axis: 1})},
		{"softmax backward", 2e-6, shapes{{3, 5001}, {3, 5001}}, node(op.SoftmaxBackward, op.SoftmaxAttr{Axis: 1})},
		{"log softmax of channels", 1e-6, shapes{{1, 3, 20, 30, 9}}, node(op.LogSoftmax, op.SoftmaxAttr{Axis: 4})},

		{"product", 3e-6, shapes{{130, 150}, {150, 200}}, node(op.MatMul, op.MatMulAttr{})},
		{"product, a transposed", 3e-6, shapes{{150, 130}, {150, 200}}, node(op.MatMul, op.MatMulAttr{TransA: true})},
		{"product, b transposed", 3e-6, shapes{{130, 150}, {200, 150}}, node(op.MatMul, op.MatMulAttr{TransB: true})},
		{"product, both transposed", 3e-6, shapes{{150, 130}, {200, 150}}, node(op.MatMul, op.MatMulAttr{TransA: true, TransB: true})},
		{"product in large tiles", 3e-6, shapes{{1500, 21}, {21, 1501}}, node(op.MatMul, op.MatMulAttr{})},
		{"products of large tiles", 3e-6, shapes{{2, 700, 17}, {3, 1, 1000, 17}}, node(op.MatMul, op.MatMulAttr{TransB: true})},
		{"product of voxels", 3e-6, shapes{{1, 3, 20, 30, 32}, {32, 64}}, node(op.MatMul, op.MatMulAttr{})},
		{"product of one row", 3e-6, shapes{{1, 1280}, {1280, 1000}}, node(op.MatMul, op.MatMulAttr{})},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := backendtest.Case{Name: c.name, Inputs: inputs(c.shapes), Build: c.build}.Sample(1)
			if err != nil {
				t.Fatal(err)
			}
			if err := backendtest.Check(context.Background(), b, s, c.limit, 1e-30); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// node is the Build of a graph that is one node.
func node(o *ir.Op, attr any) func(*ir.Builder, []*ir.Value) *ir.Value {
	return func(b *ir.Builder, in []*ir.Value) *ir.Value { return b.Emit(o, attr, in...) }
}

// inputs are inputs of these shapes.
func inputs(shapes []tensor.Shape) (in []backendtest.Input) {
	for _, s := range shapes {
		in = append(in, backendtest.Input{Shape: s})
	}
	return in
}
