package pass

import (
	"context"
	"math"
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Recognition replaces groups of nodes that exporters write for one operation by that operation: activations written as formulas, GroupNorm
// written as reshapes round an InstanceNorm, LayerNorm written as means, and zero padding in front of a convolution. It works on a graph as
// imported, once its targets are known: no value that is a target or an output disappears, and none becomes independent of a target that it
// depended on. Values inside such a group are gone afterwards.

// recognise makes a pass of a finder, which returns a value that may take the place of a node's output, or nil.
func recognise(find func(r *recogniser, n *ir.Node) *ir.Value) func(context.Context, *ir.Graph) error {
	return func(ctx context.Context, g *ir.Graph) error {
		r := &recogniser{g: g, uses: g.Uses(), kept: kept(g)}
		return r.run(ctx, find)
	}
}

type recogniser struct {
	g    *ir.Graph
	b    *ir.Builder
	uses map[*ir.Value][]*ir.Node
	kept map[*ir.Value]bool
}

// run tries find on each node. The nodes that find emits take the place of the node, and its result that of the node's output.
func (r *recogniser) run(ctx context.Context, find func(r *recogniser, n *ir.Node) *ir.Value) error {
	old := r.g.Nodes
	r.g.Nodes = make([]*ir.Node, 0, len(old))
	r.b = ir.NewBuilder(r.g)
	for _, n := range old {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		start := len(r.g.Nodes)
		r.b.Name, r.b.Scope = n.Name, n.Scope
		y := find(r, n)
		if err := r.b.Err(); err != nil {
			return err
		}
		if y == nil {
			r.g.Nodes = append(r.g.Nodes[:start], n)
			continue
		}
		v := n.Out()
		y.Def.Outputs[0], v.Def = v, y.Def
	}
	return nil
}

// inner reports whether a value may disappear: only the given number of readers see it.
func (r *recogniser) inner(v *ir.Value, readers int) bool {
	return v.Def != nil && !r.kept[v] && len(r.uses[v]) == readers
}

// def returns the node that computes v if it is the given operation and nothing else reads v.
func (r *recogniser) def(v *ir.Value, o *ir.Op) *ir.Node {
	if v == nil || v.Def == nil || v.Def.Op != o || !r.inner(v, 1) {
		return nil
	}
	return v.Def
}

// probes are the places at which formulas are compared.
var probes = func() (xs []float64) {
	for x := -12.0; x <= 12; x += 0.37 {
		xs = append(xs, x)
	}
	return append(xs, -40, -25, -3, -1e-3, 0, 1e-3, 3, 25, 40)
}()

// formulas are the activations that exporters may spell out.
var formulas = []struct {
	name string
	attr op.UnaryAttr
}{
	{"Silu", op.UnaryAttr{}}, {"Gelu", op.UnaryAttr{}}, {"GeluTanh", op.UnaryAttr{}}, {"Mish", op.UnaryAttr{}},
	{"HardSwish", op.UnaryAttr{}}, {"HardSigmoid", op.UnaryAttr{Alpha: 1. / 6, Beta: 0.5}},
	{"Softplus", op.UnaryAttr{}}, {"Softsign", op.UnaryAttr{}},
}

// activation recognises a formula by its values: if a few elementwise nodes compute a function of one value alone, and that
// function agrees with a known one everywhere, the nodes are that function, however they were written.
func (r *recogniser) activation(n *ir.Node) *ir.Value {
	if !elementwise(n) {
		return nil
	}
	cone := []*ir.Node{n} // readers before their inputs
	for len(cone) <= 12 {
		front := r.front(cone)
		if len(front) == 0 {
			return nil
		}
		if len(front) == 1 && len(cone) > 1 {
			if y := r.formula(cone, front[0]); y != nil {
				return y
			}
		}
		// Go on behind the value that was computed last.
		last := slices.MaxFunc(front, func(a, b *ir.Value) int { return a.ID - b.ID })
		if last.Def == nil || r.kept[last] || !elementwise(last.Def) || !last.Shape().Equal(n.Out().Shape()) {
			return nil
		}
		for _, reader := range r.uses[last] {
			if !slices.Contains(cone, reader) {
				return nil
			}
		}
		cone = append(cone, last.Def)
	}
	return nil
}

func elementwise(n *ir.Node) bool {
	if _, ok := op.UnaryNamed(n.Op.Name); ok {
		return true
	}
	_, ok := op.BinaryNamed(n.Op.Name)
	return ok
}

// front lists the values that a cone of nodes reads, but for constants of one element.
func (r *recogniser) front(cone []*ir.Node) []*ir.Value {
	var out []*ir.Value
	for _, n := range cone {
		for _, v := range n.Inputs {
			if v.Const != nil && v.Const.Len() == 1 || v.Def != nil && slices.Contains(cone, v.Def) || slices.Contains(out, v) {
				continue
			}
			out = append(out, v)
		}
	}
	return out
}

func (r *recogniser) formula(cone []*ir.Node, x *ir.Value) *ir.Value {
	if !x.Shape().Equal(cone[0].Out().Shape()) {
		return nil
	}
	candidates := slices.Clone(formulas)
	for _, at := range probes {
		values := map[*ir.Value]float64{x: at}
		for _, n := range slices.Backward(cone) {
			values[n.Out()] = evaluate(n, values)
		}
		y := values[cone[0].Out()]
		candidates = slices.DeleteFunc(candidates, func(f struct {
			name string
			attr op.UnaryAttr
		}) bool {
			u, _ := op.UnaryNamed(f.name)
			want := u.Apply(at, f.attr)
			return !(math.Abs(y-want) <= 1e-6*(1+math.Abs(want)))
		})
		if len(candidates) == 0 {
			return nil
		}
	}
	return r.b.Emit(op.UnaryOp(candidates[0].name), candidates[0].attr, x)
}

// evaluate computes an elementwise node on single numbers.
func evaluate(n *ir.Node, values map[*ir.Value]float64) float64 {
	arg := func(i int) float64 {
		if v := n.Inputs[i]; v.Const != nil {
			return v.Const.At(0)
		}
		return values[n.Inputs[i]]
	}
	if u, ok := op.UnaryNamed(n.Op.Name); ok {
		return u.Apply(arg(0), n.Attr.(op.UnaryAttr))
	}
	b, _ := op.BinaryNamed(n.Op.Name)
	return b.Apply(arg(0), arg(1))
}

// pad moves zeros around an image into the convolution, or the average pooling, that reads it.
func (r *recogniser) pad(n *ir.Node) *ir.Value {
	if n.Op != op.Conv && n.Op != op.AvgPool {
		return nil
	}
	moved := r.def(n.Inputs[0], op.Transpose)
	if moved == nil || !slices.Equal(moved.Attr.(op.TransposeAttr).Perm, op.ChannelsLast(5)) {
		return nil
	}
	source := moved.Inputs[0]
	wide := r.def(source, op.Reshape) // of an image of one or two dimensions
	if wide != nil {
		source = wide.Inputs[0]
		if len(source.Shape()) > 4 || len(source.Shape()) < 3 || !op.Widened(source.Shape(), 2).Equal(wide.Out().Shape()) {
			return nil
		}
	}
	p := r.def(source, op.Pad)
	if p == nil {
		return nil
	}
	a := p.Attr.(op.PadAttr)
	if a.Mode != op.PadConstant || a.Value != 0 || a.Before[0] != 0 || a.After[0] != 0 || a.Before[1] != 0 || a.After[1] != 0 {
		return nil
	}
	before, after := op.DHW(a.Before[2:], 0), op.DHW(a.After[2:], 0)
	var attr any
	if n.Op == op.Conv {
		c := n.Attr.(op.ConvAttr)
		for i := range 3 {
			if before[i] < 0 || after[i] < 0 { // the convolution's own zeros would come where voxels were cut off
				return nil
			}
			c.Before[i], c.After[i] = c.Before[i]+before[i], c.After[i]+after[i]
		}
		attr = c
	} else {
		c := n.Attr.(op.PoolAttr)
		if c.Before != [3]int{} || c.After != [3]int{} || c.Ceil != [3]int{} || slices.Min(append(before[:], after[:]...)) < 0 {
			return nil
		}
		c.Before, c.After, c.CountPad = before, after, true
		attr = c
	}
	x := p.Inputs[0]
	if wide != nil {
		x = r.b.Emit(op.Reshape, op.ReshapeAttr{Shape: op.Widened(x.Shape(), 2)}, x)
	}
	x = r.b.Emit(op.Transpose, moved.Attr, x)
	return r.b.Emit(n.Op, attr, append([]*ir.Value{x}, n.Inputs[1:]...)...)
}

// scaling follows y = x*gamma + beta backwards from a node, one multiplication and one addition at most. The numbers are
// those of the axes listed, in their order.
type scaling struct {
	gamma, beta []float64 // nil for 1 and 0
}

// unscale peels additions and multiplications by constants off v and returns the value under them.
func (r *recogniser) unscale(n *ir.Node, axes []int) (x *ir.Value, s scaling, ok bool) {
	v := n.Out()
	peel := func(name string) []float64 {
		d := v.Def
		if d == nil || v != n.Out() && !r.inner(v, 1) {
			return nil
		}
		switch {
		case d.Op == op.BinaryOp(name):
			for i := range 2 {
				values := alongAxes(d.Inputs[i], v.Shape(), axes)
				if values != nil && d.Inputs[1-i].Shape().Equal(v.Shape()) {
					v = d.Inputs[1-i]
					return values
				}
			}
		case d.Op == op.UnaryOp("Linear"):
			a := d.Attr.(op.UnaryAttr)
			number := a.Alpha
			if name == "Add" {
				number = a.Beta
			}
			if name == "Add" && a.Alpha != 1 || name == "Mul" && a.Beta != 0 {
				return nil
			}
			size := sizeAlong(v.Shape(), axes)
			if size > op.MaxChannels {
				return nil
			}
			v = d.Inputs[0]
			return slices.Repeat([]float64{number}, size)
		}
		return nil
	}
	s.beta = peel("Add")
	s.gamma = peel("Mul")
	return v, s, v == n.Out() || r.inner(v, 1)
}

func sizeAlong(shape tensor.Shape, axes []int) int {
	size := 1
	for _, a := range axes {
		size *= shape[a]
	}
	return size
}

// alongAxes returns the elements of a constant that differs only along the axes of a tensor of the given shape, and has all
// of them, or is one number; else nil.
func alongAxes(v *ir.Value, shape tensor.Shape, axes []int) []float64 {
	if v.Const == nil || len(v.Shape()) > len(shape) {
		return nil
	}
	lead := len(shape) - len(v.Shape())
	size := sizeAlong(shape, axes)
	if size > op.MaxChannels {
		return nil
	}
	for a, d := range v.Shape() {
		if d != 1 && !slices.Contains(axes, a+lead) {
			return nil
		}
	}
	out := make([]float64, size)
	switch v.Const.Len() {
	case 1:
		for i := range out {
			out[i] = v.Const.At(0)
		}
	case size:
		for i := range out {
			out[i] = v.Const.At(i)
		}
	default:
		return nil
	}
	return out
}

// param makes a constant of a norm's parameter; nil where it has none.
func (r *recogniser) param(values []float64, shape tensor.Shape) *ir.Value {
	if values == nil {
		return nil
	}
	f := make([]float32, len(values))
	for i, v := range values {
		f[i] = float32(v)
	}
	return r.b.Const(shape, f)
}

// affine returns both parameters; a norm that shifts must also scale.
func (r *recogniser) affine(s scaling, shape tensor.Shape) (gamma, beta *ir.Value) {
	if s.beta != nil && s.gamma == nil {
		s.gamma = slices.Repeat([]float64{1}, len(s.beta))
	}
	return r.param(s.gamma, shape), r.param(s.beta, shape)
}

// readByScaling reports whether the only reader of n's output scales or shifts it.
func (r *recogniser) readByScaling(n *ir.Node, axes []int) bool {
	v := n.Out()
	if r.kept[v] || len(r.uses[v]) != 1 {
		return false
	}
	reader := r.uses[v][0]
	switch reader.Op {
	case op.UnaryOp("Linear"):
		a := reader.Attr.(op.UnaryAttr)
		return a.Alpha == 1 || a.Beta == 0
	case op.BinaryOp("Add"), op.BinaryOp("Mul"):
		other := reader.Inputs[0]
		if other == v {
			other = reader.Inputs[1]
		}
		return alongAxes(other, v.Shape(), axes) != nil
	}
	return false
}

// groupNorm recognises an InstanceNorm of a tensor reshaped to [N, groups, rest], reshaped back, scaled and shifted by channel.
func (r *recogniser) groupNorm(n *ir.Node) *ir.Value {
	shape := n.Out().Shape()
	if n.Op != op.Reshape && n.Op != op.UnaryOp("Linear") && n.Op != op.BinaryOp("Add") && n.Op != op.BinaryOp("Mul") || len(shape) < 3 {
		return nil
	}
	v, s, ok := r.unscale(n, []int{1})
	if !ok || v.Def == nil || v.Def.Op != op.Reshape || !v.Shape().Equal(shape) {
		return nil
	}
	first := r.def(v.Def.Inputs[0], op.Transpose)
	if first == nil {
		return nil
	}
	norm := r.def(first.Inputs[0], op.GroupNorm)
	if norm == nil {
		return nil
	}
	last := r.def(norm.Inputs[0], op.Transpose)
	if last == nil {
		return nil
	}
	split := r.def(last.Inputs[0], op.Reshape)
	if split == nil {
		return nil
	}
	x, grouped := split.Inputs[0], split.Out().Shape()
	groups := norm.Attr.(op.GroupNormAttr).Groups
	channels := shape[1]
	if !x.Shape().Equal(shape) || len(grouped) < 3 || grouped[0] != shape[0] || grouped[1] != groups || channels%groups != 0 {
		return nil
	}
	// The two transpositions move the groups to the end and back.
	rank := len(grouped)
	if p := last.Attr.(op.TransposeAttr).Perm; p[0] != 0 || p[rank-1] != 1 || !slices.Equal(op.Inverse(p), first.Attr.(op.TransposeAttr).Perm) {
		return nil
	}
	if r.moreScaling(n, []int{1}, s) || !s.under(norm, channels, groups) {
		return nil
	}
	perm := op.ChannelsLast(len(shape))
	gamma, beta := r.affine(s, tensor.Shape{channels})
	y := r.b.Emit(op.Transpose, op.TransposeAttr{Perm: perm}, x)
	y = r.b.Emit(op.GroupNorm, norm.Attr, y, gamma, beta)
	return r.b.Emit(op.Transpose, op.TransposeAttr{Perm: op.Inverse(perm)}, y)
}

// under joins the parameters that the inner norm has for each group.
func (s *scaling) under(norm *ir.Node, channels, groups int) bool {
	inner := make([][]float64, 2)
	for i := range inner {
		p := norm.In(i + 1)
		if p == nil {
			continue
		}
		if p.Const == nil {
			return false
		}
		if v, same := p.Const.Splat(); same && v == float64(1-i) { // 1 to scale, 0 to shift
			continue
		}
		inner[i] = make([]float64, channels)
		for c := range channels {
			inner[i][c] = p.Const.At(c / (channels / groups))
		}
	}
	at := func(list []float64, c int, missing float64) float64 {
		if list == nil {
			return missing
		}
		return list[c]
	}
	gamma, beta := make([]float64, channels), make([]float64, channels)
	for c := range channels {
		outer := at(s.gamma, c, 1)
		gamma[c] = at(inner[0], c, 1) * outer
		beta[c] = at(inner[1], c, 0)*outer + at(s.beta, c, 0)
	}
	if inner[0] != nil || s.gamma != nil {
		s.gamma = gamma
	}
	if inner[1] != nil || s.beta != nil {
		s.beta = beta
	}
	return true
}

// layerNorm recognises (x - mean) / sqrt(mean((x - mean)^2) + eps), scaled and shifted, over the trailing axes or the channels.
func (r *recogniser) layerNorm(n *ir.Node) *ir.Value {
	shape := n.Out().Shape()
	rank := len(shape)
	if !elementwise(n) || rank == 0 {
		return nil
	}
	x, axes, eps, v := r.normalisedUnder(n)
	if v == nil || len(axes) == 0 || !x.Shape().Equal(shape) {
		return nil
	}
	trailing := axes[len(axes)-1] == rank-1 && axes[0] == rank-len(axes)
	channels := len(axes) == 1 && axes[0] == 1 && rank > 2
	if !trailing && !channels {
		return nil
	}
	under, s, ok := r.unscale(n, axes)
	if !ok || under != v || r.moreScaling(n, axes, s) {
		return nil
	}
	attr := op.LayerNormAttr{Axes: len(axes), Eps: eps}
	if trailing {
		gamma, beta := r.affine(s, shape[rank-len(axes):])
		return r.b.Emit(op.LayerNorm, attr, x, gamma, beta)
	}
	perm := op.ChannelsLast(rank)
	gamma, beta := r.affine(s, tensor.Shape{shape[1]})
	y := r.b.Emit(op.Transpose, op.TransposeAttr{Perm: perm}, x)
	y = r.b.Emit(op.LayerNorm, attr, y, gamma, beta)
	return r.b.Emit(op.Transpose, op.TransposeAttr{Perm: op.Inverse(perm)}, y)
}

// normalisedUnder looks for a normalised value v at n's output or under one scaling and one shift.
func (r *recogniser) normalisedUnder(n *ir.Node) (x *ir.Value, axes []int, eps float64, v *ir.Value) {
	v = n.Out()
	for range 3 {
		if x, axes, eps, ok := r.normalised(v); ok {
			return x, axes, eps, v
		}
		if v.Def == nil {
			break
		}
		var next *ir.Value
		for _, in := range v.Def.Inputs {
			if in.Const == nil && in.Shape().Equal(v.Shape()) {
				next = in
			}
		}
		if next == nil || !r.inner(next, 1) {
			break
		}
		v = next
	}
	return nil, nil, 0, nil
}

// normalised matches (x - mean(x)) / sqrt(variance + eps) at v.
func (r *recogniser) normalised(v *ir.Value) (x *ir.Value, axes []int, eps float64, ok bool) {
	d := v.Def
	if d == nil {
		return
	}
	var centred, deviation *ir.Value
	switch d.Op {
	case op.BinaryOp("Div"):
		centred, deviation = d.Inputs[0], d.Inputs[1]
		if root := r.def(deviation, op.UnaryOp("Sqrt")); root != nil {
			deviation = root.Inputs[0]
		} else {
			return
		}
	case op.BinaryOp("Mul"):
		for i := range 2 {
			inverse := d.Inputs[i]
			if q := r.def(inverse, op.UnaryOp("Reciprocal")); q != nil {
				if root := r.def(q.Inputs[0], op.UnaryOp("Sqrt")); root != nil {
					centred, deviation = d.Inputs[1-i], root.Inputs[0]
				}
			} else if q := r.def(inverse, op.UnaryOp("PowConst")); q != nil && q.Attr.(op.UnaryAttr).Alpha == -0.5 {
				centred, deviation = d.Inputs[1-i], q.Inputs[0]
			}
		}
	}
	if centred == nil {
		return
	}
	plus := r.def(deviation, op.UnaryOp("Linear"))
	if plus == nil || plus.Attr.(op.UnaryAttr).Alpha != 1 {
		return
	}
	eps = plus.Attr.(op.UnaryAttr).Beta
	variance := r.def(plus.Inputs[0], op.ReduceMean)
	if variance == nil {
		return
	}
	axes = variance.Attr.(op.ReduceAttr).Axes
	square := r.centredSquare(variance.Inputs[0])
	x, mean := difference(centred)
	if x == nil || square == nil || r.kept[centred] || r.kept[square] {
		return
	}
	x2, mean2 := difference(square)
	if x2 != x || !meanOf(mean, x, axes) || !meanOf(mean2, x, axes) || r.kept[mean] || r.kept[mean2] {
		return
	}
	return x, axes, eps, true
}

// centredSquare returns d where v is d*d.
func (r *recogniser) centredSquare(v *ir.Value) *ir.Value {
	if q := r.def(v, op.UnaryOp("PowConst")); q != nil && q.Attr.(op.UnaryAttr).Alpha == 2 {
		return q.Inputs[0]
	}
	if q := r.def(v, op.BinaryOp("Mul")); q != nil && q.Inputs[0] == q.Inputs[1] {
		return q.Inputs[0]
	}
	return nil
}

func difference(v *ir.Value) (x, mean *ir.Value) {
	if v.Def == nil || v.Def.Op != op.BinaryOp("Sub") {
		return nil, nil
	}
	return v.Def.Inputs[0], v.Def.Inputs[1]
}

func meanOf(mean, x *ir.Value, axes []int) bool {
	return mean != nil && mean.Def != nil && mean.Def.Op == op.ReduceMean && mean.Def.Inputs[0] == x &&
		slices.Equal(mean.Def.Attr.(op.ReduceAttr).Axes, axes)
}

// moreScaling reports whether the reader of n's output scales or shifts further, and will match with n inside.
func (r *recogniser) moreScaling(n *ir.Node, axes []int, s scaling) bool {
	if s.beta != nil || !r.readByScaling(n, axes) {
		return false
	}
	reader := r.uses[n.Out()][0]
	adds := reader.Op == op.BinaryOp("Add") || reader.Op == op.UnaryOp("Linear") && reader.Attr.(op.UnaryAttr).Alpha == 1
	return adds || s.gamma == nil
}
