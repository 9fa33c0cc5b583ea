package main

import (
	"github.com/mmcloughlin/avo/operand"
)

// channels makes the functions of a row of channels: rows outside, vectors of channels inside, so that memory is read in order.
func (a *asm) channels() {
	for _, f := range []struct {
		name string
		two  bool // uses q
		body func(x, d vec, p, q operand.Op) vec
	}{
		{"scaleShift", true, func(x, _ vec, p, q operand.Op) vec { return a.fma(x, p.(vec), q) }},
		{"scale", false, func(x, _ vec, p, _ operand.Op) vec { return a.mul(x, p) }},
		{"shift", false, func(x, _ vec, p, _ operand.Op) vec { return a.add(x, p) }},
		{"prelu", false, func(x, _ vec, p, _ operand.Op) vec { return a.choose(lessThan, x, a.num(0), a.mul(x, p), x) }},
		{"preluGrad", false, func(x, d vec, p, _ operand.Op) vec { return a.choose(lessThan, x, a.num(0), a.mul(d, p), d) }},
	} {
		a.text(f.name+a.tag, "func(dst, x, p, q []float32, n, c int)", "is a channelFunc; its twin is in channelGo.")
		dst, x, p, q := a.GP64(), a.GP64(), a.GP64(), a.GP64()
		a.MOVQ(a.base("dst"), dst)
		a.MOVQ(a.base("x"), x)
		a.MOVQ(a.base("p"), p)
		a.MOVQ(a.base("q"), q)
		n, c, rest, i := a.GP64(), a.GP64(), a.GP64(), a.GP64()
		a.MOVQ(a.param("n"), n)
		a.MOVQ(a.param("c"), c)
		a.MOVQ(c, rest)
		a.ANDQ(imm((a.lanes() - 1)), rest)
		m := a.masks(1, rest)
		body := func(load func(operand.Mem) vec, store func(vec, operand.Mem)) {
			v, s := load(mem(x, i, 4, 0)), load(mem(p, i, 4, 0))
			var d vec
			if f.name == "preluGrad" {
				d = load(mem(dst, i, 4, 0))
			}
			var t operand.Op
			if f.two {
				t = load(mem(q, i, 4, 0))
			}
			store(f.body(v, d, s, t), mem(dst, i, 4, 0))
		}
		a.TESTQ(n, n)
		a.JLE(a.jump("done"))
		full := a.GP64()
		a.MOVQ(c, full)
		a.SUBQ(rest, full)
		a.Label("row")
		a.XORQ(i, i)
		a.TESTQ(full, full)
		a.JZ(a.jump("rest"))
		a.Label("vector")
		body(func(m operand.Mem) vec { return a.reg(m) }, func(v vec, m operand.Mem) { a.VMOVUPS(v, m) })
		a.ADDQ(imm((a.lanes())), i)
		a.CMPQ(i, full)
		a.JLT(a.jump("vector"))
		a.Label("rest")
		a.TESTQ(rest, rest)
		a.JZ(a.jump("end"))
		body(func(src operand.Mem) vec { v := a.vec(); a.load(m, 0, src, v); return v }, func(v vec, d operand.Mem) { a.store(m, 0, v, d) })
		a.Label("end")
		a.LEAQ(mem(x, c, 4, 0), x)
		a.LEAQ(mem(dst, c, 4, 0), dst)
		a.DECQ(n)
		a.JNZ(a.jump("row"))
		a.Label("done")
		a.ret()
	}
}

// reductions makes the sums over rows: a vector of channels at a time, all rows of it, converted to float64 before anything is added.
func (a *asm) reductions() {
	const (
		sum = iota
		dot
		variance
	)
	for op, name := range []string{"sum", "dot", "variance"} {
		a.text(name+a.tag, "func(sum []float64, x, y []float32, n, c int)", "is a reduceFunc; its twin is in reduceGo.")
		acc, x, y, n, c := a.GP64(), a.GP64(), a.GP64(), a.GP64(), a.GP64()
		a.MOVQ(a.base("sum"), acc)
		a.MOVQ(a.base("x"), x)
		a.MOVQ(a.base("y"), y)
		a.MOVQ(a.param("n"), n)
		a.MOVQ(a.param("c"), c)
		stride := a.GP64()
		a.MOVQ(c, stride)
		a.SHLQ(operand.Imm(2), stride)
		half := a.lanes() / 2
		// Half vectors of float32 widen to whole ones of float64.
		narrow := func() vec {
			if a.wide {
				return a.YMM()
			}
			return a.XMM()
		}
		a.TESTQ(n, n)
		a.JLE(a.jump("done"))
		a.Label("block")
		s := a.vecs(2)
		a.zero(s[0])
		a.zero(s[1])
		px, py, left := a.GP64(), a.GP64(), a.GP64()
		a.MOVQ(x, px)
		a.MOVQ(y, py)
		a.MOVQ(n, left)
		rows := func(tag string, load func(src operand.Mem, half int) vec) {
			var mean []vec
			if op == variance {
				for h := range 2 {
					t := a.vec()
					a.VCVTPS2PD(load(at(py, h*4*half), h), t)
					mean = append(mean, t)
				}
			}
			a.Label("row" + tag)
			for h := range 2 {
				t := a.vec()
				a.VCVTPS2PD(load(at(px, h*4*half), h), t)
				switch op {
				case sum:
					a.VADDPD(t, s[h], s[h])
				case dot:
					u := a.vec()
					a.VCVTPS2PD(load(at(py, h*4*half), h), u)
					a.VFMADD231PD(t, u, s[h])
				case variance:
					a.VSUBPD(mean[h], t, t)
					a.VFMADD231PD(t, t, s[h])
				}
			}
			a.ADDQ(stride, px)
			if op == dot {
				a.ADDQ(stride, py)
			}
			a.DECQ(left)
			a.JNZ(a.jump("row" + tag))
		}
		a.CMPQ(c, imm((a.lanes())))
		a.JLT(a.jump("rest"))
		rows("", func(src operand.Mem, _ int) vec { v := narrow(); a.VMOVUPS(src, v); return v })
		for h := range 2 {
			a.VADDPD(at(acc, h*8*half), s[h], s[h])
			a.VMOVUPD(s[h], at(acc, h*8*half))
		}
		a.ADDQ(imm((a.bytes())), x)
		a.ADDQ(imm((a.bytes())), y)
		a.ADDQ(imm((2 * a.bytes())), acc)
		a.SUBQ(imm((a.lanes())), c)
		a.JNZ(a.jump("block"))
		a.JMP(a.jump("done"))
		a.Label("rest")
		a.TESTQ(c, c)
		a.JZ(a.jump("done"))
		// The last channels one at a time.
		a.Label("channel")
		t := a.XMM()
		a.VXORPS(t, t, t)
		a.MOVQ(x, px)
		a.MOVQ(y, py)
		a.MOVQ(n, left)
		var mean vec
		if op == variance {
			mean = a.XMM()
			a.VXORPS(mean, mean, mean)
			a.VCVTSS2SD(at(py, 0), mean, mean)
		}
		a.Label("value")
		u := a.XMM()
		a.VXORPS(u, u, u)
		a.VCVTSS2SD(at(px, 0), u, u)
		switch op {
		case sum:
			a.VADDSD(u, t, t)
		case dot:
			w := a.XMM()
			a.VXORPS(w, w, w)
			a.VCVTSS2SD(at(py, 0), w, w)
			a.VFMADD231SD(u, w, t)
			a.ADDQ(stride, py)
		case variance:
			a.VSUBSD(mean, u, u)
			a.VFMADD231SD(u, u, t)
		}
		a.ADDQ(stride, px)
		a.DECQ(left)
		a.JNZ(a.jump("value"))
		a.VADDSD(at(acc, 0), t, t)
		a.VMOVSD(t, at(acc, 0))
		a.ADDQ(imm(4), x)
		a.ADDQ(imm(4), y)
		a.ADDQ(imm(8), acc)
		a.DECQ(c)
		a.JNZ(a.jump("channel"))
		a.Label("done")
		a.ret()
	}
}
