package onnx

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/tensor"
)

// call is one node being imported. Rules use its methods without looking at errors: the first one ends the rule by a panic
// with an abort, which run turns into an error.
type call struct {
	im      *importer
	f       *frame
	n       *Node
	in      []*slot // nil where an optional input is absent
	opset   int
	b       *ir.Builder
	info    *NodeInfo
	inlined bool
	empty   map[int]*literal // outputs without elements
}

type abort struct{ err error }

func (im *importer) newCall(f *frame, n *Node) *call {
	c := &call{im: im, f: f, n: n, opset: f.opsets[n.Domain], b: ir.NewBuilder(im.g)}
	c.info = &NodeInfo{Index: im.index, Name: f.prefix + n.Name, Op: n.Op, Domain: n.Domain, Opset: c.opset}
	c.info.locate(n, f.scope)
	c.b.Name, c.b.Scope = c.info.Name, c.info.Scope
	c.in = make([]*slot, len(n.Inputs))
	return c
}

// where describes the node in errors.
func (c *call) where() string {
	s := fmt.Sprintf("node %q (%s, opset %d", c.info.Name, c.n.Op, c.opset)
	if c.info.Scope != "" {
		s += ", in module " + c.info.Scope
	}
	return fmt.Sprintf("%s, node %d of %d)", s, c.info.Index+1, len(c.im.m.Graph.Nodes))
}

// badf ends the rule: the file contradicts itself.
func (c *call) badf(format string, args ...any) {
	panic(abort{&FormatError{Path: c.im.m.Path, Offset: -1, Where: c.where(), Err: fmt.Errorf(format, args...)}})
}

func (c *call) unsupportedf(format string, args ...any) *UnsupportedError {
	return &UnsupportedError{Path: c.im.m.Path, Node: c.info.Name, Op: c.n.Op, Domain: c.n.Domain, Opset: c.opset,
		Scope: c.info.Scope, Index: c.info.Index, Count: len(c.im.m.Graph.Nodes), Reason: fmt.Sprintf(format, args...)}
}

// refuse ends the rule: the program lacks something. advice may be "".
func (c *call) refuse(advice, format string, args ...any) {
	e := c.unsupportedf(format, args...)
	e.Advice = advice
	panic(abort{e})
}

// internalError says that a rule failed on a model that it should have refused.
type internalError struct{ cause error }

func (e *internalError) Error() string { return "internal error: " + e.cause.Error() }
func (e *internalError) Unwrap() error { return e.cause }

// run imports the node and returns its outputs.
func (c *call) run() (outs []*slot, err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case abort:
			outs, err = nil, r.err
		case runtime.Error: // an index that no check of a hostile file caught: an error all the same
			outs, err = nil, &FormatError{Path: c.im.m.Path, Offset: -1, Where: c.where(), Err: &internalError{r}}
		default:
			panic(r)
		}
	}()
	c.alive()
	c.hold(nodeBytes+len(c.info.Name)+len(c.info.Scope), "the node")
	var spoilt error
	for i, name := range c.n.Inputs {
		if name == "" {
			continue
		}
		s := c.f.find(name)
		if s == nil {
			c.badf("nothing computes its input %q", name)
		}
		if s.err != nil && spoilt == nil {
			spoilt = s.err
		}
		c.in[i] = s
	}
	if spoilt != nil {
		return nil, spoilt
	}
	if fn := c.im.m.Functions[FunctionID{c.n.Domain, c.n.Op, c.n.Overload}]; fn != nil {
		return c.inline(fn), nil
	}
	if c.n.Domain != "" {
		c.refuse(adviceFor(c.n), "operations of the domain %q are not supported", c.n.Domain)
	}
	if rule := special[c.n.Op]; rule != nil {
		return rule(c), nil
	}
	if outs, ok := c.fold(); ok {
		return outs, nil
	}
	rule, ok := rules[c.n.Op]
	if !ok {
		c.refuse(adviceFor(c.n), "the operation is not supported")
	}
	if c.opset < rule.since {
		c.refuse(fmt.Sprintf("export the model with opset %d or later", max(rule.since, 13)),
			"its form before opset %d is not supported", rule.since)
	}
	for _, s := range c.in {
		if s != nil && s.isSeq {
			c.refuse("", "sequences of tensors are not supported here")
		}
	}
	whole, large := len(c.in) > 0, len(c.in) > 0
	for _, s := range c.in {
		whole, large = whole && (s == nil || s.integral()), large && (s == nil || s.lit != nil || s.large)
	}
	for k, v := range rule.run(c) {
		if v == nil {
			if l := c.empty[k]; l != nil {
				outs = append(outs, &slot{lit: l})
			} else {
				outs = append(outs, nil)
			}
			continue
		}
		s := &slot{value: v, truth: rule.truth, whole: whole && !rule.truth, large: large}
		outs = append(outs, s)
	}
	return outs, nil
}

// fold computes a node whose inputs are all known.
func (c *call) fold() (outs []*slot, ok bool) {
	eval := evals[c.n.Op]
	if eval == nil {
		return nil, false
	}
	var params []string
	for _, s := range c.in {
		if s == nil {
			continue
		}
		if s.lit == nil {
			return nil, false
		}
		if len(params) < 16 {
			params = appendNew(params, s.lit.params...)
		}
	}
	defer func() {
		if r := recover(); r != nil {
			if a, is := r.(abort); is && errors.Is(a.err, errTooMuch) && rules[c.n.Op].run != nil {
				outs, ok = nil, false
				return
			}
			panic(r)
		}
	}()
	for _, l := range eval(c) {
		if l == nil {
			outs = append(outs, nil)
			continue
		}
		if len(l.params) == 0 {
			l.params = params
		}
		c.pack(l)
		outs = append(outs, &slot{lit: l})
	}
	return outs, true
}

// elements returns the number of elements of a shape that a file asks for.
func (c *call) elements(shape tensor.Shape) int {
	if len(shape) > maxRank {
		c.badf("a tensor of %d axes is not possible", len(shape))
	}
	n := 1
	for _, d := range shape {
		if d < 0 || d > 0 && n > tensor.MaxElements/d {
			c.badf("a tensor of shape %v is not possible", shape)
		}
		n *= d
	}
	return n
}

// has reports whether optional input i is there.
func (c *call) has(i int) bool { return i < len(c.in) && c.in[i] != nil }

func (c *call) slot(i int) *slot {
	if !c.has(i) {
		c.badf("its input number %d is missing", i+1)
	}
	return c.in[i]
}

// shape returns the shape of input i.
func (c *call) shape(i int) tensor.Shape {
	s := c.slot(i)
	if s.isSeq {
		c.refuse("", "sequences of tensors are not supported here")
	}
	return s.shape()
}

// lit returns input i, which must be known at import.
func (c *call) lit(i int) *literal {
	s := c.slot(i)
	if s.large {
		c.refuse("", "its input %q is a constant that is too large to compute at import", c.n.Inputs[i])
	}
	if s.lit == nil {
		c.refuse("make it a constant in the model's code, or export with static shapes",
			"its input %q depends on the values of the volume, not only on its shape", c.n.Inputs[i])
	}
	return s.lit
}

// known returns input i if it is known at import, else nil.
func (c *call) known(i int) *literal {
	if !c.has(i) {
		return nil
	}
	return c.in[i].lit
}

// x returns input i as a value of the graph.
func (c *call) x(i int) *ir.Value { return c.valueOf(c.slot(i)) }

// optional returns input i, nil if it is absent.
func (c *call) optional(i int) *ir.Value {
	if !c.has(i) {
		return nil
	}
	return c.x(i)
}

func (c *call) valueOf(s *slot) *ir.Value {
	if s.isSeq {
		c.refuse("", "sequences of tensors are not supported here")
	}
	if s.lit == nil {
		return s.value
	}
	if s.lit.len() == 0 {
		c.refuse("", "an input of shape %v is empty", s.lit.shape)
	}
	first := s.lit.value == nil
	if first && s.lit.same == nil && s.lit.stored == nil && !s.lit.splat() {
		c.hold(4*s.lit.len(), "a constant of shape %v", s.lit.shape)
	}
	v := s.lit.emit(c.im.g, c.b)
	c.check()
	if v.Def != nil {
		c.tables(v.Def)
	}
	s.keep()
	if first && s.lit.value != nil && s.lit.name != "" {
		c.im.out.Names[s.lit.name] = v
	}
	return v
}

// check ends the rule if the builder failed.
func (c *call) check() {
	if err := c.b.Err(); err != nil {
		c.badf("%w", err)
	}
}

// emit appends an operation.
func (c *call) emit(o *ir.Op, attr any, in ...*ir.Value) *ir.Value {
	v := c.b.Emit(o, attr, in...)
	c.check()
	c.tables(v.Def)
	return v
}

// axis returns an attribute that names an axis.
func (c *call) axis(name string, missing, rank int) int {
	a, ok := axisOf(c.n.int(name, missing), rank)
	if !ok {
		c.badf("it names axis %d of a tensor of rank %d", c.n.int(name, missing), rank)
	}
	return a
}

// axes returns the axes named by the attribute, or since an opset by input i; nil if there are none.
func (c *call) axes(i, rank int) []int {
	axes := c.n.ints("axes")
	if c.has(i) {
		axes = c.list(i)
	}
	if axes == nil {
		return nil
	}
	out, ok := axesOf(axes, rank)
	if !ok {
		c.badf("axes %v do not fit a tensor of rank %d", axes, rank)
	}
	return out
}

// maxList bounds lists of axes, sizes and paddings, and the parts that a tensor is split into.
const maxList = 1 << 14

// list returns input i, a short list of whole numbers known at import.
func (c *call) list(i int) []int {
	l := c.lit(i)
	n := c.few(l.len())
	out := make([]int, n)
	for j := range out {
		out[j] = int(l.int(j))
	}
	return out
}

// few checks a number of things that are held one by one.
func (c *call) few(n int) int {
	if n > maxList {
		c.badf("it works on %d things one by one; %d is the most that is possible", n, maxList)
	}
	return n
}

// number returns input i, a single whole number known at import.
func (c *call) number(i int) int {
	l := c.lit(i)
	if l.len() != 1 {
		c.badf("its input number %d has %d elements, not one", i+1, l.len())
	}
	return int(l.int(0))
}
