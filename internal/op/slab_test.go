package op_test

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/reference"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// reads finds by trial which planes of an input each plane of the node's output is made of: reads[z][p] is whether plane z changes when
// plane p of the input does.
func reads(t *testing.T, n *ir.Node, in [][]float64, input int) [][]bool {
	t.Helper()
	eval := func(in [][]float64) []float64 {
		out, err := reference.Node(n, in)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	x, y := n.Inputs[input].Shape(), n.Out().Shape()
	before := eval(in)
	plane, outPlane := x.Elements()/x[1], y.Elements()/y[1]
	found := make([][]bool, y[1])
	for z := range found {
		found[z] = make([]bool, x[1])
	}
	for p := range x[1] {
		for _, by := range []float64{50, -50, 0.3, 1, 5} { // of which one changes what the others do not
			changed := append([][]float64(nil), in...)
			changed[input] = append([]float64(nil), in[input]...)
			for i := range plane {
				changed[input][p*plane+i] += by * (1 + float64(i%7)/10)
			}
			for i, v := range eval(changed) {
				if v != before[i] && !(math.IsNaN(v) && math.IsNaN(before[i])) {
					found[i/outPlane][p] = true
				}
			}
		}
	}
	return found
}

// checkSlabs holds a node's rule against what it reads: a range covers all planes that are read, lies in the input and grows with the
// output's. Exact says that it holds no plane before the first nor behind the last one that is read.
func checkSlabs(t *testing.T, name string, n *ir.Node, in [][]float64, exact bool) {
	t.Helper()
	for i, v := range n.Inputs {
		if v == nil || !v.HasDepth() {
			continue
		}
		depth := n.Out().Shape()[1]
		var found [][]bool
		last := [2]int{}
		for z0 := range depth {
			for z1 := z0 + 1; z1 <= depth; z1++ {
				lo, hi, ok := n.Op.Slab(n, i, z0, z1)
				if !ok {
					continue
				}
				if found == nil {
					found = reads(t, n, in, i)
				}
				first, end := math.MaxInt, 0
				for _, planes := range found[z0:z1] {
					for p, read := range planes {
						if read {
							first, end = min(first, p), max(end, p+1)
						}
					}
				}
				if lo < 0 || lo > hi || hi > v.Shape()[1] {
					t.Errorf("%s: planes %d to %d of the output read %d to %d of input %d, which has %d", name, z0, z1, lo, hi, i, v.Shape()[1])
				}
				if end > 0 && (lo > first || hi < end || exact && (lo < first || hi > end)) || end == 0 && exact && lo != hi {
					t.Errorf("%s: planes %d to %d of the output read %d to %d of input %d, not %d to %d", name, z0, z1, first, end, i, lo, hi)
				}
				if z1 == z0+1 {
					if z0 > 0 && (lo < last[0] || hi < last[1]) {
						t.Errorf("%s: plane %d reads from %d to %d, the one before from %d to %d", name, z0, lo, hi, last[0], last[1])
					}
					last = [2]int{lo, hi}
				}
			}
		}
	}
}

// No rule forgets a plane, on all cases of the backends' suite.
func TestSlabsOfAllCases(t *testing.T) {
	for _, c := range backendtest.Cases() {
		s, err := c.Sample(4)
		if err != nil {
			t.Error(err)
			continue
		}
		values, err := reference.Eval(context.Background(), s.Graph, s.Data)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, n := range s.Graph.Nodes {
			if n.Op.Slab == nil || !n.Out().HasDepth() || n.Out().Shape().Elements() > 4000 {
				continue
			}
			in := make([][]float64, len(n.Inputs))
			for i, v := range n.Inputs {
				if v == nil {
					continue
				}
				if in[i] = values[v]; v.Const != nil {
					in[i] = reference.Const(v.Const)
				}
			}
			checkSlabs(t, c.Name, n, in, false)
		}
	}
}

// volume is [1, D, 2, 2, C] for the slabs below.
func volume(d, c int) tensor.Shape { return tensor.Shape{1, d, 2, 2, c} }

// deep is a window along depth alone.
func deep(stride, dilation, before, after int) op.ConvAttr {
	return op.ConvAttr{Stride: [3]int{stride, 1, 1}, Dilation: [3]int{dilation, 1, 1}, Before: [3]int{before, 0, 0}, After: [3]int{after, 0, 0}, Groups: 1}
}

func deepPool(kernel, stride, before, after, ceil int) op.PoolAttr {
	return op.PoolAttr{Kernel: [3]int{kernel, 1, 1}, Stride: [3]int{stride, 1, 1}, Dilation: [3]int{1, 1, 1},
		Before: [3]int{before, 0, 0}, After: [3]int{after, 0, 0}, Ceil: [3]int{ceil, 0, 0}}
}

func slice(start, step, count int) op.SliceAttr {
	return op.SliceAttr{Start: []int{0, start, 0, 0, 0}, Step: []int{1, step, 1, 1, 1}, Count: []int{1, count, 2, 2, 3}}
}

func pad(mode string, before, after int) op.PadAttr {
	return op.PadAttr{Before: []int{0, before, 1, 0, 0}, After: []int{0, after, 0, 0, 0}, Mode: mode}
}

func resize(n, out int, mode, coord string) op.ResizeAttr {
	return op.ResizeAttr{Out: volume(out, 3), Scale: []float64{1, float64(out) / float64(n), 1, 1, 1}, Mode: mode, Coord: coord, Nearest: "floor", CubicA: -0.75}
}

// Which nodes run on slabs, and that those read no plane too many.
func TestSlabs(t *testing.T) {
	x := volume(6, 3)
	loose := map[string]bool{"where": true, "enlarge": true, "enlarge backward": true} // some planes have no weight
	for _, c := range []struct {
		name string
		op   *ir.Op
		attr any
		in   []tensor.Shape
		ok   bool
	}{
		{"relu", op.UnaryOp("Relu"), op.UnaryAttr{}, []tensor.Shape{x}, true},
		{"add", op.BinaryOp("Add"), nil, []tensor.Shape{x, x}, true},
		{"greater", op.BinaryOp("Greater"), nil, []tensor.Shape{x, x}, true},
		{"where", op.Where, nil, []tensor.Shape{x, x, x}, true},
		{"affine", op.Affine, nil, []tensor.Shape{x, {3}, {3}}, true},
		{"conv", op.Conv, deep(1, 1, 1, 1), []tensor.Shape{x, {4, 3, 3, 1, 1}}, true},
		{"conv, strided", op.Conv, deep(2, 1, 1, 0), []tensor.Shape{x, {4, 3, 3, 1, 1}}, true},
		{"conv, stride beyond the window", op.Conv, deep(3, 1, 0, 0), []tensor.Shape{volume(8, 3), {4, 3, 2, 1, 1}}, true},
		{"conv, padding alone", op.Conv, deep(1, 1, 3, 2), []tensor.Shape{x, {4, 3, 2, 1, 1}}, true},
		{"conv, cropped", op.Conv, deep(1, 1, -2, -1), []tensor.Shape{x, {4, 3, 2, 1, 1}}, true},
		{"conv, dilated", op.Conv, deep(1, 2, 0, 0), []tensor.Shape{x, {4, 3, 2, 1, 1}}, true},
		{"conv backward", op.ConvBackwardData, op.ConvBackwardDataAttr{Conv: deep(1, 1, 1, 1), In: [3]int{6, 2, 2}}, []tensor.Shape{x, {3, 2, 3, 1, 1}}, true},
		{"conv backward, strided", op.ConvBackwardData, op.ConvBackwardDataAttr{Conv: deep(2, 1, 1, 0), In: [3]int{6, 2, 2}}, []tensor.Shape{volume(3, 3), {3, 2, 3, 1, 1}}, true},
		{"conv backward, transposed", op.ConvBackwardData, op.ConvBackwardDataAttr{Conv: deep(2, 1, 0, 0), In: [3]int{12, 2, 2}}, []tensor.Shape{x, {3, 2, 2, 1, 1}}, true},
		{"max pool", op.MaxPool, deepPool(3, 2, 1, 0, 1), []tensor.Shape{volume(7, 3)}, true},
		{"mean pool", op.AvgPool, deepPool(2, 2, 0, 0, 1), []tensor.Shape{volume(7, 3)}, true},
		{"mean pool backward", op.AvgPoolBackward, op.PoolBackwardAttr{Pool: deepPool(3, 2, 1, 1, 0), In: [3]int{7, 2, 2}}, []tensor.Shape{volume(4, 3)}, true},
		{"layer norm", op.LayerNorm, op.LayerNormAttr{Axes: 1, Eps: 1e-5}, []tensor.Shape{x}, true},
		{"layer norm of planes", op.LayerNorm, op.LayerNormAttr{Axes: 3, Eps: 1e-5}, []tensor.Shape{x}, true},
		{"layer norm of volumes", op.LayerNorm, op.LayerNormAttr{Axes: 4, Eps: 1e-5}, []tensor.Shape{x}, false},
		{"layer norm backward", op.LayerNormBackward, op.LayerNormAttr{Axes: 3, Eps: 1e-5}, []tensor.Shape{x, x}, true},
		{"layer norm backward of volumes", op.LayerNormBackward, op.LayerNormAttr{Axes: 4, Eps: 1e-5}, []tensor.Shape{x, x}, false},
		{"softmax of height", op.Softmax, op.SoftmaxAttr{Axis: 2}, []tensor.Shape{x}, true},
		{"softmax of depth", op.Softmax, op.SoftmaxAttr{Axis: 1}, []tensor.Shape{x}, false},
		{"softmax backward of depth", op.SoftmaxBackward, op.SoftmaxAttr{Axis: 1}, []tensor.Shape{x, x}, false},
		{"log-softmax backward", op.LogSoftmaxBackward, op.SoftmaxAttr{Axis: 4}, []tensor.Shape{x, x}, true},
		{"rows", op.MatMul, op.MatMulAttr{}, []tensor.Shape{x, {3, 2}}, true},
		{"rows, the other transposed", op.MatMul, op.MatMulAttr{TransB: true}, []tensor.Shape{x, {2, 3}}, true},
		{"columns", op.MatMul, op.MatMulAttr{TransA: true}, []tensor.Shape{x, {2, 2}}, false},
		{"matrices", op.MatMul, op.MatMulAttr{}, []tensor.Shape{x, volume(6, 3).Permute([]int{0, 1, 2, 4, 3})}, false},
		{"sum of channels", op.ReduceSum, op.ReduceAttr{Axes: []int{4}}, []tensor.Shape{x}, true},
		{"mean of planes", op.ReduceMean, op.ReduceAttr{Axes: []int{2, 3}}, []tensor.Shape{x}, true},
		{"reshape in planes", op.Reshape, op.ReshapeAttr{Shape: tensor.Shape{1, 6, 1, 4, 3}}, []tensor.Shape{x}, true},
		{"reshape across planes", op.Reshape, op.ReshapeAttr{Shape: tensor.Shape{1, 3, 2, 4, 3}}, []tensor.Shape{x}, false},
		{"transpose in planes", op.Transpose, op.TransposeAttr{Perm: []int{0, 1, 4, 2, 3}}, []tensor.Shape{x}, true},
		{"transpose of depth", op.Transpose, op.TransposeAttr{Perm: []int{0, 2, 1, 3, 4}}, []tensor.Shape{x}, false},
		{"expand", op.Expand, op.ExpandAttr{Shape: tensor.Shape{1, 6, 2, 2, 5}}, []tensor.Shape{volume(6, 1)}, true},
		{"slice", op.Slice, slice(2, 1, 3), []tensor.Shape{x}, true},
		{"slice, every other", op.Slice, slice(0, 2, 3), []tensor.Shape{x}, false},
		{"slice, backwards", op.Slice, slice(5, -1, 3), []tensor.Shape{x}, false},
		{"slice backward", op.SliceBackward, op.SliceBackwardAttr{Slice: slice(2, 1, 3), In: x}, []tensor.Shape{volume(3, 3)}, true},
		{"slice backward, every other", op.SliceBackward, op.SliceBackwardAttr{Slice: slice(0, 2, 3), In: x}, []tensor.Shape{volume(3, 3)}, false},
		{"join channels", op.Concat, op.ConcatAttr{Axis: 4}, []tensor.Shape{x, x}, true},
		{"join volumes", op.Concat, op.ConcatAttr{Axis: 1}, []tensor.Shape{x, x}, false},
		{"pad", op.Pad, pad(op.PadConstant, 2, 3), []tensor.Shape{x}, true},
		{"crop", op.Pad, pad(op.PadConstant, -2, -1), []tensor.Shape{x}, true},
		{"pad by reflection in planes", op.Pad, pad(op.PadReflect, 0, 0), []tensor.Shape{x}, true},
		{"pad by reflection in front", op.Pad, pad(op.PadReflect, 1, 0), []tensor.Shape{x}, false},
		{"pad by reflection behind", op.Pad, pad(op.PadReflect, 0, 1), []tensor.Shape{x}, false},
		{"pad backward", op.PadBackward, op.PadBackwardAttr{Pad: pad(op.PadConstant, 2, 3), In: volume(3, 3)}, []tensor.Shape{{1, 8, 3, 2, 3}}, true},
		{"pad backward by reflection", op.PadBackward, op.PadBackwardAttr{Pad: pad(op.PadReflect, 1, 1), In: volume(3, 3)}, []tensor.Shape{{1, 5, 3, 2, 3}}, false},
		{"pad backward by reflection in planes", op.PadBackward, op.PadBackwardAttr{Pad: pad(op.PadReflect, 0, 0), In: volume(3, 3)}, []tensor.Shape{{1, 3, 3, 2, 3}}, true},
		{"pad backward by reflection in front", op.PadBackward, op.PadBackwardAttr{Pad: pad(op.PadReflect, 1, 0), In: volume(3, 3)}, []tensor.Shape{{1, 4, 3, 2, 3}}, false},
		{"pad backward by reflection behind", op.PadBackward, op.PadBackwardAttr{Pad: pad(op.PadReflect, 0, 1), In: volume(3, 3)}, []tensor.Shape{{1, 4, 3, 2, 3}}, false},
		{"gather channels", op.Gather, op.GatherAttr{Axis: 4, Index: []int{2, 0}}, []tensor.Shape{x}, true},
		{"gather planes", op.Gather, op.GatherAttr{Axis: 1, Index: []int{2, 0, 1}}, []tensor.Shape{x}, false},
		{"gather backward", op.GatherBackward, op.GatherBackwardAttr{Gather: op.GatherAttr{Axis: 4, Index: []int{2, 0, 1}}, Size: 5}, []tensor.Shape{x}, true},
		{"gather backward of planes", op.GatherBackward, op.GatherBackwardAttr{Gather: op.GatherAttr{Axis: 1, Index: []int{2, 0, 1, 1, 1, 1}}, Size: 5}, []tensor.Shape{x}, false},
		{"enlarge", op.Resize, resize(6, 12, "linear", "half_pixel"), []tensor.Shape{x}, true},
		{"shrink", op.Resize, resize(6, 2, "nearest", "asymmetric"), []tensor.Shape{x}, true},
		{"enlarge backward", op.ResizeBackward, op.ResizeBackwardAttr{Resize: resize(3, 6, "linear", "half_pixel"), In: volume(3, 3)}, []tensor.Shape{x}, true},
		{"shrink backward", op.ResizeBackward, op.ResizeBackwardAttr{Resize: resize(12, 6, "nearest", "asymmetric"), In: volume(12, 3)}, []tensor.Shape{x}, true},
	} {
		g, b := &ir.Graph{}, (*ir.Builder)(nil)
		b = ir.NewBuilder(g)
		var values []*ir.Value
		in := make([][]float64, len(c.in))
		for i, s := range c.in {
			values = append(values, g.Input(fmt.Sprint(i), ir.Type{Shape: s}))
			for k := range s.Elements() {
				in[i] = append(in[i], math.Sin(float64(3*k+i))+1.5)
			}
		}
		n := b.Emit(c.op, c.attr, values...)
		if err := b.Err(); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		_, _, ok := c.op.Slab(n.Def, 0, 0, 1)
		if ok != c.ok {
			t.Errorf("%s: runs on slabs: %v, want %v", c.name, ok, c.ok)
		}
		if ok {
			checkSlabs(t, c.name, n.Def, in, !loose[c.name])
		}
	}
}

// Statistics accumulate planes one after the other, if their inputs have any; of other reductions only those along depth do.
func TestAccumulates(t *testing.T) {
	for _, c := range []struct {
		op    *ir.Op
		attr  any
		shape tensor.Shape
		want  bool
	}{
		{op.ReduceSum, op.ReduceAttr{Axes: []int{1, 2, 3}}, volume(6, 3), true},
		{op.ReduceMax, op.ReduceAttr{Axes: []int{1}}, volume(6, 3), true},
		{op.ReduceMean, op.ReduceAttr{Axes: []int{2, 3, 4}}, volume(6, 3), false},
		{op.ReduceMean, op.ReduceAttr{Axes: []int{1, 2}}, tensor.Shape{4, 5, 6}, false},
		{op.ReduceMean, op.ReduceAttr{Axes: []int{1, 2}}, volume(1, 3), false},
		{op.GroupMoments, op.GroupNormAttr{Groups: 3}, volume(6, 3), true},
		{op.GroupMoments, op.GroupNormAttr{Groups: 3}, volume(1, 3), false},
	} {
		g := &ir.Graph{}
		b := ir.NewBuilder(g)
		v := b.Emit(c.op, c.attr, g.Input("x", ir.Type{Shape: c.shape}))
		if err := b.Err(); err != nil {
			t.Fatal(err)
		}
		if got := c.op.Accumulates(v.Def); got != c.want {
			t.Errorf("%s %+v of %v: %v", c.op.Name, c.attr, c.shape, got)
		}
		if c.op.Slab != nil && c.want {
			if _, _, ok := c.op.Slab(v.Def, 0, 0, 1); ok {
				t.Errorf("%s %+v runs on slabs and accumulates", c.op.Name, c.attr)
			}
		}
	}
}
