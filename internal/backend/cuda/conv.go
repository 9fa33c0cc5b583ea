package cuda

import (
	"errors"
	"fmt"
	"math"

	"github.com/voxcam/voxcam/internal/backend/cuda/devmem"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
)

// convBuilders is the part of the table of builders whose functions are in this file.
var convBuilders = map[*ir.Op]builder{
	op.Conv:             buildConv,
	op.ConvBackwardData: buildConvBackwardData,
}

func buildConv(c *compiler, n *ir.Node) (action, error) {
	return c.conv(n, n.Attr.(op.ConvAttr), false)
}

func buildConvBackwardData(c *compiler, n *ir.Node) (action, error) {
	return c.conv(n, n.Attr.(op.ConvBackwardDataAttr).Conv, true)
}

// convKernel is a way to compute convolutions, or their gradients with respect to the input. Build says false for those that it does not take.
type convKernel struct {
	name  string
	build func(c *compiler, n *ir.Node, a op.ConvAttr, backward bool) (action, bool, error)
	tuned bool // in the precisions of tensor cores it is one of those that are timed
}

// convKernels are asked in this order; the last takes everything.
var convKernels = []convKernel{
	{"precise", buildPreciseConv, false},
	{"depthwise", buildDepthwise, false},
	{"stem", buildStem, true},
	{"tensor", buildTensor, true},
	{"float32", buildLattice, true},
}

// errNotTaken says that a kernel does not compute a convolution.
var errNotTaken = errors.New("cuda: the kernel does not take this convolution")

// conv compiles a convolution, or the gradient of one with respect to its input.
func (c *compiler) conv(n *ir.Node, a op.ConvAttr, backward bool) (action, error) {
	forced := ""
	if t := c.backend.tuner; t != nil {
		forced = t.forced
	}
	asked := false // the tuner was asked for the fastest kernel
	for _, k := range convKernels {
		if forced != "" && k.name != forced || k.name == "tensor" && forced == "" {
			continue
		}
		if k.tuned && forced == "" && !asked {
			asked = true
			if run, ok, err := c.tunedConv(n, a, backward); ok || err != nil {
				return run, err
			}
		}
		if run, ok, err := k.build(c, n, a, backward); ok || err != nil {
			return run, err
		}
	}
	return nil, errNotTaken
}

// convParams is ConvParams of conv.cuh.
type convParams struct {
	Lattice
	Partial                              driver.Ptr
	Splits, SplitSteps, Steps, Columns   int32
	Depth, Tiles, Total, TapArea, TapRow Divide
	Taps                                 int32
}

// convStep is the number of values of a sum that a kernel takes at a time.
const convStep = 8

// convForm is the form of weights as matrices: [groups][steps of 8 along taps and channels][columns], the channels of a tap and the
// columns filled up to a multiple of 4 with zeros, the whole depth to one of 8.
type convForm struct {
	attr     op.ConvAttr
	backward bool
	class    int
}

// convMatrix is the size of the weights of a class in that form.
type convMatrix struct {
	depth   int // of a tap, filled up
	steps   int
	columns int
	weights *devmem.Constant
}

// matrices packs the weights of all classes.
func (v *convolution) matrices(c *compiler, w *ir.Value) ([]convMatrix, error) {
	c.packed(1)
	all := make([]convMatrix, len(v.classes))
	for i := range v.classes {
		cl := &v.classes[i]
		m := convMatrix{depth: ceilDiv(v.cin, 4) * 4, columns: ceilDiv(v.cout, 4) * 4}
		m.steps = ceilDiv(cl.tapCount()*m.depth, convStep)
		elements := v.groups * m.steps * convStep * m.columns
		if elements > math.MaxInt32 {
			return nil, fmt.Errorf("%v has more weights than a convolution can address", w)
		}
		m.weights = c.pack(w, convForm{v.attr, v.backward, i}, 4*elements, func(dst []byte) {
			v.packMatrix(as[float32](dst), w.Const.Float32s(), cl, m)
		})
		all[i] = m
	}
	return all, nil
}

// packMatrix fills the matrices of a class.
func (v *convolution) packMatrix(dst, w []float32, cl *class, m convMatrix) {
	stepIn, stepOut := 0, 0
	if v.cin > 1 && cl.tapCount() > 0 {
		stepIn = v.weightIndex(cl, 0, 0, 1, 0) - v.weightIndex(cl, 0, 0, 0, 0)
	}
	if v.cout > 1 && cl.tapCount() > 0 {
		stepOut = v.weightIndex(cl, 0, 0, 0, 1) - v.weightIndex(cl, 0, 0, 0, 0)
	}
	for g := range v.groups {
		for t := range cl.tapCount() {
			first := v.weightIndex(cl, g, t, 0, 0)
			for ci := range v.cin {
				row := dst[(g*m.steps*convStep+t*m.depth+ci)*m.columns:][:v.cout]
				for co := range row {
					row[co] = w[first+ci*stepIn+co*stepOut]
				}
			}
		}
	}
}

// params returns the parameters of a launch, but for those that depend on the tile.
func (v *convolution) params(l Lattice, cl *class, m *convMatrix) convParams {
	return convParams{Lattice: l, Splits: 1, SplitSteps: int32(m.steps), Steps: int32(m.steps), Columns: int32(m.columns),
		Depth: divideBy(m.depth), Tiles: divideBy(1), Total: divideBy(v.groups * v.cout),
		TapArea: divideBy(max(1, cl.taps[1]*cl.taps[2])), TapRow: divideBy(max(1, cl.taps[2])), Taps: int32(cl.tapCount())}
}

// convTile is a kernel of conv.cu: each block makes a tile of rows (points) x columns (channels).
type convTile struct {
	name                   string
	rows, columns, threads int
	blocks                 int     // blocks that share a multiprocessor
	rate                   float64 // of multiplications when it is full; 1 is the best
}

var convTiles = [...]convTile{
	{"conv_128x128", 128, 128, 256, 2, 1},
	{"conv_128x64", 128, 64, 128, 4, 0.97},
	{"conv_64x64", 64, 64, 128, 5, 0.8},
	{"conv_128x32", 128, 32, 128, 5, 0.75},
	{"conv_256x16", 256, 16, 128, 5, 0.65},
}

// Costs of tiles, in multiplications of a multiprocessor.
const (
	tileOverhead  = 24     // steps of a sum that starting a block and storing its results take
	bytesTime     = 7      // a byte of device memory
	launchTime    = 600000 // a kernel
	fullThreads   = 512    // threads that keep a multiprocessor busy
	leastSplit    = 16     // steps of convStep in a split
	mostSplits    = 16
	splitCapacity = 32 << 20 // bytes of partial sums
)

// product is the size of a convolution as a matrix product.
type product struct{ points, columns, groups, steps int }

// estimate returns the time that a product takes with a tile and its depth split.
func (t *convTile) estimate(p product, splits, multiprocessors int) float64 {
	blocks := ceilDiv(p.points, t.rows) * ceilDiv(p.columns, t.columns) * p.groups * splits
	each := ceilDiv(blocks, multiprocessors)
	work := float64(t.rows*t.columns*(ceilDiv(p.steps, splits)*convStep+tileOverhead)) / t.rate
	busy := min(1, 0.25+0.75*float64(min(each, t.blocks)*t.threads)/fullThreads)
	time := float64(each) * work / busy
	if splits > 1 {
		time += launchTime + float64(2*4*splits*p.points*p.columns*p.groups)*bytesTime/float64(multiprocessors)
	}
	return time
}

// chooseTile returns the fastest tile for a product.
func chooseTile(p product, splits, multiprocessors int) int {
	best := 0
	for i := range convTiles {
		if convTiles[i].estimate(p, splits, multiprocessors) < convTiles[best].estimate(p, splits, multiprocessors) {
			best = i
		}
	}
	return best
}

// chooseSplits cuts the depth of a product into sums that are added later, where there are too few tiles for all multiprocessors. It must
// be called for the whole node, so that results do not depend on slabs.
func chooseSplits(p product, multiprocessors int) int {
	best, least := 1, math.Inf(1)
	for s := 1; s <= mostSplits && (s == 1 || p.steps/s >= leastSplit && 4*s*p.points*p.columns*p.groups <= splitCapacity); s++ {
		if s > 1 && ceilDiv(p.steps, ceilDiv(p.steps, s)) != s {
			continue // the last would be empty
		}
		if t := convTiles[chooseTile(p, s, multiprocessors)].estimate(p, s, multiprocessors); t < least {
			best, least = s, t
		}
	}
	return best
}

// buildLattice compiles any convolution, or the gradient of one, in strict float32.
func buildLattice(c *compiler, n *ir.Node, a op.ConvAttr, backward bool) (action, bool, error) {
	v, err := newConvolution(n, a, backward)
	if err != nil {
		return nil, false, err
	}
	matrices, err := v.matrices(c, n.Inputs[1])
	if err != nil {
		return nil, false, err
	}
	v.epilogue = c.takeEpilogue()
	suffix := ""
	if v.aligned(c.in(0)) {
		suffix = "_4"
	}
	var functions [len(convTiles)]*driver.Function
	for i := range convTiles {
		if functions[i], err = c.kernel(convTiles[i].name + suffix); err != nil {
			return nil, false, err
		}
	}
	finish, err := c.kernel("conv_finish")
	if err != nil {
		return nil, false, err
	}
	multiprocessors, total, tallest := c.backend.device.Multiprocessors, v.groups*v.cout, c.tallest()
	splits := make([]int, len(v.classes))
	for i := range v.classes {
		cl := &v.classes[i]
		count, _ := v.points(cl, 0, v.out[0])
		plane := count[1] * count[2]
		splits[i] = chooseSplits(product{count[0] * plane, v.cout, v.groups, matrices[i].steps}, multiprocessors)
		if v.groups*splits[i] > math.MaxUint16 {
			return nil, false, fmt.Errorf("%d groups are more than a convolution can address", v.groups)
		}
		if splits[i] > 1 {
			c.needScratch(4 * splits[i] * min(count[0], ceilDiv(tallest, cl.outStep[0])) * plane * total)
		}
	}
	return func(q *queue, z0, z1 int) error {
		for sample := range v.samples {
			for i := range v.classes {
				m := &matrices[i]
				l, ok := v.lattice(q, &v.classes[i], m.weights.At(), sample, z0, z1)
				if !ok {
					continue
				}
				k := chooseTile(product{int(l.Points), v.cout, v.groups, m.steps}, splits[i], multiprocessors)
				t := &convTiles[k]
				p := v.params(l, &v.classes[i], m)
				columns := ceilDiv(v.cout, t.columns)
				p.Tiles = divideBy(columns)
				p.Splits, p.SplitSteps = int32(splits[i]), int32(ceilDiv(m.steps, splits[i]))
				if splits[i] > 1 {
					p.Partial = q.scratch
				}
				grid := [3]uint32{uint32(ceilDiv(int(l.Points), t.rows) * columns), uint32(v.groups * splits[i]), 1}
				if err := launch(q, functions[k], grid, t.threads, 0, &p); err != nil {
					return err
				}
				if splits[i] == 1 {
					continue
				}
				if err := launch(q, finish, [3]uint32{uint32(ceilDiv(int(l.Points)*total, 256)), 1, 1}, 256, 0, &p); err != nil {
					return err
				}
			}
		}
		return nil
	}, true, nil
}

// tallest returns the largest number of planes that a step of the node makes.
func (c *compiler) tallest() int {
	if c.mode == plan.Whole {
		return c.depth
	}
	most := 1
	for i := range c.plan.Steps {
		if s := &c.plan.Steps[i]; s.Node == c.node && s.Mode == c.mode {
			most = max(most, s.Z1-s.Z0)
		}
	}
	return most
}

// preciseDepth is the length of sums from which on they are cut into parts.
const preciseDepth = 64

// buildPreciseConv compiles small convolutions with sums in float64; false where they are large.
func buildPreciseConv(c *compiler, n *ir.Node, a op.ConvAttr, backward bool) (action, bool, error) {
	v, err := newConvolution(n, a, backward)
	if err != nil {
		return nil, false, err
	}
	w := n.Inputs[1].Shape()
	macs := w.Elements() / w[0]
	if backward {
		macs = w.Elements() / (v.groups * v.cout) / (a.Stride[0] * a.Stride[1] * a.Stride[2])
	}
	if n.Out().Shape().Elements()*macs > c.backend.precise {
		return nil, false, nil
	}
	matrices, err := v.matrices(c, n.Inputs[1])
	if err != nil {
		return nil, false, err
	}
	v.epilogue = c.takeEpilogue()
	short, err := c.kernel("conv_precise")
	if err != nil {
		return nil, false, err
	}
	deep, err := c.kernel("conv_precise_deep")
	if err != nil {
		return nil, false, err
	}
	total := v.groups * v.cout
	return func(q *queue, z0, z1 int) error {
		for sample := range v.samples {
			for i := range v.classes {
				m := &matrices[i]
				l, ok := v.lattice(q, &v.classes[i], m.weights.At(), sample, z0, z1)
				if !ok {
					continue
				}
				p := v.params(l, &v.classes[i], m)
				points, err := int(l.Points), error(nil)
				if columns := ceilDiv(v.cout, 8); m.steps*convStep >= preciseDepth && v.groups <= math.MaxUint16 {
					p.Tiles = divideBy(columns)
					err = launch(q, deep, [3]uint32{uint32(points * columns), uint32(v.groups), 1}, 256, 0, &p)
				} else {
					err = launch(q, short, [3]uint32{uint32(ceilDiv(points*total, 128)), 1, 1}, 128, 0, &p)
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	}, true, nil
}
