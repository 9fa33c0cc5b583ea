package cuda

import (
	"fmt"
	"slices"
	"unsafe"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/devmem"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/tensor"
)

// moveBuilders is the part of the table of builders whose functions are in this file.
var moveBuilders = map[*ir.Op]builder{
	op.Reshape:   buildReshape,
	op.Transpose: buildTranspose,
	op.Concat:    buildConcat,
}

// Blocks of moveThreads threads move movesPerBlock elements, or vectors of four.
const (
	moveThreads   = 256
	movesPerBlock = 4 * moveThreads
)

// maxPlanes is the largest number of planes along an axis of a launch's grid.
const maxPlanes = 65535

// inLaunches calls launch for planes [z0, z1), as many at a time as a grid can have.
func inLaunches(z0, z1, most int, launch func(z, n int) error) error {
	for ; z0 < z1; z0 += most {
		if err := launch(z0, min(most, z1-z0)); err != nil {
			return err
		}
	}
	return nil
}

// checkPlane refuses planes whose elements, or vectors, a kernel cannot count.
func checkPlane(n int) error {
	if n > 1<<31-1<<12 {
		return fmt.Errorf("a plane of %d elements is too large: %w", n, backend.ErrUnsupported)
	}
	return nil
}

// A kernel of elements, or of vectors of four elements.
func (c *compiler) movers(name string, vectors bool) (f *driver.Function, width int, err error) {
	if width = 1; vectors {
		width = 4
	}
	f, err = c.kernel(fmt.Sprintf("%s_%d", name, width))
	return f, width, err
}

// tables stands in keys of the constant pool for tables of nodes, which are no constants of the graph.
var tables = tensor.Floats(nil)

// tableForm is a table's content: equal tables are in memory once.
type tableForm string

// table brings numbers that kernels look up to the device.
func table[T int32 | float32](c *compiler, values []T) *devmem.Constant {
	if len(values) == 0 {
		values = make([]T, 1)
	}
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(values))), len(values)*4)
	return c.weights.Add(devmem.ConstantKey{Data: tables, Form: tableForm(bytes)}, len(bytes), func(dst []byte) { copy(dst, bytes) })
}

// copyParams is CopyParams of move.cu.
type copyParams struct {
	X, Y  Planes
	N     int64
	Z0, _ int32
}

// buildReshape does nothing where the plan has the output in the input's buffer.
func buildReshape(c *compiler, n *ir.Node) (action, error) {
	x, y := c.in(0), c.out()
	if x.buffer >= 0 && x.buffer == y.buffer {
		return func(*queue, int, int) error { return nil }, nil
	}
	elements := n.Out().Shape().Elements()
	f, width, err := c.movers("move_copy", elements%4 == 0 && takesPacks(x, y))
	if err != nil {
		return nil, err
	}
	return func(q *queue, z0, z1 int) error {
		return inLaunches(z0, z1, maxPlanes, func(z, n int) error {
			p := copyParams{X: q.planes(x), Y: q.planes(y), N: int64(elements / width), Z0: int32(z)}
			return launch(q, f, [3]uint32{uint32(ceilDiv(elements/width, movesPerBlock)), uint32(n), 1}, moveThreads, 0, &p)
		})
	}, nil
}

const maxSources = 32

// concatParams is ConcatParams of move.cu.
type concatParams struct {
	Y                 Planes
	X                 [maxSources]Planes
	Start, Width      [maxSources]int32
	Sources, RowWidth int32
	First             int32
	Columns           Divide
	N, Z0             int32
	_                 int32
}

func buildConcat(c *compiler, n *ir.Node) (action, error) {
	axis, s, y := n.Attr.(op.ConcatAttr).Axis, n.Out().Shape(), c.out()
	rowWidth := s[axis:].Elements()
	rows := s.Elements() / rowWidth
	var x []*operand
	var widths []int
	vectors := takesPacks(y)
	for i, v := range n.Inputs {
		w := v.Shape()[axis:].Elements()
		x, widths = append(x, c.in(i)), append(widths, w)
		vectors = vectors && w%4 == 0 && takesPacks(c.in(i))
	}
	f, width, err := c.movers("move_concat", vectors)
	if err != nil {
		return nil, err
	}
	if err := checkPlane(rows * rowWidth / width); err != nil {
		return nil, err
	}
	return func(q *queue, z0, z1 int) error {
		first := 0
		for i := 0; i < len(x); i += maxSources {
			p := concatParams{Y: q.planes(y), RowWidth: int32(rowWidth / width), First: int32(first)}
			columns := 0
			for k := range x[i:min(i+maxSources, len(x))] {
				p.X[k], p.Start[k], p.Width[k] = q.planes(x[i+k]), int32(columns), int32(widths[i+k]/width)
				columns += widths[i+k] / width
				p.Sources++
			}
			first += columns
			p.Columns, p.N = divideBy(columns), int32(rows*columns)
			if err := inLaunches(z0, z1, maxPlanes, func(z, n int) error {
				p.Z0 = int32(z)
				return launch(q, f, [3]uint32{uint32(ceilDiv(rows*columns, movesPerBlock)), uint32(n), 1}, moveThreads, 0, &p)
			}); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

const (
	maxAxes = 8
	side    = 32 // of the squares that move_squares goes by
)

// transposeParams is TransposeParams of move.cu.
type transposeParams struct {
	X, Y           Planes
	StepX, StepY   [maxAxes]int64
	WideX, HighY   int64
	Dims           [maxAxes]Divide
	Inner          Divide
	TilesW, TilesH Divide
	Width, Height  int32
	N              int32
	Axes, Z0       int32
	_              int32
}

// walk is a loop over the elements of a tensor in order, with a second tensor's steps; neighbouring axes that are walked as one are one.
type walk struct{ dims, steps []int }

func walkOf(dims tensor.Shape, steps []int) (w walk) {
	for i, d := range dims {
		last := len(w.dims) - 1
		switch {
		case d == 1:
		case last >= 0 && w.steps[last] == d*steps[i]:
			w.dims[last], w.steps[last] = w.dims[last]*d, steps[i]
		default:
			w.dims, w.steps = append(w.dims, d), append(w.steps, steps[i])
		}
	}
	if len(w.dims) == 0 {
		w = walk{[]int{1}, []int{1}}
	}
	return w
}

func buildTranspose(c *compiler, n *ir.Node) (action, error) {
	strides := n.Inputs[0].Shape().Strides()
	steps := make([]int, len(strides))
	for i, p := range n.Attr.(op.TransposeAttr).Perm {
		steps[i] = strides[p]
	}
	w, x, y := walkOf(n.Out().Shape(), steps), c.in(0), c.out()
	last := len(w.dims) - 1
	if last > maxAxes {
		return nil, fmt.Errorf("a transposition of %d axes: %w", last+1, backend.ErrUnsupported)
	}
	var p transposeParams
	addAxis := func(dim, stepX, stepY int) {
		p.Dims[p.Axes], p.StepX[p.Axes], p.StepY[p.Axes] = divideBy(dim), int64(stepX), int64(stepY)
		p.Axes++
	}
	var f *driver.Function
	var blocks int
	elements := n.Out().Shape().Elements()
	if w.steps[last] == 1 { // rows stay rows
		vectors := takesPacks(x, y) && w.dims[last]%4 == 0 && !slices.ContainsFunc(w.steps[:last], func(step int) bool { return step%4 != 0 })
		kernel, width, err := c.movers("move_rows", vectors)
		if err != nil {
			return nil, err
		}
		if err := checkPlane(elements / width); err != nil {
			return nil, err
		}
		for i, step := range w.steps[:last] {
			addAxis(w.dims[i], step/width, 0)
		}
		f, p.Inner, p.N = kernel, divideBy(w.dims[last]/width), int32(elements/width)
		blocks = ceilDiv(elements/width, movesPerBlock)
	} else {
		// Some other axis of y is the innermost one of x: squares over it and the last axis of y are read and written in runs.
		cross := slices.Index(w.steps, 1)
		stepsY := tensor.Shape(w.dims).Strides()
		for i, step := range w.steps[:last] {
			if i != cross {
				addAxis(w.dims[i], step, stepsY[i])
			}
		}
		p.Width, p.Height, p.WideX, p.HighY = int32(w.dims[last]), int32(w.dims[cross]), int64(w.steps[last]), int64(stepsY[cross])
		tilesW, tilesH := ceilDiv(w.dims[last], side), ceilDiv(w.dims[cross], side)
		p.TilesW, p.TilesH = divideBy(tilesW), divideBy(tilesH)
		blocks = elements / w.dims[last] / w.dims[cross] * tilesW * tilesH
		if err := checkPlane(blocks); err != nil {
			return nil, err
		}
		var err error
		if f, err = c.kernel("move_squares"); err != nil {
			return nil, err
		}
	}
	return func(q *queue, z0, z1 int) error {
		return inLaunches(z0, z1, maxPlanes, func(z, n int) error {
			p := p
			p.X, p.Y, p.Z0 = q.planes(x), q.planes(y), int32(z)
			return launch(q, f, [3]uint32{uint32(blocks), uint32(n), 1}, moveThreads, 0, &p)
		})
	}, nil
}

// most returns the length of the longest list.
func most(t ir.Taps) (n int) {
	for _, list := range t {
		n = max(n, len(list))
	}
	return n
}

// folded returns the taps of two axes taken as one; the second axis has n positions in the input.
func folded(outer, inner ir.Taps, n int) ir.Taps {
	t := make(ir.Taps, 0, len(outer)*len(inner))
	for _, a := range outer {
		for _, b := range inner {
			list := make([]ir.Tap, 0, len(a)*len(b))
			for _, tapA := range a {
				for _, tapB := range b {
					list = append(list, ir.Tap{Index: tapA.Index*n + tapB.Index, Weight: tapA.Weight * tapB.Weight})
				}
			}
			t = append(t, list)
		}
	}
	return t
}

// grouped returns the taps of runs of g positions, if all runs are copies of runs or empty.
func grouped(t ir.Taps, g int) (ir.Taps, bool) {
	out := make(ir.Taps, len(t)/g)
	for i := range out {
		run := t[i*g:][:g]
		for k, list := range run {
			if len(list) != len(run[0]) || len(list) == 1 && (list[0].Index != run[0][0].Index+k || k == 0 && list[0].Index%g != 0) {
				return nil, false
			}
		}
		if len(run[0]) == 1 {
			out[i] = []ir.Tap{{Index: run[0][0].Index / g, Weight: 1}}
		}
	}
	return out, true
}

// separable is a separable operation, seen as planes of three axes on blocks of inner elements; axis 0 is that of the planes.
type separable struct {
	from, to [4]int // sizes of the axes
	taps     [4]ir.Taps
	inner    int
	ring     [2]bool // x, y are found by planes of the plan
}

// separableOf folds the axes of an operation to a tensor of shape to.
func (c *compiler) separableOf(s ir.Separable, to tensor.Shape) *separable {
	from, to, taps := s.From.Clone(), to.Clone(), slices.Clone(s.Taps)
	for len(to) < 4 {
		from, to = slices.Insert(from, 0, 1), slices.Insert(to, 0, 1)
		taps = slices.Insert(taps, 0, ir.Unchanged(1))
	}
	for len(to) > 4 {
		taps[1] = folded(taps[0], taps[1], from[1])
		from[1] *= from[0]
		to[1] *= to[0]
		from, to, taps = from[1:], to[1:], taps[1:]
	}
	m := &separable{from: [4]int(from), to: [4]int(to), taps: [4]ir.Taps(taps), inner: 1}
	m.ring = [2]bool{c.mode == plan.Slab && len(c.in(0).value.Shape()) == 5, c.mode == plan.Slab}
	// Innermost axes that do not change move as one, then runs of four of the next.
	axis := 3
	for ; axis > 0 && m.taps[axis].AreIdentity(m.from[axis]); axis-- {
		m.narrow(axis, m.from[axis], ir.Unchanged(1))
	}
	for _, g := range []int{4, 2} {
		if axis == 0 || m.inner%4 == 0 || m.inner*g%4 != 0 || m.from[axis]%g != 0 || m.to[axis]%g != 0 || !m.taps[axis].AreCopies() {
			continue
		}
		if t, ok := grouped(m.taps[axis], g); ok {
			m.narrow(axis, g, t)
		}
	}
	return m
}

// narrow moves a factor of an axis to the elements that move as one.
func (m *separable) narrow(axis, factor int, t ir.Taps) {
	m.from[axis] /= factor
	m.to[axis] /= factor
	m.taps[axis] = t
	m.inner *= factor
}

// copies reports whether every element is a copy of one element, or empty.
func (m *separable) copies() bool {
	return m.taps[0].AreCopies() && m.taps[1].AreCopies() && m.taps[2].AreCopies() && m.taps[3].AreCopies()
}

// terms returns the largest number of terms of an element.
func (m *separable) terms() int {
	return most(m.taps[0]) * most(m.taps[1]) * most(m.taps[2]) * most(m.taps[3])
}

// stride returns the number of elements of x between neighbours along an axis of planes.
func (m *separable) stride(axis int) int {
	step := m.inner
	for _, d := range m.from[axis+1:] {
		step *= d
	}
	return step
}

// elements returns the size of a plane of y.
func (m *separable) elements() int { return m.to[1] * m.to[2] * m.to[3] * m.inner }

// planes returns the operands, whole tensors as the planes that the axes were folded to.
func (m *separable) planes(q *queue, x, y *operand) (px, py Planes) {
	px, py = q.planes(x), q.planes(y)
	if !m.ring[0] {
		px.Places, px.Stride = int32(m.from[0]), int64(4*m.stride(0))
	}
	if !m.ring[1] {
		py.Places, py.Stride = int32(m.to[0]), int64(4*m.elements())
	}
	return px, py
}

// vectors reports whether elements can be moved four at a time.
func (m *separable) vectors(x, y *operand) bool { return m.inner%4 == 0 && takesPacks(x, y) }

// span returns the planes of y that a step makes: those given, or all where it runs whole.
func (m *separable) span(z0, z1 int) (int, int) {
	if m.ring[1] {
		return z0, z1
	}
	return 0, m.to[0]
}

// selectParams is SelectParams of move.cu.
type selectParams struct {
	X, Y                    Planes
	Planes                  driver.Ptr
	High, Wide, Deep        driver.Ptr
	Inner, DimDeep, DimWide Divide
	N, Z0                   int32
	Fill                    float32
}

// buildSeparable compiles every operation with a Separable rule. Here the elements of the output are copies, or the fill where they have no
// source; sums of several sources are in resize.go.
func buildSeparable(c *compiler, n *ir.Node) (action, error) {
	s := n.Op.Separable(n)
	m, x, y := c.separableOf(s, n.Out().Shape()), c.in(0), c.out()
	if !m.copies() {
		return c.sum(m)
	}
	f, width, err := c.movers("move_select", m.vectors(x, y))
	if err != nil {
		return nil, err
	}
	elements := m.elements() / width
	if err := checkPlane(elements); err != nil {
		return nil, err
	}
	if err := checkPlane(m.stride(0) / width); err != nil {
		return nil, err
	}
	var at [4]*devmem.Constant
	for axis, t := range m.taps {
		step := 1
		if axis > 0 {
			step = m.stride(axis) / width
		}
		offsets := make([]int32, len(t))
		for i, list := range t {
			if offsets[i] = -1; len(list) > 0 {
				offsets[i] = int32(list[0].Index * step)
			}
		}
		at[axis] = table(c, offsets)
	}
	p := selectParams{Inner: divideBy(m.inner / width), DimDeep: divideBy(m.to[3]), DimWide: divideBy(m.to[2]), N: int32(elements), Fill: float32(s.Fill)}
	return func(q *queue, z0, z1 int) error {
		p := p
		p.X, p.Y = m.planes(q, x, y)
		p.Planes, p.High, p.Wide, p.Deep = at[0].At(), at[1].At(), at[2].At(), at[3].At()
		z0, z1 = m.span(z0, z1)
		return inLaunches(z0, z1, maxPlanes, func(z, n int) error {
			p.Z0 = int32(z)
			return launch(q, f, [3]uint32{uint32(ceilDiv(elements, movesPerBlock)), uint32(n), 1}, moveThreads, 0, &p)
		})
	}, nil
}
