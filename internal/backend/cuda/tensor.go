package cuda

import (
	"math"
	"slices"

	"github.com/voxcam/voxcam/internal/backend/cuda/devmem"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// Sizes of tensor.cuh.
const (
	tensorGroups = 64
	tensorTaps   = 512
	tensorRows   = 64       // channels of a tile of weights
	tensorTile   = 64 * 128 // its bytes
	tensorChunk  = 128      // bytes of channels that a tile and a point of a box have
)

// tensorGroup is struct TensorGroup.
type tensorGroup struct {
	Z, Y, X, Taps, FirstTap, FirstStep, Pitch, Lines int32
}

// tensorParams is struct TensorParams.
type tensorParams struct {
	In, Out, Residual                                  Planes
	Weights, Bias                                      driver.Ptr
	Depth, Height, Width, StepZ, StepY, RowStep        int32
	Run, Chunks, Vectors, Pairs, Channels, Activation  int32
	Mtiles, Steps                                      int32
	Count, OutStart, OutStep                           [3]int32
	OutWidth, Tiles                                    int32
	Mblocks, TilesX, TilesY                            Divide
	Stages, StageBytes, Slots                          int32
	PointBytes, ChunkBytes, Swizzle, Lookahead, Groups int32
	Group                                              [tensorGroups]tensorGroup
	Shift                                              [tensorTaps]uint16
}

// boxGroup is a set of taps whose input is loaded together: point (y, x) of its box is the input voxel of the tile's point (y, x) at
// first, and of those that follow it by as much as the taps reach.
type boxGroup struct {
	first [3]int   // input coordinates of the box's first point for lattice point 0
	reach [2]int   // points that a box is larger than a tile, along y and x
	taps  []boxTap // in order
}

type boxTap struct {
	tap   int    // number, as weightIndex counts
	shift [2]int // points, along y and x
}

// tensorClass is a class of a convolution for tensor cores.
type tensorClass struct {
	class   *class
	groups  []boxGroup
	run     int  // elements that a tap reads
	merged  bool // a run goes through all taps along x
	chunks  int
	steps   int
	weights *devmem.Constant
}

// boxGroups puts taps into groups. Taps can share a box where they read the same plane and are whole points apart; they do if the box has
// no more than limit points, and if that is less to load. Tile is the size of tiles that this is decided for.
func boxGroups(c *class, merged bool, tile [2]int, limit int) (groups []boxGroup) {
	taps := c.taps
	if merged {
		taps[2] = min(taps[2], 1)
	}
	type at struct {
		q, r [3]int // the input coordinate of lattice point j is (j+q)*inStep + r
		tap  int
	}
	var all []at
	for t := range taps[0] * taps[1] * taps[2] {
		i := [3]int{t / taps[2] / taps[1], t / taps[2] % taps[1], t % taps[2]}
		a := at{tap: (i[0]*c.taps[1]+i[1])*c.taps[2] + i[2]}
		for k := range 3 {
			offset := c.tapStart[k] + i[k]*c.tapStep[k]
			a.q[k] = floorDiv(offset, c.inStep[k])
			a.r[k] = offset - a.q[k]*c.inStep[k]
		}
		all = append(all, a)
	}
	if merged { // all begin where the runs of taps begin
		for i := range all {
			all[i].q[2], all[i].r[2] = 0, c.tapStart[2]
		}
	}
	// Ways to form groups, from large groups to single taps.
	keys := []func(a at) [6]int{
		func(a at) [6]int { return [6]int{a.q[0], a.r[0], a.r[1], a.r[2]} },
		func(a at) [6]int { return [6]int{a.q[0], a.r[0], a.r[1], a.r[2], a.q[1]} },
		func(a at) [6]int { return [6]int{a.q[0], a.r[0], a.r[1], a.r[2], a.q[1], a.q[2]} },
	}
	least := math.MaxInt
	for _, key := range keys {
		var made []boxGroup
		var members [][]at
		number := map[[6]int]int{}
		for _, a := range all {
			k, ok := number[key(a)]
			if !ok {
				k = len(members)
				number[key(a)] = k
				members = append(members, nil)
			}
			members[k] = append(members[k], a)
		}
		load, largest := 0, 0
		for _, m := range members {
			low, high := m[0].q, m[0].q
			for _, a := range m {
				for k := range 3 {
					low[k], high[k] = min(low[k], a.q[k]), max(high[k], a.q[k])
				}
			}
			g := boxGroup{reach: [2]int{high[1] - low[1], high[2] - low[2]}}
			for k := range 3 {
				g.first[k] = low[k]*c.inStep[k] + m[0].r[k]
			}
			for _, a := range m {
				g.taps = append(g.taps, boxTap{a.tap, [2]int{a.q[1] - low[1], a.q[2] - low[2]}})
			}
			points := (tile[0] + g.reach[0]) * (tile[1] + g.reach[1])
			load, largest = load+points, max(largest, points)
			made = append(made, g)
		}
		if largest <= limit && load < least {
			groups, least = made, load
		}
	}
	return groups
}

// tensorForm is the form of weights for tensor cores.
type tensorForm struct {
	attr     op.ConvAttr
	backward bool
	class    int
	merged   bool
	half     bool
	limit    int // of boxes, on which the order of steps depends
}

// pack writes the tiles of weights: for each 64 channels, for each group, for each chunk of a tap's input, for each tap one tile. Row
// 16i+j of a tile is channel 16i+2j, row 16i+8+j channel 16i+2j+1, so that threads have neighbouring channels of the products. Rows are
// swizzled as the instructions expect them: their 16-byte pieces are exchanged by the row's number modulo 8.
func (t *tensorClass) pack(v *convolution, dst []byte, w []float32, half bool) {
	elements := tensorChunk / 4
	if half {
		elements = tensorChunk / 2
	}
	at := 0
	for m := 0; m < v.cout; m += tensorRows {
		for i := range t.groups {
			for chunk := range t.chunks {
				for _, tap := range t.groups[i].taps {
					for row := range tensorRows {
						co := m + row/16*16 + row%8*2 + row/8%2
						if co >= v.cout {
							continue
						}
						for e := range min(elements, t.run-chunk*elements) {
							ci, k := chunk*elements+e, tap.tap
							if t.merged {
								ci, k = ci%v.cin, k+ci/v.cin
							}
							value := w[v.weightIndex(t.class, 0, k, ci, co)]
							byteAt := e * tensorChunk / elements
							to := at + row*tensorChunk + (byteAt/16^row%8)*16 + byteAt%16
							if half {
								putBFloat16(dst[to:], value)
							} else {
								putTF32(dst[to:], value)
							}
						}
					}
					at += tensorTile
				}
			}
		}
	}
}

// putTF32 rounds to 10 bits of mantissa, ties away from zero as the hardware does.
func putTF32(dst []byte, v float32) {
	b := math.Float32bits(v)
	if v == v {
		b = (b + 0x1000) &^ 0x1fff
	}
	as[uint32](dst[:4])[0] = b
}

// putBFloat16 rounds to 7 bits of mantissa, ties to even.
func putBFloat16(dst []byte, v float32) {
	b := math.Float32bits(v)
	if v == v {
		b += 0x7fff + b>>16&1
	} else {
		b |= 1 << 22
	}
	as[uint16](dst[:2])[0] = uint16(b >> 16)
}

// tensorKernel is a way to cut a lattice into tiles.
type tensorKernel struct {
	function *driver.Function
	lines    int // of 8 points, or of 16
	points   int
	mtiles   int     // 64 channels each, of a block
	cycles   float64 // of a multiprocessor for 32 bytes of channels of a tap of a tile
}

// tensorMachine describes the tensor cores of a generation.
type tensorMachine struct {
	kernels    []tensorKernel
	threads    int
	hopper     bool
	half       bool // factors are bfloat16
	shared     int  // bytes for a block
	limit      int  // points of a box
	swizzled   bool // boxes, else planes of 16 bytes
	persistent int  // blocks that stay; 0: one for each tile
}

// boxesSwizzled chooses between two arrangements of boxes in shared memory. Without, 16 bytes of all points follow one another, which the
// instructions take at any point; with, points are rows of 128 bytes whose pieces are exchanged by the row's address.
const boxesSwizzled = false

// Costs for the choice of tiles.
const (
	tensorTileCycles = 2500 // to begin and to store a tile
	tensorLoadBytes  = 20   // a cycle, from the second cache to a multiprocessor
	tensorMergeBelow = 8    // channels of a voxel: fewer are joined along x
)

// tensorMachine finds the kernels for the device; nil if it has none.
func (c *compiler) tensorMachine() (*tensorMachine, error) {
	d := &c.backend.device
	m := &tensorMachine{shared: d.SharedPerBlock, half: c.backend.options.Precision == BFloat16}
	if d.Major == 9 && d.Minor == 0 {
		m.hopper, m.threads, m.persistent, m.swizzled, m.limit = true, 384, d.Multiprocessors, boxesSwizzled, 780
		kind := "tensor90_tf32_"
		if m.half {
			kind = "tensor90_bf16_"
		}
		for _, k := range []tensorKernel{{lines: 32, cycles: 256}, {lines: 16, cycles: 128}, {lines: 8, cycles: 80}} {
			name := kind + map[int]string{32: "256", 16: "128", 8: "64"}[k.lines]
			for _, split := range []bool{false, true} {
				k, name := k, name
				k.points, k.mtiles = 8, 2
				if split {
					k.points, k.mtiles = 16, 1
					name += "_split"
				}
				f, err := c.kernel(name)
				if err != nil {
					return nil, err
				}
				k.function = f
				m.kernels = append(m.kernels, k)
			}
		}
	} else if d.Major >= 8 {
		m.half = false // tf32 is as fast as these kernels need, and more precise
		m.threads, m.swizzled, m.limit = 256, true, 264
		f, err := c.kernel("tensor80")
		if err != nil {
			return nil, err
		}
		m.kernels = []tensorKernel{{function: f, lines: 16, points: 8, mtiles: 1, cycles: 128}}
	} else {
		return nil, nil
	}
	for i := range m.kernels {
		if err := m.kernels[i].function.SetDynamicShared(m.shared); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// tensorLayout has the places of boxes and weights in shared memory.
type tensorLayout struct {
	stages, stageBytes, slots, lookahead, shared int
	pointBytes, chunkBytes                       int
}

// layout fits a class into shared memory; false if it does not fit.
func (m *tensorMachine) layout(t *tensorClass, k *tensorKernel) (l tensorLayout, ok bool) {
	points, fewest := 0, math.MaxInt
	for i := range t.groups {
		g := &t.groups[i]
		points = max(points, (k.lines+g.reach[0])*(k.points+g.reach[1]))
		fewest = min(fewest, len(g.taps))
	}
	l.pointBytes, l.chunkBytes = tensorChunk, 16
	bytes := points * tensorChunk
	if !m.swizzled { // planes of 16 bytes of all points, which begin in different banks
		points = ceilDiv(points, 8)*8 + 1
		l.pointBytes, l.chunkBytes = 16, points*16
		bytes = points * tensorChunk
	}
	l.stageBytes = ceilDiv(bytes, 1024) * 1024
	if !m.hopper {
		for l.lookahead = 3; l.lookahead > 0; l.lookahead-- {
			l.slots, l.stages = l.lookahead+1, 1+ceilDiv(l.lookahead, fewest)
			if l.shared = l.stages*l.stageBytes + l.slots*tensorTile; l.shared <= m.shared {
				return l, true
			}
		}
		return l, false
	}
	const fixed = 2048 // barriers, and up to the next kilobyte
	slot := k.mtiles * tensorTile
	for l.stages = 4; l.stages >= 2; l.stages-- {
		rest := m.shared - fixed - l.stages*l.stageBytes
		if l.slots = min(rest/slot, 8); l.slots >= 4 || l.stages == 2 && l.slots >= 2 {
			l.shared = fixed + l.stages*l.stageBytes + l.slots*slot
			return l, true
		}
	}
	return l, false
}

// estimate returns the cycles that a class takes on count points of the lattice.
func (m *tensorMachine) estimate(t *tensorClass, k *tensorKernel, count [3]int, mtiles, multiprocessors int) float64 {
	tiles := count[0] * ceilDiv(count[1], k.lines) * ceilDiv(count[2], k.points) * ceilDiv(mtiles, k.mtiles)
	part := 8
	if m.half {
		part = 16
	}
	compute, bytes := 0.0, 0
	for i := range t.groups {
		g := &t.groups[i]
		compute += k.cycles * float64(len(g.taps)*ceilDiv(t.run, part))
		bytes += t.chunks * ((k.lines+g.reach[0])*(k.points+g.reach[1])*tensorChunk + len(g.taps)*k.mtiles*tensorTile)
	}
	one := max(compute, float64(bytes)/tensorLoadBytes) + tensorTileCycles*float64(k.lines*k.points*k.mtiles)/512
	return float64(ceilDiv(tiles, multiprocessors)) * one
}

// buildTensor compiles a convolution, or the gradient of one, for tensor cores; false where they do not fit.
func buildTensor(c *compiler, n *ir.Node, a op.ConvAttr, backward bool) (action, bool, error) {
	m, err := c.tensorMachine()
	if err != nil || m == nil {
		return nil, false, err
	}
	return m.build(c, n, a, backward)
}

func (m *tensorMachine) build(c *compiler, n *ir.Node, a op.ConvAttr, backward bool) (action, bool, error) {
	v, err := newConvolution(n, a, backward)
	if err != nil || v.groups > 1 {
		return nil, false, err
	}
	elements := tensorChunk / 4
	if m.half {
		elements = tensorChunk / 2
	}
	w, in, out := n.Inputs[1], c.in(0), c.out()
	classes := make([]tensorClass, len(v.classes))
	mtiles := ceilDiv(v.cout, tensorRows)
	for i := range v.classes {
		cl := &v.classes[i]
		t := tensorClass{class: cl, run: v.cin}
		if v.cin < tensorMergeBelow && cl.taps[2] > 1 && cl.tapStep[2] == 1 {
			t.merged, t.run = true, v.cin*cl.taps[2]
		}
		t.chunks = ceilDiv(t.run, elements)
		t.groups = boxGroups(cl, t.merged, [2]int{8, 8}, m.limit)
		taps := 0
		for _, g := range t.groups {
			t.steps += len(g.taps) * t.chunks
			taps += len(g.taps)
		}
		if len(t.groups) > tensorGroups || taps > tensorTaps || taps == 0 && cl.tapCount() > 0 {
			return nil, false, nil
		}
		if t.steps > math.MaxInt32/tensorTile/mtiles {
			return nil, false, nil
		}
		classes[i] = t
	}
	fits := func(t *tensorClass) bool {
		return slices.ContainsFunc(m.kernels, func(k tensorKernel) bool { _, ok := m.layout(t, &k); return ok })
	}
	for i := range classes {
		if !fits(&classes[i]) {
			return nil, false, nil
		}
	}
	c.packed(1)
	for i := range classes {
		t := &classes[i]
		form := tensorForm{attr: v.attr, backward: v.backward, class: i, merged: t.merged, half: m.half, limit: m.limit}
		t.weights = c.pack(w, form, mtiles*t.steps*tensorTile, func(dst []byte) { t.pack(v, dst, w.Const.Float32s(), m.half) })
	}
	e := c.takeEpilogue()
	vectors := func(t *tensorClass) bool { // all runs, and the ends of rows, are at multiples of 16 bytes
		return in.stride%16 == 0 && t.run%4 == 0 && v.in[2]*v.in[3]%4 == 0 && t.class.inStep[2]*v.in[3]%4 == 0 && t.class.tapStart[2]*v.in[3]%4 == 0
	}
	pairs := v.out[3]%2 == 0 && out.stride%8 == 0 && (e.residual == nil || e.residual.stride%8 == 0)
	multiprocessors := c.backend.device.Multiprocessors
	return func(q *queue, z0, z1 int) error {
		for sample := range v.samples {
			for i := range classes {
				t := &classes[i]
				count, first := v.points(t.class, z0, z1)
				if count[0]*count[1]*count[2] == 0 {
					continue
				}
				k, l := m.choose(t, count, mtiles, multiprocessors)
				p := m.params(t, v, k, l, count, first)
				p.In, p.Out, p.Residual = q.image(in, sample), q.image(out, sample), Planes{Places: 1}
				if e.residual != nil {
					p.Residual = q.image(e.residual, sample)
				}
				p.Activation = tensorActivations[e.activation]
				p.Weights = t.weights.At()
				if v.bias {
					p.Bias = q.planes(&q.inst.places[2]).Data
				}
				p.Vectors, p.Pairs = int32(bit(vectors(t))), int32(bit(pairs))
				blocks := int(p.Tiles)
				if m.persistent > 0 {
					blocks = min(blocks, m.persistent)
				}
				if err := launch(q, k.function, [3]uint32{uint32(blocks), 1, 1}, m.threads, l.shared, p); err != nil {
					return err
				}
			}
		}
		return nil
	}, true, nil
}

// tensorActivations are the numbers of the functions that kernels apply before they store a value.
var tensorActivations = map[string]int32{"": 0, "Relu": 1, "Silu": 2}

// bit returns 1 for true.
func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// choose takes the tiles that are fastest for a slab. All give the same sums.
func (m *tensorMachine) choose(t *tensorClass, count [3]int, mtiles, multiprocessors int) (k *tensorKernel, l tensorLayout) {
	best := math.Inf(1)
	for i := range m.kernels {
		layout, ok := m.layout(t, &m.kernels[i])
		if !ok {
			continue
		}
		if time := m.estimate(t, &m.kernels[i], count, mtiles, multiprocessors); time < best {
			best, k, l = time, &m.kernels[i], layout
		}
	}
	return k, l
}

// params returns the parameters of a launch, but for addresses.
func (m *tensorMachine) params(t *tensorClass, v *convolution, k *tensorKernel, l tensorLayout, count [3]int, first int) *tensorParams {
	c, channels := t.class, v.in[3]
	mtiles := ceilDiv(v.cout, tensorRows)
	blocks, tilesX, tilesY := ceilDiv(mtiles, k.mtiles), ceilDiv(count[2], k.points), ceilDiv(count[1], k.lines)
	p := &tensorParams{
		Depth: int32(v.in[0]), Height: int32(v.in[1]), Width: int32(v.in[2] * channels),
		StepZ: int32(c.inStep[0]), StepY: int32(c.inStep[1]), RowStep: int32(c.inStep[2] * channels),
		Run: int32(t.run), Chunks: int32(t.chunks), Channels: int32(v.cout), Mtiles: int32(mtiles), Steps: int32(t.steps),
		Count: int32s3(count), OutStart: int32s3(c.outStart), OutStep: int32s3(c.outStep), OutWidth: int32(v.out[2]),
		Tiles: int32(blocks * tilesX * tilesY * count[0]), Mblocks: divideBy(blocks), TilesX: divideBy(tilesX), TilesY: divideBy(tilesY),
		Stages: int32(l.stages), StageBytes: int32(l.stageBytes), Slots: int32(l.slots), Lookahead: int32(l.lookahead),
		PointBytes: int32(l.pointBytes), ChunkBytes: int32(l.chunkBytes), Groups: int32(len(t.groups)),
	}
	if m.swizzled {
		p.Swizzle = 7
	}
	p.OutStart[0] += int32(first * c.outStep[0])
	tap, step := 0, 0
	for i := range t.groups {
		g := &t.groups[i]
		pitch := k.points + g.reach[1]
		p.Group[i] = tensorGroup{Z: int32(g.first[0] + first*c.inStep[0]), Y: int32(g.first[1]), X: int32(g.first[2] * channels),
			Taps: int32(len(g.taps)), FirstTap: int32(tap), FirstStep: int32(step), Pitch: int32(pitch), Lines: int32(k.lines + g.reach[0])}
		for _, b := range g.taps {
			p.Shift[tap] = uint16(b.shift[0]*pitch + b.shift[1])
			tap++
		}
		step += len(g.taps) * t.chunks
	}
	return p
}
