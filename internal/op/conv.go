package op

import (
	"fmt"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/tensor"
)

// ConvAttr places the windows of a convolution. Arrays are along depth, height, width.
type ConvAttr struct {
	Stride, Dilation [3]int
	Before, After    [3]int // zero padding; may be negative
	Groups           int
}

// Conv is a convolution of x [N, D, H, W, Cin] with w [Cout, Cin/Groups, kd, kh, kw] and an optional bias [Cout].
var Conv = &ir.Op{Name: "Conv", MinIn: 2, MaxIn: 3, Attr: ConvAttr{}, Inputs: []string{"x", "w", "bias"},
	Infer: one(func(attr any, in []ir.Type) (tensor.Shape, error) {
		a, x, w := attr.(ConvAttr), in[0].Shape, in[1].Shape
		if err := convInputs(a, in[0], in[1]); err != nil {
			return nil, err
		}
		if x[4] != w[1]*a.Groups || w[0]%a.Groups != 0 {
			return nil, fmt.Errorf("weights %v in %d groups do not fit %d input channels", w, a.Groups, x[4])
		}
		out := tensor.Shape{x[0], 0, 0, 0, w[0]}
		for i := range 3 {
			span := a.Dilation[i]*(w[2+i]-1) + 1
			padded := x[1+i] + a.Before[i] + a.After[i]
			if padded < span {
				return nil, fmt.Errorf("a window of %d does not fit %d padded voxels along %s", span, padded, axisNames[i])
			}
			out[1+i] = (padded-span)/a.Stride[i] + 1
		}
		return out, checkBias(in, w[0])
	}),
	AcrossPlanes: true,
	Slab: func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		a := n.Attr.(ConvAttr)
		lo, hi := windowPlanes(z0, z1, n.Inputs[0].Shape()[1], n.Inputs[1].Shape()[2], a.Stride[0], a.Dilation[0], a.Before[0])
		return lo, hi, true
	},
	Flops: func(n *ir.Node) float64 { return convFlops(n.Out(), n.Inputs[1]) }}

// ConvBackwardDataAttr adds the size of the convolution's input, which its output does not determine.
type ConvBackwardDataAttr struct {
	Conv ConvAttr
	In   [3]int
}

// ConvBackwardData is the gradient of Conv with respect to x: dx [N, In, Cin] from dy [N, D, H, W, Cout] and w
// [Cout, Cin/Groups, kd, kh, kw]. A transposed convolution is the same operation; then it may have a bias [Cin].
var ConvBackwardData = &ir.Op{Name: "ConvBackwardData", MinIn: 2, MaxIn: 3, Attr: ConvBackwardDataAttr{}, Inputs: []string{"dy", "w", "bias"},
	Infer: one(func(attr any, in []ir.Type) (tensor.Shape, error) {
		a, dy, w := attr.(ConvBackwardDataAttr), in[0].Shape, in[1].Shape
		if err := convInputs(a.Conv, in[0], in[1]); err != nil {
			return nil, err
		}
		dx := tensor.Shape{dy[0], a.In[0], a.In[1], a.In[2], w[1] * a.Conv.Groups}
		y, err := Conv.Infer(a.Conv, []ir.Type{{Shape: dx}, in[1]})
		if err != nil {
			return nil, err
		}
		if !y[0].Shape.Equal(dy) {
			return nil, fmt.Errorf("a convolution of %v gives %v, not %v", dx, y[0].Shape, dy)
		}
		return dx, checkBias(in, dx[4])
	}),
	AcrossPlanes: true,
	Slab: func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		a := n.Attr.(ConvBackwardDataAttr).Conv
		lo, hi := gradientPlanes(z0, z1, n.Inputs[0].Shape()[1], n.Inputs[1].Shape()[2], a.Stride[0], a.Dilation[0], a.Before[0])
		return lo, hi, true
	},
	Flops: func(n *ir.Node) float64 { return convFlops(n.Inputs[0], n.Inputs[1]) }}

var convOps = []*ir.Op{Conv, ConvBackwardData}

// convFlops counts a multiplication and an addition for each weight that an element of y, the side of the windows, is made with.
func convFlops(y, w *ir.Value) float64 {
	s := w.Shape()
	return 2 * float64(y.Shape().Elements()) * float64(s.Elements()/s[0])
}

var axisNames = [3]string{"depth", "height", "width"}

func convInputs(a ConvAttr, x, w ir.Type) error {
	if err := wantRank("convolution input", x, 5); err != nil {
		return err
	}
	if err := wantRank("convolution weights", w, 5); err != nil {
		return err
	}
	for i := range 3 {
		if a.Stride[i] < 1 || a.Dilation[i] < 1 {
			return fmt.Errorf("stride %v and dilation %v must be at least 1", a.Stride, a.Dilation)
		}
	}
	if a.Groups < 1 {
		return fmt.Errorf("%d groups", a.Groups)
	}
	return nil
}

func checkBias(in []ir.Type, channels int) error {
	if len(in) > 2 && (len(in[2].Shape) != 1 || in[2].Shape[0] != channels) {
		return fmt.Errorf("bias %v does not fit %d channels", in[2].Shape, channels)
	}
	return nil
}

func init() {
	Conv.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, want []bool) []*ir.Value {
		if want[1] || len(want) > 2 && want[2] {
			b.Fail("convolution weights must be constant")
		}
		x := n.Inputs[0].Shape()
		a := ConvBackwardDataAttr{Conv: n.Attr.(ConvAttr), In: [3]int{x[1], x[2], x[3]}}
		return []*ir.Value{b.Emit(ConvBackwardData, a, dy[0], n.Inputs[1]), nil, nil}
	}
	ConvBackwardData.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, want []bool) []*ir.Value {
		if want[1] || len(want) > 2 && want[2] {
			b.Fail("convolution weights must be constant")
		}
		return []*ir.Value{b.Emit(Conv, n.Attr.(ConvBackwardDataAttr).Conv, dy[0], n.Inputs[1]), nil, nil}
	}
}
