package op

import (
	"fmt"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Affine is x*scale + shift along the last axis: an inference BatchNorm. scale and shift are [C].
var Affine = &ir.Op{Name: "Affine", MinIn: 3, MaxIn: 3, Inputs: []string{"x", "scale", "shift"}, InPlace: true, Slab: samePlanes,
	Infer: one(func(_ any, in []ir.Type) (tensor.Shape, error) {
		return in[0].Shape.Clone(), checkChannels(in[0].Shape, in[1:], "scale and shift")
	})}

func checkChannels(x tensor.Shape, params []ir.Type, what string) error {
	for _, p := range params {
		if len(x) == 0 || p.Shape != nil && (len(p.Shape) != 1 || p.Shape[0] != x[len(x)-1]) {
			return fmt.Errorf("%s %v do not fit the last axis of %v", what, p.Shape, x)
		}
	}
	return nil
}

// GroupNormAttr splits the channels into groups; instance norm has one channel a group.
type GroupNormAttr struct {
	Groups int
	Eps    float64
}

// GroupNorm normalises x [N, ..., C] over space and the channels of a group, then scales and shifts by channel [C].
// Wu and He, Group Normalization (2018), eq. 1 to 3; the variance is the biased one.
var GroupNorm = &ir.Op{Name: "GroupNorm", MinIn: 1, MaxIn: 3, Attr: GroupNormAttr{}, Inputs: []string{"x", "gamma", "beta"},
	Infer: one(func(attr any, in []ir.Type) (tensor.Shape, error) {
		x, groups := in[0].Shape, attr.(GroupNormAttr).Groups
		if len(x) < 2 || groups < 1 || x[len(x)-1]%groups != 0 {
			return nil, fmt.Errorf("%d groups do not divide the channels of %v", groups, x)
		}
		return x.Clone(), checkChannels(x, in[1:], "gamma and beta")
	}),
	NoSlab: allPlanesFirst}

// GroupNormBackward is the gradient with respect to x, which it needs to find the statistics again.
var GroupNormBackward = &ir.Op{Name: "GroupNormBackward", MinIn: 2, MaxIn: 3, Attr: GroupNormAttr{}, Inputs: []string{"dy", "x", "gamma"},
	Infer: like(0), NoGrad: "a gradient already", NoSlab: allPlanesFirst}

const allPlanesFirst = "its statistics are of all planes; pass split-norms takes it apart"

// A group norm over an image is computed in two steps, both plane by plane if need be: GroupMoments accumulates the
// statistics, GroupNormApply applies them. Its gradient accumulates two more means with GroupGradMoments, which GroupGradApply applies.
// They are put in place of GroupNorm and GroupNormBackward when everything has been differentiated.
var (
	// GroupMoments is, for each group of x [1, D, H, W, C], the mean, its rounding error in float32, and
	// 1/sqrt(variance + Eps): [1, 1, 1, Groups, 3].
	GroupMoments = &ir.Op{Name: "GroupMoments", MinIn: 1, MaxIn: 1, Attr: GroupNormAttr{}, Inputs: []string{"x"},
		Infer: groupMoments(0, 3), NoGrad: afterDifferentiation, Accumulates: deepInput}
	// GroupNormApply is GroupNorm of x whose moments are known.
	GroupNormApply = &ir.Op{Name: "GroupNormApply", MinIn: 2, MaxIn: 4, Attr: GroupNormAttr{}, Inputs: []string{"x", "moments", "gamma", "beta"},
		InPlace: true, Infer: groupApply(0, 2), NoGrad: afterDifferentiation, Slab: samePlanes}
	// GroupGradMoments is, for each group, the mean of g = dy*gamma and the mean of g*h, h being the normalised x: [1, 1, 1, Groups, 2].
	GroupGradMoments = &ir.Op{Name: "GroupGradMoments", MinIn: 3, MaxIn: 4, Attr: GroupNormAttr{}, Inputs: []string{"dy", "x", "moments", "gamma"},
		Infer: groupMoments(1, 2), NoGrad: afterDifferentiation, Accumulates: deepInput}
	// GroupGradApply is the gradient with respect to x, (g - mean(g) - h*mean(g*h)) / deviation.
	GroupGradApply = &ir.Op{Name: "GroupGradApply", MinIn: 4, MaxIn: 5, Attr: GroupNormAttr{}, Inputs: []string{"dy", "x", "moments", "means", "gamma"},
		InPlace: true, Infer: groupApply(1, 4), NoGrad: afterDifferentiation, Slab: samePlanes}
)

const afterDifferentiation = "made when everything has been differentiated"

// groupMoments is the shape rule of statistics of input x with values for each group.
func groupMoments(x, values int) func(any, []ir.Type) ([]ir.Type, error) {
	return one(func(attr any, in []ir.Type) (tensor.Shape, error) {
		s, groups := in[x].Shape, attr.(GroupNormAttr).Groups
		if len(s) != 5 || s[0] != 1 || groups < 1 || s[4]%groups != 0 {
			return nil, fmt.Errorf("%d groups of the channels of one image expected, not of %v", groups, s)
		}
		if err := checkGroups(in, x, groups); err != nil {
			return nil, err
		}
		return tensor.Shape{1, 1, 1, groups, values}, checkChannels(s, in[min(len(in), x+2):], "gamma")
	})
}

// groupApply is the shape rule of operations that apply statistics of input x; parameters follow from input params on.
func groupApply(x, params int) func(any, []ir.Type) ([]ir.Type, error) {
	return one(func(attr any, in []ir.Type) (tensor.Shape, error) {
		s, groups := in[x].Shape, attr.(GroupNormAttr).Groups
		if err := checkGroups(in, x, groups); err != nil {
			return nil, err
		}
		if x == 1 && !in[3].Shape.Equal(tensor.Shape{1, 1, 1, groups, 2}) {
			return nil, fmt.Errorf("means %v do not fit %d groups", in[3].Shape, groups)
		}
		return s.Clone(), checkChannels(s, in[min(len(in), params):], "gamma and beta")
	})
}

// checkGroups checks dy, if there is one before x, and the moments behind x, if they are among the inputs.
func checkGroups(in []ir.Type, x, groups int) error {
	if x == 1 && !in[0].Shape.Equal(in[1].Shape) {
		return fmt.Errorf("a gradient %v does not fit %v", in[0].Shape, in[1].Shape)
	}
	if x+1 < len(in) && !in[x+1].Shape.Equal(tensor.Shape{1, 1, 1, groups, 3}) {
		return fmt.Errorf("moments %v do not fit %d groups", in[x+1].Shape, groups)
	}
	return nil
}

// LayerNormAttr counts the trailing axes that are normalised together.
type LayerNormAttr struct {
	Axes int
	Eps  float64
}

// LayerNorm normalises over the trailing axes, then scales and shifts; gamma and beta have those axes.
// Ba, Kiros and Hinton, Layer Normalization (2016).
var LayerNorm = &ir.Op{Name: "LayerNorm", MinIn: 1, MaxIn: 3, Attr: LayerNormAttr{}, Inputs: []string{"x", "gamma", "beta"},
	Infer: one(func(attr any, in []ir.Type) (tensor.Shape, error) {
		x, k := in[0].Shape, attr.(LayerNormAttr).Axes
		if k < 1 || k > len(x) {
			return nil, fmt.Errorf("%v has no %d trailing axes", x, k)
		}
		for _, p := range in[1:] {
			if p.Shape != nil && !p.Shape.Equal(x[len(x)-k:]) {
				return nil, fmt.Errorf("gamma or beta %v does not fit the last %d axes of %v", p.Shape, k, x)
			}
		}
		return x.Clone(), nil
	}),
	Slab: layerNormSlab}

// LayerNormBackward is the gradient with respect to x.
var LayerNormBackward = &ir.Op{Name: "LayerNormBackward", MinIn: 2, MaxIn: 3, Attr: LayerNormAttr{}, Inputs: []string{"dy", "x", "gamma"},
	Infer: like(0), NoGrad: "a gradient already", Slab: layerNormSlab}

func layerNormSlab(n *ir.Node, _, z0, z1 int) (int, int, bool) {
	return z0, z1, n.Attr.(LayerNormAttr).Axes <= 3
}

// SoftmaxAttr names the axis that sums to one.
type SoftmaxAttr struct{ Axis int }

func softmaxPermute(attr any, perm []int) any {
	return SoftmaxAttr{Axis: position(perm, attr.(SoftmaxAttr).Axis)}
}

func softmaxSlab(n *ir.Node, _, z0, z1 int) (int, int, bool) {
	return z0, z1, n.Attr.(SoftmaxAttr).Axis > 1
}

func softmaxInfer(attr any, in []ir.Type) ([]ir.Type, error) {
	if a := attr.(SoftmaxAttr).Axis; a < 0 || a >= len(in[0].Shape) {
		return nil, fmt.Errorf("%v has no axis %d", in[0].Shape, a)
	}
	return like(0)(attr, in)
}

var (
	// Softmax is exp(x) / sum(exp(x)) along an axis.
	Softmax = &ir.Op{Name: "Softmax", MinIn: 1, MaxIn: 1, Attr: SoftmaxAttr{}, Inputs: []string{"x"}, Infer: softmaxInfer, Permute: softmaxPermute,
		InPlace: true, Slab: softmaxSlab}
	// SoftmaxBackward is y * (dy - sum(dy*y)).
	SoftmaxBackward = &ir.Op{Name: "SoftmaxBackward", MinIn: 2, MaxIn: 2, Attr: SoftmaxAttr{}, Inputs: []string{"dy", "y"}, Infer: softmaxInfer,
		Permute: softmaxPermute, InPlace: true, Slab: softmaxSlab, NoGrad: "a gradient already"}
	// LogSoftmax is x - log(sum(exp(x))) along an axis.
	LogSoftmax = &ir.Op{Name: "LogSoftmax", MinIn: 1, MaxIn: 1, Attr: SoftmaxAttr{}, Inputs: []string{"x"}, Infer: softmaxInfer, Permute: softmaxPermute,
		InPlace: true, Slab: softmaxSlab}
	// LogSoftmaxBackward is dy - exp(y)*sum(dy).
	LogSoftmaxBackward = &ir.Op{Name: "LogSoftmaxBackward", MinIn: 2, MaxIn: 2, Attr: SoftmaxAttr{}, Inputs: []string{"dy", "y"}, Infer: softmaxInfer,
		Permute: softmaxPermute, InPlace: true, Slab: softmaxSlab, NoGrad: "a gradient already"}
)

var normOps = []*ir.Op{
	Affine, GroupNorm, GroupNormBackward, GroupMoments, GroupNormApply, GroupGradMoments, GroupGradApply, LayerNorm, LayerNormBackward,
	Softmax, SoftmaxBackward, LogSoftmax, LogSoftmaxBackward,
}

// paramsConstant fails when the gradient of a norm's parameters is asked for.
func paramsConstant(b *ir.Builder, n *ir.Node, want []bool) {
	for _, w := range want[1:] {
		if w {
			b.Fail("the parameters of %s must be constant", n.Op.Name)
		}
	}
}

func init() {
	Affine.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, want []bool) []*ir.Value {
		paramsConstant(b, n, want)
		return []*ir.Value{b.Emit(BinaryOp("Mul"), nil, dy[0], n.Inputs[1]), nil, nil}
	}
	GroupNorm.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, want []bool) []*ir.Value {
		paramsConstant(b, n, want)
		return []*ir.Value{b.Emit(GroupNormBackward, n.Attr, dy[0], n.Inputs[0], n.In(1)), nil, nil}
	}
	LayerNorm.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, want []bool) []*ir.Value {
		paramsConstant(b, n, want)
		return []*ir.Value{b.Emit(LayerNormBackward, n.Attr, dy[0], n.Inputs[0], n.In(1)), nil, nil}
	}
	Softmax.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, _ []bool) []*ir.Value {
		return []*ir.Value{b.Emit(SoftmaxBackward, n.Attr, dy[0], n.Out())}
	}
	LogSoftmax.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, _ []bool) []*ir.Value {
		return []*ir.Value{b.Emit(LogSoftmaxBackward, n.Attr, dy[0], n.Out())}
	}
}
