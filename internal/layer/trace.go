package layer

import (
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// trace carries the letters of the input's axes through a graph as imported, by the rule of each operation. Values that do not depend on
// the input have no trace.
func trace(g *ir.Graph, letters string) map[*ir.Value]*traced {
	known := map[*ir.Value]*traced{}
	for _, v := range g.Inputs {
		if len(letters) == len(v.Shape()) {
			known[v] = input(letters, v.Shape())
		}
	}
	for _, n := range g.Nodes {
		in := make([]*traced, len(n.Inputs))
		depends := false
		for i, v := range n.Inputs {
			if v != nil {
				in[i] = known[v]
				depends = depends || in[i] != nil
			}
		}
		if !depends {
			continue
		}
		rule := rules[n.Op]
		if rule == nil {
			rule = pointwise
		}
		for i, v := range n.Outputs {
			if i > 0 {
				rule = unknown
			}
			t := rule(n, in)
			t.tidy()
			known[v] = t
		}
	}
	return known
}

// rules have the operations whose output has other axes than their inputs; the rest works element by element, or along axes that stay.
var rules = map[*ir.Op]func(*ir.Node, []*traced) *traced{
	op.Conv:             windows,
	op.ConvBackwardData: windows,
	op.MaxPool:          windows,
	op.AvgPool:          windows,
	op.Affine:           first,
	op.GroupNorm:        first,
	op.LayerNorm:        first,
	op.Softmax:          first,
	op.LogSoftmax:       first,
	op.MatMul:           multiplied,
	op.ReduceSum:        reduced,
	op.ReduceMean:       reduced,
	op.ReduceMax:        reduced,
	op.Reshape:          func(n *ir.Node, in []*traced) *traced { return in[0].reshaped(n.Out().Shape()) },
	op.Transpose:        transposed,
	op.Expand:           expanded,
	op.Slice:            sliced,
	op.Concat:           concatenated,
	op.Pad:              padded,
	op.Gather:           gathered,
	op.Resize:           resized,
}

// unknown returns the trace of a value with a known shape and nothing else.
func unknown(n *ir.Node, _ []*traced) *traced {
	t := &traced{}
	for _, d := range n.Out().Shape() {
		t.axes = append(t.axes, lost(d, "the operation %s does not say what became of them", n.Op.Name))
	}
	return t
}

// first returns the trace of an operation that leaves the axes of its first input, x, alone.
func first(n *ir.Node, in []*traced) *traced {
	if in[0] == nil {
		return pointwise(n, in)
	}
	return in[0].with(in[0].axes)
}

func (t *traced) with(axes []axis) *traced { return &traced{axes: axes, narrow: t.narrow} }

// pointwise puts values together element by element; they are broadcast.
func pointwise(n *ir.Node, in []*traced) *traced {
	return together(n.Out().Shape(), in, -1)
}

// together merges the axes of values whose last ones are the last ones of shape, but not axis skip.
func together(shape tensor.Shape, in []*traced, skip int) *traced {
	out := &traced{axes: make([]axis, len(shape)), narrow: narrowed(in)}
	for _, t := range in {
		if t == nil {
			continue
		}
		for i, a := range t.axes {
			if i += len(shape) - len(t.axes); i >= 0 && i != skip && a.size() == shape[i] {
				out.axes[i] = merged(out.axes[i], a)
			}
		}
	}
	for i, a := range out.axes {
		if i != skip && a.size() != shape[i] { // only in constants
			out.axes[i] = of(channels, shape[i])
		}
	}
	return out
}

// narrowed returns the letters that are narrow in all values, with the voxels of any.
func narrowed(in []*traced) map[byte]rest {
	var all map[byte]rest
	for _, t := range in {
		switch {
		case t == nil:
		case all == nil:
			all = copied(t.narrow)
		default:
			for l, a := range all {
				if b, ok := t.narrow[l]; ok {
					all[l] = rest{min(a.from, b.from), max(a.to, b.to), a.voxels}
				} else {
					delete(all, l)
				}
			}
		}
	}
	return all
}

func copied(narrow map[byte]rest) map[byte]rest {
	out := map[byte]rest{}
	for l, v := range narrow {
		out[l] = v
	}
	return out
}

// tidy makes a piece whole when its inner pieces are gone (patches that have become features), and drops letters that have an axis from
// narrow.
func (t *traced) tidy() {
	count := map[byte]int{}
	for _, a := range t.axes {
		for _, p := range a.pieces {
			if p.line != nil {
				count[p.letter]++
			}
		}
	}
	for i, a := range t.axes {
		for k, p := range a.pieces {
			if p.place() && !p.whole() && count[p.letter] == 1 {
				l := *p.line
				l.n, l.step = p.size, l.step*float64(p.unit)
				if l.order != nil {
					continue
				}
				a.pieces = slices.Clone(a.pieces)
				a.pieces[k].unit, a.pieces[k].line = 1, &l
				t.axes[i] = a
			}
		}
	}
	for l := range t.narrow {
		if len(t.find(l)) > 0 {
			t.narrow = copied(t.narrow)
			delete(t.narrow, l)
		}
	}
}

// vanish notes in narrow the remaining parts of the letters of an axis that is summed over.
func (t *traced) vanish(a axis) {
	for _, p := range a.pieces {
		if p.place() {
			if left, cropped := p.line.cropped(); cropped {
				t.narrow = copied(t.narrow)
				t.narrow[p.letter] = left
			}
		}
	}
}

// windows covers convolutions and poolings, [N, D, H, W, C].
func windows(n *ir.Node, in []*traced) *traced {
	if in[0] == nil { // a kernel that depends on the volume
		return unknown(n, in)
	}
	s := n.Out().Shape()
	out := in[0].with(append([]axis(nil), in[0].axes...))
	for i := range 3 {
		r := resampling{out: s[1+i]}
		switch a := n.Attr.(type) {
		case op.ConvAttr:
			r.span, r.stride, r.before = a.Dilation[i]*(n.Inputs[1].Shape()[2+i]-1)+1, a.Stride[i], a.Before[i]
		case op.PoolAttr:
			r.span, r.stride, r.before = a.Dilation[i]*(a.Kernel[i]-1)+1, a.Stride[i], a.Before[i]
		}
		a := in[0].axes[1+i].refined()
		if out.axes[1+i] = a.resampled(r); s[1+i] == 1 {
			out.vanish(a)
		}
	}
	if n.Op == op.Conv || n.Op == op.ConvBackwardData {
		out.axes[4] = of(channels, s[4])
		out.vanish(in[0].axes[4])
	}
	return out
}

// multiplied returns a matrix product: rows of the first operand, columns of the second.
func multiplied(n *ir.Node, in []*traced) *traced {
	s, attr := n.Out().Shape(), n.Attr.(op.MatMulAttr)
	k := len(s)
	out := together(append(s[:k-2:k-2], 1, 1), []*traced{batch(in[0]), batch(in[1])}, -1)
	out.narrow = narrowed(in)
	sides := [2]bool{attr.TransA, !attr.TransB} // which of the last two axes is kept: the last, if true
	var over [2]*axis                           // the axes that are summed over
	for i, t := range in {
		if t == nil {
			continue
		}
		kept, summed := len(t.axes)-2, len(t.axes)-1
		if sides[i] {
			kept, summed = summed, kept
		}
		out.axes[k-2+i] = t.axes[kept]
		over[i] = &t.axes[summed]
		out.vanish(t.axes[summed])
	}
	for i, t := range in {
		if t == nil { // weights
			out.axes[k-2+i] = out.features(s[k-2+i], *over[1-i])
		}
	}
	return out
}

// batch returns the trace of a stack of matrices without the axes of the matrices.
func batch(t *traced) *traced {
	if t == nil {
		return nil
	}
	return &traced{axes: append(t.axes[:len(t.axes)-2:len(t.axes)-2], axis{}, axis{})}
}

// features returns the axis that weights make from an axis that they sum over: channels, unless there are other channels and places mix.
func (t *traced) features(size int, over axis) axis {
	if over.places() && !over.has(channels) {
		for _, a := range t.axes {
			if a.has(channels) {
				return lost(size, "weights mix the places along %v", over)
			}
		}
	}
	return of(channels, size)
}

func reduced(n *ir.Node, in []*traced) *traced {
	out := in[0].with(append([]axis(nil), in[0].axes...))
	for _, a := range n.Attr.(op.ReduceAttr).Axes {
		out.axes[a] = axis{}
		out.vanish(in[0].axes[a])
	}
	return out
}

func transposed(n *ir.Node, in []*traced) *traced {
	out := in[0].with(nil)
	for _, p := range n.Attr.(op.TransposeAttr).Perm {
		out.axes = append(out.axes, in[0].axes[p])
	}
	return out
}

func expanded(n *ir.Node, in []*traced) *traced {
	return together(n.Out().Shape(), in, -1)
}

func sliced(n *ir.Node, in []*traced) *traced {
	a := n.Attr.(op.SliceAttr)
	out := &traced{narrow: copied(in[0].narrow)}
	for i, from := range in[0].axes {
		out.axes = append(out.axes, from.part(a.Start[i], a.Step[i], a.Count[i], out.narrow))
	}
	return out
}

func padded(n *ir.Node, in []*traced) *traced {
	a := n.Attr.(op.PadAttr)
	out := in[0].with(nil)
	for i, from := range in[0].axes {
		out.axes = append(out.axes, from.padded(a.Before[i], a.After[i]))
	}
	return out
}

func gathered(n *ir.Node, in []*traced) *traced {
	a := n.Attr.(op.GatherAttr)
	out := in[0].with(append([]axis(nil), in[0].axes...))
	out.axes[a.Axis] = in[0].axes[a.Axis].gathered(a.Index)
	return out
}

func resized(n *ir.Node, in []*traced) *traced {
	out := in[0].with(nil)
	for i, from := range in[0].axes {
		out.axes = append(out.axes, from.resampled(resampling{out: n.Out().Shape()[i]}))
	}
	return out
}

// concatenated joins tokens in front or behind to those of the volume, slices that were worked on one by one, parts of an axis that was
// cut, or channels.
func concatenated(n *ir.Node, in []*traced) *traced {
	k := n.Attr.(op.ConcatAttr).Axis
	s := n.Out().Shape()
	out := together(s, in, k)
	size := func(i int) int { return n.Inputs[i].Shape()[k] }
	var placed []int // inputs whose axis is a place
	features := true
	for i, t := range in {
		if t == nil {
			continue
		}
		if t.axes[k].places() {
			placed = append(placed, i)
		}
		features = features && (len(t.axes[k].pieces) == 0 || t.axes[k].has(channels))
	}
	switch {
	case len(placed) == 0:
		if l, letter, ok := stacked(in); ok && s[k] == len(in) {
			out.axes[k] = along(letter, l)
			break
		}
		if out.axes[k] = of(channels, s[k]); !features {
			out.axes[k] = lost(s[k], "values of which some are not channels are joined")
		}
	case len(placed) == 1:
		a := in[placed[0]].axes[k]
		if out.axes[k] = joined(in, k, s[k]); !out.axes[k].has(mixed) { // a roll by one position
			break
		}
		if !tokens(in, placed[0], k) {
			break
		}
		for i := range in {
			if i < placed[0] {
				a.before += size(i)
			} else if i > placed[0] {
				a.after += size(i)
			}
		}
		out.axes[k] = a
	default:
		out.axes[k] = joined(in, k, s[k])
	}
	return out
}

// tokens reports whether all values but the one whose axis k is a place are tokens without a place: constants or features, not positions
// of the same letters, and not lost ones.
func tokens(in []*traced, placed, k int) bool {
	p, plain := in[placed].axes[k].plain()
	for i, t := range in {
		if t == nil || i == placed {
			continue
		}
		_, left := t.narrow[p.letter]
		if t.axes[k].has(mixed) || plain && left {
			return false
		}
	}
	return true
}

// joined returns the axis of parts that all are places.
func joined(in []*traced, k, size int) axis {
	var lines []*line
	var letter byte
	for _, t := range in {
		if t == nil {
			return lost(size, "constants are joined between places")
		}
		if p, ok := t.axes[k].plain(); ok {
			if letter != 0 && p.letter != letter {
				return lost(size, "places along different axes are joined")
			}
			letter = p.letter
		}
	}
	for _, t := range in {
		p, ok := t.axes[k].plain()
		if !ok {
			if p, ok = t.single(letter, t.axes[k]); !ok {
				return lost(size, "places are joined with others")
			}
		}
		lines = append(lines, p.line)
	}
	l, ok := chained(lines)
	if !ok {
		return lost(size, "places that do not lie beside each other are joined")
	}
	return along(letter, l)
}

// single returns the piece of a letter of which an axis keeps one position.
func (t *traced) single(letter byte, a axis) (piece, bool) {
	left, ok := t.narrow[letter]
	if !ok || len(a.pieces) > 0 || a.size() != 1 || len(t.find(letter)) > 0 {
		return piece{}, false
	}
	l := left.line(1)
	return piece{letter: letter, size: 1, unit: 1, line: &l}, true
}

// stacked returns the line of values that each show one position of the same letter, side by side.
func stacked(in []*traced) (l line, letter byte, ok bool) {
	if len(in) < 2 || in[0] == nil || len(in[0].narrow) != 1 {
		return l, 0, false
	}
	for l := range in[0].narrow {
		letter = l
	}
	all := in[0].narrow[letter]
	for i, t := range in {
		if t == nil || len(t.find(letter)) > 0 {
			return l, 0, false
		}
		here, known := t.narrow[letter]
		if !known || i > 0 && here.from != all.to {
			return l, 0, false
		}
		all.to = here.to
	}
	return all.line(len(in)), letter, true
}
