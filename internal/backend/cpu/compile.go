package cpu

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cpu/kernel"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/tensor"
)

// compiler turns nodes into closures that find their operands when they run. A node that steps take slab by slab is compiled in
// one of two ways. Where an output plane is made of the same plane of the inputs, the builder sees a node of a single plane, and
// its parts run with operands that point at one plane after the other. Builders of operations that look at other planes (windows,
// moves along depth) see the whole node and find planes in rings themselves; see places and planeRows.
type compiler struct {
	backend *Backend
	program *Program // nil while sizes are counted
	plan    *plan.Plan
	weights map[weightKey]int // bytes, while sizes are counted

	node *ir.Node // the whole node, also while the builder sees a single plane of it
	inst *instance
	// slab says that the builder of a whole node must work plane by plane.
	slab bool
}

// A builder compiles a node: it adds phases.
type builder func(c *compiler, n *ir.Node) error

// builders has one entry for each operation of op.All.
var builders = makeBuilders()

func makeBuilders() map[*ir.Op]builder {
	m := map[*ir.Op]builder{}
	for _, table := range []map[*ir.Op]builder{
		unaryBuilders, binaryBuilders, convBuilders, windowBuilders, normBuilders, momentsBuilders, softmaxBuilders, matmulBuilders, reduceBuilders, moveBuilders,
	} {
		maps.Copy(m, table)
	}
	for _, o := range op.All {
		if o.Separable != nil {
			m[o] = buildSeparable
		}
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

// steps compiles the plan.
func (c *compiler) steps(ctx context.Context) (steps []step, instances []*instance, err error) {
	steps = make([]step, len(c.plan.Steps))
	of := map[*ir.Node][]*instance{}
	for i := range c.plan.Steps {
		s := &c.plan.Steps[i]
		k := slices.IndexFunc(of[s.Node], func(inst *instance) bool {
			return inst.mode == s.Mode && slices.Equal(inst.in, s.In) && slices.Equal(inst.out, s.Out)
		})
		if k < 0 {
			if err := ctx.Err(); err != nil {
				return nil, nil, err
			}
			inst, err := c.compile(s)
			if err != nil {
				return nil, nil, fmt.Errorf("cpu: step %d, node %q (%s): %w", i, s.Node.Name, s.Node.Op.Name, err)
			}
			k = len(of[s.Node])
			of[s.Node] = append(of[s.Node], inst)
			instances = append(instances, inst)
		}
		steps[i] = step{instance: of[s.Node][k], z0: s.Z0, z1: s.Z1}
		if err := steps[i].prepare(s); err != nil {
			return nil, nil, fmt.Errorf("cpu: step %d, node %q (%s): %w", i, s.Node.Name, s.Node.Op.Name, err)
		}
	}
	return steps, instances, nil
}

// prepare checks the planes of a step, and finds the state that all steps of its height share.
func (t *step) prepare(s *plan.Step) error {
	inst := t.instance
	depth := 0
	switch s.Mode {
	case plan.Whole:
		if inst.accumulation != nil {
			t.z0, t.z1 = 0, s.Node.Inputs[0].Shape()[1]
		} else if len(s.Node.Out().Shape()) == 5 {
			t.z0, t.z1 = 0, s.Node.Out().Shape()[1]
		}
		depth = t.z1
	case plan.Slab:
		depth = s.Node.Out().Shape()[1]
	case plan.Accumulate:
		depth = s.Node.Inputs[0].Shape()[1]
	}
	if t.z0 < 0 || t.z1 < t.z0 || t.z1 > depth {
		return fmt.Errorf("planes %d to %d of %d", t.z0, t.z1, depth)
	}
	if out := inst.places[len(inst.places)-1]; s.Mode == plan.Slab && t.z1-t.z0 > out.planes {
		return fmt.Errorf("%d planes at a time in a ring of %d", t.z1-t.z0, out.planes)
	}
	if inst.regions == nil {
		return nil
	}
	t.height = slices.IndexFunc(inst.heights, func(h height) bool { return h.planes == t.z1-t.z0 })
	if t.height < 0 {
		t.height = len(inst.heights)
		inst.heights = append(inst.heights, height{t.z1 - t.z0, inst.regions(t.z1 - t.z0)})
	}
	return nil
}

func (c *compiler) compile(s *plan.Step) (*instance, error) {
	n := s.Node
	build := builders[n.Op]
	if build == nil || len(n.Outputs) != 1 {
		return nil, backend.ErrUnsupported
	}
	c.node, c.slab = n, s.Mode == plan.Slab
	c.inst = &instance{node: n, mode: s.Mode, in: s.In, out: s.Out, elements: n.Out().Shape().Elements()}
	if err := c.locate(s); err != nil {
		return nil, err
	}
	switch {
	case s.Mode == plan.Whole && alwaysAccumulated[n.Op]:
		c.inst.accumulation = &accumulation{}
		n = plan.OnePlane(n, n.Inputs[0].Shape()[1])
	case s.Mode == plan.Accumulate:
		if !n.Inputs[0].HasDepth() || n.Op.Accumulates == nil || !n.Op.Accumulates(n) {
			return nil, fmt.Errorf("it cannot be accumulated plane by plane: %w", backend.ErrUnsupported)
		}
		c.inst.accumulation = &accumulation{}
		n = plan.OnePlane(n, n.Inputs[0].Shape()[1])
	case c.slab && (!n.Out().HasDepth() || n.Op.Slab == nil):
		return nil, fmt.Errorf("it cannot run on slabs: %w", backend.ErrUnsupported)
	case c.slab && !n.Op.AcrossPlanes:
		c.inst.byPlane, c.slab = true, false
		n = plan.OnePlane(n, n.Out().Shape()[1])
	}
	if err := build(c, n); err != nil {
		return nil, err
	}
	if c.program != nil {
		c.constants()
	}
	return c.inst, nil
}

// locate finds the places of the operands.
func (c *compiler) locate(s *plan.Step) error {
	n, inst := s.Node, c.inst
	if len(s.In) != len(n.Inputs) || len(s.Out) != len(n.Outputs) {
		return fmt.Errorf("a step with %d and %d buffers for %d inputs and %d outputs", len(s.In), len(s.Out), len(n.Inputs), len(n.Outputs))
	}
	buffers := append(slices.Clone(s.In), s.Out...)
	for i, v := range append(slices.Clone(n.Inputs), n.Outputs...) {
		at := place{buffer: -1}
		if v == nil {
			inst.places = append(inst.places, at)
			continue
		}
		at.bytes = v.Type.Elem.Bytes(v.Shape().Elements())
		ring, axis := 0, 1 // places for planes
		if v.Const == nil {
			at.buffer = buffers[i]
			if at.buffer < 0 || at.buffer >= len(c.plan.Buffers) || !slices.Contains(c.plan.Buffers[at.buffer].Values, v) {
				return fmt.Errorf("%v has no buffer in the plan", v)
			}
			ring = c.plan.Buffers[at.buffer].Planes
		}
		if s.Mode == plan.Whole && !alwaysAccumulated[n.Op] {
			if ring > 0 && ring != v.Shape()[1] {
				return fmt.Errorf("%v is wanted whole, and has %d of its planes", v, ring)
			}
			if err := checkPacked(v, ring > 0); err != nil {
				return err
			}
			inst.places = append(inst.places, at)
			continue
		}
		switch {
		case n.Op.AcrossPlanes:
			if !v.HasDepth() && !(ring > 0 && len(v.Shape()) == 5) {
				axis = -1
			}
		case s.Mode != plan.Slab:
			axis = plan.DepthAxis(v, n.Inputs[0].Shape()[1])
		default:
			axis = plan.DepthAxis(v, n.Out().Shape()[1])
		}
		if n.Op == op.Reshape && axis < 0 { // the same bytes, whatever the axes
			at.planes = n.Out().Shape()[1]
			at.planeBytes = at.bytes / at.planes
		}
		if axis >= 0 {
			if at.planes = ring; ring == 0 {
				at.planes = v.Shape()[axis]
			}
			if err := checkPacked(v, ring == 0); err != nil {
				return err
			}
			at.planeBytes = v.Type.Elem.Bytes(v.Shape()[axis+1:].Elements())
			at.bytes = at.planes * at.planeBytes
		}
		inst.places = append(inst.places, at)
	}
	inst.ops = make([][]byte, len(inst.places))
	return nil
}

// checkPacked refuses bits that are read both whole and by planes, since planes begin at whole words.
func checkPacked(v *ir.Value, both bool) error {
	if s := v.Shape(); both && v.Type.Elem == tensor.Bit && len(s) == 5 && s[2:].Elements()%64 != 0 {
		return fmt.Errorf("%v is used both whole and by planes: %w", v, backend.ErrUnsupported)
	}
	return nil
}

// constants decodes the constants that the instance reads.
func (c *compiler) constants() {
	for i, v := range c.node.Inputs {
		if v != nil && v.Const != nil && c.inst.places[i].bytes > 0 {
			values, _ := c.prepare(weightKey{v.Const, "float32"}, nil, func() (any, error) { return v.Const.Float32s(), nil })
			c.inst.places[i].constant = bytesOf(values.([]float32))
		}
	}
}

// packed says that input i, a constant, is not read in the form that it has.
func (c *compiler) packed(i int) { c.inst.places[i].bytes = 0 }

// phase adds a phase; it begins when those before it are complete.
func (c *compiler) phase(parts int, do part) {
	if parts > 0 {
		c.inst.phases = append(c.inst.phases, phase{parts: parts, do: do})
	}
}

// grain is the number of elements that one part of an elementwise step has. It is a multiple of 64, so that parts do not share a
// word of bits, and small enough that the operands of a part stay in the second-level cache.
const grain = 1 << 14

// ranges adds a phase over [0, n), cut into ranges of step (less in the last).
func (c *compiler) ranges(n, step int, do func(from, to int, s *scratch)) {
	step = max(step, 1)
	if c.inst.byPlane { // equal parts, since there are few; bits go by whole words
		if step = even(n, step); step > 64 {
			step = (step + 63) / 64 * 64
		}
	}
	c.phase((n+step-1)/step, func(i int, s *scratch) { do(i*step, min(n, (i+1)*step), s) })
}

// rows calls do for ranges of n rows of width elements each.
func (c *compiler) rows(n, width int, do func(from, to int, s *scratch)) {
	c.ranges(n, grain/max(width, 1), do)
}

// planeRows is rows for planes of n rows each. On slabs a range does not cross planes; rows count from the first plane on.
func (c *compiler) planeRows(planes, n, width int, do func(from, to int, s *scratch)) {
	if !c.slab {
		c.rows(planes*n, width, do)
		return
	}
	step := even(max(n, 1), grain/max(width, 1))
	parts := (n + step - 1) / step
	c.inst.phases = append(c.inst.phases, phase{parts: parts, perPlane: true, do: func(i int, s *scratch) {
		base, at := i/parts*n, i%parts*step
		do(base+at, base+min(n, at+step), s)
	}})
}

// places returns the number of places for planes of operand i (-1 is the output): all planes where it is whole, one for an image without
// depth.
func (c *compiler) places(i int) int {
	v := c.node.Out()
	if i < 0 {
		i = len(c.inst.places) - 1
	} else {
		v = c.node.Inputs[i]
	}
	if p := c.inst.places[i].planes; p > 0 {
		return p
	}
	if s := v.Shape(); len(s) == 5 {
		return s[1]
	}
	return 1
}

// ownScratch asks for n float32 values for each worker while it is in a part of this step.
func (c *compiler) ownScratch(n int) { c.inst.own = max(c.inst.own, n) }

// sharedScratch asks for n float64 values that all phases of this step share.
func (c *compiler) sharedScratch(n int) { c.inst.shared = max(c.inst.shared, n) }

// checkBits refuses values that are not tensors of bits, in which element i is bit i%64 of word i/64.
func checkBits(v *ir.Value) error {
	if v.Type.Elem != tensor.Bit || v.Const != nil {
		return fmt.Errorf("%v is not a tensor of bits", v)
	}
	return nil
}

// prepare makes something of a constant, or counts the bytes that it would take.
func (c *compiler) prepare(key weightKey, bytes func() (any, int, error), make func() (any, error)) (any, error) {
	if c.program != nil {
		return c.backend.prepare(c.program, key, make)
	}
	value, n, err := bytes()
	c.weights[key] = n
	return value, err
}

// weights reads a constant for packing.
func weights(v *ir.Value) kernel.Weights {
	if b, ok := v.Const.Stored(); ok {
		return kernel.Bytes(b)
	}
	return kernel.Floats(v.Const.Float32s())
}

// constant refuses a value that is computed while the plan runs where a kernel must pack it beforehand.
func constant(v *ir.Value, what string) error {
	if v.Const == nil {
		return fmt.Errorf("%s must be constant, but %v (%q) is computed: %w", what, v, v.Name, backend.ErrUnsupported)
	}
	return nil
}
