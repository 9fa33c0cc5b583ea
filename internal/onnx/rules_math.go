package onnx

import (
	"math"
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// unaryRule translates an elementwise function whose parameters are two attributes.
func unaryRule(name, alpha string, a float64, beta string, b float64) func(c *call) []*ir.Value {
	return func(c *call) []*ir.Value {
		var attr op.UnaryAttr
		if alpha != "" {
			attr.Alpha = c.n.float(alpha, a)
		}
		if beta != "" {
			attr.Beta = c.n.float(beta, b)
		}
		return []*ir.Value{c.emit(op.UnaryOp(name), attr, c.x(0))}
	}
}

func importNeg(c *call) []*ir.Value { return []*ir.Value{c.linear(c.x(0), -1, 0)} }
func importNot(c *call) []*ir.Value { return []*ir.Value{c.not(c.x(0))} }

// importIsNaN: only a NaN differs from itself.
func importIsNaN(c *call) []*ir.Value {
	return []*ir.Value{c.not(c.binary("Equal", c.x(0), c.x(0)))}
}

func importGelu(c *call) []*ir.Value {
	if c.n.text("approximate", "none") == "tanh" {
		return []*ir.Value{c.unary("GeluTanh", c.x(0))}
	}
	return []*ir.Value{c.unary("Gelu", c.x(0))}
}

func importSwish(c *call) []*ir.Value {
	x, alpha := c.x(0), c.n.float("alpha", 1)
	if alpha == 1 {
		return []*ir.Value{c.unary("Silu", x)}
	}
	return []*ir.Value{c.binary("Mul", x, c.unary("Sigmoid", c.linear(x, alpha, 0)))}
}

func importPRelu(c *call) []*ir.Value {
	x := c.x(0)
	if l := c.known(1); l != nil {
		if slope, ok := splatOf(l); ok {
			return []*ir.Value{c.unaryAttr("LeakyRelu", slope, 0, x)}
		}
	}
	slope := c.x(1)
	if s := c.broadcast(x.Shape(), slope.Shape()); !s.Equal(x.Shape()) {
		c.badf("the slope %v does not fit %v", slope.Shape(), x.Shape())
	}
	return []*ir.Value{c.emit(op.PRelu, nil, x, slope)}
}

// splatOf returns the value that all elements have.
func splatOf(l *literal) (float64, bool) {
	n := l.len()
	if n == 0 {
		return 0, false
	}
	v := l.float(0)
	if l.splat() {
		return v, true
	}
	for i := 1; i < n; i++ {
		if l.float(i) != v {
			return 0, false
		}
	}
	return v, true
}

func importClip(c *call) []*ir.Value {
	x := c.x(0)
	low, high := c.n.float("min", math.Inf(-1)), c.n.float("max", math.Inf(1))
	for i, bound := range []*float64{&low, &high} {
		switch l := c.known(i + 1); {
		case l != nil && l.len() == 1:
			*bound = l.float(0)
		case c.has(i + 1):
			x = c.binary([]string{"Max", "Min"}[i], x, c.x(i+1))
		}
	}
	if math.IsInf(low, -1) && math.IsInf(high, 1) {
		return []*ir.Value{x}
	}
	if low == 0 && math.IsInf(high, 1) {
		return []*ir.Value{c.unary("Relu", x)}
	}
	return []*ir.Value{c.unaryAttr("Clip", low, high, x)}
}

func importPow(c *call) []*ir.Value {
	if l := c.known(1); l != nil {
		if p, ok := splatOf(l); ok {
			x := c.expand(c.x(0), c.broadcast(c.shape(0), l.shape))
			switch p {
			case 1:
				return []*ir.Value{x}
			case 0.5:
				return []*ir.Value{c.unary("Sqrt", x)}
			case -1:
				return []*ir.Value{c.unary("Reciprocal", x)}
			}
			return []*ir.Value{c.unaryAttr("PowConst", p, 0, x)}
		}
	}
	return []*ir.Value{c.binary("Pow", c.x(0), c.x(1))}
}

// importArithmetic translates Add, Sub and Mul. With one number it becomes a linear function.
func importArithmetic(c *call) []*ir.Value {
	for i := range 2 {
		l := c.known(i)
		if l == nil || len(c.in) != 2 {
			continue
		}
		v, ok := splatOf(l)
		if !ok || !c.broadcast(c.shape(0), c.shape(1)).Equal(c.shape(1-i)) {
			continue
		}
		x := c.x(1 - i)
		switch {
		case c.n.Op == "Add":
			return []*ir.Value{c.linear(x, 1, v)}
		case c.n.Op == "Mul":
			return []*ir.Value{c.linear(x, v, 0)}
		case i == 1:
			return []*ir.Value{c.linear(x, 1, -v)}
		}
		return []*ir.Value{c.linear(x, -1, v)}
	}
	return []*ir.Value{c.binary(c.n.Op, c.x(0), c.x(1))}
}

func importDiv(c *call) []*ir.Value {
	if c.slot(0).integral() && c.slot(1).integral() {
		return []*ir.Value{c.truncated(c.binary("Div", c.x(0), c.x(1)))}
	}
	if l := c.known(1); l != nil {
		if v, ok := splatOf(l); ok && v != 0 && c.broadcast(c.shape(0), l.shape).Equal(c.shape(0)) {
			return []*ir.Value{c.linear(c.x(0), 1/v, 0)}
		}
	}
	return []*ir.Value{c.binary("Div", c.x(0), c.x(1))}
}

// importMod: the result has the sign of the divisor, or with fmod that of the dividend.
func importMod(c *call) []*ir.Value {
	x, y := c.x(0), c.x(1)
	q := c.binary("Div", x, y)
	if c.n.int("fmod", 0) != 0 {
		q = c.truncated(q)
	} else {
		q = c.unary("Floor", q)
	}
	return []*ir.Value{c.binary("Sub", x, c.binary("Mul", q, y))}
}

func importVariadic(name string) func(c *call) []*ir.Value {
	return func(c *call) []*ir.Value { return []*ir.Value{c.chain(name)} }
}

func (c *call) chain(name string) *ir.Value {
	y := c.x(0)
	for i := 1; i < len(c.in); i++ {
		y = c.binary(name, y, c.x(i))
	}
	return y
}

func importMean(c *call) []*ir.Value {
	return []*ir.Value{c.linear(c.chain("Add"), 1/float64(len(c.in)), 0)}
}

func importCompare(c *call) []*ir.Value { return []*ir.Value{c.binary(c.n.Op, c.x(0), c.x(1))} }

func importLogic(c *call) []*ir.Value {
	x, y := c.x(0), c.x(1)
	switch c.n.Op {
	case "And":
		return []*ir.Value{c.binary("Mul", x, y)}
	case "Or":
		return []*ir.Value{c.binary("Max", x, y)}
	}
	return []*ir.Value{c.not(c.binary("Equal", x, y))}
}

func importWhere(c *call) []*ir.Value {
	if l := c.known(0); l != nil {
		if v, ok := splatOf(l); ok {
			pick := 1
			if v == 0 {
				pick = 2
			}
			s := c.broadcast(l.shape, c.broadcast(c.shape(1), c.shape(2)))
			return []*ir.Value{c.expand(c.x(pick), s)}
		}
	}
	return []*ir.Value{c.emit(op.Where, nil, c.x(0), c.x(1), c.x(2))}
}

// importSoftmax: before opset 13 all axes from the named one on are one.
func importSoftmax(o *ir.Op) func(c *call) []*ir.Value {
	return func(c *call) []*ir.Value {
		x := c.x(0)
		s := x.Shape()
		if c.opset >= 13 {
			return []*ir.Value{c.emit(o, op.SoftmaxAttr{Axis: c.axis("axis", -1, len(s))}, x)}
		}
		axis := c.axis("axis", 1, len(s))
		if axis == len(s)-1 {
			return []*ir.Value{c.emit(o, op.SoftmaxAttr{Axis: axis}, x)}
		}
		y := c.reshape(x, tensor.Shape{s[:axis].Elements(), s[axis:].Elements()})
		return []*ir.Value{c.reshape(c.emit(o, op.SoftmaxAttr{Axis: 1}, y), s)}
	}
}

func importReduce(c *call) []*ir.Value {
	x := c.x(0)
	s := x.Shape()
	axes, done := c.reduceAxes(len(s))
	if done {
		return []*ir.Value{x}
	}
	var y *ir.Value
	switch c.n.Op {
	case "ReduceMean":
		y = c.reduce(op.ReduceMean, x, axes)
	case "ReduceMax":
		y = c.reduce(op.ReduceMax, x, axes)
	case "ReduceMin":
		y = c.linear(c.reduce(op.ReduceMax, c.linear(x, -1, 0), axes), -1, 0)
	case "ReduceL1":
		y = c.reduce(op.ReduceSum, c.unary("Abs", x), axes)
	case "ReduceL2":
		y = c.unary("Sqrt", c.reduce(op.ReduceSum, c.unaryAttr("PowConst", 2, 0, x), axes))
	case "ReduceSumSquare":
		y = c.reduce(op.ReduceSum, c.unaryAttr("PowConst", 2, 0, x), axes)
	case "ReduceLogSum":
		y = c.unary("Log", c.reduce(op.ReduceSum, x, axes))
	case "ReduceLogSumExp":
		m := c.reduce(op.ReduceMax, x, axes)
		sum := c.reduce(op.ReduceSum, c.unary("Exp", c.binary("Sub", x, m)), axes)
		y = c.binary("Add", c.unary("Log", sum), m)
	default:
		y = c.reduce(op.ReduceSum, x, axes)
	}
	return []*ir.Value{c.dropAxes(y, axes)}
}

// dropAxes removes reduced axes unless they are to be kept.
func (c *call) dropAxes(y *ir.Value, axes []int) *ir.Value {
	if c.n.int("keepdims", 1) != 0 {
		return y
	}
	short := tensor.Shape{}
	for a, d := range y.Shape() {
		if !slices.Contains(axes, a) {
			short = append(short, d)
		}
	}
	return c.reshape(y, short)
}

// importReduceProd multiplies the halves of an axis until one element is left.
func importReduceProd(c *call) []*ir.Value {
	x := c.x(0)
	axes, done := c.reduceAxes(len(x.Shape()))
	if done {
		return []*ir.Value{x}
	}
	part := func(v *ir.Value, axis, start, count int) *ir.Value {
		ranges := wholeRanges(v.Shape())
		ranges[axis] = sliceRange{start, 1, count}
		return c.slice(v, ranges)
	}
	for _, a := range axes {
		for n := x.Shape()[a]; n > 1; n = x.Shape()[a] {
			y := c.binary("Mul", part(x, a, 0, n/2), part(x, a, n/2, n/2))
			if n%2 == 1 {
				y = c.emit(op.Concat, op.ConcatAttr{Axis: a}, y, part(x, a, n-1, 1))
			}
			x = y
		}
	}
	return []*ir.Value{c.dropAxes(x, axes)}
}

func importGemm(c *call) []*ir.Value {
	if len(c.shape(0)) != 2 || len(c.shape(1)) != 2 {
		c.badf("%v and %v are not matrices", c.shape(0), c.shape(1))
	}
	a := op.MatMulAttr{TransA: c.n.int("transA", 0) != 0, TransB: c.n.int("transB", 0) != 0}
	y := c.linear(c.emit(op.MatMul, a, c.x(0), c.x(1)), c.n.float("alpha", 1), 0)
	if beta := c.n.float("beta", 1); c.has(2) && beta != 0 {
		if s := c.broadcast(y.Shape(), c.shape(2)); !s.Equal(y.Shape()) {
			c.badf("the summand %v does not fit %v", c.shape(2), y.Shape())
		}
		y = c.binary("Add", y, c.linear(c.x(2), beta, 0))
	}
	return []*ir.Value{y}
}

// importMatMul also takes vectors: a row on the left, a column on the right.
func importMatMul(c *call) []*ir.Value {
	x, y := c.x(0), c.x(1)
	sx, sy := x.Shape(), y.Shape()
	if len(sx) == 0 || len(sy) == 0 {
		c.badf("%v and %v do not multiply", sx, sy)
	}
	if len(sx) == 1 {
		x = c.reshape(x, tensor.Shape{1, sx[0]})
	}
	if len(sy) == 1 {
		y = c.reshape(y, tensor.Shape{sy[0], 1})
	}
	z := c.emit(op.MatMul, op.MatMulAttr{}, x, y)
	s := z.Shape().Clone()
	if len(sy) == 1 {
		s = s[:len(s)-1]
	}
	if len(sx) == 1 {
		at := len(z.Shape()) - 2
		s = slices.Delete(s, at, at+1)
	}
	return []*ir.Value{c.reshape(z, s)}
}

// importCumSum multiplies by a triangle of ones.
func importCumSum(c *call) []*ir.Value {
	x := c.x(0)
	axis, ok := axisOf(c.number(1), len(x.Shape()))
	if !ok {
		c.badf("its axis does not fit %v", x.Shape())
	}
	n := x.Shape()[axis]
	exclusive, reverse := c.n.int("exclusive", 0) != 0, c.n.int("reverse", 0) != 0
	c.hold(4*c.compute(tensor.Shape{n, n}), "a triangle of %d by %d", n, n)
	ones := make([]float32, n*n)
	for from := range n {
		for to := range n {
			if from == to && !exclusive || from < to && !reverse || from > to && reverse {
				ones[from*n+to] = 1
			}
		}
	}
	perm := swapped(len(x.Shape()), axis)
	y := c.reshape(c.transpose(x, perm), tensor.Shape{x.Shape().Elements() / n, n})
	y = c.emit(op.MatMul, op.MatMulAttr{}, y, c.b.Const(tensor.Shape{n, n}, ones))
	return []*ir.Value{c.transpose(c.reshape(y, x.Shape().Permute(perm)), perm)}
}

// swapped exchanges an axis with the last one; it is its own inverse.
func swapped(rank, axis int) []int {
	perm := make([]int, rank)
	for i := range perm {
		perm[i] = i
	}
	perm[axis], perm[rank-1] = rank-1, axis
	return perm
}

func importTrilu(c *call) []*ir.Value {
	x := c.x(0)
	rank := len(x.Shape())
	if rank < 2 {
		c.badf("a matrix is expected, not %v", x.Shape())
	}
	k := 0
	if c.has(1) {
		k = c.number(1)
	}
	upper := c.n.int("upper", 1) != 0
	s := x.Shape()[rank-2:]
	mask := c.alloc(tensor.Bool, s)
	for i := range mask.ints {
		off := i%s[1] - i/s[1]
		mask.ints[i] = truth(upper && off >= k || !upper && off <= k)
	}
	return []*ir.Value{c.emit(op.Where, nil, c.valueOf(&slot{lit: mask}), x, c.b.Scalar(0))}
}

func importTopK(c *call) []*ir.Value {
	x := c.x(0)
	axis := c.axis("axis", -1, len(x.Shape()))
	k := c.n.int("k", 0)
	if c.has(1) {
		k = c.number(1)
	}
	values, indices := c.topK(x, axis, k, c.n.int("largest", 1) != 0, false)
	return []*ir.Value{values, indices}
}

func importArg(largest bool) func(c *call) []*ir.Value {
	return func(c *call) []*ir.Value {
		x := c.x(0)
		axis := c.axis("axis", 0, len(x.Shape()))
		_, indices := c.topK(x, axis, 1, largest, c.n.int("select_last_index", 0) != 0)
		return []*ir.Value{c.dropAxes(indices, []int{axis})}
	}
}

// topK ranks each element by counting those in front of it, and picks by rank: exact, ties included, with the gradient
// going to the elements picked. It takes n*n room for an axis of n. Of equal elements the first counts more, or the last.
func (c *call) topK(x *ir.Value, axis, k int, largest, last bool) (values, indices *ir.Value) {
	n := x.Shape()[axis]
	if k < 1 || k > n {
		c.badf("it takes %d of %d elements", k, n)
	}
	const most = 1 << 28
	lines := x.Shape().Elements() / n
	if n > most/n/lines {
		c.refuse("", "ranking %d elements in %d places takes too much room", n, lines)
	}
	perm := swapped(len(x.Shape()), axis)
	moved := c.transpose(x, perm)
	flat := c.reshape(moved, tensor.Shape{lines, 1, n})
	column := c.reshape(flat, tensor.Shape{lines, n, 1})
	ahead := "Greater"
	if !largest {
		ahead = "Less"
	}
	// [lines, i, j]: does j stand in front of i?
	prior := c.alloc(tensor.Bool, tensor.Shape{n, n})
	for i := range prior.ints {
		prior.ints[i] = truth(i%n < i/n != last && i%n != i/n)
	}
	tie := c.binary("Mul", c.binary("Equal", flat, column), c.valueOf(&slot{lit: prior}))
	rank := c.reduce(op.ReduceSum, c.binary("Add", c.binary(ahead, flat, column), tie), []int{2})
	places := make([]float32, n)
	for i := range places {
		places[i] = float32(i)
	}
	chosen := c.binary("Equal", rank, c.b.Const(tensor.Shape{1, 1, k}, places[:k])) // [lines, n, k]
	out := moved.Shape().Clone()
	out[len(out)-1] = k
	pick := func(from *ir.Value) *ir.Value {
		sum := c.reduce(op.ReduceSum, c.binary("Mul", chosen, from), []int{1})
		return c.transpose(c.reshape(sum, out), perm)
	}
	return pick(column), pick(c.b.Const(tensor.Shape{1, n, 1}, places))
}
