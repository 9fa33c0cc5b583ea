package onnx

import (
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// special are the operations that do something with names, types, or sequences rather than with numbers.
var special map[string]func(c *call) []*slot

func init() {
	special = map[string]func(c *call) []*slot{
		"Identity": importIdentity, "Dropout": importDropout, "Constant": importConstant, "Shape": importShape, "Size": importSize,
		"Cast": importCast, "CastLike": importCast, "If": importIf,
		"SequenceConstruct": importSequenceConstruct, "SequenceAt": importSequenceAt, "SequenceLength": importSequenceLength,
		"SequenceEmpty": importSequenceConstruct, "SequenceInsert": importSequenceInsert,
		"SplitToSequence": importSplitToSequence, "ConcatFromSequence": importConcatFromSequence,
	}
}

func literals(l ...*literal) []*slot {
	out := make([]*slot, len(l))
	for i := range l {
		out[i] = &slot{lit: l[i]}
	}
	return out
}

func importIdentity(c *call) []*slot {
	s := *c.slot(0)
	if s.lit != nil && len(c.n.Outputs) > 0 {
		s.lit = s.lit.alias(c.f.prefix + c.n.Outputs[0])
	}
	return []*slot{&s}
}

// importDropout passes its input on, as it does outside of training. Nothing here reads the mask.
func importDropout(c *call) []*slot {
	if c.has(2) && c.number(2) != 0 {
		ratio := c.known(1)
		if ratio == nil || ratio.len() != 1 || ratio.float(0) != 0 {
			c.refuse("call model.eval() before exporting, without training=TrainingMode.TRAINING", "the model was exported in training mode")
		}
	}
	s := *c.slot(0)
	return []*slot{&s}
}

func importConstant(c *call) []*slot {
	for name, a := range c.n.Attributes {
		switch name {
		case "value":
			if a.Tensor == nil {
				c.badf("its value is missing")
			}
			l := *c.literalOf(a.Tensor)
			l.name, l.params = "", nil
			return literals(&l)
		case "value_float":
			return literals(floatLiteral(tensor.F32, tensor.Shape{}, []float64{float64(a.Float)}))
		case "value_int":
			return literals(intLiteral(tensor.Shape{}, a.Int))
		case "value_floats":
			values := make([]float64, len(a.Floats))
			for i, v := range a.Floats {
				values[i] = float64(v)
			}
			return literals(floatLiteral(tensor.F32, tensor.Shape{len(values)}, values))
		case "value_ints":
			return literals(intLiteral(tensor.Shape{len(a.Ints)}, slices.Clone(a.Ints)...))
		}
	}
	c.refuse("", "constants of this kind are not supported")
	return nil
}

func importShape(c *call) []*slot {
	s := c.shape(0)
	start, end := c.n.int("start", 0), c.n.int("end", len(s))
	if start < 0 {
		start += len(s)
	}
	if end < 0 {
		end += len(s)
	}
	start, end = min(max(start, 0), len(s)), min(max(end, 0), len(s))
	values := []int64{}
	for i := start; i < end; i++ {
		values = append(values, int64(s[i]))
	}
	return literals(intLiteral(tensor.Shape{len(values)}, values...))
}

func importSize(c *call) []*slot {
	return literals(intLiteral(tensor.Shape{}, int64(c.elements(c.shape(0)))))
}

// importCast converts constants, and lets floating-point numbers of any size pass: the graph computes in float32.
func importCast(c *call) []*slot {
	elem := tensor.F32
	var truthful, whole bool
	if c.n.Op == "CastLike" {
		like := c.slot(1)
		switch {
		case like.lit != nil:
			elem = like.lit.elem
		case like.truth:
			elem = tensor.Bool
		case like.whole:
			elem = tensor.I64
		}
	} else {
		elem = c.elemOf(c.n.int("to", typeFloat))
	}
	truthful, whole = elem == tensor.Bool, elem.Integer() && elem != tensor.Bool
	s := *c.slot(0)
	if s.isSeq {
		c.refuse("", "sequences of tensors are not supported here")
	}
	if s.lit != nil {
		return literals(c.castLiteral(s.lit, elem))
	}
	switch {
	case truthful && !s.truth:
		s.value = c.not(c.emit(op.BinaryOp("Equal"), nil, s.value, c.b.Scalar(0)))
	case whole && !s.truth && !s.whole:
		s.value = c.truncated(s.value)
	}
	s.truth, s.whole = truthful || s.truth && !whole && elem.Integer(), whole
	return []*slot{&s}
}

// truncated emits x cut towards zero.
func (c *call) truncated(x *ir.Value) *ir.Value {
	return c.binary("Mul", c.unary("Sign", x), c.unary("Floor", c.unary("Abs", x)))
}

func (c *call) castLiteral(l *literal, elem tensor.Elem) *literal {
	if l.elem == elem {
		twin := *l
		twin.same = l
		return &twin
	}
	n, shape := l.len(), l.shape
	if n > 0 && l.splat() {
		n, shape = 1, tensor.Shape{1}
	}
	out := c.alloc(elem, shape)
	for i := range n {
		switch {
		case elem == tensor.Bool:
			out.ints[i] = truth(l.float(i) != 0)
		case out.isInt():
			out.ints[i] = wrapTo(elem, l.int(i))
		default:
			out.floats[i] = roundTo(elem, l.float(i))
		}
	}
	out.shape, out.params = l.shape, l.params
	c.pack(out)
	return out
}

// importIf imports the branch that a known condition chooses.
func importIf(c *call) []*slot {
	name := "else_branch"
	if c.number(0) != 0 {
		name = "then_branch"
	}
	a := c.n.Attributes[name]
	if a == nil || a.Graph == nil {
		c.badf("it has no %s", name)
	}
	c.inlined = true
	inner := &frame{outer: c.f, slots: map[string]*slot{}, opsets: c.f.opsets, attrs: c.f.attrs, prefix: c.f.prefix, scope: c.info.Scope, depth: c.f.depth + 1}
	c.body(inner, a.Graph.Initializers, a.Graph.Nodes)
	var outs []*slot
	for _, o := range a.Graph.Outputs {
		outs = append(outs, c.result(inner, o.Name))
	}
	return outs
}

// body imports the nodes of a branch or a function.
func (c *call) body(f *frame, constants []*Tensor, nodes []*Node) {
	if f.depth > maxDepth {
		c.badf("functions and branches nest more than %d deep", maxDepth)
	}
	if err := c.im.initializers(f, &Graph{Initializers: constants}); err != nil {
		panic(abort{err})
	}
	if err := c.im.run(f, nodes); err != nil {
		panic(abort{err})
	}
}

// result returns an output of a branch or a function.
func (c *call) result(f *frame, name string) *slot {
	s := f.find(name)
	if s == nil {
		c.badf("nothing computes the output %q inside it", name)
	}
	return s
}

// inline imports the body of a function in the place of its call.
func (c *call) inline(fn *Function) []*slot {
	c.inlined = true
	name := c.info.Name
	if name == "" && len(c.n.Outputs) > 0 {
		name = c.f.prefix + c.n.Outputs[0]
	}
	inner := &frame{slots: map[string]*slot{}, opsets: fn.Opsets, attrs: map[string]*Attribute{}, prefix: name + "/",
		scope: c.info.Scope, depth: c.f.depth + 1}
	for k, a := range fn.Defaults {
		inner.attrs[k] = a
	}
	for k, a := range c.n.Attributes {
		inner.attrs[k] = a
	}
	for i, input := range fn.Inputs {
		if c.has(i) {
			inner.slots[input] = c.in[i]
		}
	}
	absent := fn.Inputs[min(len(c.in), len(fn.Inputs)):]
	c.body(inner, nil, withoutInputs(fn.Nodes, absent))
	var outs []*slot
	for _, o := range fn.Outputs {
		outs = append(outs, c.result(inner, o))
	}
	return outs
}

// withoutInputs makes the inputs that a call leaves out absent in the nodes that would read them.
func withoutInputs(nodes []*Node, absent []string) []*Node {
	if len(absent) == 0 {
		return nodes
	}
	out := slices.Clone(nodes)
	for i, n := range out {
		if slices.ContainsFunc(n.Inputs, func(s string) bool { return slices.Contains(absent, s) }) {
			twin := *n
			twin.Inputs = slices.Clone(n.Inputs)
			for k, s := range twin.Inputs {
				if slices.Contains(absent, s) {
					twin.Inputs[k] = ""
				}
			}
			out[i] = &twin
		}
	}
	return out
}

func importSequenceConstruct(c *call) []*slot {
	s := &slot{isSeq: true}
	for i := range c.in {
		s.seq = append(s.seq, c.slot(i))
	}
	return []*slot{s}
}

func (c *call) sequence(i int) []*slot {
	s := c.slot(i)
	if !s.isSeq {
		c.badf("its input number %d is not a sequence", i+1)
	}
	return s.seq
}

func (c *call) place(i, n int) int {
	return c.index(int64(c.number(i)), n)
}

func importSequenceAt(c *call) []*slot {
	seq := c.sequence(0)
	s := *seq[c.place(1, len(seq))]
	return []*slot{&s}
}

func importSequenceLength(c *call) []*slot {
	return literals(intLiteral(tensor.Shape{}, int64(len(c.sequence(0)))))
}

func importSequenceInsert(c *call) []*slot {
	seq := c.sequence(0)
	at := len(seq)
	if c.has(2) {
		at = c.place(2, len(seq)+1)
	}
	return []*slot{{isSeq: true, seq: slices.Insert(slices.Clone(seq), at, c.slot(1))}}
}

func importSplitToSequence(c *call) []*slot {
	s := c.shape(0)
	axis := c.axis("axis", 0, len(s))
	n := s[axis]
	var sizes []int
	squeeze := false
	switch {
	case !c.has(1):
		sizes, squeeze = slices.Repeat([]int{1}, c.few(n)), c.n.int("keepdims", 1) == 0
	case len(c.lit(1).shape) == 0:
		part := c.number(1)
		if part < 1 {
			c.badf("it splits into parts of %d", part)
		}
		c.few(n / part)
		for rest := n; rest > 0; rest -= part {
			sizes = append(sizes, min(part, rest))
		}
	default:
		sizes = c.splitSizes(n, n)
	}
	out := &slot{isSeq: true}
	at := 0
	for _, d := range sizes {
		ranges := wholeRanges(s)
		ranges[axis] = sliceRange{at, 1, d}
		at += d
		part := c.sliceSlot(c.slot(0), ranges)
		if squeeze {
			part = c.reshapeSlot(part, slices.Delete(part.shape().Clone(), axis, axis+1))
		}
		out.seq = append(out.seq, part)
	}
	return []*slot{out}
}

func (c *call) sliceSlot(s *slot, ranges []sliceRange) *slot {
	if s.lit != nil {
		return &slot{lit: c.sliceLiteral(s.lit, ranges)}
	}
	return &slot{value: c.slice(s.value, ranges), truth: s.truth, whole: s.whole}
}

func (c *call) reshapeSlot(s *slot, shape tensor.Shape) *slot {
	if s.lit != nil {
		return &slot{lit: s.lit.withShape(shape)}
	}
	return &slot{value: c.reshape(s.value, shape), truth: s.truth, whole: s.whole}
}

func importConcatFromSequence(c *call) []*slot {
	seq := slices.Clone(c.sequence(0))
	if len(seq) == 0 {
		c.badf("the sequence is empty")
	}
	rank := len(seq[0].shape())
	if c.n.int("new_axis", 0) != 0 {
		axis := c.axis("axis", 0, rank+1)
		for i, s := range seq {
			if len(s.shape()) != rank {
				c.badf("the parts have different ranks")
			}
			seq[i] = c.reshapeSlot(s, slices.Insert(s.shape().Clone(), axis, 1))
		}
		return []*slot{c.concatSlots(seq, axis)}
	}
	return []*slot{c.concatSlots(seq, c.axis("axis", 0, rank))}
}

// concatSlots joins constants at import and anything else in the graph.
func (c *call) concatSlots(parts []*slot, axis int) *slot {
	lits := make([]*literal, 0, len(parts))
	whole, truthful := true, true
	for _, s := range parts {
		if s.lit != nil {
			lits = append(lits, s.lit)
		}
		whole, truthful = whole && s.integral(), truthful && s.truth
	}
	if len(lits) == len(parts) {
		return &slot{lit: c.concat(lits, axis)}
	}
	var values []*ir.Value
	for _, s := range parts {
		if s.lit == nil || s.lit.len() > 0 {
			values = append(values, c.valueOf(s))
		}
	}
	if len(values) == 1 {
		return &slot{value: values[0], whole: whole, truth: truthful}
	}
	return &slot{value: c.emit(op.Concat, op.ConcatAttr{Axis: axis}, values...), whole: whole, truth: truthful}
}
