package onnx

import (
	"math"

	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// binaryEval computes an elementwise function of two variables; compares gives truth values. A variadic one takes any
// number of inputs. Arithmetic on floats is that of package op, where op has the function.
type binaryEval struct {
	ints     func(x, y int64) int64
	floats   func(x, y float64) float64
	compares bool
}

func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// pair returns the function of two floats that is a row of op.
func pair(name string) func(x, y float64) float64 {
	row, _ := op.BinaryNamed(name)
	return row.Apply
}

func arithmetic(name string, ints func(x, y int64) int64) binaryEval {
	return binaryEval{ints: ints, floats: pair(name)}
}

func comparison(name string, ints func(x, y int64) bool) binaryEval {
	return binaryEval{ints: func(x, y int64) int64 { return truth(ints(x, y)) }, floats: pair(name), compares: true}
}

func logic(f func(x, y bool) bool) binaryEval {
	return binaryEval{
		ints:     func(x, y int64) int64 { return truth(f(x != 0, y != 0)) },
		floats:   func(x, y float64) float64 { return float64(truth(f(x != 0, y != 0))) },
		compares: true,
	}
}

var evalBinaries = map[string]binaryEval{
	"Add": arithmetic("Add", func(x, y int64) int64 { return x + y }),
	"Sub": arithmetic("Sub", func(x, y int64) int64 { return x - y }),
	"Mul": arithmetic("Mul", func(x, y int64) int64 { return x * y }),
	"Div": arithmetic("Div", divideInts),
	"Mod": {ints: floorMod, floats: floorModFloats},
	"Pow": arithmetic("Pow", powerInts),
	"Max": arithmetic("Max", func(x, y int64) int64 { return max(x, y) }),
	"Min": arithmetic("Min", func(x, y int64) int64 { return min(x, y) }),
	"Sum": arithmetic("Add", func(x, y int64) int64 { return x + y }),
	"PRelu": {floats: func(x, y float64) float64 {
		if x < 0 {
			return x * y
		}
		return x
	}},
	"Equal":          comparison("Equal", func(x, y int64) bool { return x == y }),
	"Greater":        comparison("Greater", func(x, y int64) bool { return x > y }),
	"GreaterOrEqual": comparison("GreaterOrEqual", func(x, y int64) bool { return x >= y }),
	"Less":           comparison("Less", func(x, y int64) bool { return x < y }),
	"LessOrEqual":    comparison("LessOrEqual", func(x, y int64) bool { return x <= y }),
	"And":            logic(func(x, y bool) bool { return x && y }),
	"Or":             logic(func(x, y bool) bool { return x || y }),
	"Xor":            logic(func(x, y bool) bool { return x != y }),
	"BitwiseAnd":     {ints: func(x, y int64) int64 { return x & y }},
	"BitwiseOr":      {ints: func(x, y int64) int64 { return x | y }},
	"BitwiseXor":     {ints: func(x, y int64) int64 { return x ^ y }},
}

// divideInts cuts towards zero; a division by zero, which has no result, gives 0.
func divideInts(x, y int64) int64 {
	if y == 0 {
		return 0
	}
	return x / y
}

// floorMod has the sign of the divisor, as Python's remainder.
func floorMod(x, y int64) int64 {
	if y == 0 {
		return 0
	}
	r := x % y
	if r != 0 && (r < 0) != (y < 0) {
		r += y
	}
	return r
}

func floorModFloats(x, y float64) float64 {
	r := math.Mod(x, y)
	if r != 0 && (r < 0) != (y < 0) {
		r += y
	}
	return r
}

func powerInts(x, y int64) int64 {
	if y < 0 {
		return truncate(math.Pow(float64(x), float64(y)))
	}
	out := int64(1)
	for ; y > 0; y >>= 1 {
		if y&1 != 0 {
			out *= x
		}
		x *= x
	}
	return out
}

func (f binaryEval) eval(c *call) []*literal {
	out := c.lit(0)
	for i := 1; i < len(c.in); i++ {
		out = f.pair(c, out, c.lit(i))
	}
	return []*literal{out}
}

func (f binaryEval) pair(c *call, x, y *literal) *literal {
	shape := c.broadcast(x.shape, y.shape)
	elem, ints := x.elem, x.isInt()
	if ints && !y.isInt() { // only Pow may mix
		ints = false
	}
	if c.n.Op == "Mod" && c.n.int("fmod", 0) != 0 { // with the sign of the dividend, as C's
		f.ints, f.floats = func(x, y int64) int64 { return x - y*divideInts(x, y) }, math.Mod
	}
	if ints && f.ints == nil || !ints && f.floats == nil {
		c.refuse("", "it is not defined for %v", elem)
	}
	result := elem
	if f.compares {
		result = tensor.Bool
	}
	if x.splat() && y.splat() {
		one := newLiteral(result, tensor.Shape{1})
		f.set(one, 0, x, 0, y, 0, ints)
		one.shape = shape
		if c.elements(shape) == 0 {
			return newLiteral(result, shape)
		}
		return one
	}
	out := c.alloc(result, shape)
	c.walk(shape, [][]int{broadcastStrides(x.shape, shape), broadcastStrides(y.shape, shape)}, func(i int, at []int) {
		f.set(out, i, x, at[0], y, at[1], ints)
	})
	return out
}

func (f binaryEval) set(out *literal, i int, x *literal, j int, y *literal, k int, ints bool) {
	switch {
	case ints:
		v := f.ints(x.int(j), y.int(k))
		out.ints[i] = wrapTo(out.elem, v)
	case out.isInt():
		out.ints[i] = wrapTo(out.elem, truncate(f.floats(x.float(j), y.float(k))))
	default:
		out.floats[i] = roundTo(out.elem, f.floats(x.float(j), y.float(k)))
	}
}

func (c *call) broadcast(a, b tensor.Shape) tensor.Shape {
	s, err := tensor.Broadcast(a, b)
	if err != nil {
		c.badf("%w", err)
	}
	return s
}

// unaryEval computes an elementwise function of one variable.
type unaryEval struct {
	ints   func(x int64) int64
	floats func(x float64) float64
	truth  bool // the result is a truth value
}

func same(x int64) int64 { return x }

// of returns the function of one float that is a row of op without parameters.
func of(name string) func(x float64) float64 {
	row, _ := op.UnaryNamed(name)
	return func(x float64) float64 { return row.Apply(x, op.UnaryAttr{}) }
}

var evalUnaries = map[string]unaryEval{
	"Neg":   {ints: func(x int64) int64 { return -x }, floats: func(x float64) float64 { return -x }},
	"Abs":   {ints: func(x int64) int64 { return max(x, -x) }, floats: of("Abs")},
	"Sign":  {ints: func(x int64) int64 { return truth(x > 0) - truth(x < 0) }, floats: of("Sign")},
	"Relu":  {ints: func(x int64) int64 { return max(x, 0) }, floats: of("Relu")},
	"Floor": {ints: same, floats: of("Floor")}, "Ceil": {ints: same, floats: of("Ceil")}, "Round": {ints: same, floats: of("Round")},
	"Sqrt": {floats: of("Sqrt")}, "Exp": {floats: of("Exp")}, "Log": {floats: of("Log")}, "Erf": {floats: of("Erf")},
	"Reciprocal": {floats: of("Reciprocal")}, "Sigmoid": {floats: of("Sigmoid")}, "Softplus": {floats: of("Softplus")},
	"Sin": {floats: of("Sin")}, "Cos": {floats: of("Cos")}, "Tanh": {floats: of("Tanh")},
	"Tan": {floats: math.Tan}, "Asin": {floats: math.Asin}, "Acos": {floats: math.Acos}, "Atan": {floats: math.Atan},
	"Sinh": {floats: math.Sinh}, "Cosh": {floats: math.Cosh},
	"Not":        {ints: func(x int64) int64 { return truth(x == 0) }, truth: true},
	"BitwiseNot": {ints: func(x int64) int64 { return ^x }},
	"IsNaN":      {floats: func(x float64) float64 { return float64(truth(x != x)) }, truth: true},
	"IsInf":      {floats: func(x float64) float64 { return float64(truth(math.IsInf(x, 0))) }, truth: true},
}

func (f unaryEval) eval(c *call) []*literal {
	x := c.lit(0)
	elem := x.elem
	if x.isInt() && f.ints == nil || !x.isInt() && f.floats == nil {
		c.refuse("", "it is not defined for %v", elem)
	}
	if c.n.Op == "IsInf" {
		negative, positive := c.n.int("detect_negative", 1) != 0, c.n.int("detect_positive", 1) != 0
		f.floats = func(x float64) float64 {
			return float64(truth(positive && math.IsInf(x, 1) || negative && math.IsInf(x, -1)))
		}
	}
	if f.truth {
		elem = tensor.Bool
	}
	shape, n := x.shape, x.len()
	if n > 0 && x.splat() {
		shape, n = tensor.Shape{1}, 1
	}
	out := c.alloc(elem, shape)
	for i := range n {
		switch {
		case x.isInt():
			out.ints[i] = wrapTo(elem, f.ints(x.int(i)))
		case out.isInt():
			out.ints[i] = int64(f.floats(x.float(i)))
		default:
			out.floats[i] = roundTo(elem, f.floats(x.float(i)))
		}
	}
	out.shape = x.shape
	return []*literal{out}
}
