package op

import (
	"math"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/tensor"
)

// UnaryAttr holds the parameters of an elementwise function; the function's row states their meaning.
type UnaryAttr struct{ Alpha, Beta float64 }

// Saves names the value that the derivative of an elementwise function is written in.
type Saves uint8

const (
	SavesNothing Saves = iota // a constant factor, or no gradient
	SavesBits                 // whether x is inside an open range: one bit a value
	SavesX                    // the input
	SavesY                    // the output
)

// Unary is an elementwise function of one variable.
type Unary struct {
	Name  string
	Apply func(x float64, a UnaryAttr) float64
	// Slope is the derivative written in the saved value s (x or y by Saves).
	Slope func(s float64, a UnaryAttr) float64
	Saves Saves
	// Mask is set for SavesBits: dx = dy * (lo < x < hi ? in : out).
	Mask func(a UnaryAttr) (lo, hi, in, out float64)
}

func sigmoid(x float64) float64  { return 1 / (1 + math.Exp(-x)) }
func softplus(x float64) float64 { return max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) }
func normalCDF(x float64) float64 {
	return 0.5 * math.Erfc(-x/math.Sqrt2)
}

// Unaries is the table of elementwise functions. Derivatives at a kink are PyTorch's.
var Unaries = []Unary{
	{Name: "Relu", Apply: func(x float64, _ UnaryAttr) float64 { return max(x, 0) }, Saves: SavesBits,
		Mask: func(UnaryAttr) (float64, float64, float64, float64) { return 0, math.Inf(1), 1, 0 }},
	// x, or Alpha*x below zero.
	{Name: "LeakyRelu", Apply: func(x float64, a UnaryAttr) float64 {
		if x > 0 {
			return x
		}
		return a.Alpha * x
	}, Saves: SavesBits, Mask: func(a UnaryAttr) (float64, float64, float64, float64) { return 0, math.Inf(1), 1, a.Alpha }},
	// min(max(x, Alpha), Beta).
	{Name: "Clip", Apply: func(x float64, a UnaryAttr) float64 { return min(max(x, a.Alpha), a.Beta) }, Saves: SavesBits,
		Mask: func(a UnaryAttr) (float64, float64, float64, float64) { return a.Alpha, a.Beta, 1, 0 }},
	// x where x > Alpha, else 0.
	{Name: "ThresholdedRelu", Apply: func(x float64, a UnaryAttr) float64 {
		if x > a.Alpha {
			return x
		}
		return 0
	}, Saves: SavesBits, Mask: func(a UnaryAttr) (float64, float64, float64, float64) { return a.Alpha, math.Inf(1), 1, 0 }},
	// min(max(Alpha*x + Beta, 0), 1).
	{Name: "HardSigmoid", Apply: func(x float64, a UnaryAttr) float64 { return min(max(a.Alpha*x+a.Beta, 0), 1) }, Saves: SavesBits,
		Mask: func(a UnaryAttr) (float64, float64, float64, float64) {
			return -a.Beta / a.Alpha, (1 - a.Beta) / a.Alpha, a.Alpha, 0
		}},
	{Name: "Abs", Apply: func(x float64, _ UnaryAttr) float64 { return math.Abs(x) }, Saves: SavesX,
		Slope: func(x float64, _ UnaryAttr) float64 { return sign(x) }},
	// Alpha*x + Beta.
	{Name: "Linear", Apply: func(x float64, a UnaryAttr) float64 { return a.Alpha*x + a.Beta },
		Slope: func(_ float64, a UnaryAttr) float64 { return a.Alpha }},
	// Alpha*(exp(x) - 1) below zero.
	{Name: "Elu", Apply: func(x float64, a UnaryAttr) float64 {
		if x > 0 {
			return x
		}
		return a.Alpha * math.Expm1(x)
	}, Saves: SavesX, Slope: func(x float64, a UnaryAttr) float64 {
		if x > 0 {
			return 1
		}
		return a.Alpha * math.Exp(x)
	}},
	// Alpha*(exp(x/Alpha) - 1) below zero.
	{Name: "Celu", Apply: func(x float64, a UnaryAttr) float64 {
		if x > 0 {
			return x
		}
		return a.Alpha * math.Expm1(x/a.Alpha)
	}, Saves: SavesX, Slope: func(x float64, a UnaryAttr) float64 {
		if x > 0 {
			return 1
		}
		return math.Exp(x / a.Alpha)
	}},
	// Beta*x, or Beta*Alpha*(exp(x) - 1) below zero.
	{Name: "Selu", Apply: func(x float64, a UnaryAttr) float64 {
		if x > 0 {
			return a.Beta * x
		}
		return a.Beta * a.Alpha * math.Expm1(x)
	}, Saves: SavesX, Slope: func(x float64, a UnaryAttr) float64 {
		if x > 0 {
			return a.Beta
		}
		return a.Beta * a.Alpha * math.Exp(x)
	}},
	{Name: "Sigmoid", Apply: func(x float64, _ UnaryAttr) float64 { return sigmoid(x) }, Saves: SavesY,
		Slope: func(y float64, _ UnaryAttr) float64 { return y * (1 - y) }},
	// x*sigmoid(x); Swish and SiLU are other names.
	{Name: "Silu", Apply: func(x float64, _ UnaryAttr) float64 { return x * sigmoid(x) }, Saves: SavesX,
		Slope: func(x float64, _ UnaryAttr) float64 { s := sigmoid(x); return s * (1 + x*(1-s)) }},
	{Name: "HardSwish", Apply: func(x float64, _ UnaryAttr) float64 { return x * min(max(x/6+0.5, 0), 1) }, Saves: SavesX,
		Slope: func(x float64, _ UnaryAttr) float64 {
			switch {
			case x <= -3:
				return 0
			case x >= 3:
				return 1
			}
			return x/3 + 0.5
		}},
	{Name: "Mish", Apply: func(x float64, _ UnaryAttr) float64 { return x * math.Tanh(softplus(x)) }, Saves: SavesX,
		Slope: func(x float64, _ UnaryAttr) float64 {
			t := math.Tanh(softplus(x))
			return t + x*sigmoid(x)*(1-t*t)
		}},
	{Name: "Gelu", Apply: func(x float64, _ UnaryAttr) float64 { return x * normalCDF(x) }, Saves: SavesX,
		Slope: func(x float64, _ UnaryAttr) float64 {
			return normalCDF(x) + x*math.Exp(-x*x/2)/math.Sqrt(2*math.Pi)
		}},
	// The tanh approximation of Gelu.
	{Name: "GeluTanh", Apply: func(x float64, _ UnaryAttr) float64 {
		return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	}, Saves: SavesX, Slope: func(x float64, _ UnaryAttr) float64 {
		c := math.Sqrt(2 / math.Pi)
		t := math.Tanh(c * (x + 0.044715*x*x*x))
		return 0.5*(1+t) + 0.5*x*(1-t*t)*c*(1+3*0.044715*x*x)
	}},
	{Name: "Softplus", Apply: func(x float64, _ UnaryAttr) float64 { return softplus(x) }, Saves: SavesX,
		Slope: func(x float64, _ UnaryAttr) float64 { return sigmoid(x) }},
	{Name: "Softsign", Apply: func(x float64, _ UnaryAttr) float64 { return x / (1 + math.Abs(x)) }, Saves: SavesX,
		Slope: func(x float64, _ UnaryAttr) float64 { d := 1 + math.Abs(x); return 1 / (d * d) }},
	{Name: "Tanh", Apply: func(x float64, _ UnaryAttr) float64 { return math.Tanh(x) }, Saves: SavesY,
		Slope: func(y float64, _ UnaryAttr) float64 { return 1 - y*y }},
	{Name: "Erf", Apply: func(x float64, _ UnaryAttr) float64 { return math.Erf(x) }, Saves: SavesX,
		Slope: func(x float64, _ UnaryAttr) float64 { return 2 / math.Sqrt(math.Pi) * math.Exp(-x*x) }},
	{Name: "Exp", Apply: func(x float64, _ UnaryAttr) float64 { return math.Exp(x) }, Saves: SavesY,
		Slope: func(y float64, _ UnaryAttr) float64 { return y }},
	{Name: "Log", Apply: func(x float64, _ UnaryAttr) float64 { return math.Log(x) }, Saves: SavesX,
		Slope: func(x float64, _ UnaryAttr) float64 { return 1 / x }},
	{Name: "Sqrt", Apply: func(x float64, _ UnaryAttr) float64 { return math.Sqrt(x) }, Saves: SavesY,
		Slope: func(y float64, _ UnaryAttr) float64 { return 0.5 / y }},
	{Name: "Reciprocal", Apply: func(x float64, _ UnaryAttr) float64 { return 1 / x }, Saves: SavesY,
		Slope: func(y float64, _ UnaryAttr) float64 { return -y * y }},
	// x to the power Alpha.
	{Name: "PowConst", Apply: func(x float64, a UnaryAttr) float64 { return math.Pow(x, a.Alpha) }, Saves: SavesX,
		Slope: func(x float64, a UnaryAttr) float64 {
			if a.Alpha == 0 {
				return 0
			}
			return a.Alpha * math.Pow(x, a.Alpha-1)
		}},
	{Name: "Sin", Apply: func(x float64, _ UnaryAttr) float64 { return math.Sin(x) }, Saves: SavesX,
		Slope: func(x float64, _ UnaryAttr) float64 { return math.Cos(x) }},
	{Name: "Cos", Apply: func(x float64, _ UnaryAttr) float64 { return math.Cos(x) }, Saves: SavesX,
		Slope: func(x float64, _ UnaryAttr) float64 { return -math.Sin(x) }},
	{Name: "Floor", Apply: func(x float64, _ UnaryAttr) float64 { return math.Floor(x) }},
	{Name: "Ceil", Apply: func(x float64, _ UnaryAttr) float64 { return math.Ceil(x) }},
	{Name: "Round", Apply: func(x float64, _ UnaryAttr) float64 { return math.RoundToEven(x) }},
	{Name: "Sign", Apply: func(x float64, _ UnaryAttr) float64 { return sign(x) }},
}

func sign(x float64) float64 {
	switch {
	case x > 0:
		return 1
	case x < 0:
		return -1
	}
	return 0
}

// UnaryNamed returns the row of an elementwise function.
func UnaryNamed(name string) (*Unary, bool) {
	u, ok := unaryByName[name]
	return u, ok
}

var unaryByName = func() map[string]*Unary {
	m := map[string]*Unary{}
	for i := range Unaries {
		m[Unaries[i].Name] = &Unaries[i]
	}
	return m
}()

var unaryOps = func() (ops []*ir.Op) {
	for i := range Unaries {
		ops = append(ops, unaryOp(&Unaries[i]))
	}
	return ops
}()

func unaryOp(u *Unary) *ir.Op {
	o := &ir.Op{Name: u.Name, MinIn: 1, MaxIn: 1, Attr: UnaryAttr{}, Inputs: []string{"x"}, Infer: like(0), Permute: samePermute,
		InPlace: true, Slab: samePlanes}
	switch {
	case u.Saves == SavesNothing && u.Slope == nil:
		o.NoGrad = "piecewise constant"
	case u.Saves == SavesNothing:
		o.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, _ []bool) []*ir.Value {
			return []*ir.Value{Scale(b, dy[0], u.Slope(0, n.Attr.(UnaryAttr)))}
		}
	case u.Saves == SavesBits:
		o.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, _ []bool) []*ir.Value {
			lo, hi, in, out := u.Mask(n.Attr.(UnaryAttr))
			// The sign of relu's output is that of its input, and the output can be computed in place.
			source := n.Inputs[0]
			if u.Name == "Relu" {
				source = n.Out()
			}
			bits := b.Emit(Bits, BitsAttr{Lo: lo, Hi: hi}, source)
			return []*ir.Value{b.Emit(MaskBackward, MaskAttr{In: in, Out: out}, dy[0], bits)}
		}
	default:
		o.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, _ []bool) []*ir.Value {
			a := n.Attr.(UnaryAttr)
			saved := n.Inputs[0]
			if u.Saves == SavesY {
				saved = n.Out()
			}
			return []*ir.Value{b.Emit(UnaryBackward, UnaryBackwardAttr{Func: u.Name, Alpha: a.Alpha, Beta: a.Beta}, dy[0], saved)}
		}
	}
	return o
}

// UnaryOp returns the operation of an elementwise function that is in the table.
func UnaryOp(name string) *ir.Op { return byName[name] }

// Scale emits factor*v.
func Scale(b *ir.Builder, v *ir.Value, factor float64) *ir.Value {
	if factor == 1 {
		return v
	}
	return b.Emit(UnaryOp("Linear"), UnaryAttr{Alpha: factor}, v)
}

// UnaryBackwardAttr names the function whose derivative is taken.
type UnaryBackwardAttr struct {
	Func        string
	Alpha, Beta float64
}

// UnaryBackward is dx = dy * f'(saved), elementwise.
var UnaryBackward = &ir.Op{Name: "UnaryBackward", MinIn: 2, MaxIn: 2, Attr: UnaryBackwardAttr{}, Inputs: []string{"dy", "saved"},
	Infer: like(0), Permute: samePermute, InPlace: true, Slab: samePlanes, NoGrad: "a gradient already"}

// BitsAttr is an open range.
type BitsAttr struct{ Lo, Hi float64 }

// Bits packs Lo < x < Hi, one bit a value.
var Bits = &ir.Op{Name: "Bits", MinIn: 1, MaxIn: 1, Attr: BitsAttr{}, Inputs: []string{"x"}, Permute: samePermute, Slab: samePlanes,
	NoGrad: "a gradient already",
	Infer: func(_ any, in []ir.Type) ([]ir.Type, error) {
		return []ir.Type{{Shape: in[0].Shape.Clone(), Elem: tensor.Bit}}, nil
	}}

// MaskAttr are the slopes inside and outside the range.
type MaskAttr struct{ In, Out float64 }

// MaskBackward is dx = dy * (bit ? In : Out).
var MaskBackward = &ir.Op{Name: "MaskBackward", MinIn: 2, MaxIn: 2, Attr: MaskAttr{}, Inputs: []string{"dy", "bits"},
	Infer: like(0), Permute: samePermute, InPlace: true, Slab: samePlanes, NoGrad: "a gradient already"}

// PRelu is x, or slope*x where x <= 0; slope broadcasts against x.
var PRelu = &ir.Op{Name: "PRelu", MinIn: 2, MaxIn: 2, Inputs: []string{"x", "slope"}, Infer: like(0), Permute: samePermute, InPlace: true, Slab: samePlanes,
	Grad: func(b *ir.Builder, n *ir.Node, dy []*ir.Value, want []bool) []*ir.Value {
		if want[1] {
			b.Fail("the slope of PRelu must be constant")
		}
		bits := b.Emit(Bits, BitsAttr{Lo: 0, Hi: math.Inf(1)}, n.Inputs[0])
		return []*ir.Value{b.Emit(PReluBackward, nil, dy[0], bits, n.Inputs[1]), nil}
	}}

// PReluBackward is dx = dy * (bit ? 1 : slope).
var PReluBackward = &ir.Op{Name: "PReluBackward", MinIn: 3, MaxIn: 3, Inputs: []string{"dy", "bits", "slope"}, Infer: like(0),
	Permute: samePermute, InPlace: true, Slab: samePlanes, NoGrad: "a gradient already"}

// maskOps are the operations that gradients of functions of one variable need, and PRelu.
var maskOps = []*ir.Op{UnaryBackward, Bits, MaskBackward, PRelu, PReluBackward}
