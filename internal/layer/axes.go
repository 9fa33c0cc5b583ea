package layer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Letters of pieces. Those of space are places in the volume; the others are not.
const (
	space    = "DHW"
	channels = 'C' // features of a place
	mixed    = 'X' // positions whose places were mixed or lost on the way
)

// piece is a factor of an axis: the position along its letter is the sum over the letter's pieces of index times unit.
type piece struct {
	letter     byte
	size, unit int
	line       *line  // of a letter in space
	why        string // of mixed: the operation that did it
}

// place reports whether the piece tells cells of a letter in space apart, not positions inside such a cell.
func (p piece) place() bool { return p.line != nil && p.unit*p.size == p.line.n }

// whole reports whether the piece is all of its letter.
func (p piece) whole() bool { return p.place() && p.unit == 1 }

// axis is a product of pieces, the outermost first, with positions of no place (tokens such as the class token) in front and behind.
// An axis of one position has no pieces.
type axis struct {
	before, after int
	pieces        []piece
}

func (a axis) size() int {
	n := 1
	for _, p := range a.pieces {
		n *= p.size
	}
	return a.before + n + a.after
}

// places reports whether the axis has a piece that is a place.
func (a axis) places() bool { return slices.ContainsFunc(a.pieces, piece.place) }

// has reports whether the axis has a piece of that letter.
func (a axis) has(letter byte) bool {
	return slices.ContainsFunc(a.pieces, func(p piece) bool { return p.letter == letter })
}

// plain returns the piece of an axis that is one whole letter in space, in the volume's order or backwards.
func (a axis) plain() (piece, bool) {
	if a.before != 0 || a.after != 0 || len(a.pieces) != 1 || !a.pieces[0].whole() || a.pieces[0].line.order != nil {
		return piece{}, false
	}
	return a.pieces[0], true
}

// traced describes the axes of a value as far as they are known.
type traced struct {
	axes []axis
	// narrow has the remaining part of letters that have lost their axis, where it is not the whole one.
	narrow map[byte]rest
}

// of returns an axis of one letter that is no place.
func of(letter byte, size int) axis {
	if size == 1 {
		return axis{}
	}
	return axis{pieces: []piece{{letter: letter, size: size, unit: 1}}}
}

// lost returns an axis whose places are not known, for the reason given.
func lost(size int, format string, args ...any) axis {
	a := of(mixed, size)
	for i := range a.pieces {
		a.pieces[i].why = fmt.Sprintf(format, args...)
	}
	return a
}

// along returns an axis of a letter in space.
func along(letter byte, l line) axis {
	a := of(letter, l.n)
	for i := range a.pieces {
		a.pieces[i].line = &l
	}
	return a
}

// input returns the trace of the network's input. letters names its axes: all but N and C are places.
func input(letters string, shape tensor.Shape) *traced {
	t := &traced{}
	for i, n := range shape {
		if l := letters[i]; l == 'N' || l == channels {
			t.axes = append(t.axes, of(l, n))
		} else {
			t.axes = append(t.axes, along(l, line{n: n, voxels: n, step: 1}))
		}
	}
	return t
}

// shape returns the shape of the value.
func (t *traced) shape() tensor.Shape {
	s := make(tensor.Shape, len(t.axes))
	for i, a := range t.axes {
		s[i] = a.size()
	}
	return s
}

// find returns the pieces that are places of a letter.
func (t *traced) find(letter byte) (found []piece) {
	for _, a := range t.axes {
		for _, p := range a.pieces {
			if p.letter == letter && p.place() {
				found = append(found, p)
			}
		}
	}
	return found
}

// cells returns the number of places in space.
func (t *traced) cells() int {
	n := 1
	if t == nil {
		return n
	}
	for _, l := range []byte(space) {
		for _, p := range t.find(l) {
			n *= p.size
		}
	}
	return n
}

// letters returns the number of letters in space along which there are cells.
func (t *traced) letters() (n int) {
	if t == nil {
		return 0
	}
	for _, l := range []byte(space) {
		if len(t.find(l)) > 0 {
			n++
		}
	}
	return n
}

func (p piece) like(q piece) bool {
	return p.letter == q.letter && p.size == q.size && p.unit == q.unit && (p.line == nil) == (q.line == nil) && (p.line == nil || p.line.like(q.line))
}

func (a axis) like(b axis) bool {
	return a.before == b.before && a.after == b.after && slices.EqualFunc(a.pieces, b.pieces, piece.like)
}

// join multiplies an axis by one more piece inside of it. Neighbours that were split from one piece are one again.
func (a *axis) join(p piece) {
	if p.size == 1 {
		return
	}
	if k := len(a.pieces) - 1; k >= 0 {
		q := &a.pieces[k]
		switch {
		case p.line == nil && q.line == nil && p.letter == q.letter:
			q.size *= p.size
			return
		case p.line != nil && p.letter == q.letter && p.line.like(q.line) && q.unit == p.unit*p.size:
			q.size, q.unit = q.size*p.size, p.unit
			return
		}
	}
	a.pieces = append(a.pieces, p)
}

// reshaped carries axes over to another shape with the same elements: axes are joined and split. Where the new shape cuts across axes,
// they are lost.
func (t *traced) reshaped(to tensor.Shape) *traced {
	type item struct {
		piece
		whole *axis // an axis with tokens in front or behind, which cannot be split
	}
	var items []item // those of the first axis last
	for _, a := range slices.Backward(t.axes) {
		if a.before != 0 || a.after != 0 {
			items = append(items, item{piece: piece{size: a.size()}, whole: &a})
			continue
		}
		for _, p := range slices.Backward(a.pieces) {
			items = append(items, item{piece: p})
		}
	}
	out := &traced{axes: make([]axis, len(to)), narrow: t.narrow}
	from, made := 1, 1 // elements of the outer axes so far
	for j := 0; j < len(to); j++ {
		need := to[j]
		a := axis{}
		for need > 1 && len(items) > 0 {
			it := items[len(items)-1]
			if it.whole != nil {
				if need != to[j] || it.size != need {
					break
				}
				a, need, items, from = *it.whole, 1, items[:len(items)-1], from*it.size
				break
			}
			if need%it.size == 0 {
				a.join(it.piece)
				need, items, from = need/it.size, items[:len(items)-1], from*it.size
				continue
			}
			if it.size%need != 0 {
				break
			}
			outer, inner := it, it
			outer.size, inner.size = need, it.size/need
			outer.unit *= inner.size
			a.join(outer.piece)
			items[len(items)-1], from, need = inner, from*need, 1
		}
		made *= to[j]
		if need == 1 {
			out.axes[j] = a
			continue
		}
		// The elements from here on agree again behind some more axes.
		first := j
		for from != made && (j+1 < len(to) || len(items) > 0) {
			if from < made && len(items) > 0 {
				from, items = from*items[len(items)-1].size, items[:len(items)-1]
			} else if j+1 < len(to) {
				j++
				made *= to[j]
			} else {
				break
			}
		}
		for k := first; k <= j; k++ {
			out.axes[k] = lost(to[k], "a reshape from %v to %v cuts across them", t.shape(), to)
		}
	}
	return out
}

// resampled returns an axis behind a convolution, a pooling or a resize along it.
func (a axis) resampled(r resampling) axis {
	size := a.size()
	if p, ok := a.plain(); ok {
		return along(p.letter, p.line.resampled(r))
	}
	if r.out == size {
		return a
	}
	if r.out == 1 {
		return axis{}
	}
	if a.before != 0 || a.after != 0 || len(a.pieces) == 0 {
		return lost(r.out, "an operation made %d positions of %d along them", r.out, size)
	}
	if !a.places() {
		p := a.pieces[0]
		if len(a.pieces) == 1 && p.line == nil {
			return axis{pieces: []piece{{letter: p.letter, size: r.out, unit: 1, why: p.why}}}
		}
		return lost(r.out, "windows of %d positions, %d apart, cut across them", r.span, r.stride)
	}
	// The inner pieces become coarser or finer, the outer ones stay: slices that lie under each other in one image.
	out := axis{pieces: slices.Clone(a.pieces)}
	left, want := size, r.out
	for k := len(out.pieces) - 1; k >= 0; k-- {
		p := &out.pieces[k]
		outer := left / p.size
		if !p.whole() || p.line.order != nil {
			break
		}
		n := 1
		if want%outer == 0 {
			n = want / outer
		} else if outer%want != 0 {
			break
		}
		l := p.line.resampled(resampling{out: n})
		p.size, p.unit, p.line = n, 1, &l
		if left = outer; want == outer*n {
			out.pieces = slices.DeleteFunc(out.pieces, func(p piece) bool { return p.size == 1 })
			return out
		}
	}
	return lost(r.out, "windows of %d positions, %d apart, cut across them", r.span, r.stride)
}

// part returns the axis behind a slice, and notes in narrow the letters that keep a single position.
func (a axis) part(start, step, count int, narrow map[byte]rest) axis {
	size := a.size()
	if start == 0 && step == 1 && count == size {
		return a
	}
	if a.before != 0 || a.after != 0 {
		inner := size - a.before - a.after
		first, last := start, start+count // of the positions that are kept
		switch {
		case step != 1 && count > 1:
			return lost(count, "a slice takes one of each %d of them", step)
		case last <= a.before || first >= a.before+inner:
			return of(channels, count)
		}
		kept := axis{pieces: a.pieces}.part(max(first-a.before, 0), 1, min(last-a.before, inner)-max(first-a.before, 0), narrow)
		kept.before, kept.after = max(a.before-first, 0), max(last-a.before-inner, 0)
		return kept
	}
	switch {
	case len(a.pieces) == 0:
		return a
	case len(a.pieces) == 1:
		p := a.pieces[0]
		if p.line == nil {
			return axis{pieces: []piece{{letter: p.letter, size: count, unit: 1, why: p.why}}}.trim()
		}
		if !p.whole() {
			break
		}
		l, ok := p.line.part(start, step, count)
		if !ok {
			return lost(count, "a slice takes positions that are not in the volume's order")
		}
		if left, cropped := l.cropped(); cropped && count == 1 {
			narrow[p.letter] = left
		}
		return along(p.letter, l)
	default:
		inner := size / a.pieces[0].size
		if step != 1 || start%inner != 0 || count%inner != 0 {
			break
		}
		outer := axis{pieces: a.pieces[:1]}.part(start/inner, 1, count/inner, narrow)
		outer.pieces = append(slices.Clone(outer.pieces), a.pieces[1:]...)
		return outer
	}
	if count == 1 {
		return axis{}
	}
	return lost(count, "a slice cuts across them")
}

// trim drops pieces of one position.
func (a axis) trim() axis {
	a.pieces = slices.DeleteFunc(slices.Clone(a.pieces), func(p piece) bool { return p.size == 1 })
	return a
}

// padded returns the axis with positions added in front and behind.
func (a axis) padded(before, after int) axis {
	if before == 0 && after == 0 {
		return a
	}
	size := a.size() + before + after
	if p, ok := a.plain(); ok {
		l := *p.line
		if l.reversed {
			before, after = after, before
		}
		l.n, l.first = size, l.first-float64(before)*l.step
		l.cut[0] -= float64(before) * l.step
		l.cut[1] -= float64(after) * l.step
		return along(p.letter, l)
	}
	switch {
	case !a.places() && len(a.pieces) <= 1 && (len(a.pieces) == 0 || a.pieces[0].line == nil):
		if len(a.pieces) == 0 {
			return of(channels, size)
		}
		return axis{pieces: []piece{{letter: a.pieces[0].letter, size: size, unit: 1, why: a.pieces[0].why}}}
	case before >= 0 && after >= 0 && a.places():
		a.before, a.after = a.before+before, a.after+after
		return a
	}
	return lost(size, "padding cuts across them")
}

// gathered returns the axis behind a choice of positions.
func (a axis) gathered(index []int) axis {
	p, ok := a.plain()
	if !ok {
		if len(a.pieces) == 1 && a.pieces[0].line == nil {
			return axis{pieces: []piece{{letter: a.pieces[0].letter, size: len(index), unit: 1, why: a.pieces[0].why}}}.trim()
		}
		return lost(len(index), "positions are taken by a list")
	}
	low, high := p.line.n, 0 // gaps
	for k := 1; k < len(index); k++ {
		low, high = min(low, index[k]-index[k-1]), max(high, index[k]-index[k-1])
	}
	l := *p.line
	if low > 0 && high-low <= 1 { // evenly, as far as whole numbers allow
		l, _ = l.part(index[0], 1, index[len(index)-1]-index[0]+1)
		l.step *= float64(l.n) / float64(len(index))
		l.n = len(index)
		return along(p.letter, l)
	}
	var order []segment
	seen := make([]bool, l.n)
	for _, i := range index {
		if seen[i] {
			return lost(len(index), "positions are taken more than once")
		}
		seen[i] = true
		if k := len(order) - 1; k >= 0 && order[k].from+order[k].count == i {
			order[k].count++
		} else {
			order = append(order, segment{i, 1})
		}
	}
	if len(index) != l.n || l.reversed {
		return lost(len(index), "positions are taken by a list")
	}
	l.order = order
	return along(p.letter, l)
}

// merged returns the axis of a value that an operation makes element by element of two values with axes a and b.
func merged(a, b axis) axis {
	switch {
	case a.like(b):
		return a
	case len(a.pieces) == 0 && a.size() == 1:
		return b
	case len(b.pieces) == 0 && b.size() == 1:
		return a
	case a.places() && !b.places():
		return a
	case b.places() && !a.places():
		return b
	case !a.places():
		if a.has(channels) {
			return a
		}
		return b
	}
	return lost(a.size(), "values whose positions lie at different places (%v and %v) are put together", a, b)
}

// refined returns the axis of an image to be: channels that were put inside of a place are finer places (pixel shuffle).
func (a axis) refined() axis {
	if len(a.pieces) != 2 || a.before != 0 || a.after != 0 || a.pieces[1].letter != channels {
		return a
	}
	p, ok := axis{pieces: a.pieces[:1]}.plain()
	if !ok {
		return a
	}
	return along(p.letter, p.line.resampled(resampling{out: a.size()}))
}

// String returns the axis as ir.Axis writes it.
func (a axis) String() string { return a.public().String() }

func (a axis) public() ir.Axis {
	out := ir.Axis{Before: a.before, After: a.after}
	for _, p := range a.pieces {
		part := ir.Part{Letter: p.letter, Size: p.size}
		if p.line != nil {
			part.Reversed = p.line.reversed
			if !p.place() { // a position inside a cell
				part.Letter, part.Reversed = channels, false
			}
		}
		if k := len(out.Parts) - 1; k >= 0 && part.Letter == channels && out.Parts[k].Letter == channels {
			out.Parts[k].Size *= part.Size
			continue
		}
		out.Parts = append(out.Parts, part)
	}
	if len(out.Parts) == 0 && a.before+a.after == 0 {
		out.Parts = []ir.Part{{Letter: 'N', Size: 1}}
	}
	return out
}

// public returns the axes of a value that can be shown in the volume. The error says why another cannot.
func (t *traced) public() (ir.Axes, error) {
	if t == nil {
		return nil, errors.New("it does not depend on the volume")
	}
	if len(t.axes) < 3 {
		return nil, errors.New("it is a vector, without axes in space")
	}
	var axes ir.Axes
	var why string
	features, ones := 0, []int{}
	for i, a := range t.axes {
		axes = append(axes, a.public())
		if a.size() == 1 {
			ones = append(ones, i)
		}
		for _, p := range axes[i].Parts {
			if strings.IndexByte("C"+string(mixed), p.Letter) >= 0 {
				features++
			}
		}
		for _, p := range a.pieces {
			if p.letter == mixed && why == "" {
				why = fmt.Sprintf("what axis %d stands for is lost: %s", i, p.why)
			}
		}
	}
	for k, l := range []byte(space) {
		found := t.find(l)
		switch {
		case len(found) > 1:
			return axes, fmt.Errorf("%s is in it more than once (axes %v), as in the weights of an attention", letterNames[k], axes)
		case len(found) == 1 && found[0].line.order != nil:
			return axes, fmt.Errorf("its positions along %s are rolled, as between shifted windows", letterNames[k])
		}
	}
	switch {
	case why != "":
		return axes, errors.New(why)
	case features > 1:
		return axes, fmt.Errorf("it has channels along more than one axis (axes %v), as inside of attention heads or windows", axes)
	case features == 0 && len(ones) > 0:
		axes[ones[min(1, len(ones)-1)]].Parts[0].Letter = channels
	}
	return axes, nil
}

// cut describes the part of the volume that the network cut off before the value: the map of the rest is spread over the whole. A quarter
// of an axis and more is an error.
func (t *traced) cut() (warnings []string, err error) {
	for k, l := range []byte(space) {
		left, cropped := t.narrow[l]
		if found := t.find(l); len(found) == 1 {
			left, cropped = found[0].line.cropped()
		}
		if !cropped || left.from < 0.5 && left.to > float64(left.voxels)-0.5 { // parts may be all together
			continue
		}
		text := fmt.Sprintf("along %s it shows voxels %.4g to %.4g of %d alone: the network cuts off the others", letterNames[k], left.from, left.to, left.voxels)
		if (left.to-left.from)*4 <= float64(left.voxels)*3 {
			return nil, errors.New(text)
		}
		warnings = append(warnings, text)
	}
	return warnings, nil
}

var letterNames = [3]string{"depth", "height", "width"}
