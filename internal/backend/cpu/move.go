package cpu

import (
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// buildReshape does nothing where the plan has the output in the input's buffer.
func buildReshape(c *compiler, n *ir.Node) error {
	if at := c.inst.places; at[0].buffer >= 0 && at[0].buffer == at[1].buffer {
		return nil
	}
	c.ranges(n.Out().Shape().Elements(), grain, func(from, to int, s *scratch) { copy(s.out()[from:to], s.in(0)[from:to]) })
	return nil
}

func buildConcat(c *compiler, n *ir.Node) error {
	axis, s := n.Attr.(op.ConcatAttr).Axis, n.Out().Shape()
	width := s[axis:].Elements()
	type source struct {
		input, at, width int
	}
	var sources []source
	at := 0
	for i, v := range n.Inputs {
		w := v.Shape()[axis:].Elements()
		sources = append(sources, source{i, at, w})
		at += w
	}
	rows := s.Elements() / width
	if rows == 1 {
		for _, src := range sources {
			c.ranges(src.width, grain, func(from, to int, s *scratch) {
				copy(s.out()[src.at+from:src.at+to], s.in(src.input)[from:to])
			})
		}
		return nil
	}
	c.rows(rows, width, func(from, to int, s *scratch) {
		out := s.out()
		for _, src := range sources {
			data := s.in(src.input)
			for r := from; r < to; r++ {
				copy(out[r*width+src.at:][:src.width], data[r*src.width:])
			}
		}
	})
	return nil
}

// tile is the side of the squares that a transposition goes by, so that both sides stay in the first-level cache.
const tile = 16

func buildTranspose(c *compiler, n *ir.Node) error {
	strides := n.Inputs[0].Shape().Strides()
	from := make([]int, len(strides))
	for i, p := range n.Attr.(op.TransposeAttr).Perm {
		from[i] = strides[p]
	}
	w := merge(n.Out().Shape(), [][]int{from}) // over y, with strides in x
	last := len(w.dims) - 1
	size, inner := w.inner()
	if inner[0] <= 1 { // rows stay rows
		c.rows(w.outer(), size, func(from, to int, s *scratch) {
			x, y := s.in(0), s.out()
			for r := from; r < to; r++ {
				copy(y[r*size:(r+1)*size], x[w.offset(0, r):])
			}
		})
		return nil
	}
	// Some other axis of y, cross, is the innermost one of x. Squares over it and the last axis of y are read and written in runs.
	cross := last - 1
	for cross >= 0 && w.strides[0][cross] != 1 {
		cross--
	}
	toStrides := tensor.Shape(w.dims).Strides()
	height, stepY, stepX := w.dims[cross], toStrides[cross], inner[0]
	bands := (height + tile - 1) / tile
	others := tensor.Shape(w.dims).Clone()
	others[cross], others[last] = 1, 1
	rest := merge(others, [][]int{w.strides[0], toStrides})
	c.rows(others.Elements()*bands, tile*size, func(from, to int, s *scratch) {
		x, y := s.in(0), s.out()
		for i := from; i < to; i++ {
			r0 := i % bands * tile
			r1 := min(r0+tile, height)
			baseX, baseY := rest.position(0, i/bands), rest.position(1, i/bands)
			for k0 := 0; k0 < size; k0 += tile {
				k1 := min(k0+tile, size)
				for r := r0; r < r1; r++ {
					src := baseX + r
					dst := y[baseY+r*stepY:]
					for k := k0; k < k1; k++ {
						dst[k] = x[src+k*stepX]
					}
				}
			}
		}
	})
	return nil
}

// axisTaps says, for each position of the output along one axis, which positions of the input it is made of. Operations that
// move elements along axes independently (slices, padding, gathering, resizing, and their gradients) are all of this form: the
// result is the sum over the products of the axes' terms.
type axisTaps [][]op.Tap

// transposed is the same relation seen from the input, whose axis has n positions.
func (t axisTaps) transposed(n int) axisTaps {
	out := make(axisTaps, n)
	for to, list := range t {
		for _, tap := range list {
			out[tap.Index] = append(out[tap.Index], op.Tap{Index: to, Weight: tap.Weight})
		}
	}
	return out
}

// copies reports whether every position is a copy of one position, or empty.
func (t axisTaps) copies() bool {
	for _, list := range t {
		if len(list) > 1 || len(list) == 1 && list[0].Weight != 1 {
			return false
		}
	}
	return true
}

// placed is the same relation to a ring of so many places.
func (t axisTaps) placed(places int) axisTaps {
	out := make(axisTaps, len(t))
	for i, list := range t {
		for _, tap := range list {
			out[i] = append(out[i], op.Tap{Index: tap.Index % places, Weight: tap.Weight})
		}
	}
	return out
}

// identity reports whether the axis, of n positions, is not changed.
func (t axisTaps) identity(n int) bool {
	if len(t) != n || !t.copies() {
		return false
	}
	for i, list := range t {
		if len(list) != 1 || list[0].Index != i {
			return false
		}
	}
	return true
}

// tapsOf makes the taps of n positions from a function; negative sources are empty.
func tapsOf(n int, source func(i int) int) axisTaps {
	t := make(axisTaps, n)
	for i := range t {
		if from := source(i); from >= 0 {
			t[i] = []op.Tap{{Index: from, Weight: 1}}
		}
	}
	return t
}

// separable compiles the operation from x, of shape from, to the output. Elements that have no term get fill.
func (c *compiler) separable(from, to tensor.Shape, taps []axisTaps, fill float32) {
	// Trailing axes that do not change are moved as one; on slabs, up to a row.
	inner, axes, least := 1, len(taps), 0
	if c.slab {
		least = 4
	}
	for axes > least && taps[axes-1].identity(from[axes-1]) {
		axes--
		inner *= from[axes]
	}
	if axes == 0 {
		c.ranges(to.Elements(), grain, func(from, to int, s *scratch) { copy(s.out()[from:to], s.in(0)[from:to]) })
		return
	}
	copies := true
	for _, t := range taps[:axes] {
		copies = copies && t.copies()
	}
	strides := make([]int, axes)
	stride := inner
	for i := axes - 1; i >= 0; i-- {
		strides[i] = stride
		stride *= from[i]
	}
	m := mover{dims: to[:axes], strides: strides, taps: taps[:axes], inner: inner, fill: fill}
	if c.slab { // find planes of x in their places; those of y are found by plane
		if m.places = c.inst.places[0].planes; m.places > 0 {
			m.taps = slices.Clone(m.taps)
			m.taps[1] = m.taps[1].placed(m.places)
		}
		m.places = c.places(-1)
	}
	if copies {
		m.copy(c)
	} else {
		m.sum(c)
	}
}

// mover is a separable operation on blocks of inner elements.
type mover struct {
	dims    tensor.Shape // of y, in blocks
	strides []int        // of x, in elements
	taps    []axisTaps
	inner   int
	fill    float32
	places  int // of planes of y; 0 where it is whole
}

// planes is the number of planes of y, and how many of n rows each has; all in one where it is whole.
func (m mover) planes(rows int) (planes, n int) {
	if m.places == 0 {
		return 1, rows
	}
	return m.dims[1], rows / m.dims[1]
}

// row is where a row of y is, of n rows a plane.
func (m mover) row(i, n int) int {
	if m.places == 0 {
		return i
	}
	return i/n%m.places*n + i%n
}

// sum adds up all combinations of the axes' terms.
func (m mover) sum(c *compiler) {
	set := c.backend.set
	planes, blocks := m.planes(m.dims.Elements())
	c.planeRows(planes, blocks, m.inner, func(from, to int, s *scratch) {
		x, y := s.in(0), s.out()
		for block := from; block < to; block++ {
			dst := y[m.row(block, blocks)*m.inner:][:m.inner]
			terms := 1
			for axis, i := len(m.dims)-1, block; axis >= 0; axis-- {
				terms *= len(m.taps[axis][i%m.dims[axis]])
				i /= m.dims[axis]
			}
			if terms == 0 {
				for i := range dst {
					dst[i] = m.fill
				}
			}
			for term := range terms {
				at, weight, t := 0, 1.0, term
				for axis, i := len(m.dims)-1, block; axis >= 0; axis-- {
					list := m.taps[axis][i%m.dims[axis]]
					i /= m.dims[axis]
					tap := list[t%len(list)]
					t /= len(list)
					at += tap.Index * m.strides[axis]
					weight *= tap.Weight
				}
				src, w := x[at:][:m.inner], float32(weight)
				switch {
				case term == 0:
					set.Affine(dst, src, w, 0)
				case m.inner == 1:
					dst[0] += w * src[0]
				default:
					set.Axpby(dst, 1, dst, w, src)
				}
			}
		}
	})
}

// run is a stretch of the last axis that is copied, or filled if src is negative, as one; in elements.
type run struct{ dst, src, n int }

func (m mover) runs() (runs []run) {
	last := len(m.dims) - 1
	for i, list := range m.taps[last] {
		r := run{i * m.inner, -1, m.inner}
		if len(list) == 1 {
			r.src = list[0].Index * m.inner
		}
		if k := len(runs) - 1; k >= 0 && (r.src < 0 && runs[k].src < 0 || r.src >= 0 && runs[k].src >= 0 && runs[k].src+runs[k].n == r.src) {
			runs[k].n += r.n
		} else {
			runs = append(runs, r)
		}
	}
	return runs
}

// copy moves each row of the last changed axis in runs.
func (m mover) copy(c *compiler) {
	last, runs := len(m.dims)-1, m.runs()
	width := m.dims[last] * m.inner
	planes, rows := m.planes(m.dims[:last].Elements())
	c.planeRows(planes, rows, width, func(from, to int, s *scratch) {
		x, y := s.in(0), s.out()
		for row := from; row < to; row++ {
			at, empty := 0, false
			for axis, i := last-1, row; axis >= 0; axis-- {
				if list := m.taps[axis][i%m.dims[axis]]; len(list) == 0 {
					empty = true
				} else {
					at += list[0].Index * m.strides[axis]
				}
				i /= m.dims[axis]
			}
			dst := y[m.row(row, rows)*width:][:width]
			for _, r := range runs {
				if to := dst[r.dst:][:r.n]; !empty && r.src >= 0 {
					copy(to, x[at+r.src:])
				} else {
					for i := range to {
						to[i] = m.fill
					}
				}
			}
		}
	})
}

// byAxis makes the taps of every axis of a shape.
func byAxis(s tensor.Shape, taps func(axis int) axisTaps) []axisTaps {
	all := make([]axisTaps, len(s))
	for i := range all {
		all[i] = taps(i)
	}
	return all
}

func buildExpand(c *compiler, n *ir.Node) error {
	to := n.Out().Shape()
	from := make(tensor.Shape, len(to))
	for i := range from {
		from[i] = 1
		if k := i - len(to) + len(n.Inputs[0].Shape()); k >= 0 {
			from[i] = n.Inputs[0].Shape()[k]
		}
	}
	c.separable(from, to, byAxis(to, func(axis int) axisTaps {
		return tapsOf(to[axis], func(i int) int { return i % from[axis] })
	}), 0)
	return nil
}

func sliceTaps(a op.SliceAttr, axis int) axisTaps {
	return tapsOf(a.Count[axis], func(i int) int { return a.Start[axis] + i*a.Step[axis] })
}

func buildSlice(c *compiler, n *ir.Node) error {
	a := n.Attr.(op.SliceAttr)
	c.separable(n.Inputs[0].Shape(), n.Out().Shape(), byAxis(n.Out().Shape(), func(axis int) axisTaps { return sliceTaps(a, axis) }), 0)
	return nil
}

func buildSliceBackward(c *compiler, n *ir.Node) error {
	a := n.Attr.(op.SliceBackwardAttr)
	c.separable(n.Inputs[0].Shape(), a.In, byAxis(a.In, func(axis int) axisTaps { return sliceTaps(a.Slice, axis).transposed(a.In[axis]) }), 0)
	return nil
}

func padTaps(a op.PadAttr, axis, n int) axisTaps {
	return tapsOf(n+a.Before[axis]+a.After[axis], func(i int) int { return a.Source(axis, i, n) })
}

func buildPad(c *compiler, n *ir.Node) error {
	a, s := n.Attr.(op.PadAttr), n.Inputs[0].Shape()
	c.separable(s, n.Out().Shape(), byAxis(s, func(axis int) axisTaps { return padTaps(a, axis, s[axis]) }), float32(a.Value))
	return nil
}

func buildPadBackward(c *compiler, n *ir.Node) error {
	a := n.Attr.(op.PadBackwardAttr)
	c.separable(n.Inputs[0].Shape(), a.In, byAxis(a.In, func(axis int) axisTaps {
		return padTaps(a.Pad, axis, a.In[axis]).transposed(a.In[axis])
	}), 0)
	return nil
}

func gatherTaps(a op.GatherAttr, axis, n int) axisTaps {
	if axis != a.Axis {
		return tapsOf(n, func(i int) int { return i })
	}
	return tapsOf(len(a.Index), func(i int) int { return a.Index[i] })
}

func buildGather(c *compiler, n *ir.Node) error {
	a, s := n.Attr.(op.GatherAttr), n.Inputs[0].Shape()
	c.separable(s, n.Out().Shape(), byAxis(s, func(axis int) axisTaps { return gatherTaps(a, axis, s[axis]) }), 0)
	return nil
}

func buildGatherBackward(c *compiler, n *ir.Node) error {
	a, s := n.Attr.(op.GatherBackwardAttr), n.Out().Shape()
	c.separable(n.Inputs[0].Shape(), s, byAxis(s, func(axis int) axisTaps { return gatherTaps(a.Gather, axis, s[axis]).transposed(s[axis]) }), 0)
	return nil
}

func buildResize(c *compiler, n *ir.Node) error {
	a, s := n.Attr.(op.ResizeAttr), n.Inputs[0].Shape()
	c.separable(s, a.Out, byAxis(s, func(axis int) axisTaps { return a.Taps(axis, s[axis]) }), 0)
	return nil
}

func buildResizeBackward(c *compiler, n *ir.Node) error {
	a := n.Attr.(op.ResizeBackwardAttr)
	c.separable(a.Resize.Out, a.In, byAxis(a.In, func(axis int) axisTaps {
		return axisTaps(a.Resize.Taps(axis, a.In[axis])).transposed(a.In[axis])
	}), 0)
	return nil
}
