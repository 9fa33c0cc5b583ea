package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// vec is a value in a register; operations make new ones, the allocator reuses registers.
type vec = reg.VecVirtual

// params are the broadcast parameters of an elementwise function.
type params struct{ a, b vec }

// Polynomials, fitted by weighted least squares to the minimax error; the error is relative.
var (
	// (exp(r)-1-r)/r^2 for |r| <= ln(2)/2: exp to 3e-9.
	expPoly = []float64{0.4999999403953552, 0.1666652113199234, 0.04166838899254799, 0.008368716575205326, 0.001381459878757596}
	// The same, weighted for exp(r)-1: 1.3e-8.
	expm1Poly = []float64{0.4999999701976776, 0.1666654348373413, 0.04166720062494278, 0.008366520516574383, 0.0013882521307095885}
	// atanh(s)/s in s^2 for s <= 1/3: 4e-9.
	atanhPoly = []float64{1, 0.3333315849304199, 0.20012454688549042, 0.13980300724506378, 0.1408916711807251}
	// exp(z^2) erfc(z) in (z-3)/(z+3) for 0 <= z <= 10: 1.4e-9.
	erfcxPoly = []float64{0.17900115251541138, -0.32623356580734253, 0.2456037998199463, -0.15011578798294067, 0.07166584581136703,
		-0.024394243955612183, 0.004268966149538755, 0.0007158454391174018, -0.0005946889868937433, 2.862435212591663e-05,
		5.580722790909931e-05}
)

// word is a constant of one 32-bit pattern, repeated to a whole vector in memory.
func (a *asm) word(bits uint32) operand.Mem {
	if m, ok := a.consts[bits]; ok {
		return m
	}
	m := a.StaticGlobal(fmt.Sprintf("word%08x", bits))
	a.DataAttributes(attr.RODATA | attr.NOPTR)
	for i := range 16 {
		a.AddDatum(4*i, operand.U32(bits))
	}
	a.consts[bits] = m
	return m
}

func (a *asm) num(x float64) operand.Mem { return a.word(math.Float32bits(float32(x))) }

// iota holds the lane numbers 8i, 8i+1, ...
func (a *asm) iota(i int) operand.Mem {
	key := 0xffff0000 + uint32(i) // a NaN that is no constant of ours
	if m, ok := a.consts[key]; ok {
		return m
	}
	m := a.StaticGlobal(fmt.Sprintf("lanes%d", i))
	a.DataAttributes(attr.RODATA | attr.NOPTR)
	for j := range 8 {
		a.AddDatum(4*j, operand.U32(8*i+j))
	}
	a.consts[key] = m
	return m
}

func (a *asm) reg(x operand.Op) vec {
	if v, ok := x.(vec); ok {
		return v
	}
	v := a.vec()
	a.VMOVUPS(x, v)
	return v
}

func (a *asm) copyOf(x operand.Op) vec { v := a.vec(); a.VMOVUPS(x, v); return v }

// Arithmetic; the last operand may be in memory.
func (a *asm) add(x vec, y operand.Op) vec { v := a.vec(); a.VADDPS(y, x, v); return v }
func (a *asm) sub(x vec, y operand.Op) vec { v := a.vec(); a.VSUBPS(y, x, v); return v }
func (a *asm) mul(x vec, y operand.Op) vec { v := a.vec(); a.VMULPS(y, x, v); return v }
func (a *asm) div(x vec, y operand.Op) vec { v := a.vec(); a.VDIVPS(y, x, v); return v }
func (a *asm) and(x vec, y operand.Op) vec { v := a.vec(); a.VANDPS(y, x, v); return v }
func (a *asm) or(x vec, y operand.Op) vec  { v := a.vec(); a.VORPS(y, x, v); return v }

// fma is x*y + z.
func (a *asm) fma(x, y vec, z operand.Op) vec {
	v := a.copyOf(x)
	a.VFMADD213PS(z, y, v)
	return v
}

// least and most are min and max with a bound; NaN in x stays.
func (a *asm) least(x vec, bound operand.Op) vec {
	v := a.vec()
	a.VMINPS(x, a.reg(bound), v)
	return v
}

func (a *asm) most(x vec, bound operand.Op) vec {
	v := a.vec()
	a.VMAXPS(x, a.reg(bound), v)
	return v
}

// Comparison predicates, false for NaN.
const (
	lessThan    = 0x11 // x < y
	greaterThan = 0x1e // x > y
	lessEqual   = 0x12
	greaterEq   = 0x1d
)

// choose is yes where x REL y, else no.
func (a *asm) choose(rel int, x vec, y operand.Op, yes, no vec) vec {
	v := a.vec()
	if a.wide {
		k := a.K()
		a.VCMPPS(operand.Imm(uint64(rel)), y, x, k)
		a.VBLENDMPS(yes, no, k, v)
		return v
	}
	m := a.vec()
	a.VCMPPS(operand.Imm(uint64(rel)), y, x, m)
	a.VBLENDVPS(m, yes, no, v)
	return v
}

// horner evaluates the polynomial in x.
func (a *asm) horner(x vec, c []float64) vec {
	p := a.copyOf(a.num(c[len(c)-1]))
	for i := len(c) - 2; i >= 0; i-- {
		a.VFMADD213PS(a.num(c[i]), x, p)
	}
	return p
}

// reduce splits x = n ln 2 + r and returns n and exp(r)-1.
func (a *asm) reduceExp(x vec, poly []float64) (n, p vec) {
	n = a.mul(x, a.num(math.Log2E))
	if a.wide {
		a.VRNDSCALEPS(operand.Imm(8), n, n)
	} else {
		a.VROUNDPS(operand.Imm(8), n, n)
	}
	r := a.copyOf(x)
	const hi = 0.693359375
	a.VFNMADD231PS(a.num(hi), n, r)
	a.VFNMADD231PS(a.num(math.Ln2-hi), n, r)
	q := a.horner(r, poly)
	a.VFMADD213PS(r, a.mul(r, r), q)
	return n, q
}

// pow2 is 2^n for the integer n, -126 <= n <= 127.
func (a *asm) pow2(n vec) vec {
	v := a.vec()
	if a.wide {
		a.VSCALEFPS(n, a.reg(a.num(1)), v)
		return v
	}
	a.VCVTPS2DQ(n, v)
	a.VPADDD(a.word(127), v, v)
	a.VPSLLD(operand.Imm(23), v, v)
	return v
}

// exp is e^x, with overflow to infinity and gradual underflow.
func (a *asm) exp(x vec) vec {
	x = a.most(a.least(x, a.num(89)), a.num(-104.5))
	n, p := a.reduceExp(x, expPoly)
	p = a.add(p, a.num(1))
	v := a.vec()
	if a.wide {
		a.VSCALEFPS(n, p, v)
		return v
	}
	// In two steps, since 2^n itself may be out of range.
	half, rest := a.vec(), a.vec()
	a.VCVTPS2DQ(n, rest)
	a.VPSRAD(operand.Imm(1), rest, half)
	a.VPSUBD(half, rest, rest)
	for _, h := range []vec{half, rest} {
		a.VPADDD(a.word(127), h, h)
		a.VPSLLD(operand.Imm(23), h, h)
		p = a.mul(p, h)
	}
	return p
}

// expm1 is e^x - 1 for x <= 60.
func (a *asm) expm1(x vec) vec {
	x = a.most(x, a.num(-87))
	n, p := a.reduceExp(x, expm1Poly)
	s := a.pow2(n)
	return a.fma(p, s, a.sub(s, a.num(1)))
}

func (a *asm) neg(x vec) vec { v := a.vec(); a.VXORPS(a.word(0x80000000), x, v); return v }
func (a *asm) abs(x vec) vec { return a.and(x, a.word(0x7fffffff)) }

// sigmoid is 1/(1+e^-x).
func (a *asm) sigmoid(x vec) vec {
	return a.div(a.reg(a.num(1)), a.add(a.exp(a.neg(x)), a.num(1)))
}

// normal is the distribution function of the standard normal, and the exponential e^(-x^2/2) that it came from.
func (a *asm) normal(x vec) (phi, e vec) {
	z := a.least(a.abs(x), a.num(14))
	// e^(-z^2/2) with the rounding error of z^2 put back.
	s := a.mul(z, z)
	low := a.copyOf(s)
	a.VFMSUB231PS(z, z, low) // z*z - s
	e = a.exp(a.mul(s, a.num(-0.5)))
	half := a.mul(low, a.num(-0.5))
	e = a.fma(e, half, e)
	u := a.mul(z, a.num(math.Sqrt2/2))
	t := a.div(a.sub(u, a.num(3)), a.add(u, a.num(3)))
	tail := a.mul(a.mul(a.horner(t, erfcxPoly), e), a.num(0.5))
	phi = a.choose(lessThan, x, a.num(0), tail, a.sub(a.reg(a.num(1)), tail))
	return phi, e
}

const sqrt2Pi = 0.7978845608028653558798921198687637369517 // sqrt(2/pi)

// geluInner is 2 sqrt(2/pi) (x + 0.044715 x^3).
func (a *asm) geluInner(x vec) vec {
	p := a.copyOf(a.num(2 * sqrt2Pi * 0.044715))
	a.VFMADD213PS(a.num(2*sqrt2Pi), a.mul(x, x), p)
	return a.mul(p, x)
}

// mishParts returns n = e(e+2) for e = e^x, and e; tanh(softplus(x)) is n/(n+2). Beyond 20 both are as good as infinite.
func (a *asm) mishParts(x vec) (n, e vec) {
	e = a.exp(a.least(x, a.num(20)))
	return a.mul(e, a.add(e, a.num(2))), e
}

var unaries = []struct {
	name string
	f    func(a *asm, x vec, p params) vec
}{
	{"relu", func(a *asm, x vec, p params) vec { return a.most(x, a.num(0)) }},
	{"leaky", func(a *asm, x vec, p params) vec { return a.choose(lessThan, x, a.num(0), a.mul(x, p.a), x) }},
	{"clip", func(a *asm, x vec, p params) vec { return a.least(a.most(x, p.a), p.b) }},
	{"sigmoid", func(a *asm, x vec, p params) vec { return a.sigmoid(x) }},
	{"silu", func(a *asm, x vec, p params) vec { return a.div(x, a.add(a.exp(a.neg(x)), a.num(1))) }},
	{"tanh", func(a *asm, x vec, p params) vec {
		z := a.least(a.abs(x), a.num(10))
		m := a.expm1(a.add(z, z))
		return a.or(a.div(m, a.add(m, a.num(2))), a.and(x, a.word(0x80000000)))
	}},
	{"gelu", func(a *asm, x vec, p params) vec { phi, _ := a.normal(x); return a.mul(x, phi) }},
	{"geluTanh", func(a *asm, x vec, p params) vec { return a.div(x, a.add(a.exp(a.neg(a.geluInner(x))), a.num(1))) }},
	{"softplus", func(a *asm, x vec, p params) vec {
		u := a.exp(a.neg(a.abs(x)))
		s := a.div(u, a.add(u, a.num(2)))
		l := a.mul(a.horner(a.mul(s, s), atanhPoly), a.add(s, s))
		return a.add(l, a.most(x, a.num(0)))
	}},
	{"mish", func(a *asm, x vec, p params) vec {
		n, _ := a.mishParts(x)
		return a.div(a.mul(x, n), a.add(n, a.num(2)))
	}},
	{"elu", func(a *asm, x vec, p params) vec {
		m := a.mul(a.mul(a.expm1(a.least(x, a.num(0))), p.a), p.b)
		return a.choose(lessThan, x, a.num(0), m, a.mul(x, p.b))
	}},
	{"hardSigmoid", func(a *asm, x vec, p params) vec { return a.least(a.most(a.fma(x, p.a, p.b), a.num(0)), a.num(1)) }},
	{"hardSwish", func(a *asm, x vec, p params) vec {
		t := a.copyOf(a.num(1. / 6))
		a.VFMADD213PS(a.num(0.5), x, t)
		return a.mul(x, a.least(a.most(t, a.num(0)), a.num(1)))
	}},
	{"exp", func(a *asm, x vec, p params) vec { return a.exp(a.fma(x, p.a, p.b)) }},
	{"affine", func(a *asm, x vec, p params) vec { return a.fma(x, p.a, p.b) }},
}

// Derivatives take dy first, then x or y.
var binaries = []struct {
	name string
	f    func(a *asm, x, y vec, p params) vec
}{
	{"reluGrad", func(a *asm, dy, x vec, p params) vec { return a.choose(lessEqual, x, a.num(0), a.zeros(), dy) }},
	{"leakyGrad", func(a *asm, dy, x vec, p params) vec { return a.choose(lessEqual, x, a.num(0), a.mul(dy, p.a), dy) }},
	{"clipGrad", func(a *asm, dy, x vec, p params) vec {
		return a.choose(lessThan, x, p.a, a.zeros(), a.choose(greaterThan, x, p.b, a.zeros(), dy))
	}},
	{"sigmoidGrad", func(a *asm, dy, y vec, p params) vec { return a.mul(a.mul(dy, y), a.sub(a.reg(a.num(1)), y)) }},
	{"siluGrad", func(a *asm, dy, x vec, p params) vec {
		e := a.exp(a.least(a.neg(x), a.num(88)))
		s := a.div(a.reg(a.num(1)), a.add(e, a.num(1)))
		t := a.mul(x, a.mul(e, s)) // 1-s is e s, without cancellation
		return a.mul(a.mul(dy, s), a.add(t, a.num(1)))
	}},
	{"tanhGrad", func(a *asm, dy, y vec, p params) vec {
		one := a.reg(a.num(1))
		return a.mul(a.mul(dy, a.sub(one, y)), a.add(one, y))
	}},
	{"geluGrad", func(a *asm, dy, x vec, p params) vec {
		phi, e := a.normal(x)
		return a.mul(dy, a.fma(a.mul(e, a.num(0.3989422804014327)), x, phi))
	}},
	{"geluTanhGrad", func(a *asm, dy, x vec, p params) vec {
		e := a.exp(a.least(a.neg(a.geluInner(x)), a.num(88)))
		s := a.div(a.reg(a.num(1)), a.add(e, a.num(1)))
		d := a.copyOf(a.num(2 * sqrt2Pi * 3 * 0.044715))
		a.VFMADD213PS(a.num(2*sqrt2Pi), a.mul(x, x), d) // derivative of the inner function
		t := a.mul(a.mul(x, a.mul(e, s)), d)            // 1-s is e s, without cancellation: d is large where it is small
		return a.mul(a.mul(dy, s), a.add(t, a.num(1)))
	}},
	{"softplusGrad", func(a *asm, dy, x vec, p params) vec { return a.mul(dy, a.sigmoid(x)) }},
	{"mishGrad", func(a *asm, dy, x vec, p params) vec {
		n, e := a.mishParts(x)
		d := a.add(n, a.num(2))
		t := a.div(n, d)
		// 1-t^2 = (2/d)(1+t), sigmoid = e/(1+e)
		g := a.mul(a.div(a.reg(a.num(2)), d), a.add(t, a.num(1)))
		g = a.mul(g, a.div(e, a.add(e, a.num(1))))
		return a.mul(dy, a.fma(g, x, t))
	}},
	{"eluGrad", func(a *asm, dy, x vec, p params) vec {
		m := a.mul(a.mul(a.exp(a.least(x, a.num(0))), p.a), p.b)
		return a.mul(dy, a.choose(lessThan, x, a.num(0), m, p.b))
	}},
	{"hardSigGrad", func(a *asm, dy, x vec, p params) vec {
		v := a.fma(x, p.a, p.b)
		return a.choose(lessEqual, v, a.num(0), a.zeros(), a.choose(greaterEq, v, a.num(1), a.zeros(), a.mul(dy, p.a)))
	}},
	{"hardSwishGrad", func(a *asm, dy, x vec, p params) vec {
		t := a.copyOf(a.num(1. / 3))
		a.VFMADD213PS(a.num(0.5), x, t)
		t = a.mul(dy, t)
		return a.choose(lessEqual, x, a.num(-3), a.zeros(), a.choose(greaterEq, x, a.num(3), dy, t))
	}},
	{"mulGrad", func(a *asm, dy, y vec, p params) vec { return a.mul(a.mul(dy, y), p.a) }},
	{"add", func(a *asm, x, y vec, p params) vec { return a.add(x, y) }},
	{"sub", func(a *asm, x, y vec, p params) vec { return a.sub(x, y) }},
	{"mul", func(a *asm, x, y vec, p params) vec { return a.mul(x, y) }},
	{"div", func(a *asm, x, y vec, p params) vec { return a.div(x, y) }},
	{"axpy", func(a *asm, x, y vec, p params) vec { return a.fma(x, p.a, a.mul(y, p.b)) }},
	{"mulAdd", nil}, // dst + x y reads dst
}

func (a *asm) zeros() vec { v := a.vec(); a.zero(v); return v }

func (a *asm) elementwise() {
	for _, u := range unaries {
		a.text(u.name+a.tag, "func(dst, x []float32, a, b float32)", "is a unaryFunc; its twin is in unaryGo.")
		a.loop(func(p params, v []vec) vec { return u.f(a, v[0], p) }, "x")
	}
	for _, b := range binaries {
		a.text(b.name+a.tag, "func(dst, x, y []float32, a, b float32)", "is a binaryFunc; its twin is in binaryGo.")
		if b.f == nil {
			a.loop(func(p params, v []vec) vec { return a.fma(v[0], v[1], v[2]) }, "x", "y", "dst")
		} else {
			a.loop(func(p params, v []vec) vec { return b.f(a, v[0], v[1], p) }, "x", "y")
		}
	}
}

// loop runs the body over whole vectors and one masked rest.
func (a *asm) loop(body func(params, []vec) vec, names ...string) {
	p := params{a.vec(), a.vec()}
	a.VBROADCASTSS(a.param("a"), p.a)
	a.VBROADCASTSS(a.param("b"), p.b)
	n, i := a.GP64(), a.GP64()
	a.MOVQ(a.length("x"), n)
	var ptr []reg.GPVirtual
	for _, name := range names {
		g := a.GP64()
		a.MOVQ(a.base(name), g)
		ptr = append(ptr, g)
	}
	dst := a.GP64()
	a.MOVQ(a.base("dst"), dst)
	a.XORQ(i, i)
	a.Label("next")
	in := a.vecs(len(names))
	a.CMPQ(n, imm((a.lanes())))
	a.JLT(a.jump("restLoad"))
	for j, g := range ptr {
		a.VMOVUPS(mem(g, i, 4, 0), in[j])
	}
	a.JMP(a.jump("body"))
	a.Label("restLoad")
	a.TESTQ(n, n)
	a.JLE(a.jump("done"))
	m := a.masks(1, n)
	for j, g := range ptr {
		a.load(m, 0, mem(g, i, 4, 0), in[j])
	}
	a.Label("body")
	out := body(p, in)
	a.CMPQ(n, imm((a.lanes())))
	a.JLT(a.jump("restStore"))
	a.VMOVUPS(out, mem(dst, i, 4, 0))
	a.ADDQ(imm((a.lanes())), i)
	a.SUBQ(imm((a.lanes())), n)
	a.JMP(a.jump("next"))
	a.Label("restStore")
	m = a.masks(1, n)
	a.store(m, 0, out, mem(dst, i, 4, 0))
	a.Label("done")
	a.ret()
}
