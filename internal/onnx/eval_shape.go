package onnx

import (
	"math"
	"slices"

	"github.com/voxcam/voxcam/internal/tensor"
)

// The functions of this file that compute shapes serve the evaluator and the rules for the graph alike.

// reshapeTo resolves the 0 and -1 of a wanted shape.
func (c *call) reshapeTo(from tensor.Shape, want []int) tensor.Shape {
	if len(want) > maxRank {
		c.badf("a tensor of %d axes is not possible", len(want))
	}
	out, open, known := slices.Clone(want), -1, 1
	for i, d := range want {
		switch {
		case d == 0 && c.n.int("allowzero", 0) == 0:
			if i >= len(from) {
				c.badf("shape %v keeps axis %d of %v, which has none", want, i, from)
			}
			out[i] = from[i]
		case d == -1:
			if open >= 0 {
				c.badf("shape %v leaves two axes open", want)
			}
			open = i
			continue
		}
		known = c.elements(tensor.Shape{known, out[i]})
	}
	n := c.elements(from)
	if open >= 0 {
		if known == 0 || n%known != 0 {
			c.badf("%v cannot become %v", from, want)
		}
		out[open], known = n/known, n
	}
	if known != n {
		c.badf("%v cannot become %v", from, want)
	}
	return out
}

func (c *call) flattenTo(s tensor.Shape) tensor.Shape {
	axis := c.n.int("axis", 1)
	if axis < 0 {
		axis += len(s)
	}
	if axis < 0 || axis > len(s) {
		c.badf("it flattens %v at axis %d", s, axis)
	}
	return tensor.Shape{c.elements(s[:axis]), c.elements(s[axis:])}
}

func (c *call) squeezeTo(s tensor.Shape) tensor.Shape {
	axes := c.axes(1, len(s))
	var out tensor.Shape
	for i, d := range s {
		listed := slices.Contains(axes, i)
		if listed && d != 1 {
			c.badf("it removes axis %d of %v", i, s)
		}
		if !listed && (axes != nil || d != 1) {
			out = append(out, d)
		}
	}
	return out
}

func (c *call) unsqueezeTo(s tensor.Shape) tensor.Shape {
	count := len(c.n.ints("axes"))
	if c.has(1) {
		count = c.lit(1).len()
	}
	if count > maxRank {
		c.badf("it adds %d axes", count)
	}
	rank := len(s) + count
	axes := c.axes(1, rank)
	out := make(tensor.Shape, 0, rank)
	for i := range rank {
		if slices.Contains(axes, i) {
			out = append(out, 1)
		} else {
			out = append(out, s[0])
			s = s[1:]
		}
	}
	return out
}

func (c *call) permutation(rank int) []int {
	perm := c.n.ints("perm")
	if perm == nil {
		perm = make([]int, rank)
		for i := range perm {
			perm[i] = rank - 1 - i
		}
	}
	sorted, ok := axesOf(perm, rank)
	if !ok || len(sorted) != rank {
		c.badf("%v is not an order of %d axes", perm, rank)
	}
	for i, p := range perm {
		perm[i], _ = axisOf(p, rank)
	}
	return perm
}

// sliceRange is the part of an axis that Slice takes; count may be 0.
type sliceRange struct{ start, step, count int }

// slices resolves the attributes (opset 1) or inputs of Slice for a tensor of the given shape.
func (c *call) sliceRanges(s tensor.Shape) []sliceRange {
	starts, ends, axes, steps := c.n.ints("starts"), c.n.ints("ends"), c.n.ints("axes"), []int(nil)
	if len(c.in) > 1 {
		starts, ends = c.list(1), c.list(2)
		if c.has(3) {
			axes = c.list(3)
		}
		if c.has(4) {
			steps = c.list(4)
		}
	}
	if axes == nil {
		for i := range starts {
			axes = append(axes, i)
		}
	}
	if len(ends) != len(starts) || len(axes) != len(starts) || steps != nil && len(steps) != len(starts) {
		c.badf("starts %v, ends %v, axes %v and steps %v do not fit each other", starts, ends, axes, steps)
	}
	out := make([]sliceRange, len(s))
	for i, d := range s {
		out[i] = sliceRange{0, 1, d}
	}
	for i, axis := range axes {
		a, ok := axisOf(axis, len(s))
		if !ok {
			c.badf("axes %v do not fit %v", axes, s)
		}
		step := 1
		if steps != nil {
			step = steps[i]
		}
		out[a] = c.sliceRange(starts[i], ends[i], step, s[a])
	}
	return out
}

func (c *call) sliceRange(start, end, step, n int) sliceRange {
	if step == 0 {
		c.badf("a step is 0")
	}
	step = min(max(step, -math.MaxInt32), math.MaxInt32) // as far as any axis goes
	if start < 0 {
		start += n
	}
	if end < 0 {
		end += n
	}
	if step > 0 {
		start, end = min(max(start, 0), n), min(max(end, 0), n)
		return sliceRange{start, step, max((end-start+step-1)/step, 0)}
	}
	start, end = min(max(start, -1), n-1), min(max(end, -1), n-1)
	return sliceRange{start, step, max((start-end-step-1)/-step, 0)}
}

// splitSizes returns the sizes of the parts of an axis.
func (c *call) splitSizes(n, outputs int) []int {
	sizes := c.n.ints("split")
	if c.has(1) {
		sizes = c.list(1)
	}
	if sizes == nil {
		count := c.n.int("num_outputs", outputs)
		if count < 1 || count > n && n > 0 || count > outputs {
			c.badf("it splits %d elements in %d parts", n, count)
		}
		part := (n + count - 1) / count
		for rest := n; len(sizes) < count; rest -= part {
			sizes = append(sizes, max(min(part, rest), 0))
		}
	}
	sum := 0
	for _, d := range sizes {
		if d < 0 || d > n {
			c.badf("parts %v do not add up to %d", sizes, n)
		}
		sum += d
	}
	if sum != n {
		c.badf("parts %v do not add up to %d", sizes, n)
	}
	return sizes
}

func evalReshape(c *call) []*literal {
	x := c.lit(0)
	return []*literal{x.withShape(c.reshapeTo(x.shape, c.reshapeWanted()))}
}

// reshapeWanted returns the shape as the file has it: an input, or before opset 5 an attribute.
func (c *call) reshapeWanted() []int {
	if len(c.in) > 1 {
		return c.list(1)
	}
	return c.n.ints("shape")
}

func evalFlatten(c *call) []*literal {
	return []*literal{c.lit(0).withShape(c.flattenTo(c.lit(0).shape))}
}

func evalSqueeze(c *call) []*literal {
	return []*literal{c.lit(0).withShape(c.squeezeTo(c.lit(0).shape))}
}

func evalUnsqueeze(c *call) []*literal {
	return []*literal{c.lit(0).withShape(c.unsqueezeTo(c.lit(0).shape))}
}

// pick makes a tensor whose element i is element from(i) of x, at row-major steps of the given strides from first on.
func (c *call) pick(x *literal, shape tensor.Shape, strides []int, first int) *literal {
	if c.elements(shape) > 0 && x.splat() {
		return c.repeat(x, shape)
	}
	out := c.alloc(x.elem, shape)
	c.walk(shape, [][]int{strides}, func(i int, at []int) { out.take(i, x, first+at[0]) })
	return out
}

func evalTranspose(c *call) []*literal {
	x := c.lit(0)
	perm := c.permutation(len(x.shape))
	own := x.shape.Strides()
	strides := make([]int, len(perm))
	for i, p := range perm {
		strides[i] = own[p]
	}
	return []*literal{c.pick(x, x.shape.Permute(perm), strides, 0)}
}

func evalExpand(c *call) []*literal {
	x := c.lit(0)
	shape := c.expandTo(x.shape)
	return []*literal{c.pick(x, shape, broadcastStrides(x.shape, shape), 0)}
}

func (c *call) expandTo(s tensor.Shape) tensor.Shape {
	want := tensor.Shape(c.list(1))
	c.elements(want)
	return c.broadcast(s, want)
}

func (c *call) repeats(s tensor.Shape) []int {
	repeats := c.list(1)
	if len(repeats) != len(s) {
		c.badf("%d repetitions for %v", len(repeats), s)
	}
	shape := s.Clone()
	for i, r := range repeats {
		shape[i] = c.elements(tensor.Shape{shape[i], r})
	}
	c.elements(shape)
	return repeats
}

func evalTile(c *call) []*literal {
	x := c.lit(0)
	// Each axis as a pair: the repetition, which does not move, and the element.
	var pairs, result tensor.Shape
	var strides []int
	own := x.shape.Strides()
	for i, r := range c.repeats(x.shape) {
		pairs = append(pairs, r, x.shape[i])
		strides = append(strides, 0, own[i])
		result = append(result, r*x.shape[i])
	}
	out := c.pick(x, pairs, strides, 0)
	return []*literal{out.withShape(result)}
}

func evalSlice(c *call) []*literal {
	x := c.lit(0)
	return []*literal{c.sliceLiteral(x, c.sliceRanges(x.shape))}
}

func (c *call) sliceLiteral(x *literal, ranges []sliceRange) *literal {
	own := x.shape.Strides()
	shape, strides, first := make(tensor.Shape, len(ranges)), make([]int, len(ranges)), 0
	for i, r := range ranges {
		shape[i], strides[i] = r.count, r.step*own[i]
		first += r.start * own[i]
	}
	return c.pick(x, shape, strides, first)
}

func evalSplit(c *call) []*literal {
	x := c.lit(0)
	axis := c.axis("axis", 0, len(x.shape))
	var out []*literal
	at := 0
	for _, d := range c.splitSizes(x.shape[axis], len(c.n.Outputs)) {
		ranges := make([]sliceRange, len(x.shape))
		for i, n := range x.shape {
			ranges[i] = sliceRange{0, 1, n}
		}
		ranges[axis] = sliceRange{at, 1, d}
		out = append(out, c.sliceLiteral(x, ranges))
		at += d
	}
	return out
}

func evalConcat(c *call) []*literal {
	parts := make([]*literal, len(c.in))
	for i := range c.in {
		parts[i] = c.lit(i)
	}
	if len(parts) == 0 {
		c.badf("it joins nothing")
	}
	return []*literal{c.concat(parts, c.axis("axis", 0, len(parts[0].shape)))}
}

func (c *call) concat(parts []*literal, axis int) *literal {
	shape := parts[0].shape.Clone()
	for _, p := range parts[1:] {
		if len(p.shape) != len(shape) || p.isInt() != parts[0].isInt() {
			c.badf("%v and %v do not join", shape, p.shape)
		}
		for i := range shape {
			if i != axis && p.shape[i] != shape[i] {
				c.badf("%v and %v do not join along axis %d", shape, p.shape, axis)
			}
		}
		shape[axis] += p.shape[axis]
	}
	out := c.alloc(parts[0].elem, shape)
	if out.len() == 0 {
		return out
	}
	inner := shape.Strides()[axis]
	at := 0
	for range shape[:axis].Elements() {
		for _, p := range parts {
			run := p.shape[axis] * inner
			from := at / (shape[axis] * inner) * run
			for i := range run {
				out.take(at+i, p, from+i)
			}
			at += run
		}
	}
	return out
}

// index resolves a negative index into an axis of size n.
func (c *call) index(i int64, n int) int {
	if i < 0 {
		i += int64(n)
	}
	if i < 0 || i >= int64(n) {
		c.badf("index %d is outside an axis of size %d", i, n)
	}
	return int(i)
}

func evalGather(c *call) []*literal {
	x, index := c.lit(0), c.lit(1)
	axis := c.axis("axis", 0, len(x.shape))
	n, inner := x.shape[axis], x.shape.Strides()[axis]
	shape := slices.Concat(x.shape[:axis], index.shape, x.shape[axis+1:])
	out := c.alloc(x.elem, shape)
	count := index.len()
	for i := range out.len() {
		outer, in := i/(count*inner), i%inner
		j := c.index(index.int(i/inner%count), n)
		out.take(i, x, (outer*n+j)*inner+in)
	}
	return []*literal{out}
}

func evalGatherElements(c *call) []*literal {
	x, index := c.lit(0), c.lit(1)
	axis := c.axis("axis", 0, len(x.shape))
	c.sameRank(x, index)
	own := x.shape.Strides()
	out := c.alloc(x.elem, index.shape)
	strides := slices.Clone(own)
	strides[axis] = 0
	c.within(x.shape, index.shape, axis)
	c.walk(index.shape, [][]int{strides}, func(i int, at []int) {
		out.take(i, x, at[0]+c.index(index.int(i), x.shape[axis])*own[axis])
	})
	return []*literal{out}
}

func (c *call) sameRank(x, index *literal) {
	if len(x.shape) != len(index.shape) {
		c.badf("indices %v do not fit %v", index.shape, x.shape)
	}
}

// within checks that positions of an array of shape index are positions of one of shape s, but for one axis.
func (c *call) within(s, index tensor.Shape, axis int) {
	for i, d := range index {
		if i != axis && d > s[i] {
			c.badf("indices %v do not fit %v", index, s)
		}
	}
}

func evalScatterElements(c *call) []*literal {
	x, index, updates := c.lit(0), c.lit(1), c.lit(2)
	axis := c.axis("axis", 0, len(x.shape))
	c.sameRank(x, index)
	if !updates.shape.Equal(index.shape) || x.isInt() != updates.isInt() {
		c.badf("updates %v do not fit indices %v", updates.shape, index.shape)
	}
	c.within(x.shape, index.shape, axis)
	own := x.shape.Strides()
	strides := slices.Clone(own)
	strides[axis] = 0
	out := c.copyOf(x)
	reduce := c.reduction()
	c.walk(index.shape, [][]int{strides}, func(i int, at []int) {
		reduce(out, at[0]+c.index(index.int(i), x.shape[axis])*own[axis], updates, i)
	})
	return []*literal{out}
}

func (c *call) copyOf(x *literal) *literal {
	out := c.alloc(x.elem, x.shape)
	for i := range x.len() {
		out.take(i, x, i)
	}
	return out
}

// reduction returns the function by which a scatter combines an element with an update.
func (c *call) reduction() func(out *literal, i int, updates *literal, j int) {
	name := map[string]string{"add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}[c.n.text("reduction", "none")]
	if name == "" {
		return (*literal).take
	}
	f := evalBinaries[name]
	return func(out *literal, i int, updates *literal, j int) { f.set(out, i, out, i, updates, j, out.isInt()) }
}

// tuples reads the index tuples of GatherND and ScatterND: n tuples of k numbers, into the axes of s from lead on.
func (c *call) tuples(index *literal, s tensor.Shape, lead int) (k int) {
	if len(index.shape) == 0 {
		c.badf("the indices are a single number")
	}
	k = index.shape[len(index.shape)-1]
	if k < 1 || lead+k > len(s) {
		c.badf("indices %v do not fit %v", index.shape, s)
	}
	return k
}

// offset returns the place that tuple i names.
func (c *call) offset(index *literal, i, k int, s tensor.Shape, strides []int) int {
	at := 0
	for a := range k {
		at += c.index(index.int(i*k+a), s[a]) * strides[a]
	}
	return at
}

func evalGatherND(c *call) []*literal {
	x, index := c.lit(0), c.lit(1)
	lead := c.n.int("batch_dims", 0)
	if lead < 0 || lead >= len(index.shape) || lead > len(x.shape) || !x.shape[:lead].Equal(index.shape[:lead]) {
		c.badf("%d batch axes do not fit %v and %v", lead, x.shape, index.shape)
	}
	k := c.tuples(index, x.shape, lead)
	own := x.shape.Strides()
	run := x.shape[lead+k:].Elements()
	shape := slices.Concat(index.shape[:len(index.shape)-1], x.shape[lead+k:])
	out := c.alloc(x.elem, shape)
	if out.len() == 0 {
		return []*literal{out}
	}
	perBatch := index.shape[lead : len(index.shape)-1].Elements()
	batchSize := x.shape[lead:].Elements()
	for i := range out.len() / run {
		from := i/perBatch*batchSize + c.offset(index, i, k, x.shape[lead:], own[lead:])
		for j := range run {
			out.take(i*run+j, x, from+j)
		}
	}
	return []*literal{out}
}

func evalScatterND(c *call) []*literal {
	x, index, updates := c.lit(0), c.lit(1), c.lit(2)
	k := c.tuples(index, x.shape, 0)
	run := x.shape[k:].Elements()
	count := index.len() / k
	if updates.len() != count*run || x.isInt() != updates.isInt() {
		c.badf("updates %v do not fit indices %v of %v", updates.shape, index.shape, x.shape)
	}
	out := c.copyOf(x)
	reduce := c.reduction()
	own := x.shape.Strides()
	for i := range count {
		to := c.offset(index, i, k, x.shape, own)
		for j := range run {
			reduce(out, to+j, updates, i*run+j)
		}
	}
	return []*literal{out}
}
