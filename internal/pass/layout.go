package pass

import (
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// sinkTransposes moves transposes down the graph, through everything that does not care about the order of its axes, until
// they meet their inverse or something that does care. The importer surrounds every operation on images by transposes from
// and to the file's channels-first order; behind this pass nearly none are left.
//
// Vocabulary: a value v of the old graph is lazy when it is known as Transpose(base, perm) of a value of the new graph and
// has not been computed itself.
func sinkTransposes(g *ir.Graph) error {
	l := &layout{g: g, keep: kept(g), lazy: map[*ir.Value]transposition{}, done: map[*ir.Value]*ir.Value{}}
	old := g.Nodes
	g.Nodes = nil
	l.b = ir.NewBuilder(g)
	for i, v := range g.Inputs {
		if len(v.Shape()) == 5 {
			g.Inputs[i] = g.NewValue(v.Name, ir.Type{Shape: v.Shape().Permute(op.ChannelsLast(5))})
			l.become(v, g.Inputs[i], op.Inverse(op.ChannelsLast(5)))
		}
	}
	for _, n := range old {
		l.b.Name, l.b.Scope = n.Name, n.Scope
		l.node(n)
		if err := l.b.Err(); err != nil {
			return err
		}
	}
	for i, v := range g.Outputs {
		g.Outputs[i] = l.value(v)
	}
	for i := range g.Targets {
		t := &g.Targets[i]
		if lazy, ok := l.lazy[t.Value]; ok {
			t.Value, t.Axes = lazy.base, t.Axes.Permute(op.Inverse(lazy.perm))
		} else {
			t.Value = l.value(t.Value)
		}
	}
	return l.b.Err()
}

type transposition struct {
	base *ir.Value
	perm []int
}

type layout struct {
	g    *ir.Graph
	b    *ir.Builder
	keep map[*ir.Value]bool // outputs and targets, old and new
	lazy map[*ir.Value]transposition
	done map[*ir.Value]*ir.Value // old value -> equal new value
}

// value returns the computed twin of an old value.
func (l *layout) value(v *ir.Value) *ir.Value {
	if v == nil {
		return nil
	}
	if d, ok := l.done[v]; ok {
		return d
	}
	if t, ok := l.lazy[v]; ok {
		d := l.b.Emit(op.Transpose, op.TransposeAttr{Perm: t.perm}, t.base)
		d.Name = v.Name
		l.done[v] = d
		return d
	}
	return v
}

// define says that old value v is new value d.
func (l *layout) define(v, d *ir.Value) {
	if d.Name == "" {
		d.Name = v.Name
	}
	l.done[v] = d
	l.keep[d] = l.keep[d] || l.keep[v]
}

func (l *layout) node(n *ir.Node) {
	switch {
	case n.Op == op.Transpose:
		l.transpose(n.Out(), n.Inputs[0], n.Attr.(op.TransposeAttr).Perm)
	case n.Op == op.Reshape && l.reshape(n):
	case n.Op.Permute != nil && l.permute(n):
	case n.Op == op.MatMul:
		l.matmul(n)
	default:
		l.emit(n)
	}
}

// emit repeats the node on computed values.
func (l *layout) emit(n *ir.Node) {
	args := make([]*ir.Value, len(n.Inputs))
	for i, v := range n.Inputs {
		args[i] = l.value(v)
	}
	if m := l.b.Node(n.Op, n.Attr, args...); m != nil {
		for i, v := range n.Outputs {
			l.define(v, m.Outputs[i])
		}
	}
}

// reshaped emits x in another shape, from the start of a chain of reshapes.
func (l *layout) reshaped(x *ir.Value, shape tensor.Shape) *ir.Value {
	for x.Def != nil && x.Def.Op == op.Reshape && !l.keep[x] {
		x = x.Def.Inputs[0]
	}
	if l.b.Err() != nil || x.Shape().Equal(shape) {
		return x
	}
	return l.b.Emit(op.Reshape, op.ReshapeAttr{Shape: shape.Clone()}, x)
}

// become says that v is Transpose(base, perm), and computes it at once where that costs nothing.
func (l *layout) become(v, base *ir.Value, perm []int) {
	if slices.IsSorted(perm) {
		l.define(v, base)
		return
	}
	l.lazy[v] = transposition{base, perm}
	l.keep[base] = l.keep[base] || l.keep[v]
	if l.b.Err() == nil && movesOnlyOnes(base.Shape(), perm) {
		l.define(v, l.reshaped(base, v.Shape()))
	}
}

// transpose makes v the transposition of x, lazily.
func (l *layout) transpose(v, x *ir.Value, perm []int) {
	t, ok := l.lazy[x]
	if !ok {
		t = transposition{base: l.value(x), perm: identity(len(perm))}
	}
	l.become(v, t.base, op.Permuted(t.perm, perm))
}

func identity(n int) []int {
	p := make([]int, n)
	for i := range p {
		p[i] = i
	}
	return p
}

// movesOnlyOnes reports whether a transposition leaves the elements where they are: the axes longer than 1 keep their order.
func movesOnlyOnes(s tensor.Shape, perm []int) bool {
	last := -1
	for _, p := range perm {
		if s[p] != 1 {
			if p < last {
				return false
			}
			last = p
		}
	}
	return true
}

// permute runs a node that can be reordered on the bases of its lazy inputs. The order is that of the largest one.
func (l *layout) permute(n *ir.Node) bool {
	rank := len(n.Out().Shape())
	var lead *ir.Value
	for _, v := range n.Inputs {
		if v == nil {
			continue
		}
		if t, ok := l.lazy[v]; ok && len(t.perm) == rank && (lead == nil || v.Shape().Elements() > lead.Shape().Elements()) {
			lead = v
		}
	}
	if lead == nil {
		return false
	}
	perm := l.lazy[lead].perm
	inverse := op.Inverse(perm)
	args := make([]*ir.Value, len(n.Inputs))
	for i, v := range n.Inputs {
		switch t, lazy := l.lazy[v]; {
		case lazy && slices.Equal(t.perm, perm):
			args[i] = t.base
		case len(v.Shape()) == 0:
			args[i] = l.value(v)
		case len(v.Shape()) > rank:
			return false
		case v.Const == nil && v.Shape().Elements() > 4*lead.Shape().Elements():
			return false // cheaper to bring the small operand to the large one's order
		default:
			args[i] = l.reordered(v, rank, inverse)
		}
	}
	m := l.b.Node(n.Op, n.Op.Permute(n.Attr, inverse), args...)
	if m == nil {
		return true
	}
	for i, v := range n.Outputs {
		l.become(v, m.Outputs[i], perm)
	}
	return true
}

// reordered returns v, widened to rank by leading axes of 1, with its axes in the given order.
func (l *layout) reordered(v *ir.Value, rank int, order []int) *ir.Value {
	shape := v.Shape()
	var x *ir.Value
	if t, ok := l.lazy[v]; ok && len(shape) == rank {
		x, order = t.base, op.Permuted(t.perm, order)
		shape = x.Shape()
	} else {
		x = l.value(v)
		if len(shape) < rank {
			shape = append(slices.Repeat([]int{1}, rank-len(shape)), shape...)
		}
	}
	if movesOnlyOnes(shape, order) {
		return l.reshaped(x, shape.Permute(order))
	}
	x = l.reshaped(x, shape)
	return l.b.Emit(op.Transpose, op.TransposeAttr{Perm: order}, x)
}

// matmul turns a transposition of an operand's last two axes into a flag.
func (l *layout) matmul(n *ir.Node) {
	attr, args := n.Attr.(op.MatMulAttr), make([]*ir.Value, 2)
	for i, flag := range []*bool{&attr.TransA, &attr.TransB} {
		v := n.Inputs[i]
		t, ok := l.lazy[v]
		if ok {
			k := len(t.perm)
			swapped := identity(k)
			swapped[k-1], swapped[k-2] = k-2, k-1
			if slices.Equal(t.perm, swapped) {
				*flag, args[i] = !*flag, t.base
				continue
			}
		}
		args[i] = l.value(v)
	}
	l.define(n.Out(), l.b.Emit(op.MatMul, attr, args...))
}

// reshape moves a transposition behind a reshape that splits or joins axes which are neighbours in both orders, and merges a
// reshape into the one before it.
func (l *layout) reshape(n *ir.Node) bool {
	v := n.Inputs[0]
	to := n.Attr.(op.ReshapeAttr).Shape
	t, ok := l.lazy[v]
	if !ok {
		l.define(n.Out(), l.reshaped(l.value(v), to))
		return true
	}
	groups, ok := axisGroups(v.Shape(), to)
	if !ok {
		return false
	}
	// The groups in the order in which their axes stand in the base, where those of one group must be neighbours.
	type piece struct{ place, group int }
	var order []piece
	for k, gr := range groups {
		place, ok := together(v.Shape(), t, gr.from)
		if !ok {
			return false
		}
		order = append(order, piece{place, k})
	}
	slices.SortStableFunc(order, func(a, b piece) int { return a.place - b.place })
	var shape tensor.Shape
	var axes []int // new base axis -> axis of the output
	for _, o := range order {
		for a := groups[o.group].to[0]; a < groups[o.group].to[1]; a++ {
			shape = append(shape, to[a])
			axes = append(axes, a)
		}
	}
	l.become(n.Out(), l.reshaped(t.base, shape), op.Inverse(axes))
	return true
}

// together reports whether axes [from[0], from[1]) of a lazy value of the given shape are neighbours in its base, in the same
// order and with nothing but axes of 1 between them, and where the first of them is.
func together(shape tensor.Shape, t transposition, from [2]int) (place int, ok bool) {
	place, at := -1, -1
	for a := from[0]; a < from[1]; a++ {
		if shape[a] == 1 {
			continue
		}
		p := t.perm[a]
		if at < 0 {
			place = p
		} else {
			if p < at {
				return 0, false
			}
			for between := at + 1; between < p; between++ {
				if t.base.Shape()[between] != 1 {
					return 0, false
				}
			}
		}
		at = p
	}
	if place < 0 && from[0] < from[1] { // only axes of 1: anywhere
		place = t.perm[from[0]]
	}
	return place, true
}

// group relates a run of axes before a reshape to a run behind it that holds the same elements.
type group struct{ from, to [2]int }

// axisGroups splits a reshape into the smallest such groups.
func axisGroups(from, to tensor.Shape) ([]group, bool) {
	var groups []group
	i, j := 0, 0
	for i < len(from) || j < len(to) {
		gr := group{from: [2]int{i, i}, to: [2]int{j, j}}
		p, q := 1, 1
		if i < len(from) {
			p = from[i]
			i++
		}
		if j < len(to) {
			q = to[j]
			j++
		}
		for p != q {
			if p < q {
				if i == len(from) {
					return nil, false
				}
				p *= from[i]
				i++
			} else {
				if j == len(to) {
					return nil, false
				}
				q *= to[j]
				j++
			}
		}
		gr.from[1], gr.to[1] = i, j
		groups = append(groups, gr)
	}
	return groups, true
}
