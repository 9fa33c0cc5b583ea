package kernel

import "math"

// Activation is an elementwise function and its derivative. A and B are its parameters; the table's entries hold the usual ones.
//
// The SIMD kernels evaluate exp, expm1, erf and log1p by polynomials in float32; against the exact value they are within 2 units in the
// last place (ULP) for exp and 4 ULP for the functions built on it, and the tests hold them to it. The Go twins compute in float64.
// NaN goes in and comes out.
type Activation struct {
	Name string
	A, B float32 // defaults

	// FromOutput says that the derivative is a function of the output y and not of the input x.
	FromOutput bool

	apply      unaryOp
	derivative binaryOp
}

// Activations returns the table of all activations.
func Activations() []Activation {
	return []Activation{
		{Name: "relu", apply: opRelu, derivative: opReluGrad},                                   // max(x, 0); x or y serves the derivative
		{Name: "leaky_relu", A: 0.01, apply: opLeaky, derivative: opLeakyGrad},                  // x < 0: A x
		{Name: "clip", A: 0, B: 6, apply: opClip, derivative: opClipGrad},                       // min(max(x, A), B); 0 slope outside [A, B]
		{Name: "sigmoid", FromOutput: true, apply: opSigmoid, derivative: opSigmoidGrad},        // 1/(1+exp(-x))
		{Name: "silu", apply: opSilu, derivative: opSiluGrad},                                   // x sigmoid(x)
		{Name: "tanh", FromOutput: true, apply: opTanh, derivative: opTanhGrad},                 // tanh(x)
		{Name: "gelu", apply: opGelu, derivative: opGeluGrad},                                   // x (1+erf(x/sqrt 2))/2
		{Name: "gelu_tanh", apply: opGeluTanh, derivative: opGeluTanhGrad},                      // x (1+tanh(sqrt(2/pi)(x+0.044715 x^3)))/2
		{Name: "softplus", apply: opSoftplus, derivative: opSoftplusGrad},                       // log(1+exp(x))
		{Name: "mish", apply: opMish, derivative: opMishGrad},                                   // x tanh(softplus(x))
		{Name: "elu", A: 1, B: 1, apply: opElu, derivative: opEluGrad},                          // B x, or B A (exp(x)-1) for x < 0; SELU with its A and B
		{Name: "hard_sigmoid", A: 0.2, B: 0.5, apply: opHardSigmoid, derivative: opHardSigGrad}, // min(max(A x+B, 0), 1)
		{Name: "hard_swish", apply: opHardSwish, derivative: opHardSwishGrad},                   // x min(max(x/6+1/2, 0), 1)
		{Name: "exp", A: 1, FromOutput: true, apply: opExp, derivative: opMulGrad},              // exp(A x + B); derivative A y
	}
}

// FindActivation returns the activation of that name.
func FindActivation(name string) (Activation, bool) {
	for _, a := range Activations() {
		if a.Name == name {
			return a, true
		}
	}
	return Activation{}, false
}

// Apply computes dst[i] = f(x[i]); dst may be x. a carries the parameters.
func (s *Set) Apply(a Activation, dst, x []float32) {
	s.unary[a.apply](dst[:len(x)], x, a.A, a.B)
}

// Derive computes dx[i] = dy[i] * f'(v[i]), where v is x, or y for an activation with FromOutput; dx may be dy or v.
func (s *Set) Derive(a Activation, dx, dy, v []float32) {
	s.binary[a.derivative](dx[:len(v)], dy[:len(v)], v, a.A, a.B)
}

type (
	unaryFunc  func(dst, x []float32, a, b float32)
	binaryFunc func(dst, x, y []float32, a, b float32)
	unaryOp    int
	binaryOp   int
)

const (
	opRelu unaryOp = iota
	opLeaky
	opClip
	opSigmoid
	opSilu
	opTanh
	opGelu
	opGeluTanh
	opSoftplus
	opMish
	opElu
	opHardSigmoid
	opHardSwish
	opExp
	opAffine // a x + b
	numUnary
)

const (
	opReluGrad binaryOp = iota
	opLeakyGrad
	opClipGrad
	opSigmoidGrad
	opSiluGrad
	opTanhGrad
	opGeluGrad
	opGeluTanhGrad
	opSoftplusGrad
	opMishGrad
	opEluGrad
	opHardSigGrad
	opHardSwishGrad
	opMulGrad // a x y
	opAdd     // x + y
	opSub     // x - y
	opMul     // x y
	opDiv     // x / y
	opAxpy    // a x + b y
	opFMA     // dst + x y
	numBinary
)

var unaryGo = [numUnary]unaryFunc{
	opRelu: func(dst, x []float32, _, _ float32) {
		for i, v := range x {
			if v < 0 {
				v = 0
			}
			dst[i] = v
		}
	},
	opAffine:      each(func(x, a, b float64) float64 { return a*x + b }),
	opLeaky:       each(leaky),
	opClip:        each(func(x, a, b float64) float64 { return min(max(x, a), b) }),
	opSigmoid:     each(func(x, _, _ float64) float64 { return sigmoid(x) }),
	opSilu:        each(func(x, _, _ float64) float64 { return x * sigmoid(x) }),
	opTanh:        each(func(x, _, _ float64) float64 { return math.Tanh(x) }),
	opGelu:        each(func(x, _, _ float64) float64 { return x * normal(x) }),
	opGeluTanh:    each(func(x, _, _ float64) float64 { return x * sigmoid(2*geluInner(x)) }),
	opSoftplus:    each(func(x, _, _ float64) float64 { return softplus(x) }),
	opMish:        each(func(x, _, _ float64) float64 { return x * math.Tanh(softplus(x)) }),
	opElu:         each(elu),
	opHardSigmoid: each(hardSigmoid),
	opHardSwish:   each(func(x, _, _ float64) float64 { return x * hardSigmoid(x, 1./6, 0.5) }),
	opExp:         each(func(x, a, b float64) float64 { return math.Exp(a*x + b) }),
}

var binaryGo = [numBinary]binaryFunc{
	opReluGrad:    pair(func(dy, x, _, _ float64) float64 { return dy * step(x > 0, x) }),
	opLeakyGrad:   pair(func(dy, x, a, _ float64) float64 { return dy * (a + (1-a)*step(x > 0, x)) }),
	opClipGrad:    pair(func(dy, x, a, b float64) float64 { return dy * step(x >= a && x <= b, x) }),
	opSigmoidGrad: pair(func(dy, y, _, _ float64) float64 { return dy * y * (1 - y) }),
	opSiluGrad: pair(func(dy, x, _, _ float64) float64 {
		s := sigmoid(x)
		return dy * (s + x*s*sigmoid(-x))
	}),
	opTanhGrad: pair(func(dy, y, _, _ float64) float64 { return dy * (1 - y) * (1 + y) }),
	opGeluGrad: pair(func(dy, x, _, _ float64) float64 {
		return dy * (normal(x) + x*math.Exp(-x*x/2)/math.Sqrt(2*math.Pi))
	}),
	opGeluTanhGrad: pair(func(dy, x, _, _ float64) float64 {
		s := sigmoid(2 * geluInner(x))
		return dy * (s + 2*x*s*sigmoid(-2*geluInner(x))*sqrt2Pi*(1+3*0.044715*x*x))
	}),
	opSoftplusGrad: pair(func(dy, x, _, _ float64) float64 { return dy * sigmoid(x) }),
	opMishGrad: pair(func(dy, x, _, _ float64) float64 {
		t := math.Tanh(softplus(x))
		return dy * (t + x*(1-t*t)*sigmoid(x))
	}),
	opEluGrad: pair(func(dy, x, a, b float64) float64 {
		if x < 0 {
			return dy * a * b * math.Exp(x)
		}
		return dy * b
	}),
	opHardSigGrad: pair(func(dy, x, a, b float64) float64 { v := a*x + b; return dy * a * step(v > 0 && v < 1, x) }),
	opHardSwishGrad: pair(func(dy, x, _, _ float64) float64 {
		switch {
		case x <= -3:
			return 0
		case x >= 3:
			return dy
		}
		return dy * (x/3 + 0.5)
	}),
	opMulGrad: pair(func(dy, y, a, _ float64) float64 { return a * dy * y }),
	opAdd: func(dst, x, y []float32, _, _ float32) {
		for i, v := range x {
			dst[i] = v + y[i]
		}
	},
	opSub: func(dst, x, y []float32, _, _ float32) {
		for i, v := range x {
			dst[i] = v - y[i]
		}
	},
	opMul: func(dst, x, y []float32, _, _ float32) {
		for i, v := range x {
			dst[i] = v * y[i]
		}
	},
	opDiv: func(dst, x, y []float32, _, _ float32) {
		for i, v := range x {
			dst[i] = v / y[i]
		}
	},
	opAxpy: func(dst, x, y []float32, a, b float32) {
		for i, v := range x {
			dst[i] = a*v + b*y[i]
		}
	},
	opFMA: func(dst, x, y []float32, _, _ float32) {
		for i, v := range x {
			dst[i] += v * y[i]
		}
	},
}

const sqrt2Pi = 0.7978845608028653558798921198687637369517 // sqrt(2/pi)

func each(f func(x, a, b float64) float64) unaryFunc {
	return func(dst, x []float32, a, b float32) {
		for i, v := range x {
			dst[i] = float32(f(float64(v), float64(a), float64(b)))
		}
	}
}

func pair(f func(x, y, a, b float64) float64) binaryFunc {
	return func(dst, x, y []float32, a, b float32) {
		for i, v := range x {
			dst[i] = float32(f(float64(v), float64(y[i]), float64(a), float64(b)))
		}
	}
}

// step returns 1 where the condition holds, else 0; NaN stays NaN.
func step(on bool, x float64) float64 {
	switch {
	case x != x:
		return x
	case on:
		return 1
	}
	return 0
}

func leaky(x, a, _ float64) float64 {
	if x < 0 {
		return a * x
	}
	return x
}

func elu(x, a, b float64) float64 {
	if x < 0 {
		return a * b * math.Expm1(x)
	}
	return b * x
}

func sigmoid(x float64) float64           { return 1 / (1 + math.Exp(-x)) }
func normal(x float64) float64            { return math.Erfc(-x/math.Sqrt2) / 2 }
func geluInner(x float64) float64         { return sqrt2Pi * (x + 0.044715*x*x*x) }
func hardSigmoid(x, a, b float64) float64 { return min(max(a*x+b, 0), 1) }

func softplus(x float64) float64 {
	if x > 0 {
		return x + math.Log1p(math.Exp(-x))
	}
	return math.Log1p(math.Exp(x))
}
