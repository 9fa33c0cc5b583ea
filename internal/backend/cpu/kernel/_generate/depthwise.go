package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func (a *asm) depthwises() {
	r := []int{8, 4, 2, 1}
	if !a.wide {
		a.depthwise(2, []int{6, 3, 1}, false)
	} else {
		a.depthwise(2, r, false)
	}
	a.depthwise(1, r, false)
	a.depthwise(1, r, true)
}

// depthwise makes a kernel for nv vectors of channels; it takes as many voxels at a time as rows allows.
func (a *asm) depthwise(nv int, rows []int, masked bool) {
	name, note := fmt.Sprintf("depthwise%sx%d", a.tag, nv), fmt.Sprintf("exactly %d", nv*a.lanes())
	if masked {
		name, note = name+"m", fmt.Sprintf("up to %d", nv*a.lanes())
	}
	a.text(name, "func(dst, src, w, bias []float32, taps []int32, p depthwiseParams)",
		fmt.Sprintf("is a depthwiseFunc for %s channels; its twin is depthwiseGo.", note))
	width := a.bytes()
	var m mask
	if masked {
		m = a.masks(nv, a.field("cols"))
	}
	load := func(src operand.Mem, j int, dst reg.VecVirtual) {
		if masked {
			a.load(m, j, src, dst)
		} else {
			a.VMOVUPS(src, dst)
		}
	}
	local := a.AllocLocal(16)
	tapEnd, dstStep := local, local
	dstStep.Disp += 8
	stride, src, s := a.GP64(), a.GP64(), a.GP64()
	a.MOVQ(a.field("stride"), stride)
	a.SHLQ(operand.Imm(2), stride)
	a.MOVQ(a.field("shift"), src)
	a.IMULQ(stride, src)
	a.ADDQ(a.base("src"), src)
	a.MOVQ(a.field("srcStep"), s)
	a.SHLQ(operand.Imm(2), s)
	s3, s5, s7 := a.GP64(), a.GP64(), a.GP64()
	a.LEAQ(mem(s, s, 2, 0), s3)
	a.LEAQ(mem(s, s, 4, 0), s5)
	a.LEAQ(mem(s3, s, 4, 0), s7)
	{
		t, u := a.GP64(), a.GP64()
		a.MOVQ(a.length("taps"), t)
		a.SHLQ(operand.Imm(2), t)
		a.MOVQ(a.base("taps"), u)
		a.ADDQ(u, t)
		a.MOVQ(t, tapEnd)
		a.MOVQ(a.field("dstStep"), t)
		a.SHLQ(operand.Imm(2), t)
		a.MOVQ(t, dstStep)
	}
	dst, n := a.GP64(), a.GP64()
	a.MOVQ(a.base("dst"), dst)
	a.MOVQ(a.field("n"), n)
	for ri, r := range rows {
		loop, tapLoop, store, next := fmt.Sprintf("rows%d", r), fmt.Sprintf("tap%d", r), fmt.Sprintf("store%d", r), fmt.Sprintf("next%d", r)
		a.Label(loop)
		a.CMPQ(n, imm((r)))
		a.JLT(a.jump(next))
		acc := make([][]reg.VecVirtual, r)
		for i := range acc {
			acc[i] = a.vecs(nv)
		}
		tap := a.GP64()
		{
			t := a.GP64()
			a.MOVQ(a.base("bias"), t)
			for j := range nv {
				load(at(t, j*width), j, acc[0][j])
				for i := 1; i < r; i++ {
					a.VMOVUPS(acc[0][j], acc[i][j])
				}
			}
		}
		a.MOVQ(a.base("taps"), tap)
		a.CMPQ(tap, tapEnd)
		a.JEQ(a.jump(store))
		a.Label(tapLoop)
		x, f := a.GP64(), a.GP64()
		a.MOVLQSX(at(tap, 0), x)
		a.MOVLQSX(at(tap, 4), f)
		a.IMULQ(stride, x)
		a.IMULQ(stride, f)
		a.ADDQ(src, x)
		a.ADDQ(a.base("w"), f)
		wv := a.vecs(nv)
		for j := range nv {
			load(at(f, j*width), j, wv[j])
		}
		for i := range r {
			for j := range nv {
				q := []operand.Mem{at(x, 0), mem(x, s, 1, 0), mem(x, s, 2, 0), mem(x, s3, 1, 0), mem(x, s, 4, 0), mem(x, s5, 1, 0),
					mem(x, s3, 2, 0), mem(x, s7, 1, 0)}[i]
				q.Disp = j * width
				if masked {
					v := a.vec()
					load(q, j, v)
					a.VFMADD231PS(v, wv[j], acc[i][j])
				} else {
					a.VFMADD231PS(q, wv[j], acc[i][j])
				}
			}
		}
		a.ADDQ(imm(8), tap)
		a.CMPQ(tap, tapEnd)
		a.JNE(a.jump(tapLoop))
		a.Label(store)
		add := a.GP64()
		a.MOVQ(a.field("acc"), add)
		for i := range r {
			skip := fmt.Sprintf("write%d_%d", r, i)
			a.TESTQ(add, add)
			a.JZ(a.jump(skip))
			for j := range nv {
				t := a.vec()
				load(at(dst, j*width), j, t)
				a.VADDPS(t, acc[i][j], acc[i][j])
			}
			a.Label(skip)
			for j := range nv {
				if masked {
					a.store(m, j, acc[i][j], at(dst, j*width))
				} else {
					a.VMOVUPS(acc[i][j], at(dst, j*width))
				}
			}
			a.ADDQ(dstStep, dst)
		}
		if r == 8 {
			a.LEAQ(mem(src, s, 8, 0), src)
		} else {
			for range r {
				a.ADDQ(s, src)
			}
		}
		a.SUBQ(imm((r)), n)
		a.JMP(a.jump(loop))
		a.Label(next)
		_ = ri
	}
	a.ret()
}

// rowCopies makes the strided copies and additions of short rows.
func (a *asm) rowCopies() {
	for _, add := range []bool{false, true} {
		name, doc := "copyRows"+a.tag, "is a copyRowsFunc; its twin is copyRowsGo."
		if add {
			name, doc = "addRows"+a.tag, "is an addRowsFunc; its twin is addRowsGo."
		}
		a.text(name, "func(dst, src []float32, n, width, dstStride, srcStride int)", doc)
		// One column of vectors after the other would add in another order where destination rows overlap, so rows are the outer loop;
		// rows of one vector, the common case, have a loop of their own.
		dst, src, n, ds, ss := a.GP64(), a.GP64(), a.GP64(), a.GP64(), a.GP64()
		a.MOVQ(a.base("dst"), dst)
		a.MOVQ(a.base("src"), src)
		a.MOVQ(a.param("n"), n)
		a.MOVQ(a.param("dstStride"), ds)
		a.MOVQ(a.param("srcStride"), ss)
		a.SHLQ(operand.Imm(2), ds)
		a.SHLQ(operand.Imm(2), ss)
		full, rest := a.GP64(), a.GP64()
		a.MOVQ(a.param("width"), full)
		a.DECQ(full)
		a.MOVQ(full, rest)
		a.ANDQ(operand.I32(int32(-a.lanes())), full) // all vectors but the last, which may be partial but is not empty
		a.ANDQ(imm((a.lanes() - 1)), rest)
		a.INCQ(rest)
		m := a.masks(1, rest)
		a.SHLQ(operand.Imm(2), full)
		move := func(masked bool, s, d operand.Mem) {
			v := a.vec()
			switch {
			case masked && add:
				u := a.vec()
				a.load(m, 0, s, v)
				a.load(m, 0, d, u)
				a.VADDPS(u, v, v)
				a.store(m, 0, v, d)
			case masked:
				a.load(m, 0, s, v)
				a.store(m, 0, v, d)
			case add:
				a.VMOVUPS(s, v)
				a.VADDPS(d, v, v)
				a.VMOVUPS(v, d)
			default:
				a.VMOVUPS(s, v)
				a.VMOVUPS(v, d)
			}
		}
		a.TESTQ(n, n)
		a.JLE(a.jump("done"))
		a.TESTQ(full, full)
		a.JNZ(a.jump("row"))
		a.Label("short")
		move(true, at(src, 0), at(dst, 0))
		a.ADDQ(ss, src)
		a.ADDQ(ds, dst)
		a.DECQ(n)
		a.JNZ(a.jump("short"))
		a.JMP(a.jump("done"))
		a.Label("row")
		i := a.GP64()
		a.XORQ(i, i)
		a.Label("vector")
		move(false, mem(src, i, 1, 0), mem(dst, i, 1, 0))
		a.ADDQ(imm((a.bytes())), i)
		a.CMPQ(i, full)
		a.JLT(a.jump("vector"))
		move(true, mem(src, i, 1, 0), mem(dst, i, 1, 0))
		a.ADDQ(ss, src)
		a.ADDQ(ds, dst)
		a.DECQ(n)
		a.JNZ(a.jump("row"))
		a.Label("done")
		a.ret()
	}
}
