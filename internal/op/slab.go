package op

import (
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
)

// Rules for running on slabs: what planes along depth an operation reads. They are set here, side by side, since they are
// one idea; see ir.Op.Slab.
func init() {
	pointwise := slices.Concat(unaryOps, binaryOps, compareOps, []*ir.Op{
		UnaryBackward, Bits, MaskBackward, PRelu, PReluBackward, Where, Affine, GroupNormApply, GroupGradApply,
	})
	for _, o := range pointwise {
		o.Slab = samePlanes
	}
	Conv.Slab = func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		a := n.Attr.(ConvAttr)
		lo, hi := windowPlanes(z0, z1, n.Inputs[0].Shape()[1], n.Inputs[1].Shape()[2], a.Stride[0], a.Dilation[0], a.Before[0])
		return lo, hi, true
	}
	ConvBackwardData.Slab = func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		a := n.Attr.(ConvBackwardDataAttr).Conv
		lo, hi := gradientPlanes(z0, z1, n.Inputs[0].Shape()[1], n.Inputs[1].Shape()[2], a.Stride[0], a.Dilation[0], a.Before[0])
		return lo, hi, true
	}
	for _, o := range []*ir.Op{MaxPool, MaxPoolIndex, AvgPool} {
		o.Slab = func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
			a := n.Attr.(PoolAttr)
			lo, hi := windowPlanes(z0, z1, n.Inputs[0].Shape()[1], a.Kernel[0], a.Stride[0], a.Dilation[0], a.Before[0])
			return lo, hi, true
		}
	}
	for _, o := range []*ir.Op{MaxPoolBackward, AvgPoolBackward} {
		o.Slab = func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
			a := n.Attr.(PoolBackwardAttr).Pool
			lo, hi := gradientPlanes(z0, z1, n.Inputs[0].Shape()[1], a.Kernel[0], a.Stride[0], a.Dilation[0], a.Before[0])
			return lo, hi, true
		}
	}
	LayerNorm.Slab = func(n *ir.Node, _, z0, z1 int) (int, int, bool) { return z0, z1, n.Attr.(LayerNormAttr).Axes <= 3 }
	LayerNormBackward.Slab = LayerNorm.Slab
	for _, o := range []*ir.Op{Softmax, SoftmaxBackward, LogSoftmax, LogSoftmaxBackward} {
		o.Slab = func(n *ir.Node, _, z0, z1 int) (int, int, bool) { return z0, z1, n.Attr.(SoftmaxAttr).Axis > 1 }
	}
	MatMul.Slab = func(n *ir.Node, input, z0, z1 int) (int, int, bool) {
		// Rows are voxels, and the other operand is a matrix without depth.
		return z0, z1, input == 0 && !n.Attr.(MatMulAttr).TransA && len(n.Inputs[1].Shape()) == 2
	}
	for _, o := range []*ir.Op{ReduceSum, ReduceMean, ReduceMax} {
		o.Slab = func(n *ir.Node, _, z0, z1 int) (int, int, bool) { return z0, z1, !reducesDepth(n) }
		o.Accumulates = func(n *ir.Node) bool { return reducesDepth(n) && n.Inputs[0].HasDepth() }
	}
	for _, o := range []*ir.Op{GroupMoments, GroupGradMoments} {
		o.Accumulates = func(n *ir.Node) bool { return n.Inputs[0].HasDepth() }
	}
	Reshape.Slab = func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		x, y := n.Inputs[0].Shape(), n.Out().Shape()
		return z0, z1, len(x) == len(y) && x[0] == y[0] && x[1] == y[1]
	}
	Transpose.Slab = func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		p := n.Attr.(TransposeAttr).Perm
		return z0, z1, p[0] == 0 && p[1] == 1
	}
	Expand.Slab = samePlanes
	Slice.Slab = func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		a := n.Attr.(SliceAttr)
		return a.Start[1] + z0, a.Start[1] + z1, a.Step[1] == 1
	}
	SliceBackward.Slab = func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		a := n.Attr.(SliceBackwardAttr).Slice
		lo, hi := clampPlanes(z0-a.Start[1], z1-a.Start[1], a.Count[1])
		return lo, hi, a.Step[1] == 1
	}
	Concat.Slab = func(n *ir.Node, _, z0, z1 int) (int, int, bool) { return z0, z1, n.Attr.(ConcatAttr).Axis != 1 }
	Pad.Slab = func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		a := n.Attr.(PadAttr)
		lo, hi := clampPlanes(z0-a.Before[1], z1-a.Before[1], n.Inputs[0].Shape()[1])
		return lo, hi, a.Mode == PadConstant || a.Before[1] == 0 && a.After[1] == 0
	}
	PadBackward.Slab = func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		a := n.Attr.(PadBackwardAttr).Pad
		lo, hi := clampPlanes(z0+a.Before[1], z1+a.Before[1], n.Inputs[0].Shape()[1])
		return lo, hi, a.Mode == PadConstant || a.Before[1] == 0 && a.After[1] == 0
	}
	Gather.Slab = func(n *ir.Node, _, z0, z1 int) (int, int, bool) { return z0, z1, n.Attr.(GatherAttr).Axis != 1 }
	GatherBackward.Slab = func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		return z0, z1, n.Attr.(GatherBackwardAttr).Gather.Axis != 1
	}
	Resize.Slab = func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		taps := n.Attr.(ResizeAttr).Taps(1, n.Inputs[0].Shape()[1])
		lo, hi := n.Inputs[0].Shape()[1], 0
		for _, of := range taps[z0:z1] {
			for _, t := range of {
				lo, hi = min(lo, t.Index), max(hi, t.Index+1)
			}
		}
		return lo, hi, true
	}
	ResizeBackward.Slab = func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		// Taps go up with the position, so that those of planes z0 to z1-1 lie between those below z0 and those from z1 on.
		a, lo, hi := n.Attr.(ResizeBackwardAttr), 0, 0
		for _, of := range a.Resize.Taps(1, a.In[1]) {
			if of[len(of)-1].Index < z0 {
				lo++
			}
			if of[0].Index < z1 {
				hi++
			}
		}
		return lo, hi, true
	}
}

func samePlanes(_ *ir.Node, _, z0, z1 int) (int, int, bool) { return z0, z1, true }

func reducesDepth(n *ir.Node) bool { return slices.Contains(n.Attr.(ReduceAttr).Axes, 1) }

// clampPlanes cuts [lo, hi) to [0, n).
func clampPlanes(lo, hi, n int) (int, int) {
	lo = min(max(lo, 0), n)
	return lo, min(max(hi, lo), n)
}

// windowPlanes are the planes of an input of n planes that windows z0 to z1-1 look at.
func windowPlanes(z0, z1, n, kernel, stride, dilation, before int) (lo, hi int) {
	return clampPlanes(z0*stride-before, (z1-1)*stride-before+dilation*(kernel-1)+1, n)
}

// gradientPlanes are the windows, of n, that look at planes z0 to z1-1.
func gradientPlanes(z0, z1, n, kernel, stride, dilation, before int) (lo, hi int) {
	first := z0 + before - dilation*(kernel-1) // the start of the first window that reaches z0
	return clampPlanes(ceilDiv(first, stride), floorDiv(z1-1+before, stride)+1, n)
}

func floorDiv(a, b int) int {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func ceilDiv(a, b int) int { return -floorDiv(-a, b) }
