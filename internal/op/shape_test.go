package op_test

import (
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

func window(stride, dilation, before, after [3]int, groups int) op.ConvAttr {
	return op.ConvAttr{Stride: stride, Dilation: dilation, Before: before, After: after, Groups: groups}
}

// Shape rules: what comes out, or why nothing does.
func TestShapes(t *testing.T) {
	type shapes = []tensor.Shape
	ones, zeros := [3]int{1, 1, 1}, [3]int{}
	odd := window([3]int{2, 1, 3}, [3]int{1, 2, 1}, [3]int{1, 0, 2}, [3]int{0, 3, 2}, 2)
	plain := window(ones, ones, zeros, zeros, 1)
	pooled := op.PoolAttr{Kernel: [3]int{2, 3, 1}, Stride: [3]int{2, 2, 3}, Dilation: [3]int{1, 2, 1}, Before: [3]int{0, 1, 0}, After: [3]int{1, 0, 0}, Ceil: [3]int{0, 1, 2}}
	pool := func(change func(*op.PoolAttr)) op.PoolAttr { a := pooled; change(&a); return a }
	conv := func(change func(*op.ConvAttr)) op.ConvAttr { a := plain; change(&a); return a }
	group := op.GroupNormAttr{Groups: 2}
	x5 := tensor.Shape{1, 2, 3, 4, 6}
	resized := op.ResizeAttr{Out: tensor.Shape{2, 6}, Scale: []float64{1, 2}}
	for _, c := range []struct {
		op   *ir.Op
		attr any
		in   shapes
		want string // the shape, or words of the error
	}{
		{op.BinaryOp("Add"), nil, shapes{{2, 1, 5}, {3, 1}}, "[2,3,5]"},
		{op.BinaryOp("Add"), nil, shapes{{2, 4}, {3}}, "broadcast"},
		{op.Where, nil, shapes{{5}, {2, 1, 1}, {3, 1}}, "[2,3,5]"},
		{op.Where, nil, shapes{{5}, {2}, {3}}, "broadcast"},
		{op.Where, nil, shapes{{5}, {2}, {2}}, "broadcast"},
		{op.UnaryOp("Relu"), op.UnaryAttr{}, shapes{{2, 3}}, "[2,3]"},

		{op.Conv, odd, shapes{{1, 6, 7, 8, 4}, {6, 2, 3, 2, 2}}, "[1,3,8,4,6]"},
		{op.Conv, odd, shapes{{1, 6, 7, 8, 4}, {6, 2, 3, 2, 2}, {6}}, "[1,3,8,4,6]"},
		{op.Conv, odd, shapes{{1, 6, 7, 8, 4}, {6, 2, 3, 2, 2}, {4}}, "bias [4] does not fit 6 channels"},
		{op.Conv, odd, shapes{{1, 6, 7, 8, 4}, {6, 2, 3, 2, 2}, {6, 1}}, "bias"},
		{op.Conv, odd, shapes{{1, 6, 7, 8, 4}, {5, 2, 3, 2, 2}}, "2 groups do not fit 4 input channels"},
		{op.Conv, odd, shapes{{1, 6, 7, 8, 2}, {6, 2, 3, 2, 2}}, "do not fit 2 input channels"},
		{op.Conv, plain, shapes{{1, 4, 4, 4, 2}, {3, 2, 4, 1, 1}}, "[1,1,4,4,3]"},
		{op.Conv, plain, shapes{{1, 4, 4, 4, 2}, {3, 2, 1, 5, 1}}, "a window of 5 does not fit 4 padded voxels along height"},
		{op.Conv, conv(func(a *op.ConvAttr) { a.Before[2], a.After[2] = -1, -3 }), shapes{{1, 4, 4, 4, 2}, {3, 2, 1, 1, 1}}, "a window of 1 does not fit 0 padded voxels along width"},
		{op.Conv, plain, shapes{{4, 4, 4, 2}, {3, 2, 1, 1, 1}}, "convolution input of rank 5"},
		{op.Conv, plain, shapes{{1, 4, 4, 4, 2}, {3, 2, 1, 1}}, "convolution weights of rank 5"},
		{op.Conv, conv(func(a *op.ConvAttr) { a.Stride[1] = 0 }), shapes{{1, 4, 4, 4, 2}, {3, 2, 1, 1, 1}}, "must be at least 1"},
		{op.Conv, conv(func(a *op.ConvAttr) { a.Dilation[2] = 0 }), shapes{{1, 4, 4, 4, 2}, {3, 2, 1, 1, 1}}, "must be at least 1"},
		{op.Conv, conv(func(a *op.ConvAttr) { a.Groups = 0 }), shapes{{1, 4, 4, 4, 2}, {3, 2, 1, 1, 1}}, "0 groups"},
		{op.ConvBackwardData, op.ConvBackwardDataAttr{Conv: odd, In: [3]int{6, 7, 8}}, shapes{{1, 3, 8, 4, 6}, {6, 2, 3, 2, 2}}, "[1,6,7,8,4]"},
		{op.ConvBackwardData, op.ConvBackwardDataAttr{Conv: odd, In: [3]int{6, 7, 8}}, shapes{{1, 3, 8, 4, 6}, {6, 2, 3, 2, 2}, {4}}, "[1,6,7,8,4]"},
		{op.ConvBackwardData, op.ConvBackwardDataAttr{Conv: odd, In: [3]int{6, 7, 8}}, shapes{{1, 3, 8, 4, 6}, {6, 2, 3, 2, 2}, {6}}, "bias [6] does not fit 4"},
		{op.ConvBackwardData, op.ConvBackwardDataAttr{Conv: odd, In: [3]int{6, 9, 8}}, shapes{{1, 3, 8, 4, 6}, {6, 2, 3, 2, 2}}, "gives [1,3,10,4,6], not [1,3,8,4,6]"},
		{op.ConvBackwardData, op.ConvBackwardDataAttr{Conv: odd, In: [3]int{1, 1, 1}}, shapes{{1, 3, 8, 4, 6}, {6, 2, 3, 2, 2}}, "does not fit"},
		{op.ConvBackwardData, op.ConvBackwardDataAttr{Conv: odd, In: [3]int{6, 7, 8}}, shapes{{3, 8, 4, 6}, {6, 2, 3, 2, 2}}, "convolution input of rank 5"},

		{op.MaxPool, pooled, shapes{{1, 7, 8, 9, 3}}, "[1,4,3,4,3]"},
		{op.AvgPool, pooled, shapes{{2, 7, 8, 9, 3}}, "[2,4,3,4,3]"},
		{op.MaxPool, pooled, shapes{{7, 8, 9, 3}}, "pooling input of rank 5"},
		{op.MaxPool, op.PoolAttr{Kernel: [3]int{4, 1, 1}, Stride: ones, Dilation: ones}, shapes{{1, 4, 1, 1, 1}}, "[1,1,1,1,1]"},
		{op.MaxPool, op.PoolAttr{Kernel: [3]int{1, 5, 1}, Stride: ones, Dilation: ones}, shapes{{1, 4, 4, 1, 1}}, "a window of 5 does not fit 4 padded voxels along height"},
		{op.MaxPool, pool(func(a *op.PoolAttr) { a.Kernel[0] = 0 }), shapes{{1, 7, 8, 9, 3}}, "is not possible"},
		{op.MaxPool, pool(func(a *op.PoolAttr) { a.Stride[1] = 0 }), shapes{{1, 7, 8, 9, 3}}, "is not possible"},
		{op.MaxPool, pool(func(a *op.PoolAttr) { a.Dilation[2] = 0 }), shapes{{1, 7, 8, 9, 3}}, "is not possible"},
		{op.MaxPool, pool(func(a *op.PoolAttr) { a.Before[0] = -1 }), shapes{{1, 7, 8, 9, 3}}, "is not possible"},
		{op.MaxPool, pool(func(a *op.PoolAttr) { a.After[1] = -1 }), shapes{{1, 7, 8, 9, 3}}, "is not possible"},
		{op.MaxPool, pool(func(a *op.PoolAttr) { a.Ceil[2] = -1 }), shapes{{1, 7, 8, 9, 3}}, "is not possible"},
		{op.MaxPoolIndex, op.PoolAttr{Kernel: [3]int{64, 64, 16}, Stride: ones, Dilation: ones}, shapes{{1, 64, 64, 16, 1}}, "[1,1,1,1,1]"},
		{op.MaxPoolIndex, op.PoolAttr{Kernel: [3]int{64, 64, 17}, Stride: ones, Dilation: ones}, shapes{{1, 64, 64, 17, 1}}, "69632 taps is too large"},
		{op.AvgPoolBackward, op.PoolBackwardAttr{Pool: pooled, In: [3]int{7, 8, 9}}, shapes{{1, 4, 3, 4, 3}}, "[1,7,8,9,3]"},
		{op.AvgPoolBackward, op.PoolBackwardAttr{Pool: pooled, In: [3]int{9, 8, 9}}, shapes{{1, 4, 3, 4, 3}}, "gives [1,5,3,4,3], not [1,4,3,4,3]"},
		{op.AvgPoolBackward, op.PoolBackwardAttr{Pool: pooled, In: [3]int{7, 8, 9}}, shapes{{4, 3, 4, 3}}, "rank 5"},
		{op.AvgPoolBackward, op.PoolBackwardAttr{Pool: pool(func(a *op.PoolAttr) { a.Kernel[0] = 0 }), In: [3]int{7, 8, 9}}, shapes{{1, 4, 3, 4, 3}}, "is not possible"},

		{op.Affine, nil, shapes{{4, 5, 6}, {6}, {6}}, "[4,5,6]"},
		{op.Affine, nil, shapes{{4, 5, 6}, {5}, {6}}, "scale and shift [5] do not fit the last axis"},
		{op.Affine, nil, shapes{{4, 5, 6}, {6}, {6, 1}}, "do not fit"},
		{op.Affine, nil, shapes{{}, {1}, {1}}, "do not fit"},
		{op.GroupNorm, group, shapes{{2, 6}, {6}, {6}}, "[2,6]"},
		{op.GroupNorm, group, shapes{{2, 5}}, "2 groups do not divide"},
		{op.GroupNorm, group, shapes{{6}}, "2 groups do not divide"},
		{op.GroupNorm, op.GroupNormAttr{}, shapes{{2, 6}}, "0 groups do not divide"},
		{op.GroupNorm, group, shapes{{2, 6}, {6}, {2}}, "gamma and beta [2]"},
		{op.GroupMoments, group, shapes{x5}, "[1,1,1,2,3]"},
		{op.GroupMoments, group, shapes{{2, 2, 3, 4, 6}}, "of one image"},
		{op.GroupMoments, group, shapes{{1, 3, 4, 6}}, "of one image"},
		{op.GroupMoments, group, shapes{{1, 2, 3, 4, 5}}, "2 groups"},
		{op.GroupMoments, op.GroupNormAttr{}, shapes{x5}, "0 groups"},
		{op.GroupNormApply, group, shapes{x5, {1, 1, 1, 2, 3}}, "[1,2,3,4,6]"},
		{op.GroupNormApply, group, shapes{x5, {1, 1, 1, 3, 3}}, "moments [1,1,1,3,3] do not fit 2 groups"},
		{op.GroupNormApply, group, shapes{x5, {1, 1, 1, 2, 3}, {6}, {5}}, "gamma and beta [5]"},
		{op.GroupNormApply, group, shapes{x5, {1, 1, 1, 2, 3}, {5}}, "gamma and beta [5]"},
		{op.GroupGradMoments, group, shapes{x5, x5, {1, 1, 1, 2, 3}, {6}}, "[1,1,1,2,2]"},
		{op.GroupGradMoments, group, shapes{x5, x5, {1, 1, 1, 2, 3}, {5}}, "gamma [5]"},
		{op.GroupGradMoments, group, shapes{{1, 2, 3, 4, 5}, x5, {1, 1, 1, 2, 3}}, "a gradient [1,2,3,4,5] does not fit"},
		{op.GroupGradMoments, group, shapes{x5, x5, {1, 1, 1, 2, 2}}, "moments [1,1,1,2,2]"},
		{op.GroupGradApply, group, shapes{x5, x5, {1, 1, 1, 2, 3}, {1, 1, 1, 2, 2}, {6}}, "[1,2,3,4,6]"},
		{op.GroupGradApply, group, shapes{x5, x5, {1, 1, 1, 2, 3}, {1, 1, 1, 2, 3}}, "means [1,1,1,2,3]"},
		{op.GroupGradApply, group, shapes{x5, x5, {1, 1, 1, 2, 3}, {1, 1, 1, 2, 2}, {2}}, "gamma and beta [2]"},
		{op.GroupGradApply, group, shapes{{1}, x5, {1, 1, 1, 2, 3}, {1, 1, 1, 2, 2}}, "a gradient [1]"},
		{op.LayerNorm, op.LayerNormAttr{Axes: 2}, shapes{{3, 4, 5}, {4, 5}, {4, 5}}, "[3,4,5]"},
		{op.LayerNorm, op.LayerNormAttr{Axes: 3}, shapes{{3, 4, 5}}, "[3,4,5]"},
		{op.LayerNorm, op.LayerNormAttr{Axes: 4}, shapes{{3, 4, 5}}, "no 4 trailing axes"},
		{op.LayerNorm, op.LayerNormAttr{}, shapes{{3, 4, 5}}, "no 0 trailing axes"},
		{op.LayerNorm, op.LayerNormAttr{Axes: 2}, shapes{{3, 4, 5}, {5}}, "gamma or beta [5]"},
		{op.Softmax, op.SoftmaxAttr{Axis: 1}, shapes{{3, 4}}, "[3,4]"},
		{op.Softmax, op.SoftmaxAttr{Axis: 2}, shapes{{3, 4}}, "no axis 2"},
		{op.LogSoftmax, op.SoftmaxAttr{Axis: -1}, shapes{{3, 4}}, "no axis -1"},
		{op.Softmax, op.SoftmaxAttr{}, shapes{{3, 4}}, "[3,4]"},

		{op.MatMul, op.MatMulAttr{}, shapes{{2, 1, 3, 4}, {5, 4, 6}}, "[2,5,3,6]"},
		{op.MatMul, op.MatMulAttr{TransA: true, TransB: true}, shapes{{4, 3}, {6, 4}}, "[3,6]"},
		{op.MatMul, op.MatMulAttr{TransB: true}, shapes{{3, 4}, {4, 6}}, "do not multiply"},
		{op.MatMul, op.MatMulAttr{}, shapes{{4}, {4, 6}}, "matrices expected"},
		{op.MatMul, op.MatMulAttr{}, shapes{{3, 4}, {4}}, "matrices expected"},
		{op.MatMul, op.MatMulAttr{}, shapes{{2, 3, 4}, {3, 4, 6}}, "broadcast"},

		{op.ReduceSum, op.ReduceAttr{Axes: []int{0, 2}}, shapes{{3, 4, 5}}, "[1,4,1]"},
		{op.ReduceSum, op.ReduceAttr{Axes: []int{2, 0}}, shapes{{3, 4, 5}}, "not in order"},
		{op.ReduceMax, op.ReduceAttr{Axes: []int{3}}, shapes{{3, 4, 5}}, "no axis 3"},
		{op.ReduceMax, op.ReduceAttr{Axes: []int{-1}}, shapes{{3, 4, 5}}, "no axis -1"},

		{op.Reshape, op.ReshapeAttr{Shape: tensor.Shape{6, 2}}, shapes{{3, 4}}, "[6,2]"},
		{op.Reshape, op.ReshapeAttr{Shape: tensor.Shape{5, 2}}, shapes{{3, 4}}, "cannot become"},
		{op.Transpose, op.TransposeAttr{Perm: []int{2, 0, 1}}, shapes{{3, 4, 5}}, "[5,3,4]"},
		{op.Transpose, op.TransposeAttr{Perm: []int{0, 0, 1}}, shapes{{3, 4, 5}}, "not a permutation"},
		{op.Transpose, op.TransposeAttr{Perm: []int{0, 3, 1}}, shapes{{3, 4, 5}}, "not a permutation"},
		{op.Transpose, op.TransposeAttr{Perm: []int{0, -1, 1}}, shapes{{3, 4, 5}}, "not a permutation"},
		{op.Transpose, op.TransposeAttr{Perm: []int{1, 0}}, shapes{{3, 4, 5}}, "does not fit"},
		{op.Expand, op.ExpandAttr{Shape: tensor.Shape{2, 3, 4}}, shapes{{3, 1}}, "[2,3,4]"},
		{op.Expand, op.ExpandAttr{Shape: tensor.Shape{3, 1}}, shapes{{3, 4}}, "cannot expand"},
		{op.Expand, op.ExpandAttr{Shape: tensor.Shape{3, 5}}, shapes{{3, 4}}, "broadcast"},
		{op.Slice, op.SliceAttr{Start: []int{1, 4}, Step: []int{1, -2}, Count: []int{2, 3}}, shapes{{3, 5}}, "[2,3]"},
		{op.Slice, op.SliceAttr{Start: []int{1, 4}, Step: []int{1, -2}, Count: []int{3, 3}}, shapes{{3, 5}}, "reaches outside [3,5] along axis 0"},
		{op.Slice, op.SliceAttr{Start: []int{1, 3}, Step: []int{1, -2}, Count: []int{2, 3}}, shapes{{3, 5}}, "along axis 1"},
		{op.Slice, op.SliceAttr{Start: []int{1, 5}, Step: []int{1, -2}, Count: []int{2, 2}}, shapes{{3, 5}}, "along axis 1"},
		{op.Slice, op.SliceAttr{Start: []int{-1, 0}, Step: []int{1, 1}, Count: []int{2, 2}}, shapes{{3, 5}}, "along axis 0"},
		{op.Slice, op.SliceAttr{Start: []int{0, 0}, Step: []int{1, 0}, Count: []int{2, 2}}, shapes{{3, 5}}, "along axis 1"},
		{op.Slice, op.SliceAttr{Start: []int{0}, Step: []int{1, 1}, Count: []int{2, 2}}, shapes{{3, 5}}, "does not fit"},
		{op.Slice, op.SliceAttr{Start: []int{0, 0}, Step: []int{1}, Count: []int{2, 2}}, shapes{{3, 5}}, "does not fit"},
		{op.Slice, op.SliceAttr{Start: []int{0, 0}, Step: []int{1, 1}, Count: []int{2}}, shapes{{3, 5}}, "does not fit"},
		{op.SliceBackward, op.SliceBackwardAttr{Slice: op.SliceAttr{Start: []int{1}, Step: []int{2}, Count: []int{2}}, In: tensor.Shape{4}}, shapes{{2}}, "[4]"},
		{op.SliceBackward, op.SliceBackwardAttr{Slice: op.SliceAttr{Start: []int{1}, Step: []int{2}, Count: []int{2}}, In: tensor.Shape{4}}, shapes{{3}}, "is not the slice"},
		{op.SliceBackward, op.SliceBackwardAttr{Slice: op.SliceAttr{Start: []int{1}, Step: []int{2}, Count: []int{2}}, In: tensor.Shape{3}}, shapes{{2}}, "reaches outside"},
		{op.Concat, op.ConcatAttr{Axis: 1}, shapes{{2, 3}, {2, 1}, {2, 4}}, "[2,8]"},
		{op.Concat, op.ConcatAttr{Axis: 1}, shapes{{2, 3}, {3, 1}}, "do not join along axis 1"},
		{op.Concat, op.ConcatAttr{Axis: 0}, shapes{{2, 3}, {2, 3, 1}}, "do not join"},
		{op.Concat, op.ConcatAttr{Axis: 2}, shapes{{2, 3}, {2, 1}}, "no axis 2"},
		{op.Concat, op.ConcatAttr{Axis: -1}, shapes{{2, 3}, {2, 1}}, "no axis -1"},
		{op.Pad, op.PadAttr{Before: []int{1, -2}, After: []int{3, 1}}, shapes{{2, 5}}, "[6,4]"},
		{op.Pad, op.PadAttr{Before: []int{1}, After: []int{3, 1}}, shapes{{2, 5}}, "does not fit"},
		{op.Pad, op.PadAttr{Before: []int{1, 1}, After: []int{3}}, shapes{{2, 5}}, "does not fit"},
		{op.Pad, op.PadAttr{Before: []int{1, -2}, After: []int{3, -3}}, shapes{{2, 5}}, "has size 0"},
		{op.PadBackward, op.PadBackwardAttr{Pad: op.PadAttr{Before: []int{1}, After: []int{3}}, In: tensor.Shape{2}}, shapes{{6}}, "[2]"},
		{op.PadBackward, op.PadBackwardAttr{Pad: op.PadAttr{Before: []int{1}, After: []int{3}}, In: tensor.Shape{2}}, shapes{{5}}, "is not padded"},
		{op.PadBackward, op.PadBackwardAttr{Pad: op.PadAttr{Before: []int{1}, After: []int{3}}, In: tensor.Shape{2, 1}}, shapes{{6, 1}}, "does not fit"},
		{op.Gather, op.GatherAttr{Axis: 1, Index: []int{2, 0, 2, 1}}, shapes{{2, 3}}, "[2,4]"},
		{op.Gather, op.GatherAttr{Axis: 1, Index: []int{3}}, shapes{{2, 3}}, "index 3 is outside axis 1"},
		{op.Gather, op.GatherAttr{Axis: 1, Index: []int{-1}}, shapes{{2, 3}}, "index -1 is outside axis 1"},
		{op.Gather, op.GatherAttr{Axis: 2, Index: []int{0}}, shapes{{2, 3}}, "no axis 2"},
		{op.Gather, op.GatherAttr{Axis: -1, Index: []int{0}}, shapes{{2, 3}}, "no axis -1"},
		{op.GatherBackward, op.GatherBackwardAttr{Gather: op.GatherAttr{Axis: 1, Index: []int{2, 0}}, Size: 5}, shapes{{3, 2}}, "[3,5]"},
		{op.GatherBackward, op.GatherBackwardAttr{Gather: op.GatherAttr{Axis: 0, Index: []int{2, 0}}, Size: 5}, shapes{{3, 2}}, "was not gathered"},
		{op.GatherBackward, op.GatherBackwardAttr{Gather: op.GatherAttr{Axis: 2, Index: []int{2, 0}}, Size: 5}, shapes{{3, 2}}, "was not gathered"},
		{op.GatherBackward, op.GatherBackwardAttr{Gather: op.GatherAttr{Axis: -1, Index: []int{2, 0}}, Size: 5}, shapes{{3, 2}}, "was not gathered"},

		{op.Resize, resized, shapes{{2, 3}}, "[2,6]"},
		{op.Resize, resized, shapes{{2, 3, 4}}, "does not fit"},
		{op.Resize, op.ResizeAttr{Out: tensor.Shape{2, 6}, Scale: []float64{1}}, shapes{{2, 3}}, "does not fit"},
		{op.Resize, op.ResizeAttr{Out: tensor.Shape{2, 6}, Scale: []float64{1, 0}}, shapes{{2, 3}}, "is not possible"},
		{op.ResizeBackward, op.ResizeBackwardAttr{Resize: resized, In: tensor.Shape{2, 3}}, shapes{{2, 6}}, "[2,3]"},
		{op.ResizeBackward, op.ResizeBackwardAttr{Resize: resized, In: tensor.Shape{2, 3}}, shapes{{2, 5}}, "is not the resized"},
		{op.ResizeBackward, op.ResizeBackwardAttr{Resize: resized, In: tensor.Shape{3}}, shapes{{2, 6}}, "does not fit"},
	} {
		var in []ir.Type
		for _, s := range c.in {
			in = append(in, ir.Type{Shape: s})
		}
		out, err := c.op.Infer(c.attr, in)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = out[0].Shape.String()
		}
		if fails := !strings.HasPrefix(c.want, "["); fails != (err != nil) || !strings.Contains(got, c.want) {
			t.Errorf("%s %+v of %v: %s, want %s", c.op.Name, c.attr, c.in, got, c.want)
		}
	}
}

// An index takes a byte for each window of up to 256 taps, two for more.
func TestIndexTypes(t *testing.T) {
	for taps, want := range map[[3]int]tensor.Type{{1, 1, 1}: tensor.Uint8, {4, 8, 8}: tensor.Uint8, {1, 1, 257}: tensor.Uint16, {64, 64, 16}: tensor.Uint16} {
		a := op.PoolAttr{Kernel: taps, Stride: [3]int{1, 1, 1}, Dilation: [3]int{1, 1, 1}}
		out, err := op.MaxPoolIndex.Infer(a, []ir.Type{{Shape: tensor.Shape{1, 64, 64, 300, 1}}})
		if err != nil || out[0].Elem != want {
			t.Errorf("%v taps: %v, %v", taps, out, err)
		}
	}
}
