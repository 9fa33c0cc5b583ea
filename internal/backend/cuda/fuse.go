package cuda

import (
	"context"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
)

// epilogue is the function that a convolution applies to its sums before it stores them: y = activation(sum + bias + residual).
type epilogue struct {
	residual   *operand // planes like those of the output; nil for none
	activation string   // an operation of one variable without parameters; "" for none
}

// activations are the functions that convolutions apply themselves.
var activations = map[*ir.Op]bool{op.UnaryOp("Relu"): true, op.UnaryOp("Silu"): true}

// fusion is a convolution with the steps behind it that it does as its epilogue. They follow one another in the plan, and work in
// place on its output, so that the plan stays as it is; values that are not read are not stored.
type fusion struct {
	instance *instance
	steps    int
}

// fuse finds, for each step of the plan, the fusion that begins there, or nil.
func (c *compiler) fuse(ctx context.Context, steps []step, instances []*instance) (fused []*fusion, all []*instance, err error) {
	type key struct {
		conv, add, act *instance
	}
	made := map[key]*fusion{}
	fused = make([]*fusion, len(steps))
	for i := range steps {
		conv := &c.plan.Steps[i]
		if conv.Node.Op != op.Conv && conv.Node.Op != op.ConvBackwardData || c.plan.Buffers[conv.Out[0]].External {
			continue
		}
		e, k, next := epilogue{}, key{conv: steps[i].instance}, i+1
		if next < len(steps) && c.addsInPlace(conv, &c.plan.Steps[next]) {
			k.add = steps[next].instance
			e.residual = residual(conv, &c.plan.Steps[next], c.plan)
			next++
		}
		if next < len(steps) && c.appliesInPlace(&c.plan.Steps[next-1], &c.plan.Steps[next]) {
			k.act = steps[next].instance
			e.activation = c.plan.Steps[next].Node.Op.Name
			next++
		}
		if next == i+1 {
			continue
		}
		f, known := made[k]
		if !known {
			if f, err = c.fusion(ctx, conv, e, next-i); err != nil {
				return nil, nil, err
			}
			made[k] = f
			if f != nil {
				instances = append(instances, f.instance)
			}
		}
		fused[i] = f
	}
	return fused, instances, nil
}

// fusion compiles a convolution with an epilogue; nil if its kernel has none.
func (c *compiler) fusion(ctx context.Context, s *plan.Step, e epilogue, steps int) (*fusion, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.epilogue, c.taken = e, false
	inst, err := c.compile(s)
	taken := c.taken
	c.epilogue, c.taken = epilogue{}, false
	if err != nil || !taken {
		return nil, err
	}
	return &fusion{inst, steps}, nil
}

// takeEpilogue returns the epilogue of the convolution, for builders whose kernel computes it. Other builders do not call it.
func (c *compiler) takeEpilogue() epilogue {
	c.taken = true
	return c.epilogue
}

// follows reports whether step b works in place on the value that step a stores, and on the same planes.
func follows(a, b *plan.Step) bool {
	return b.InPlace() && b.In[0] == a.Out[0] && b.Node.Inputs[0] == a.Node.Out() && b.Mode == a.Mode && b.Z0 == a.Z0 && b.Z1 == a.Z1
}

// addsInPlace reports whether step b adds a tensor of the same shape to the value that step a stores.
func (c *compiler) addsInPlace(a, b *plan.Step) bool {
	if b.Node.Op != op.BinaryOp("Add") || !follows(a, b) {
		return false
	}
	other := b.Node.Inputs[1]
	return other.Const == nil && b.In[1] != b.In[0] && !c.plan.Buffers[b.In[1]].External && other.Shape().Equal(a.Node.Out().Shape())
}

// appliesInPlace reports whether step b applies an activation to the value that step a stores.
func (c *compiler) appliesInPlace(a, b *plan.Step) bool {
	return activations[b.Node.Op] && follows(a, b)
}

// residual returns the other operand of step add, seen across planes as the output of step conv is.
func residual(conv, add *plan.Step, p *plan.Plan) *operand {
	v := add.Node.Inputs[1]
	s := v.Shape()
	at := &operand{value: v, buffer: add.In[1], places: s[1], stride: v.Type.Elem.Bytes(s[2:].Elements()), depth: s[1] > 1}
	if ring := p.Buffers[at.buffer].Planes; ring > 0 && conv.Mode == plan.Slab {
		at.places = ring
	}
	at.bytes = at.places * at.stride
	return at
}
