package backendtest

import (
	"fmt"
	"math/rand/v2"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// shifted values have a mean far above their deviation, which one-pass variances in float32 do not survive.
var shifted = each(func(r *rand.Rand) float64 { return 100 + r.NormFloat64() })

func normCases() (cases []Case) {
	for _, x := range [][]int{{1, 2, 3, 4, 5}, {3, 17}, {2, 3, 4, 5, 24}} {
		c := x[len(x)-1]
		cases = append(cases, single(op.Affine, fmt.Sprint(x), nil, in(x...), in(c).constant(), in(c).constant()))
	}
	for _, g := range []struct {
		name   string
		x      []int
		groups int
	}{{"groups", []int{1, 2, 3, 4, 6}, 3}, {"instance", []int{2, 3, 4, 5, 7}, 7}, {"one", []int{1, 3, 4, 5, 4}, 1}, {"flat", []int{3, 8}, 2}, {"wide", []int{1, 3, 5, 7, 48}, 8}} {
		a, c := op.GroupNormAttr{Groups: g.groups, Eps: 1e-5}, g.x[len(g.x)-1]
		gamma, beta := in(c).constant(), in(c).constant()
		cases = append(cases,
			single(op.GroupNorm, g.name, a, in(g.x...), gamma, beta), single(op.GroupNorm, g.name+"Plain", a, in(g.x...)),
			single(op.GroupNorm, g.name+"Shifted", a, in(g.x...).with(shifted), gamma),
			single(op.GroupNormBackward, g.name, a, in(g.x...), in(g.x...), gamma), single(op.GroupNormBackward, g.name+"Plain", a, in(g.x...), in(g.x...)))
		if len(g.x) == 5 && g.x[0] == 1 {
			moments, means := in(1, 1, 1, g.groups, 3).with(positive), in(1, 1, 1, g.groups, 2)
			x := in(g.x...)
			cases = append(cases, single(op.GroupMoments, g.name, a, x), single(op.GroupMoments, g.name+"Shifted", a, x.with(shifted)),
				single(op.GroupNormApply, g.name, a, x, moments, gamma, beta), single(op.GroupNormApply, g.name+"Plain", a, x, moments),
				single(op.GroupGradMoments, g.name, a, x, x, moments, gamma), single(op.GroupGradMoments, g.name+"Plain", a, x, x, moments),
				single(op.GroupGradApply, g.name, a, x, x, moments, means, gamma), single(op.GroupGradApply, g.name+"Plain", a, x, x, moments, means))
		}
	}
	for _, l := range []struct {
		name string
		x    []int
		axes int
	}{{"tokens", []int{2, 5, 12}, 1}, {"two", []int{3, 4, 5}, 2}, {"all", []int{3, 5}, 2}, {"volume", []int{1, 3, 4, 5, 17}, 1}} {
		a := op.LayerNormAttr{Axes: l.axes, Eps: 1e-6}
		p := in(l.x[len(l.x)-l.axes:]...).constant()
		cases = append(cases,
			single(op.LayerNorm, l.name, a, in(l.x...), p, p), single(op.LayerNorm, l.name+"Plain", a, in(l.x...)),
			single(op.LayerNorm, l.name+"Shifted", a, in(l.x...).with(shifted), p),
			single(op.LayerNormBackward, l.name, a, in(l.x...), in(l.x...), p), single(op.LayerNormBackward, l.name+"Plain", a, in(l.x...), in(l.x...)))
	}
	large := each(func(r *rand.Rand) float64 { return 60 * r.NormFloat64() })
	for _, s := range []struct {
		name string
		x    []int
		axis int
	}{{"last", []int{2, 3, 7}, 2}, {"first", []int{5, 3}, 0}, {"middle", []int{2, 4, 3, 5}, 1}, {"attention", []int{1, 3, 19, 19}, 3}} {
		a := op.SoftmaxAttr{Axis: s.axis}
		for _, o := range []*ir.Op{op.Softmax, op.LogSoftmax} {
			cases = append(cases, single(o, s.name, a, in(s.x...)), single(o, s.name+"Large", a, in(s.x...).with(large)))
		}
		cases = append(cases, single(op.SoftmaxBackward, s.name, a, in(s.x...), in(s.x...).with(positive)),
			single(op.LogSoftmaxBackward, s.name, a, in(s.x...), in(s.x...)))
	}
	return cases
}

func matMulCases() (cases []Case) {
	for _, m := range []struct {
		name string
		a, b []int
		attr op.MatMulAttr
	}{
		{"plain", []int{3, 5}, []int{5, 7}, op.MatMulAttr{}},
		{"row", []int{1, 40}, []int{40, 21}, op.MatMulAttr{}},
		{"column", []int{17, 6}, []int{6, 1}, op.MatMulAttr{}},
		{"linear", []int{2, 9}, []int{4, 9}, op.MatMulAttr{TransB: true}},
		{"transA", []int{9, 3}, []int{9, 4}, op.MatMulAttr{TransA: true}},
		{"both", []int{9, 3}, []int{4, 9}, op.MatMulAttr{TransA: true, TransB: true}},
		{"heads", []int{2, 3, 5, 4}, []int{2, 3, 4, 6}, op.MatMulAttr{}},
		{"headsTransB", []int{1, 3, 19, 8}, []int{1, 3, 19, 8}, op.MatMulAttr{TransB: true}},
		{"headsTransA", []int{1, 3, 8, 19}, []int{1, 3, 8, 5}, op.MatMulAttr{TransA: true}},
		{"broadcastB", []int{2, 3, 5, 4}, []int{4, 6}, op.MatMulAttr{}},
		{"broadcastA", []int{5, 4}, []int{2, 3, 4, 6}, op.MatMulAttr{}},
		{"broadcastBoth", []int{2, 1, 5, 4}, []int{3, 6, 4}, op.MatMulAttr{TransB: true}},
		{"large", []int{37, 130}, []int{130, 75}, op.MatMulAttr{}},
		{"inner", []int{1, 500}, []int{500, 1}, op.MatMulAttr{}},
		{"outer", []int{11, 1}, []int{1, 13}, op.MatMulAttr{}},
	} {
		cases = append(cases, single(op.MatMul, m.name, m.attr, in(m.a...), in(m.b...)),
			single(op.MatMul, m.name+"Const", m.attr, in(m.a...), in(m.b...).constant()),
			single(op.MatMul, m.name+"ConstFirst", m.attr, in(m.a...).constant(), in(m.b...)))
	}
	return cases
}

func reduceCases() (cases []Case) {
	for _, r := range []struct {
		name string
		x    []int
		axes []int
	}{
		{"space", []int{2, 3, 4, 5, 7}, []int{1, 2, 3}}, {"last", []int{3, 4, 5}, []int{2}}, {"first", []int{3, 4, 5}, []int{0}},
		{"ends", []int{3, 4, 5}, []int{0, 2}}, {"all", []int{3, 4, 5}, []int{0, 1, 2}}, {"nothing", []int{3, 4}, nil},
		{"middle", []int{2, 7, 3}, []int{1}}, {"many", []int{1, 9, 16, 17, 19}, []int{1, 2, 3}}, {"channels", []int{1, 5, 6, 7, 33}, []int{4}},
	} {
		for _, o := range []*ir.Op{op.ReduceSum, op.ReduceMean, op.ReduceMax} {
			cases = append(cases, single(o, r.name, op.ReduceAttr{Axes: r.axes}, in(r.x...).with(distinct)))
		}
	}
	return cases
}

func shapeCases() (cases []Case) {
	add := func(c ...Case) { cases = append(cases, c...) }

	add(single(op.Reshape, "split", op.ReshapeAttr{Shape: tensor.Shape{2, 6, 5}}, in(3, 4, 5)),
		single(op.Reshape, "constant", op.ReshapeAttr{Shape: tensor.Shape{6}}, in(2, 3).constant()),
		Case{Name: "Reshape/between", Op: op.Reshape, Inputs: []Input{in(3, 4)}, Build: func(b *ir.Builder, in []*ir.Value) *ir.Value {
			y := b.Emit(op.Reshape, op.ReshapeAttr{Shape: tensor.Shape{2, 6}}, b.Emit(named("Exp"), op.UnaryAttr{}, in[0]))
			return b.Emit(named("Sin"), op.UnaryAttr{}, y)
		}})
	for _, t := range []struct{ x, perm []int }{
		{[]int{3, 5}, []int{1, 0}}, {[]int{40, 70}, []int{1, 0}}, {[]int{2, 3, 4, 5, 6}, []int{0, 4, 1, 2, 3}}, {[]int{2, 3, 4, 5, 6}, []int{0, 2, 3, 4, 1}},
		{[]int{1, 7, 3, 8}, []int{0, 2, 1, 3}}, {[]int{1, 7, 3, 8}, []int{0, 2, 3, 1}}, {[]int{2, 3, 4}, []int{2, 1, 0}}, {[]int{2, 3, 4}, []int{0, 1, 2}},
		{[]int{1, 4, 1, 5}, []int{2, 1, 0, 3}}, {[]int{2, 2, 2, 3, 2, 3}, []int{0, 3, 1, 4, 5, 2}},
	} {
		add(single(op.Transpose, fmt.Sprint(t.x, t.perm), op.TransposeAttr{Perm: t.perm}, in(t.x...)))
	}
	for _, e := range []struct{ x, y []int }{
		{[]int{1, 1, 1, 1, 7}, []int{1, 2, 3, 4, 7}}, {[]int{3, 1}, []int{2, 3, 4}}, {nil, []int{2, 3}}, {[]int{2, 3}, []int{2, 3}}, {[]int{2, 1, 3, 1}, []int{2, 4, 3, 5}},
	} {
		add(single(op.Expand, fmt.Sprint(e.x, e.y), op.ExpandAttr{Shape: e.y}, in(e.x...)))
	}

	for _, s := range []struct {
		name string
		x    []int
		attr op.SliceAttr
	}{
		{"part", []int{4, 5, 6}, op.SliceAttr{Start: []int{1, 0, 2}, Step: []int{1, 1, 1}, Count: []int{2, 5, 3}}},
		{"rows", []int{4, 5, 6}, op.SliceAttr{Start: []int{1, 0, 0}, Step: []int{1, 1, 1}, Count: []int{2, 5, 6}}},
		{"steps", []int{7, 5, 6}, op.SliceAttr{Start: []int{0, 1, 1}, Step: []int{3, 2, 2}, Count: []int{3, 2, 3}}},
		{"back", []int{7, 5}, op.SliceAttr{Start: []int{6, 4}, Step: []int{-2, -1}, Count: []int{4, 5}}},
		{"one", []int{2, 9, 4}, op.SliceAttr{Start: []int{0, 8, 0}, Step: []int{1, -3, 1}, Count: []int{2, 1, 4}}},
		{"channels", []int{1, 2, 3, 4, 9}, op.SliceAttr{Start: []int{0, 0, 0, 0, 4}, Step: []int{1, 1, 1, 1, 1}, Count: []int{1, 2, 3, 4, 5}}},
	} {
		add(single(op.Slice, s.name, s.attr, in(s.x...)),
			single(op.SliceBackward, s.name, op.SliceBackwardAttr{Slice: s.attr, In: s.x}, in(s.attr.Count...)))
	}
	add(single(op.Concat, "channels", op.ConcatAttr{Axis: 4}, in(1, 2, 3, 4, 5), in(1, 2, 3, 4, 1), in(1, 2, 3, 4, 3)),
		single(op.Concat, "first", op.ConcatAttr{Axis: 0}, in(2, 3), in(1, 3)),
		single(op.Concat, "middle", op.ConcatAttr{Axis: 1}, in(2, 3, 2), in(2, 1, 2).constant(), in(2, 2, 2)),
		single(op.Concat, "alone", op.ConcatAttr{Axis: 1}, in(2, 3)),
		Case{Name: "Concat/itself", Op: op.Concat, Inputs: []Input{in(3, 2)}, Build: func(b *ir.Builder, in []*ir.Value) *ir.Value {
			return b.Emit(op.Concat, op.ConcatAttr{Axis: 1}, in[0], in[0])
		}})

	for _, p := range []struct {
		name string
		x    []int
		attr op.PadAttr
	}{
		{"zero", []int{2, 3, 4}, op.PadAttr{Before: []int{0, 1, 2}, After: []int{1, 0, 3}, Mode: op.PadConstant}},
		{"value", []int{3, 4}, op.PadAttr{Before: []int{1, 1}, After: []int{0, 2}, Mode: op.PadConstant, Value: -1.5}},
		{"crop", []int{5, 6}, op.PadAttr{Before: []int{-1, 2}, After: []int{-2, -3}, Mode: op.PadConstant, Value: 2}},
		{"reflect", []int{3, 4, 5}, op.PadAttr{Before: []int{2, 0, 3}, After: []int{1, 3, 4}, Mode: op.PadReflect}},
		{"edge", []int{3, 4, 5}, op.PadAttr{Before: []int{2, 0, 7}, After: []int{1, 3, 4}, Mode: op.PadEdge}},
		{"wrap", []int{3, 4, 5}, op.PadAttr{Before: []int{2, 0, 5}, After: []int{1, 3, 4}, Mode: op.PadWrap}},
		{"volume", []int{1, 3, 4, 5, 6}, op.PadAttr{Before: []int{0, 1, 0, 1, 0}, After: []int{0, 1, 1, 0, 0}, Mode: op.PadConstant}},
	} {
		y := make([]int, len(p.x))
		for i := range y {
			y[i] = p.x[i] + p.attr.Before[i] + p.attr.After[i]
		}
		add(single(op.Pad, p.name, p.attr, in(p.x...)), single(op.PadBackward, p.name, op.PadBackwardAttr{Pad: p.attr, In: p.x}, in(y...)))
	}
	for _, g := range []struct {
		name string
		x    []int
		attr op.GatherAttr
	}{
		{"one", []int{3, 4, 5}, op.GatherAttr{Axis: 1, Index: []int{2}}}, {"repeated", []int{3, 4}, op.GatherAttr{Axis: 0, Index: []int{2, 0, 2, 2, 1}}},
		{"last", []int{2, 3, 5}, op.GatherAttr{Axis: 2, Index: []int{4, 0, 3}}},
	} {
		y := append([]int(nil), g.x...)
		y[g.attr.Axis] = len(g.attr.Index)
		add(single(op.Gather, g.name, g.attr, in(g.x...)),
			single(op.GatherBackward, g.name, op.GatherBackwardAttr{Gather: g.attr, Size: g.x[g.attr.Axis]}, in(y...)))
	}
	return cases
}

func resizeCases() (cases []Case) {
	var attrs []op.ResizeAttr
	for _, coord := range []string{"half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"} {
		attrs = append(attrs, op.ResizeAttr{Mode: "linear", Coord: coord}, op.ResizeAttr{Mode: "cubic", Coord: coord, CubicA: -0.75})
	}
	for _, nearest := range []string{"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"} {
		attrs = append(attrs, op.ResizeAttr{Mode: "nearest", Coord: "asymmetric", Nearest: nearest}, op.ResizeAttr{Mode: "nearest", Coord: "half_pixel", Nearest: nearest})
	}
	x := []int{1, 3, 4, 5, 3}
	for _, a := range attrs {
		for _, out := range [][]int{{1, 6, 8, 10, 3}, {1, 5, 2, 9, 3}, {1, 3, 1, 5, 3}} {
			a := a
			a.Out = out
			for i := range out {
				a.Scale = append(a.Scale, float64(out[i])/float64(x[i]))
			}
			name := fmt.Sprint(a.Mode, a.Coord, a.Nearest, out)
			cases = append(cases, single(op.Resize, name, a, in(x...)),
				single(op.ResizeBackward, name, op.ResizeBackwardAttr{Resize: a, In: x}, in(out...)))
		}
	}
	channels := op.ResizeAttr{Mode: "linear", Coord: "half_pixel", Out: tensor.Shape{2, 7, 5}, Scale: []float64{1, 7. / 4, 5. / 3}}
	return append(cases, single(op.Resize, "innermost", channels, in(2, 4, 3)),
		single(op.ResizeBackward, "innermost", op.ResizeBackwardAttr{Resize: channels, In: tensor.Shape{2, 4, 3}}, in(2, 7, 5)))
}
