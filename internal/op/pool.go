package op

import (
	"fmt"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/tensor"
)

// PoolAttr places the windows of a pooling operation. Arrays are along depth, height, width.
type PoolAttr struct {
	Kernel, Stride, Dilation [3]int
	Before, After            [3]int
	// Ceil is the number of voxels by which the last window may reach beyond the padding (ceil_mode). Those voxels do not exist: they are
	// never a maximum and never count in an average.
	Ceil [3]int
	// CountPad makes padding voxels count in the divisor of an average.
	CountPad bool
}

// PoolBackwardAttr adds the size of the pooling's input.
type PoolBackwardAttr struct {
	Pool PoolAttr
	In   [3]int
}

func poolShape(a PoolAttr, x tensor.Shape) (tensor.Shape, error) {
	if len(x) != 5 {
		return nil, fmt.Errorf("pooling input of rank 5 expected, not %v", x)
	}
	out := x.Clone()
	for i := range 3 {
		if a.Kernel[i] < 1 || a.Stride[i] < 1 || a.Dilation[i] < 1 || a.Before[i] < 0 || a.After[i] < 0 || a.Ceil[i] < 0 {
			return nil, fmt.Errorf("pooling window %+v is not possible", a)
		}
		span, size := a.Dilation[i]*(a.Kernel[i]-1)+1, x[1+i]+a.Before[i]+a.After[i]+a.Ceil[i]
		if size < span {
			return nil, fmt.Errorf("a window of %d does not fit %d padded voxels along %s", span, size, axisNames[i])
		}
		out[1+i] = (size-span)/a.Stride[i] + 1
	}
	return out, nil
}

func poolForward(attr any, in []ir.Type) (tensor.Shape, error) {
	return poolShape(attr.(PoolAttr), in[0].Shape)
}

func poolBackward(attr any, in []ir.Type) (tensor.Shape, error) {
	a, dy := attr.(PoolBackwardAttr), in[0].Shape
	if len(dy) != 5 {
		return nil, fmt.Errorf("pooling gradient of rank 5 expected, not %v", dy)
	}
	dx := tensor.Shape{dy[0], a.In[0], a.In[1], a.In[2], dy[4]}
	y, err := poolShape(a.Pool, dx)
	if err == nil && !y.Equal(dy) {
		err = fmt.Errorf("pooling of %v gives %v, not %v", dx, y, dy)
	}
	return dx, err
}

// MaxPool is the maximum over each window of x [N, D, H, W, C].
var MaxPool = &ir.Op{Name: "MaxPool", MinIn: 1, MaxIn: 1, Attr: PoolAttr{}, Inputs: []string{"x"}, Infer: one(poolForward),
	AcrossPlanes: true, Slab: poolSlab}

// MaxPoolIndex is the position of the first maximum in each window, (kd*Kernel[1]+kh)*Kernel[2]+kw.
var MaxPoolIndex = &ir.Op{Name: "MaxPoolIndex", MinIn: 1, MaxIn: 1, Attr: PoolAttr{}, Inputs: []string{"x"}, NoGrad: "an index",
	Infer: func(attr any, in []ir.Type) ([]ir.Type, error) {
		s, err := poolForward(attr, in)
		a := attr.(PoolAttr)
		elem := tensor.Uint8
		if taps := a.Kernel[0] * a.Kernel[1] * a.Kernel[2]; taps > 1<<16 {
			return nil, fmt.Errorf("a max pooling window of %d taps is too large", taps)
		} else if taps > 1<<8 {
			elem = tensor.Uint16
		}
		return []ir.Type{{Shape: s, Elem: elem}}, err
	},
	AcrossPlanes: true, Slab: poolSlab}

// MaxPoolBackward adds each dy to the voxel that its index names.
var MaxPoolBackward = &ir.Op{Name: "MaxPoolBackward", MinIn: 2, MaxIn: 2, Attr: PoolBackwardAttr{}, Inputs: []string{"dy", "index"},
	Infer: one(poolBackward), NoGrad: "a gradient already", AcrossPlanes: true, Slab: poolBackwardSlab}

// AvgPool is the mean over each window of x [N, D, H, W, C].
var AvgPool = &ir.Op{Name: "AvgPool", MinIn: 1, MaxIn: 1, Attr: PoolAttr{}, Inputs: []string{"x"}, Infer: one(poolForward),
	AcrossPlanes: true, Slab: poolSlab}

// AvgPoolBackward spreads each dy over its window.
var AvgPoolBackward = &ir.Op{Name: "AvgPoolBackward", MinIn: 1, MaxIn: 1, Attr: PoolBackwardAttr{}, Inputs: []string{"dy"},
	Infer: one(poolBackward), NoGrad: "a gradient already", AcrossPlanes: true, Slab: poolBackwardSlab}

var poolOps = []*ir.Op{MaxPool, MaxPoolIndex, MaxPoolBackward, AvgPool, AvgPoolBackward}

func poolSlab(n *ir.Node, _, z0, z1 int) (int, int, bool) {
	a := n.Attr.(PoolAttr)
	lo, hi := windowPlanes(z0, z1, n.Inputs[0].Shape()[1], a.Kernel[0], a.Stride[0], a.Dilation[0], a.Before[0])
	return lo, hi, true
}

func poolBackwardSlab(n *ir.Node, _, z0, z1 int) (int, int, bool) {
	a := n.Attr.(PoolBackwardAttr).Pool
	lo, hi := gradientPlanes(z0, z1, n.Inputs[0].Shape()[1], a.Kernel[0], a.Stride[0], a.Dilation[0], a.Before[0])
	return lo, hi, true
}

func init() {
	MaxPool.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, _ []bool) []*ir.Value {
		index := b.Emit(MaxPoolIndex, n.Attr, n.Inputs[0])
		return []*ir.Value{b.Emit(MaxPoolBackward, poolBackwardAttr(n), dy[0], index)}
	}
	AvgPool.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, _ []bool) []*ir.Value {
		return []*ir.Value{b.Emit(AvgPoolBackward, poolBackwardAttr(n), dy[0])}
	}
}

func poolBackwardAttr(n *ir.Node) PoolBackwardAttr {
	x := n.Inputs[0].Shape()
	return PoolBackwardAttr{Pool: n.Attr.(PoolAttr), In: [3]int{x[1], x[2], x[3]}}
}

// Divisor returns the number of voxels that the average over the window starting at start (in voxels of x, padding negative)
// divides by, along one axis of size n.
func (a PoolAttr) Divisor(axis, start, n int) int {
	lo, hi := 0, n
	if a.CountPad {
		lo, hi = -a.Before[axis], n+a.After[axis]
	}
	count := 0
	for k := range a.Kernel[axis] {
		if p := start + k*a.Dilation[axis]; p >= lo && p < hi {
			count++
		}
	}
	return count
}
