package op

import (
	"fmt"
	"math"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/tensor"
)

// ResizeAttr describes the resampling of a grid. Arrays have one entry an axis.
type ResizeAttr struct {
	Out   tensor.Shape
	Scale []float64 // output size over input size, as the model states it
	// Mode, Coord and Nearest are ONNX's mode (nearest, linear, cubic), coordinate_transformation_mode (half_pixel,
	// pytorch_half_pixel, align_corners, asymmetric, half_pixel_symmetric) and nearest_mode.
	Mode, Coord, Nearest string
	CubicA               float64
}

// Taps returns, for each output position along an axis of size n, the terms it is made of.
func (a ResizeAttr) Taps(axis, n int) ir.Taps {
	if a.Out[axis] == n && a.Scale[axis] == 1 {
		return ir.Unchanged(n)
	}
	taps := make(ir.Taps, a.Out[axis])
	for i := range taps {
		x := a.source(axis, i, n)
		switch a.Mode {
		case "nearest":
			taps[i] = []ir.Tap{{Index: clampIndex(roundMode(x, a.Nearest), n), Weight: 1}}
		case "linear":
			x = min(max(x, 0), float64(n-1))
			low := int(math.Floor(x))
			f := x - float64(low)
			taps[i] = []ir.Tap{{Index: low, Weight: 1 - f}, {Index: clampIndex(low+1, n), Weight: f}}
		case "cubic":
			low := int(math.Floor(x))
			for k, w := range cubicWeights(x-float64(low), a.CubicA) {
				taps[i] = append(taps[i], ir.Tap{Index: clampIndex(low-1+k, n), Weight: w})
			}
		}
	}
	return taps
}

// source returns the coordinate in the input of output position i (ONNX operator Resize).
func (a ResizeAttr) source(axis, i, n int) float64 {
	x, scale, out := float64(i), a.Scale[axis], float64(a.Out[axis])
	switch a.Coord {
	case "align_corners":
		if a.Out[axis] == 1 {
			return 0
		}
		return x * float64(n-1) / (out - 1)
	case "asymmetric":
		return x / scale
	case "pytorch_half_pixel":
		if a.Out[axis] == 1 {
			return 0
		}
	case "half_pixel_symmetric":
		adjust := out / (float64(n) * scale)
		centre := float64(n) / 2
		return centre*(1-adjust) + (x+0.5)/scale - 0.5
	}
	return (x+0.5)/scale - 0.5
}

func roundMode(x float64, mode string) int {
	switch mode {
	case "floor":
		return int(math.Floor(x))
	case "ceil":
		return int(math.Ceil(x))
	case "round_prefer_ceil":
		return int(math.Floor(x + 0.5))
	}
	return int(math.Ceil(x - 0.5)) // round_prefer_floor
}

func clampIndex(i, n int) int { return min(max(i, 0), n-1) }

// cubicWeights returns the weights of the four neighbours at distance f behind the second (Keys 1981, with parameter a).
func cubicWeights(f, a float64) [4]float64 {
	return [4]float64{
		((a*(f+1)-5*a)*(f+1)+8*a)*(f+1) - 4*a,
		((a+2)*f-(a+3))*f*f + 1,
		((a+2)*(1-f)-(a+3))*(1-f)*(1-f) + 1,
		((a*(2-f)-5*a)*(2-f)+8*a)*(2-f) - 4*a,
	}
}

func (a ResizeAttr) check(x tensor.Shape) error {
	if len(a.Out) != len(x) || len(a.Scale) != len(x) {
		return fmt.Errorf("resizing to %v does not fit %v", a.Out, x)
	}
	for _, s := range a.Scale {
		if !(s > 0) || math.IsInf(s, 0) {
			return fmt.Errorf("resizing by %v is not possible", a.Scale)
		}
	}
	return nil
}

// Resize samples a tensor on another grid, one axis at a time (the weights are products over the axes).
var Resize = &ir.Op{Name: "Resize", MinIn: 1, MaxIn: 1, Attr: ResizeAttr{}, Inputs: []string{"x"},
	Infer: one(func(attr any, in []ir.Type) (tensor.Shape, error) {
		a := attr.(ResizeAttr)
		return a.Out.Clone(), a.check(in[0].Shape)
	}),
	Permute: func(attr any, perm []int) any {
		a := attr.(ResizeAttr)
		scale := make([]float64, len(perm))
		for i, p := range perm {
			scale[i] = a.Scale[p]
		}
		a.Out, a.Scale = a.Out.Permute(perm), scale
		return a
	},
	AcrossPlanes: true,
	Slab: func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		taps := n.Attr.(ResizeAttr).Taps(1, n.Inputs[0].Shape()[1])
		lo, hi := n.Inputs[0].Shape()[1], 0
		for _, terms := range taps[z0:z1] {
			for _, t := range terms {
				lo, hi = min(lo, t.Index), max(hi, t.Index+1)
			}
		}
		return lo, hi, true
	},
	Separable: func(n *ir.Node) ir.Separable {
		x := n.Inputs[0].Shape()
		return separable(x, len(x), func(axis int) ir.Taps { return n.Attr.(ResizeAttr).Taps(axis, x[axis]) })
	}}

// ResizeBackwardAttr adds the shape before resizing.
type ResizeBackwardAttr struct {
	Resize ResizeAttr
	In     tensor.Shape
}

// ResizeBackward is the transpose of Resize.
var ResizeBackward = &ir.Op{Name: "ResizeBackward", MinIn: 1, MaxIn: 1, Attr: ResizeBackwardAttr{}, Inputs: []string{"dy"}, NoGrad: "a gradient already",
	Infer: one(func(attr any, in []ir.Type) (tensor.Shape, error) {
		a := attr.(ResizeBackwardAttr)
		if !in[0].Shape.Equal(a.Resize.Out) {
			return nil, fmt.Errorf("%v is not the resized %v", in[0].Shape, a.Resize.Out)
		}
		return a.In.Clone(), a.Resize.check(a.In)
	}),
	AcrossPlanes: true,
	Slab: func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		// Taps go up with the position, so that those of planes z0 to z1-1 lie between those below z0 and those from z1 on.
		a, lo, hi := n.Attr.(ResizeBackwardAttr), 0, 0
		for _, terms := range a.Resize.Taps(1, a.In[1]) {
			if terms[len(terms)-1].Index < z0 {
				lo++
			}
			if terms[0].Index < z1 {
				hi++
			}
		}
		return lo, hi, true
	},
	Separable: func(n *ir.Node) ir.Separable {
		a := n.Attr.(ResizeBackwardAttr)
		return separable(a.Resize.Out, len(a.In), func(axis int) ir.Taps { return a.Resize.Taps(axis, a.In[axis]).Transposed(a.In[axis]) })
	}}

var resizeOps = []*ir.Op{Resize, ResizeBackward}

func init() {
	Resize.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, _ []bool) []*ir.Value {
		a := ResizeBackwardAttr{Resize: n.Attr.(ResizeAttr), In: n.Inputs[0].Shape().Clone()}
		return []*ir.Value{b.Emit(ResizeBackward, a, dy[0])}
	}
}
