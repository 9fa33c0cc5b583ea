package cpu

import (
	"fmt"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cpu/kernel"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/tensor"
)

// compiler turns the steps of a plan into closures. Builders call its methods; everything that a step needs when it runs is
// computed there.
type compiler struct {
	backend *Backend
	program *Program
	node    *ir.Node
	step    step

	own    int // float32 values of scratch that a worker needs
	shared int // float64 values that a step needs
}

// A builder compiles a node: it adds phases.
type builder func(c *compiler, n *ir.Node) error

// builders has one entry for each operation of op.All.
var builders = makeBuilders()

func makeBuilders() map[*ir.Op]builder {
	m := map[*ir.Op]builder{
		op.UnaryBackward:      buildUnaryBackward,
		op.Bits:               buildBits,
		op.MaskBackward:       buildMaskBackward,
		op.PRelu:              buildPRelu,
		op.PReluBackward:      buildPReluBackward,
		op.Where:              buildWhere,
		op.Conv:               buildConv,
		op.ConvBackwardData:   buildConvBackwardData,
		op.MaxPool:            buildMaxPool,
		op.MaxPoolIndex:       buildMaxPoolIndex,
		op.MaxPoolBackward:    buildMaxPoolBackward,
		op.AvgPool:            buildAvgPool,
		op.AvgPoolBackward:    buildAvgPoolBackward,
		op.Affine:             buildAffine,
		op.GroupNorm:          buildGroupNorm,
		op.GroupNormBackward:  buildGroupNormBackward,
		op.LayerNorm:          buildLayerNorm,
		op.LayerNormBackward:  buildLayerNormBackward,
		op.Softmax:            buildSoftmax,
		op.SoftmaxBackward:    buildSoftmaxBackward,
		op.LogSoftmax:         buildLogSoftmax,
		op.LogSoftmaxBackward: buildLogSoftmaxBackward,
		op.MatMul:             buildMatMul,
		op.ReduceSum:          buildReduceSum,
		op.ReduceMean:         buildReduceMean,
		op.ReduceMax:          buildReduceMax,
		op.Reshape:            buildReshape,
		op.Transpose:          buildTranspose,
		op.Expand:             buildExpand,
		op.Slice:              buildSlice,
		op.SliceBackward:      buildSliceBackward,
		op.Concat:             buildConcat,
		op.Pad:                buildPad,
		op.PadBackward:        buildPadBackward,
		op.Gather:             buildGather,
		op.GatherBackward:     buildGatherBackward,
		op.Resize:             buildResize,
		op.ResizeBackward:     buildResizeBackward,
	}
	for i := range op.Unaries {
		m[op.UnaryOp(op.Unaries[i].Name)] = buildUnary(&op.Unaries[i])
	}
	for _, rows := range [][]op.Binary{op.Binaries, op.Compares} {
		for i := range rows {
			m[op.BinaryOp(rows[i].Name)] = buildBinary(&rows[i])
		}
	}
	return m
}

func (c *compiler) compile(s plan.Step) (step, error) {
	n := s.Node
	build := builders[n.Op]
	if build == nil {
		return step{}, fmt.Errorf("cpu: node %q (%s): %w", n.Name, n.Op.Name, backend.ErrUnsupported)
	}
	for _, v := range append(append([]*ir.Value(nil), n.Inputs...), n.Outputs...) {
		if v == nil || v.Const != nil {
			continue
		}
		if _, ok := c.program.offset[v]; !ok {
			return step{}, fmt.Errorf("cpu: node %q (%s): %v has no buffer in the plan", n.Name, n.Op.Name, v)
		}
	}
	c.node, c.step = n, step{}
	if err := build(c, n); err != nil {
		return step{}, fmt.Errorf("cpu: node %q (%s): %w", n.Name, n.Op.Name, err)
	}
	return c.step, nil
}

// phase adds a phase; it begins when those before it are complete.
func (c *compiler) phase(parts int, do part) {
	if parts > 0 {
		c.step.phases = append(c.step.phases, phase{parts, do})
	}
}

// grain is the number of elements that one part of an elementwise step has. It is a multiple of 64, so that parts do not share a
// word of bits, and small enough that the operands of a part stay in the second-level cache.
const grain = 1 << 14

// ranges adds a phase over [0, n), cut into ranges of step (less in the last).
func (c *compiler) ranges(n, step int, do func(from, to int, s scratch)) {
	step = max(step, 1)
	c.phase((n+step-1)/step, func(i int, s scratch) { do(i*step, min(n, (i+1)*step), s) })
}

// rows is ranges over n rows of width elements each.
func (c *compiler) rows(n, width int, do func(from, to int, s scratch)) {
	c.ranges(n, grain/max(width, 1), do)
}

// ownScratch asks for n float32 values for each worker while it is in a part of this step.
func (c *compiler) ownScratch(n int) { c.own = max(c.own, n) }

// sharedScratch asks for n float64 values that all phases of this step share.
func (c *compiler) sharedScratch(n int) { c.shared = max(c.shared, n) }

// float32s is the storage of a value: a part of the arena, or of a constant. It is nil for an input that is absent.
func (c *compiler) float32s(v *ir.Value) []float32 {
	if v == nil {
		return nil
	}
	if v.Const != nil {
		// Decoding cannot fail.
		values, _ := c.backend.prepare(c.program, weightKey{v.Const, "float32"}, func() (any, error) { return v.Const.Float32s(), nil })
		return values.([]float32)
	}
	return view[float32](c.program.arena, c.program.offset[v], v.Shape().Elements())
}

// in is the storage of input i, nil if it is absent.
func (c *compiler) in(i int) []float32 { return c.float32s(c.node.In(i)) }

// out is the storage of the output.
func (c *compiler) out() []float32 { return c.float32s(c.node.Out()) }

// bits is the storage of a bit tensor: element i is bit i%64 of word i/64.
func (c *compiler) bits(v *ir.Value) ([]uint64, error) {
	if v.Type.Elem != tensor.Bit || v.Const != nil {
		return nil, fmt.Errorf("%v is not a tensor of bits", v)
	}
	return view[uint64](c.program.arena, c.program.offset[v], (v.Shape().Elements()+63)/64), nil
}

// weights reads a constant for packing.
func weights(v *ir.Value) kernel.Weights { return kernel.Floats(v.Const.Float32s()) }

// constant refuses a value that is computed while the plan runs where a kernel must pack it beforehand.
func constant(v *ir.Value, what string) error {
	if v.Const == nil {
		return fmt.Errorf("%s must be constant, but %v (%q) is computed: %w", what, v, v.Name, backend.ErrUnsupported)
	}
	return nil
}
