package cuda

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/devmem"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/tensor"
)

// compiler turns nodes into actions that launch kernels. A node is seen by its builder in one of three ways:
//
//   - by plane: where an output plane is made of the same plane of the inputs (elementwise operations, softmax, ...), the builder
//     sees a node with a single plane, and its action works on planes [z0, z1). A node that is taken whole is a single plane.
//   - across planes (windows, moves along depth): the builder sees the whole node; its action makes output planes [z0, z1), all of
//     them where the node runs whole. Planes are found through operands, which may be rings.
//   - accumulating: reductions over depth take input planes [z0, z1), in order; the builder sees a node with a single plane of the inputs.
//     They are accumulated in the same way when they run whole, so that plans do not change results.
type compiler struct {
	backend *Backend
	plan    *plan.Plan
	weights *devmem.Constants // the place of constants

	node *ir.Node // the whole node, also while the builder sees a single plane of it
	mode plan.Mode
	inst *instance
	// depth is the number of planes of the output, or of the input of a reduction.
	depth int

	epilogue epilogue // of a convolution that is fused with the steps behind it
	taken    bool     // the builder computes it
}

// A builder compiles a node to an action.
type builder func(c *compiler, n *ir.Node) (action, error)

// An action enqueues the work of planes [z0, z1): of the output, or of the input of a reduction. It allocates nothing on the
// device and does not wait for it.
type action func(q *queue, z0, z1 int) error

// instance is a compiled node. Steps that compute slabs of the same node in the same buffers share it.
type instance struct {
	node    *ir.Node
	mode    plan.Mode
	in, out []int // buffers, by which steps find their instance
	places  []operand
	run     action
	scratch int // bytes that a step needs while it runs
	state   int // bytes that the instance keeps between steps
	stateAt driver.Ptr
	samples int // images of the output, where the node is seen across planes; otherwise 1
}

// operand is the place of an input or the output of an instance.
type operand struct {
	value    *ir.Value
	buffer   int              // -1 for constants and absent operands
	constant *devmem.Constant // nil unless the operand is a constant that is read as it is
	bytes    int              // of the whole tensor, or of all places
	places   int              // for planes; 1 where the operand is a single plane
	stride   int              // bytes from a place to the next
	depth    bool             // the operand is cut along depth
}

// makeBuilders makes the table of builders, with one entry for each operation of op.All.
func makeBuilders() map[*ir.Op]builder {
	m := map[*ir.Op]builder{}
	for _, table := range []map[*ir.Op]builder{
		pointwiseBuilders, masksBuilders, binaryBuilders, convBuilders, windowBuilders, normBuilders, softmaxBuilders, matmulBuilders, reduceBuilders, moveBuilders,
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

// step is a part of an instance.
type step struct {
	instance *instance
	z0, z1   int
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
				return nil, nil, fmt.Errorf("cuda: step %d, node %q (%s): %w", i, s.Node.Name, s.Node.Op.Name, err)
			}
			k = len(of[s.Node])
			of[s.Node] = append(of[s.Node], inst)
			instances = append(instances, inst)
		}
		steps[i] = step{instance: of[s.Node][k], z0: s.Z0, z1: s.Z1}
		if err := steps[i].prepare(s); err != nil {
			return nil, nil, fmt.Errorf("cuda: step %d, node %q (%s): %w", i, s.Node.Name, s.Node.Op.Name, err)
		}
	}
	return steps, instances, nil
}

// prepare checks the planes of a step, or finds them for a step that runs whole.
func (t *step) prepare(s *plan.Step) error {
	n := s.Node
	depth := 1
	switch {
	case s.Mode == plan.Slab:
		depth = n.Out().Shape()[1]
	case s.Mode == plan.Accumulate || accumulates(n):
		depth = n.Inputs[0].Shape()[1]
	case n.Op.AcrossPlanes && len(n.Out().Shape()) == 5:
		depth = n.Out().Shape()[1]
	}
	if s.Mode == plan.Whole {
		t.z0, t.z1 = 0, depth
	}
	if t.z0 < 0 || t.z1 <= t.z0 || t.z1 > depth {
		return fmt.Errorf("planes %d to %d of %d", t.z0, t.z1, depth)
	}
	if out := &t.instance.places[len(t.instance.places)-1]; s.Mode == plan.Slab && t.z1-t.z0 > out.places {
		return fmt.Errorf("%d planes at a time in a ring of %d", t.z1-t.z0, out.places)
	}
	return nil
}

// accumulates reports whether a node is a reduction that is accumulated plane by plane, even where it runs whole.
func accumulates(n *ir.Node) bool { return n.Op.Accumulates != nil && n.Op.Accumulates(n) }

func (c *compiler) compile(s *plan.Step) (*instance, error) {
	n := s.Node
	build := c.backend.builders[n.Op]
	if build == nil || len(n.Outputs) != 1 {
		return nil, backend.ErrUnsupported
	}
	c.node, c.mode, c.depth = n, s.Mode, 1
	if s.Mode == plan.Whole && accumulates(n) {
		c.mode = plan.Accumulate
	}
	c.inst = &instance{node: n, mode: s.Mode, in: s.In, out: s.Out, samples: 1}
	switch c.mode {
	case plan.Accumulate:
		if n.Op.Accumulates == nil || !n.Op.Accumulates(n) {
			return nil, fmt.Errorf("it cannot be accumulated plane by plane: %w", backend.ErrUnsupported)
		}
		c.depth = n.Inputs[0].Shape()[1]
		n = plan.OnePlane(n, c.depth)
	case plan.Slab:
		if !n.Out().HasDepth() || n.Op.Slab == nil {
			return nil, fmt.Errorf("it cannot run on slabs: %w", backend.ErrUnsupported)
		}
		c.depth = n.Out().Shape()[1]
		if !n.Op.AcrossPlanes {
			n = plan.OnePlane(n, c.depth)
		}
	default:
		if n.Op.AcrossPlanes && len(n.Out().Shape()) == 5 {
			c.depth, c.inst.samples = n.Out().Shape()[1], n.Out().Shape()[0]
		}
	}
	if err := c.locate(s); err != nil {
		return nil, err
	}
	var err error
	if c.inst.run, err = build(c, n); err != nil {
		return nil, err
	}
	for i, v := range c.node.Inputs {
		if at := &c.inst.places[i]; v != nil && v.Const != nil && at.bytes > 0 {
			at.constant = c.floats(v)
		}
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
		at := operand{value: v, buffer: -1, places: 1}
		if v == nil {
			inst.places = append(inst.places, at)
			continue
		}
		at.bytes = v.Type.Elem.Bytes(v.Shape().Elements())
		at.stride = at.bytes
		ring := 0
		if v.Const == nil {
			at.buffer = buffers[i]
			if at.buffer < 0 || at.buffer >= len(c.plan.Buffers) || !slices.Contains(c.plan.Buffers[at.buffer].Values, v) {
				return fmt.Errorf("%v has no buffer in the plan", v)
			}
			ring = c.plan.Buffers[at.buffer].Planes
		}
		axis := -1
		switch {
		case n.Op.AcrossPlanes:
			if len(v.Shape()) == 5 { // the samples of a batch follow one another
				axis = 1
			}
		case c.mode != plan.Whole:
			axis = plan.DepthAxis(v, c.depth)
		}
		if c.mode == plan.Whole {
			if ring > 0 && ring != v.Shape()[1] {
				return fmt.Errorf("%v is wanted whole, and has %d of its planes", v, ring)
			}
			if err := checkPacked(v, ring > 0 || axis >= 0); err != nil {
				return err
			}
		} else if err := checkPacked(v, ring == 0 && axis >= 0); err != nil {
			return err
		}
		switch {
		case axis >= 0:
			at.depth = v.Shape()[axis] > 1
			if at.places = ring; ring == 0 {
				at.places = v.Shape()[axis]
			}
			at.stride = v.Type.Elem.Bytes(v.Shape()[axis+1:].Elements())
			if axis == 1 && v.Shape()[0] > 1 {
				at.bytes = v.Type.Elem.Bytes(v.Shape().Elements())
			} else {
				at.bytes = at.places * at.stride
			}
		case n.Op == op.Reshape && c.mode == plan.Slab: // the same bytes, whatever the axes
			at.places = c.depth
			at.stride = at.bytes / c.depth
			at.depth = true
		}
		inst.places = append(inst.places, at)
	}
	return nil
}

// checkPacked refuses bits that are read both whole and by planes, since planes begin at whole words.
func checkPacked(v *ir.Value, both bool) error {
	if s := v.Shape(); both && v.Type.Elem == tensor.Bit && len(s) == 5 && s[2:].Elements()%64 != 0 {
		return fmt.Errorf("%v is used both whole and by planes: %w", v, backend.ErrUnsupported)
	}
	return nil
}

// wraps reports whether consecutive planes of a value with depth planes can be in two pieces.
func (at *operand) wraps(p *plan.Plan, depth int) bool {
	return at.buffer >= 0 && at.places < depth && !p.Buffers[at.buffer].Doubled
}

// in returns the place of input i, out that of the output.
func (c *compiler) in(i int) *operand { return &c.inst.places[i] }
func (c *compiler) out() *operand     { return &c.inst.places[len(c.inst.places)-1] }

// packed says that input i, a constant, is not read in its stored form: the builder takes the form that it needs with pack.
func (c *compiler) packed(i int) { c.inst.places[i].bytes = 0 }

// floats returns a constant as float32 on the device.
func (c *compiler) floats(v *ir.Value) *devmem.Constant {
	return c.pack(v, "float32", 4*v.Shape().Elements(), func(dst []byte) { copy(as[float32](dst), v.Const.Float32s()) })
}

// pack returns a constant in the form that fill writes, in device memory of that many bytes. Form is comparable and tells the forms of a constant
// apart; the same form is made once for all programs of the backend. Fill is called when the program is loaded, with zeroed memory.
func (c *compiler) pack(v *ir.Value, form any, bytes int, fill func(dst []byte)) *devmem.Constant {
	return c.weights.Add(devmem.ConstantKey{Data: v.Const, Form: form}, bytes, fill)
}

// needScratch asks for bytes of memory that hold nothing between steps; q.scratch is its address.
func (c *compiler) needScratch(bytes int) { c.inst.scratch = max(c.inst.scratch, bytes) }

// needState asks for bytes of memory that the instance keeps between steps; q.state is its address. It is not cleared.
func (c *compiler) needState(bytes int) { c.inst.state = max(c.inst.state, bytes) }

// kernel finds a kernel by name.
func (c *compiler) kernel(name string) (*driver.Function, error) {
	return c.backend.kernels.function(name)
}

// requireConstant refuses a value that is computed while the plan runs where a kernel must pack it beforehand.
func requireConstant(v *ir.Value, what string) error {
	if v.Const == nil {
		return fmt.Errorf("%s must be constant, but %v (%q) is computed: %w", what, v, v.Name, backend.ErrUnsupported)
	}
	return nil
}
