package onnx

import (
	"math"
	"slices"

	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// evals computes nodes whose inputs are all known: exporters leave such nodes around shapes, paddings, masks and tables of
// positions. An operation that is not here stays in the graph.
var evals map[string]func(c *call) []*literal

func init() {
	evals = map[string]func(c *call) []*literal{
		"ConstantOfShape": evalConstantOfShape, "Range": evalRange, "EyeLike": evalEyeLike,
		"Gather": evalGather, "GatherElements": evalGatherElements, "GatherND": evalGatherND,
		"ScatterND": evalScatterND, "ScatterElements": evalScatterElements,
		"Slice": evalSlice, "Concat": evalConcat, "Split": evalSplit, "Pad": evalPad,
		"Reshape": evalReshape, "Flatten": evalFlatten, "Squeeze": evalSqueeze, "Unsqueeze": evalUnsqueeze,
		"Transpose": evalTranspose, "Expand": evalExpand, "Tile": evalTile, "Where": evalWhere,
		"MatMul": evalMatMul, "NonZero": evalNonZero, "CumSum": evalCumSum, "Trilu": evalTrilu, "OneHot": evalOneHot,
		"ArgMax": evalArg(1), "ArgMin": evalArg(-1),
	}
	for name, f := range evalBinaries {
		evals[name] = f.eval
	}
	for name, f := range evalUnaries {
		evals[name] = f.eval
	}
	for name, f := range evalReductions {
		evals[name] = f.eval
	}
}

// reductionEval folds the elements along axes.
type reductionEval struct {
	start  float64
	step   func(sum, x float64) float64
	finish func(sum float64, n int) float64
	starti int64
	stepi  func(sum, x int64) int64
}

var evalReductions = map[string]reductionEval{
	"ReduceSum": {step: func(s, x float64) float64 { return s + x }, stepi: func(s, x int64) int64 { return s + x }},
	"ReduceMean": {step: func(s, x float64) float64 { return s + x }, finish: func(s float64, n int) float64 { return s / float64(n) },
		stepi: nil},
	"ReduceProd": {start: 1, step: func(s, x float64) float64 { return s * x }, starti: 1, stepi: func(s, x int64) int64 { return s * x }},
	"ReduceMax": {start: math.Inf(-1), step: func(s, x float64) float64 { return max(s, x) }, starti: math.MinInt64,
		stepi: func(s, x int64) int64 { return max(s, x) }},
	"ReduceMin": {start: math.Inf(1), step: func(s, x float64) float64 { return min(s, x) }, starti: math.MaxInt64,
		stepi: func(s, x int64) int64 { return min(s, x) }},
	"ReduceL1":        {step: func(s, x float64) float64 { return s + math.Abs(x) }, stepi: func(s, x int64) int64 { return s + max(x, -x) }},
	"ReduceL2":        {step: func(s, x float64) float64 { return s + x*x }, finish: func(s float64, _ int) float64 { return math.Sqrt(s) }},
	"ReduceSumSquare": {step: func(s, x float64) float64 { return s + x*x }, stepi: func(s, x int64) int64 { return s + x*x }},
}

func (f reductionEval) eval(c *call) []*literal {
	x := c.lit(0)
	axes, done := c.reduceAxes(len(x.shape))
	if done {
		return []*literal{x}
	}
	kept, short := x.shape.Clone(), tensor.Shape{}
	for _, a := range axes {
		kept[a] = 1
	}
	for a, d := range x.shape {
		if !slices.Contains(axes, a) {
			short = append(short, d)
		}
	}
	strides := broadcastStrides(kept, x.shape)
	count := 1
	for _, a := range axes {
		count *= x.shape[a]
	}
	if x.isInt() && f.stepi == nil {
		c.refuse("", "it is not defined for %v", x.elem)
	}
	c.spend(c.elements(x.shape))
	out := c.alloc(x.elem, kept)
	for i := range out.ints {
		out.ints[i] = f.starti
	}
	for i := range out.floats {
		out.floats[i] = f.start
	}
	c.walk(x.shape, [][]int{strides}, func(i int, at []int) {
		if x.isInt() {
			out.ints[at[0]] = wrapTo(x.elem, f.stepi(out.ints[at[0]], x.int(i)))
		} else {
			out.floats[at[0]] = f.step(out.floats[at[0]], x.float(i))
		}
	})
	for i, v := range out.floats {
		if f.finish != nil {
			v = f.finish(v, count)
		}
		out.floats[i] = roundTo(x.elem, v)
	}
	if c.n.int("keepdims", 1) == 0 {
		out.shape = short
	}
	return []*literal{out}
}

// reduceAxes returns the axes of a reduction; done says that it changes nothing.
func (c *call) reduceAxes(rank int) (axes []int, done bool) {
	axes = c.axes(1, rank)
	if len(axes) == 0 {
		if c.n.int("noop_with_empty_axes", 0) != 0 {
			return nil, true
		}
		axes = make([]int, rank)
		for i := range axes {
			axes[i] = i
		}
	}
	return axes, false
}

func evalArg(sign float64) func(c *call) []*literal {
	return func(c *call) []*literal {
		x := c.lit(0)
		axis := c.axis("axis", 0, len(x.shape))
		kept := x.shape.Clone()
		kept[axis] = 1
		strides := broadcastStrides(kept, x.shape)
		c.spend(c.elements(x.shape))
		out := c.alloc(tensor.I64, kept)
		c.hold(8*out.len(), "a constant of shape %v", kept)
		best := make([]float64, out.len())
		for i := range best {
			best[i] = math.Inf(-1)
		}
		inner := x.shape.Strides()[axis]
		last := c.n.int("select_last_index", 0) != 0
		c.walk(x.shape, [][]int{strides}, func(i int, at []int) {
			if v := sign * x.float(i); v > best[at[0]] || last && v == best[at[0]] {
				best[at[0]], out.ints[at[0]] = v, int64(i/inner%x.shape[axis])
			}
		})
		if c.n.int("keepdims", 1) == 0 {
			out.shape = slices.Delete(kept.Clone(), axis, axis+1)
		}
		return []*literal{out}
	}
}

func evalMatMul(c *call) []*literal {
	a, b := c.lit(0), c.lit(1)
	sa, sb := a.shape, b.shape
	if len(sa) == 0 || len(sb) == 0 {
		c.badf("shapes %v and %v do not multiply", sa, sb)
	}
	vectorA, vectorB := len(sa) == 1, len(sb) == 1
	if vectorA {
		sa = tensor.Shape{1, sa[0]}
	}
	if vectorB {
		sb = tensor.Shape{sb[0], 1}
	}
	m, k, n := sa[len(sa)-2], sa[len(sa)-1], sb[len(sb)-1]
	if sb[len(sb)-2] != k {
		c.badf("shapes %v and %v do not multiply", a.shape, b.shape)
	}
	batch := c.broadcast(sa[:len(sa)-2], sb[:len(sb)-2])
	full := append(batch.Clone(), m, n)
	c.spend(c.elements(append(full.Clone(), k)))
	out := c.alloc(a.elem, full)
	stridesA := broadcastStrides(sa[:len(sa)-2], batch)
	stridesB := broadcastStrides(sb[:len(sb)-2], batch)
	c.walk(batch, [][]int{stridesA, stridesB}, func(i int, at []int) {
		for r := range m {
			c.alive()
			for col := range n {
				to := (i*m+r)*n + col
				if a.isInt() {
					for j := range k {
						out.ints[to] += a.int(at[0]*m*k+r*k+j) * b.int(at[1]*k*n+j*n+col)
					}
					continue
				}
				sum := 0.0
				for j := range k {
					sum += a.float(at[0]*m*k+r*k+j) * b.float(at[1]*k*n+j*n+col)
				}
				out.floats[to] = roundTo(a.elem, sum)
			}
		}
	})
	out.shape = batch
	if !vectorA {
		out.shape = append(out.shape, m)
	}
	if !vectorB {
		out.shape = append(out.shape, n)
	}
	return []*literal{out}
}

func evalNonZero(c *call) []*literal {
	x := c.lit(0)
	rank := len(x.shape)
	c.spend(c.elements(x.shape))
	c.hold(8*x.len(), "a list of %d positions", x.len())
	defer func() { c.im.held -= 8 * x.len() }()
	found := make([]int, 0, x.len())
	for i := range x.len() {
		if x.float(i) != 0 {
			found = append(found, i)
		}
	}
	out := c.alloc(tensor.I64, tensor.Shape{rank, len(found)})
	strides := x.shape.Strides()
	for j, i := range found {
		for a := range rank {
			out.ints[a*len(found)+j] = int64(i / strides[a] % x.shape[a])
		}
	}
	return []*literal{out}
}

func evalCumSum(c *call) []*literal {
	x := c.lit(0)
	axis, ok := axisOf(c.number(1), len(x.shape))
	if !ok {
		c.badf("axis %d does not fit %v", c.number(1), x.shape)
	}
	exclusive, reverse := c.n.int("exclusive", 0) != 0, c.n.int("reverse", 0) != 0
	out := c.alloc(x.elem, x.shape)
	n, inner := x.shape[axis], x.shape.Strides()[axis]
	for line := range x.len() / max(n, 1) {
		start := line/inner*inner*n + line%inner
		sumi, sumf := int64(0), 0.0
		for j := range n {
			at := start + j*inner
			if reverse {
				at = start + (n-1-j)*inner
			}
			if exclusive {
				out.setNumber(at, sumi, sumf)
			}
			if x.isInt() {
				sumi += x.int(at)
			} else {
				sumf += x.float(at)
			}
			if !exclusive {
				out.setNumber(at, sumi, sumf)
			}
		}
	}
	return []*literal{out}
}

func (l *literal) setNumber(at int, i int64, f float64) {
	if l.isInt() {
		l.ints[at] = wrapTo(l.elem, i)
	} else {
		l.floats[at] = roundTo(l.elem, f)
	}
}

func evalTrilu(c *call) []*literal {
	x := c.lit(0)
	rank := len(x.shape)
	if rank < 2 {
		c.badf("a matrix is expected, not %v", x.shape)
	}
	k := 0
	if c.has(1) {
		k = c.number(1)
	}
	upper := c.n.int("upper", 1) != 0
	rows, columns := x.shape[rank-2], x.shape[rank-1]
	out := c.alloc(x.elem, x.shape)
	for i := range x.len() {
		if off := i%columns - i/columns%rows; upper && off >= k || !upper && off <= k {
			out.take(i, x, i)
		}
	}
	return []*literal{out}
}

func evalOneHot(c *call) []*literal {
	index, values := c.lit(0), c.lit(2)
	if values.len() != 2 {
		c.badf("it has %d values, not two", values.len())
	}
	depth := c.number(1)
	axis := c.axis("axis", -1, len(index.shape)+1)
	if depth < 0 {
		c.badf("depth %d is negative", depth)
	}
	shape := slices.Insert(index.shape.Clone(), axis, depth)
	out := c.alloc(values.elem, shape)
	inner := shape.Strides()[axis]
	for i := range out.len() {
		want := int(index.int(i/(inner*depth)*inner + i%inner))
		if want < 0 {
			want += depth
		}
		hot := 0
		if i/inner%depth == want {
			hot = 1
		}
		out.take(i, values, hot)
	}
	return []*literal{out}
}

func evalRange(c *call) []*literal {
	start, limit, step := c.lit(0), c.lit(1), c.lit(2)
	if start.len() != 1 || limit.len() != 1 || step.len() != 1 || step.float(0) == 0 {
		c.badf("the range is not possible")
	}
	count := math.Ceil((limit.float(0) - start.float(0)) / step.float(0))
	if !(count < float64(tensor.MaxElements)) {
		c.badf("a range of %g numbers is not possible", count)
	}
	n := max(int(count), 0)
	out := c.alloc(start.elem, tensor.Shape{n})
	for i := range n {
		if start.isInt() {
			out.ints[i] = start.int(0) + int64(i)*step.int(0)
		} else {
			out.floats[i] = roundTo(start.elem, start.float(0)+float64(i)*step.float(0))
		}
	}
	return []*literal{out}
}

func evalConstantOfShape(c *call) []*literal {
	shape := tensor.Shape(c.list(0))
	c.elements(shape)
	value := &literal{elem: tensor.F32, shape: tensor.Shape{1}, floats: []float64{0}}
	if a := c.n.Attributes["value"]; a != nil && a.Tensor != nil {
		value = c.literalOf(a.Tensor)
	}
	if value.len() != 1 {
		c.badf("its value has %d elements", value.len())
	}
	return []*literal{c.repeat(value, shape)}
}

// repeat makes a tensor of equal elements, which takes no room.
func (c *call) repeat(one *literal, shape tensor.Shape) *literal {
	if c.elements(shape) == 0 {
		return newLiteral(one.elem, shape)
	}
	return &literal{elem: one.elem, shape: shape, stored: one.stored, ints: one.ints, floats: one.floats, block: one.block}
}

func (c *call) literalOf(t *Tensor) *literal {
	if t.Unsupported != "" {
		c.refuse("export the model in float32", "%s", t.Unsupported)
	}
	l, err := t.literal()
	if err != nil {
		c.badf("%w", err)
	}
	return l
}

func evalEyeLike(c *call) []*literal {
	s := c.lit(0).shape
	if len(s) != 2 {
		c.badf("a matrix is expected, not %v", s)
	}
	elem := c.lit(0).elem
	if c.n.has("dtype") {
		elem = c.elemOf(c.n.int("dtype", 1))
	}
	out := c.alloc(elem, s)
	for i := range s[0] {
		if j := i + c.n.int("k", 0); j >= 0 && j < s[1] {
			out.setNumber(i*s[1]+j, 1, 1)
		}
	}
	return []*literal{out}
}

func (c *call) elemOf(code int) tensor.Elem {
	e, ok := dataTypes[int32(code)]
	if !ok {
		c.refuse("", "the element type number %d is not supported", code)
	}
	return e
}

func evalWhere(c *call) []*literal {
	cond, x, y := c.lit(0), c.lit(1), c.lit(2)
	if x.isInt() != y.isInt() {
		c.badf("it chooses between %v and %v", x.elem, y.elem)
	}
	shape := c.broadcast(cond.shape, c.broadcast(x.shape, y.shape))
	if cond.splat() {
		if cond.int(0) == 0 {
			x = y
		}
		if x.splat() {
			return []*literal{c.repeat(x, shape)}
		}
		y = x
	}
	out := c.alloc(x.elem, shape)
	strides := [][]int{broadcastStrides(cond.shape, shape), broadcastStrides(x.shape, shape), broadcastStrides(y.shape, shape)}
	c.walk(shape, strides, func(i int, at []int) {
		if cond.int(at[0]) != 0 {
			out.take(i, x, at[1])
		} else {
			out.take(i, y, at[2])
		}
	})
	return []*literal{out}
}

func evalPad(c *call) []*literal {
	x := c.lit(0)
	a := c.padAttr(x.shape)
	shape := x.shape.Clone()
	for i := range shape {
		shape[i] += a.Before[i] + a.After[i]
		if shape[i] < 0 {
			c.badf("padding %v, %v of %v leaves nothing", a.Before, a.After, x.shape)
		}
	}
	out := c.alloc(x.elem, shape)
	strides, own := shape.Strides(), x.shape.Strides()
	for i := range out.len() {
		from := 0
		for ax := range shape {
			p := -1
			if x.shape[ax] > 0 {
				p = a.Source(ax, i/strides[ax]%shape[ax], x.shape[ax])
			}
			if p < 0 {
				from = -1
				break
			}
			from += p * own[ax]
		}
		if from >= 0 {
			out.take(i, x, from)
		} else {
			out.setNumber(i, truncate(a.Value), a.Value)
		}
	}
	return []*literal{out}
}

// padAttr reads the paddings of Pad from its attributes or inputs.
func (c *call) padAttr(s tensor.Shape) op.PadAttr {
	rank := len(s)
	pads := c.n.ints("pads")
	a := op.PadAttr{Mode: c.n.text("mode", op.PadConstant), Before: make([]int, rank), After: make([]int, rank)}
	if a.Mode != op.PadConstant && a.Mode != op.PadReflect && a.Mode != op.PadEdge && a.Mode != op.PadWrap {
		c.badf("the mode %q is not known", a.Mode)
	}
	if c.has(1) {
		pads = c.list(1)
	}
	a.Value = c.n.float("value", 0)
	if c.has(2) && a.Mode == op.PadConstant {
		v := c.lit(2)
		if v.len() != 1 {
			c.badf("its value has %d elements", v.len())
		}
		a.Value = v.float(0)
	}
	axes := make([]int, rank)
	for i := range axes {
		axes[i] = i
	}
	if c.has(3) {
		axes = c.list(3)
	}
	if len(pads) != 2*len(axes) {
		c.badf("%d paddings for %d axes", len(pads), len(axes))
	}
	for i, axis := range axes {
		axis, ok := axisOf(axis, rank)
		if !ok {
			c.badf("axes %v do not fit %v", axes, s)
		}
		a.Before[axis], a.After[axis] = c.small(pads[i]), c.small(pads[len(axes)+i])
	}
	return a
}

// small checks a number that sizes are computed from.
func (c *call) small(v int) int {
	if v > math.MaxInt32 || v < -math.MaxInt32 {
		c.badf("%d is not a possible size", v)
	}
	return v
}
