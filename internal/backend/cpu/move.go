package cpu

import (
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// moveBuilders is the part of builders whose functions are in this file.
var moveBuilders = map[*ir.Op]builder{
	op.Reshape:   buildReshape,
	op.Transpose: buildTranspose,
	op.Concat:    buildConcat,
}

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

// ringTaps returns the taps along an axis whose planes lie in a ring of that many places.
func ringTaps(t ir.Taps, places int) ir.Taps {
	out := make(ir.Taps, len(t))
	for i, terms := range t {
		for _, tap := range terms {
			out[i] = append(out[i], ir.Tap{Index: tap.Index % places, Weight: tap.Weight})
		}
	}
	return out
}

// buildSeparable compiles every operation that says where its elements come from.
func buildSeparable(c *compiler, n *ir.Node) error {
	s, to := n.Op.Separable(n), n.Out().Shape()
	from, taps := s.From, s.Taps
	// Trailing axes that do not change are moved as one; on slabs, up to a row.
	inner, axes, least := 1, len(taps), 0
	if c.slab {
		least = 4
	}
	for axes > least && taps[axes-1].AreIdentity(from[axes-1]) {
		axes--
		inner *= from[axes]
	}
	if axes == 0 {
		c.ranges(to.Elements(), grain, func(from, to int, s *scratch) { copy(s.out()[from:to], s.in(0)[from:to]) })
		return nil
	}
	copies := true
	for _, t := range taps[:axes] {
		copies = copies && t.AreCopies()
	}
	strides := make([]int, axes)
	stride := inner
	for i := axes - 1; i >= 0; i-- {
		strides[i] = stride
		stride *= from[i]
	}
	m := mover{dims: to[:axes], strides: strides, taps: taps[:axes], inner: inner, fill: float32(s.Fill)}
	if c.slab { // find planes of x in their places; those of y are found by plane
		if m.places = c.inst.places[0].planes; m.places > 0 {
			m.taps = slices.Clone(m.taps)
			m.taps[1] = ringTaps(m.taps[1], m.places)
		}
		m.places = c.places(-1)
	}
	if copies {
		m.copy(c)
	} else {
		m.sum(c)
	}
	return nil
}

// mover is a separable operation on blocks of inner elements.
type mover struct {
	dims    tensor.Shape // of y, in blocks
	strides []int        // of x, in elements
	taps    []ir.Taps
	inner   int
	fill    float32
	places  int // of planes of y; 0 where it is whole
}

// planes returns the number of planes of y, and the number of rows of each; one plane of all rows where y is whole.
func (m mover) planes(rows int) (planes, n int) {
	if m.places == 0 {
		return 1, rows
	}
	return m.dims[1], rows / m.dims[1]
}

// row returns the offset of row i of y, of n rows a plane.
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

// stretch is a part of the last axis that is copied as one, or filled if src is negative; in elements.
type stretch struct{ dst, src, n int }

func (m mover) runs() (runs []stretch) {
	last := len(m.dims) - 1
	for i, list := range m.taps[last] {
		r := stretch{i * m.inner, -1, m.inner}
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
