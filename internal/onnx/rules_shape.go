package onnx

import (
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

func importReshape(c *call) []*ir.Value {
	return []*ir.Value{c.reshape(c.x(0), c.reshapeTo(c.shape(0), c.reshapeWanted()))}
}

func importFlatten(c *call) []*ir.Value {
	return []*ir.Value{c.reshape(c.x(0), c.flattenTo(c.shape(0)))}
}

func importSqueeze(c *call) []*ir.Value {
	return []*ir.Value{c.reshape(c.x(0), c.squeezeTo(c.shape(0)))}
}

func importUnsqueeze(c *call) []*ir.Value {
	return []*ir.Value{c.reshape(c.x(0), c.unsqueezeTo(c.shape(0)))}
}

func importTranspose(c *call) []*ir.Value {
	return []*ir.Value{c.transpose(c.x(0), c.permutation(len(c.shape(0))))}
}

func importExpand(c *call) []*ir.Value {
	return []*ir.Value{c.expand(c.x(0), c.expandTo(c.shape(0)))}
}

func importTile(c *call) []*ir.Value {
	x := c.x(0)
	s := x.Shape()
	var ones, pairs, result tensor.Shape
	for i, r := range c.repeats(s) {
		if r < 1 {
			c.refuse("", "it repeats axis %d %d times", i, r)
		}
		ones, pairs, result = append(ones, 1, s[i]), append(pairs, r, s[i]), append(result, r*s[i])
	}
	return []*ir.Value{c.reshape(c.expand(c.reshape(x, ones), pairs), result)}
}

func importConcat(c *call) []*ir.Value {
	parts := make([]*slot, len(c.in))
	for i := range c.in {
		parts[i] = c.slot(i)
	}
	if len(parts) == 0 {
		c.badf("it joins nothing")
	}
	s := c.concatSlots(parts, c.axis("axis", 1, len(c.shape(0))))
	return []*ir.Value{s.value}
}

func importSplit(c *call) []*ir.Value {
	x := c.x(0)
	s := x.Shape()
	axis := c.axis("axis", 0, len(s))
	var out []*ir.Value
	at := 0
	for _, d := range c.splitSizes(s[axis], len(c.n.Outputs)) {
		ranges := wholeRanges(s)
		ranges[axis] = sliceRange{at, 1, d}
		out = append(out, c.sliceOrNothing(len(out), x, ranges))
		at += d
	}
	return out
}

func importSlice(c *call) []*ir.Value {
	return []*ir.Value{c.sliceOrNothing(0, c.x(0), c.sliceRanges(c.shape(0)))}
}

// sliceOrNothing computes output k of the node. One without elements is known, and a constant.
func (c *call) sliceOrNothing(k int, x *ir.Value, ranges []sliceRange) *ir.Value {
	shape := make(tensor.Shape, len(ranges))
	for i, r := range ranges {
		shape[i] = r.count
	}
	if shape.Elements() > 0 {
		return c.slice(x, ranges)
	}
	if c.empty == nil {
		c.empty = map[int]*literal{}
	}
	c.empty[k] = newLiteral(tensor.F32, shape)
	return nil
}

// gather takes elements along an axis, by a slice where the indices are evenly spaced.
func (c *call) gather(x *ir.Value, axis int, index []int) *ir.Value {
	step := 1
	if len(index) > 1 {
		step = index[1] - index[0]
	}
	even := step != 0
	for i := 1; i < len(index); i++ {
		even = even && index[i]-index[i-1] == step
	}
	if even {
		ranges := wholeRanges(x.Shape())
		ranges[axis] = sliceRange{index[0], step, len(index)}
		return c.slice(x, ranges)
	}
	return c.emit(op.Gather, op.GatherAttr{Axis: axis, Index: index}, x)
}

func importGather(c *call) []*ir.Value {
	x, l := c.x(0), c.lit(1)
	s := x.Shape()
	axis := c.axis("axis", 0, len(s))
	if l.len() == 0 {
		c.refuse("", "it takes nothing of %v", s)
	}
	shape := tensor.Shape(slices.Concat(s[:axis], l.shape, s[axis+1:]))
	c.elements(shape)
	index := c.indices(l.len())
	for i := range index {
		index[i] = c.index(l.int(i), s[axis])
	}
	return []*ir.Value{c.reshape(c.gather(x, axis, index), shape)}
}

// pickFlat reads the elements, or runs of elements, at known places of a tensor flattened to [places, run].
func (c *call) pickFlat(x *ir.Value, run int, index []int, shape tensor.Shape) *ir.Value {
	flat := c.reshape(x, tensor.Shape{x.Shape().Elements() / run, run})
	return c.reshape(c.gather(flat, 0, index), shape)
}

func importGatherElements(c *call) []*ir.Value {
	x, l := c.x(0), c.lit(1)
	s := x.Shape()
	axis := c.axis("axis", 0, len(s))
	if len(l.shape) != len(s) || l.len() == 0 {
		c.badf("indices %v do not fit %v", l.shape, s)
	}
	c.within(s, l.shape, axis)
	own := s.Strides()
	strides := slices.Clone(own)
	strides[axis] = 0
	index := c.indices(l.len())
	c.walk(l.shape, [][]int{strides}, func(i int, at []int) {
		index[i] = at[0] + c.index(l.int(i), s[axis])*own[axis]
	})
	return []*ir.Value{c.pickFlat(x, 1, index, l.shape)}
}

func importGatherND(c *call) []*ir.Value {
	x, l := c.x(0), c.lit(1)
	s := x.Shape()
	lead := c.n.int("batch_dims", 0)
	if lead < 0 || lead >= len(l.shape) || lead > len(s) || !s[:lead].Equal(l.shape[:lead]) || l.len() == 0 {
		c.badf("%d batch axes do not fit %v and %v", lead, s, l.shape)
	}
	k := c.tuples(l, s, lead)
	run := s[lead+k:].Elements()
	own := s.Strides()
	perBatch, batchSize := l.shape[lead:len(l.shape)-1].Elements(), s[lead:].Elements()
	index := c.indices(l.len() / k)
	for i := range index {
		index[i] = (i/perBatch*batchSize + c.offset(l, i, k, s[lead:], own[lead:])) / run
	}
	return []*ir.Value{c.pickFlat(x, run, index, slices.Concat(l.shape[:len(l.shape)-1], s[lead+k:]))}
}

func importScatterND(c *call) []*ir.Value {
	s, l := c.shape(0), c.lit(1)
	k := c.tuples(l, s, 0)
	run := s[k:].Elements()
	count := l.len() / k
	own := s.Strides()
	places := c.indices(count)
	for i := range places {
		places[i] = c.offset(l, i, k, s, own) / run
	}
	return []*ir.Value{c.scatter(run, places)}
}

func importScatterElements(c *call) []*ir.Value {
	s, l := c.shape(0), c.lit(1)
	axis := c.axis("axis", 0, len(s))
	if len(l.shape) != len(s) {
		c.badf("indices %v do not fit %v", l.shape, s)
	}
	c.within(s, l.shape, axis)
	own := s.Strides()
	strides := slices.Clone(own)
	strides[axis] = 0
	places := c.indices(l.len())
	c.walk(l.shape, [][]int{strides}, func(i int, at []int) {
		places[i] = at[0] + c.index(l.int(i), s[axis])*own[axis]
	})
	return []*ir.Value{c.scatter(1, places)}
}

// scatter writes the third input, as rows of run elements, over known rows of the first: it chooses for each place between
// the data and the last update that names it.
func (c *call) scatter(run int, places []int) *ir.Value {
	s := c.shape(0)
	if c.shape(2).Elements() != len(places)*run {
		c.badf("updates %v do not fit %d places of %v", c.shape(2), len(places), s)
	}
	if r := c.n.text("reduction", "none"); r != "none" {
		c.refuse("", "the reduction %q is not supported", r)
	}
	if len(places) == 0 {
		return c.x(0)
	}
	rows := s.Elements() / run
	index := c.indices(rows)
	for i := range index {
		index[i] = i
	}
	for i, p := range places {
		index[p] = rows + i
	}
	both := c.emit(op.Concat, op.ConcatAttr{Axis: 0},
		c.reshape(c.x(0), tensor.Shape{rows, run}), c.reshape(c.x(2), tensor.Shape{len(places), run}))
	return c.reshape(c.gather(both, 0, index), s)
}
