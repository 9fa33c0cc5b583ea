package backendtest

import (
	"math"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
	"pgregory.net/rapid"
)

// Networks generates small networks of several operations with joins (residual sums, concatenations, gates), from one volume
// [1, D, H, W, C] to a vector of scores.
func Networks() *rapid.Generator[*Example] {
	return rapid.Custom(func(t *rapid.T) *Example {
		s := newSample(rapid.Uint64().Draw(t, "data"))
		size := rapid.IntRange(2, 6)
		x := s.add(in(1, size.Draw(t, "depth"), size.Draw(t, "height"), size.Draw(t, "width"), rapid.IntRange(1, 5).Draw(t, "channels")))
		g := &grower{t: t, s: s, b: ir.NewBuilder(s.Graph), volumes: []*ir.Value{x}}
		for range rapid.IntRange(2, 7).Draw(t, "layers") {
			grow := rapid.SampledFrom(layers).Draw(t, "layer")
			if y := grow(g, rapid.SampledFrom(g.volumes).Draw(t, "from")); y != nil && g.b.Err() == nil {
				g.volumes = append(g.volumes, y)
			}
		}
		// Every volume that was made contributes, so that no layer is dead.
		used := s.Graph.Uses()
		var scores []*ir.Value
		for _, v := range g.volumes {
			if len(used[v]) == 0 || v == x {
				pooled := g.b.Emit(op.ReduceMean, op.ReduceAttr{Axes: []int{1, 2, 3}}, v)
				flat := g.b.Emit(op.Reshape, op.ReshapeAttr{Shape: tensor.Shape{1, v.Shape()[4]}}, pooled)
				scores = append(scores, g.b.Emit(op.MatMul, op.MatMulAttr{TransB: true}, flat, g.weights(3, v.Shape()[4])))
			}
		}
		s.Out = scores[0]
		for _, v := range scores[1:] {
			s.Out = g.b.Emit(named("Add"), nil, s.Out, v)
		}
		if err := g.b.Err(); err != nil {
			t.Fatal(err)
		}
		s.Graph.Outputs = []*ir.Value{s.Out}
		return s
	})
}

type grower struct {
	t       *rapid.T
	s       *Example
	b       *ir.Builder
	volumes []*ir.Value
}

// weights are constants small enough that a few layers neither vanish nor explode.
func (g *grower) weights(shape ...int) *ir.Value {
	s := tensor.Shape(shape)
	fan := float64(s.Elements()) / float64(max(s[0], 1))
	return g.s.add(in(shape...).with(away(1 / math.Sqrt(max(fan, 1)))).constant())
}

func (g *grower) conv(x *ir.Value, out, groups int, kernel, stride, pad [3]int) *ir.Value {
	a := op.ConvAttr{Stride: stride, Dilation: one, Before: pad, After: pad, Groups: groups}
	return g.b.Emit(op.Conv, a, x, g.weights(out, x.Shape()[4]/groups, kernel[0], kernel[1], kernel[2]), g.weights(out))
}

func unaryLayer(name string, a op.UnaryAttr) func(*grower, *ir.Value) *ir.Value {
	return func(g *grower, x *ir.Value) *ir.Value { return g.b.Emit(named(name), a, x) }
}

// partner is another volume (or x itself) that is equal to x along the axes that count, or nil.
func (g *grower) partner(x *ir.Value, axes int) *ir.Value {
	var fit []*ir.Value
	for _, v := range g.volumes {
		if v.Shape()[:axes].Equal(x.Shape()[:axes]) {
			fit = append(fit, v)
		}
	}
	return rapid.SampledFrom(fit).Draw(g.t, "partner")
}

// layers are the steps by which networks grow. A layer returns nil where it does not fit.
var layers = []func(*grower, *ir.Value) *ir.Value{
	unaryLayer("Relu", op.UnaryAttr{}), unaryLayer("LeakyRelu", op.UnaryAttr{Alpha: 0.2}), unaryLayer("Silu", op.UnaryAttr{}),
	unaryLayer("Gelu", op.UnaryAttr{}), unaryLayer("Sigmoid", op.UnaryAttr{}), unaryLayer("Tanh", op.UnaryAttr{}),
	func(g *grower, x *ir.Value) *ir.Value { // convolution that keeps the size
		return g.conv(x, rapid.IntRange(1, 6).Draw(g.t, "out"), 1, three, one, one)
	},
	func(g *grower, x *ir.Value) *ir.Value { // strided
		return g.conv(x, rapid.IntRange(1, 6).Draw(g.t, "out"), 1, three, two, one)
	},
	func(g *grower, x *ir.Value) *ir.Value { // depthwise
		c := x.Shape()[4]
		return g.conv(x, c, c, three, one, one)
	},
	func(g *grower, x *ir.Value) *ir.Value { // pointwise
		return g.conv(x, rapid.IntRange(1, 9).Draw(g.t, "out"), 1, one, one, none)
	},
	func(g *grower, x *ir.Value) *ir.Value { // transposed: twice the size
		s := x.Shape()
		if s.Elements() > 300 {
			return nil
		}
		a := op.ConvBackwardDataAttr{Conv: op.ConvAttr{Stride: two, Dilation: one, Groups: 1}, In: [3]int{2 * s[1], 2 * s[2], 2 * s[3]}}
		return g.b.Emit(op.ConvBackwardData, a, x, g.weights(s[4], 2, 2, 2, 2))
	},
	func(g *grower, x *ir.Value) *ir.Value { // batch norm
		return g.b.Emit(op.Affine, nil, x, g.weights(x.Shape()[4]), g.weights(x.Shape()[4]))
	},
	func(g *grower, x *ir.Value) *ir.Value {
		return g.b.Emit(op.GroupNorm, op.GroupNormAttr{Groups: 1, Eps: 0.1}, x, g.weights(x.Shape()[4]))
	},
	func(g *grower, x *ir.Value) *ir.Value {
		return g.b.Emit(op.LayerNorm, op.LayerNormAttr{Axes: 1, Eps: 0.1}, x)
	},
	func(g *grower, x *ir.Value) *ir.Value {
		a := op.PoolAttr{Kernel: two, Stride: two, Dilation: one, Ceil: [3]int{x.Shape()[1] % 2, x.Shape()[2] % 2, x.Shape()[3] % 2}}
		return g.b.Emit(op.MaxPool, a, x)
	},
	func(g *grower, x *ir.Value) *ir.Value {
		return g.b.Emit(op.AvgPool, op.PoolAttr{Kernel: three, Stride: two, Dilation: one, Before: one, After: one}, x)
	},
	func(g *grower, x *ir.Value) *ir.Value { // residual
		return g.b.Emit(named("Add"), nil, x, g.partner(x, 5))
	},
	func(g *grower, x *ir.Value) *ir.Value {
		return g.b.Emit(named("Mul"), nil, x, g.partner(x, 5))
	},
	func(g *grower, x *ir.Value) *ir.Value { // dense block
		return g.b.Emit(op.Concat, op.ConcatAttr{Axis: 4}, x, g.partner(x, 4))
	},
	func(g *grower, x *ir.Value) *ir.Value { // squeeze and excitation
		c := x.Shape()[4]
		gate := g.conv(g.b.Emit(op.ReduceMean, op.ReduceAttr{Axes: []int{1, 2, 3}}, x), c, 1, one, one, none)
		return g.b.Emit(named("Mul"), nil, x, g.b.Emit(named("Sigmoid"), op.UnaryAttr{}, gate))
	},
	func(g *grower, x *ir.Value) *ir.Value { // up-sampling
		s := x.Shape()
		if s.Elements() > 300 {
			return nil
		}
		a := op.ResizeAttr{Out: tensor.Shape{s[0], 2 * s[1], s[2], s[3] + 1, s[4]}, Mode: "linear", Coord: "half_pixel",
			Scale: []float64{1, 2, 1, float64(s[3]+1) / float64(s[3]), 1}}
		return g.b.Emit(op.Resize, a, x)
	},
	func(g *grower, x *ir.Value) *ir.Value { // attention over voxels
		s := x.Shape()
		n := s[1] * s[2] * s[3]
		tokens := g.b.Emit(op.Reshape, op.ReshapeAttr{Shape: tensor.Shape{1, n, s[4]}}, x)
		scores := g.b.Emit(op.MatMul, op.MatMulAttr{TransB: true}, tokens, tokens)
		y := g.b.Emit(op.MatMul, op.MatMulAttr{}, g.b.Emit(op.Softmax, op.SoftmaxAttr{Axis: 2}, scores), tokens)
		return g.b.Emit(op.Reshape, op.ReshapeAttr{Shape: s.Clone()}, y)
	},
}

// Margin is the smallest distance of a value to a kink of the operation that reads it (a rectifier's zero, equal maxima), as
// values says they are. Nothing can be said about gradients below it.
func (s *Example) Margin(values map[*ir.Value][]float64) float64 {
	margin := math.Inf(1)
	for _, n := range s.Graph.Nodes {
		switch n.Op {
		case op.UnaryOp("Relu"), op.UnaryOp("LeakyRelu"):
			for _, x := range values[n.Inputs[0]] {
				if x != 0 || n.Op != op.UnaryOp("Relu") {
					margin = min(margin, math.Abs(x))
				}
			}
		case op.MaxPool:
			margin = min(margin, poolMargin(n, values[n.Inputs[0]]))
		}
	}
	return margin
}

// poolMargin is the smallest difference between two voxels of one channel, which might share a window.
func poolMargin(n *ir.Node, x []float64) float64 {
	margin, c := math.Inf(1), n.Inputs[0].Shape()[4]
	for i := range x {
		for j := i + c; j < len(x); j += c {
			margin = min(margin, math.Abs(x[i]-x[j]))
		}
	}
	return margin
}
