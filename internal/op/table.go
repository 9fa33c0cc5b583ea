// Package op is the table of operations. Each entry says what an operation is called, what shapes it gives, what its
// gradient is, and how it behaves under a reordering of axes; the backends hold the kernels. To add an operation, add its
// entry here and its kernels there: the gradient check and the conformance suite find it by the table.
//
// Images are channels-last, [N, D, H, W, C]. A convolution of one or two dimensions is one of three with sizes of 1.
package op

import (
	"fmt"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/tensor"
)

// All lists the operations. (Gradient rules that name other operations are set in init functions below their entries, since
// Go does not let package variables refer to each other in a circle.)
var All = concat(
	unaryOps, binaryOps, compareOps,
	[]*ir.Op{
		UnaryBackward, Bits, MaskBackward, PRelu, PReluBackward, Where,
		Conv, ConvBackwardData,
		MaxPool, MaxPoolIndex, MaxPoolBackward, AvgPool, AvgPoolBackward,
		Affine, GroupNorm, GroupNormBackward, GroupMoments, GroupNormApply, GroupGradMoments, GroupGradApply, LayerNorm, LayerNormBackward,
		Softmax, SoftmaxBackward, LogSoftmax, LogSoftmaxBackward,
		MatMul,
		ReduceSum, ReduceMean, ReduceMax,
		Reshape, Transpose, Expand, Slice, SliceBackward, Concat, Pad, PadBackward, Gather, GatherBackward,
		Resize, ResizeBackward,
	},
)

// Named returns the operation of that name.
func Named(name string) (*ir.Op, bool) {
	op, ok := byName[name]
	return op, ok
}

var byName = map[string]*ir.Op{}

func init() {
	for _, o := range All {
		if byName[o.Name] != nil {
			panic("op: two operations are called " + o.Name)
		}
		byName[o.Name] = o
	}
}

func concat(lists ...[]*ir.Op) (all []*ir.Op) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// one wraps a shape rule with a single float32 output.
func one(rule func(attr any, in []ir.Type) (tensor.Shape, error)) func(any, []ir.Type) ([]ir.Type, error) {
	return func(attr any, in []ir.Type) ([]ir.Type, error) {
		s, err := rule(attr, in)
		if err != nil {
			return nil, err
		}
		return []ir.Type{{Shape: s}}, nil
	}
}

// like is the shape rule of an operation whose output looks like input i.
func like(i int) func(any, []ir.Type) ([]ir.Type, error) {
	return one(func(_ any, in []ir.Type) (tensor.Shape, error) { return in[i].Shape.Clone(), nil })
}

func samePermute(attr any, _ []int) any { return attr }

// position returns the new place of axis under perm.
func position(perm []int, axis int) int {
	for i, p := range perm {
		if p == axis {
			return i
		}
	}
	return -1
}

func permuted(s []int, perm []int) []int {
	out := make([]int, len(perm))
	for i, p := range perm {
		out[i] = s[p]
	}
	return out
}

// SumTo emits the sum of v over the axes that were broadcast from shape: the gradient of a broadcast.
func SumTo(b *ir.Builder, v *ir.Value, shape tensor.Shape) *ir.Value {
	if v == nil || b.Err() != nil || v.Shape().Equal(shape) {
		return v
	}
	lead := len(v.Shape()) - len(shape)
	var axes []int
	for i, d := range v.Shape() {
		if i < lead || shape[i-lead] == 1 && d != 1 {
			axes = append(axes, i)
		}
	}
	if len(axes) > 0 {
		v = b.Emit(ReduceSum, ReduceAttr{Axes: axes}, v)
	}
	return reshape(b, v, shape)
}

func reshape(b *ir.Builder, v *ir.Value, shape tensor.Shape) *ir.Value {
	if b.Err() != nil || v.Shape().Equal(shape) {
		return v
	}
	return b.Emit(Reshape, ReshapeAttr{Shape: shape.Clone()}, v)
}

func wantRank(name string, t ir.Type, rank int) error {
	if len(t.Shape) != rank {
		return fmt.Errorf("%s of rank %d expected, not %v", name, rank, t.Shape)
	}
	return nil
}
