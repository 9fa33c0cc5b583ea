package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// gemms makes the matrix kernels: vectors of columns by rows. The sums fill the register file but for the columns' weights and one
// broadcast; fewer columns get more rows.
func (a *asm) gemms() {
	if a.wide {
		for _, s := range [][2]int{{4, 6}, {3, 8}, {2, 12}, {1, 12}} {
			a.gemm(s[0], s[1])
		}
		return
	}
	a.gemm(2, 6)
	a.gemm(1, 8)
}

func (a *asm) gemm(nv, mr int) {
	name := fmt.Sprintf("gemm%sx%dx%d", a.tag, nv, mr)
	a.text(name, "func(c, a, b, bias, zero []float32, rows, crow []int32, p gemmParams)",
		fmt.Sprintf("is a gemmFunc for panels of %d columns, %d rows at a time; its twin is gemmGo4, for any width gemmTwin in the tests.", nv*a.lanes(), mr))
	w := a.bytes()
	local := a.AllocLocal(56)
	slot := func(i int) operand.Mem { m := local; m.Disp += 8 * i; return m }
	aEnd, zeroEnd, minusK, aStep, cStep, tapStep, taps := slot(0), slot(1), slot(2), slot(3), slot(4), slot(5), slot(6)
	{
		t, k := a.GP64(), a.GP64()
		a.MOVQ(a.field("kc"), k)
		a.SHLQ(operand.Imm(2), k)
		for _, e := range []struct{ from, to operand.Mem }{{a.base("a"), aEnd}, {a.base("zero"), zeroEnd}} {
			a.MOVQ(e.from, t)
			a.ADDQ(k, t)
			a.MOVQ(t, e.to)
		}
		a.NEGQ(k)
		a.MOVQ(k, minusK)
		for _, e := range []struct{ from, to operand.Mem }{{a.field("aStride"), aStep}, {a.field("cStride"), cStep}, {a.field("tapStep"), tapStep}} {
			a.MOVQ(e.from, t)
			a.SHLQ(operand.Imm(2), t)
			a.MOVQ(t, e.to)
		}
	}
	acc := make([][]reg.VecVirtual, mr)
	for i := range acc {
		acc[i] = a.vecs(nv)
	}
	var km mask
	if a.wide {
		km = a.masks(nv, a.field("cols"))
	}

	a.Label("group")
	// The sums begin with the bias.
	{
		m := km
		if !a.wide {
			m = a.masks(nv, a.field("cols"))
		}
		t := a.GP64()
		a.MOVQ(a.base("bias"), t)
		for j := range nv {
			a.load(m, j, at(t, j*w), acc[0][j])
			for i := 1; i < mr; i++ {
				a.VMOVUPS(acc[0][j], acc[i][j])
			}
		}
	}
	b, table := a.GP64(), a.GP64()
	a.MOVQ(a.base("b"), b)
	a.MOVQ(a.base("rows"), table)
	{
		t := a.GP64()
		a.MOVQ(a.field("taps"), t)
		a.TESTQ(t, t)
		a.JZ(a.jump("write"))
		a.MOVQ(t, taps)
	}
	a.Label("tap")
	// Each row's address is a's end of run plus its table entry; a negative entry makes the addition carry, and takes the zero row.
	ptr := make([]reg.GPVirtual, mr)
	for i := range ptr {
		ptr[i] = a.GP64()
		a.MOVLQSX(at(table, 4*i), ptr[i])
		a.IMULQ(aStep, ptr[i])
		a.ADDQ(aEnd, ptr[i])
		a.CMOVQCS(zeroEnd, ptr[i])
	}
	a.ADDQ(tapStep, table)
	idx := a.GP64()
	a.MOVQ(minusK, idx)
	a.Label("k")
	bv := a.vecs(nv)
	for j := range bv {
		a.VMOVUPS(at(b, j*w), bv[j])
	}
	for i := range ptr {
		av := a.vec()
		a.VBROADCASTSS(mem(ptr[i], idx, 1, 0), av)
		for j := range bv {
			a.VFMADD231PS(av, bv[j], acc[i][j])
		}
	}
	a.ADDQ(imm((nv * w)), b)
	a.ADDQ(imm(4), idx)
	a.JNZ(a.jump("k"))
	a.DECQ(taps)
	a.JNZ(a.jump("tap"))

	a.Label("write")
	crow, left, addup := a.GP64(), a.GP64(), a.GP64()
	a.MOVQ(a.base("crow"), crow)
	a.MOVQ(a.field("m"), left)
	a.MOVQ(a.field("acc"), addup)
	write := func(suffix string, m *mask) {
		for i := range acc {
			c := a.GP64()
			a.MOVLQSX(at(crow, 4*i), c)
			a.IMULQ(cStep, c)
			a.ADDQ(a.base("c"), c)
			a.TESTQ(addup, addup)
			skip := fmt.Sprintf("store%d%s", i, suffix)
			a.JZ(a.jump(skip))
			for j := range nv {
				if m == nil {
					a.VADDPS(at(c, j*w), acc[i][j], acc[i][j])
				} else {
					t := a.vec()
					a.load(*m, j, at(c, j*w), t)
					a.VADDPS(t, acc[i][j], acc[i][j])
				}
			}
			a.Label(skip)
			for j := range nv {
				if m == nil {
					a.VMOVUPS(acc[i][j], at(c, j*w))
				} else {
					a.store(*m, j, acc[i][j], at(c, j*w))
				}
			}
			if i+1 < mr {
				a.CMPQ(left, imm((i + 1)))
				a.JE(a.jump("done"))
			}
		}
	}
	next := func() {
		a.SUBQ(imm((mr)), left)
		a.JLE(a.jump("done"))
		a.MOVQ(left, a.field("m"))
		a.ADDQ(imm((4 * mr)), a.base("rows"))
		a.ADDQ(imm((4 * mr)), a.base("crow"))
		a.JMP(a.jump("group"))
	}
	if a.wide {
		write("", &km)
		next()
	} else {
		// Masked stores are slow on some processors: only for a partial panel.
		a.CMPQ(a.field("cols"), imm((nv * a.lanes())))
		a.JNE(a.jump("partial"))
		write("", nil)
		next()
		a.Label("partial")
		m := a.masks(nv, a.field("cols"))
		write("p", &m)
		next()
	}
	a.Label("done")
	a.ret()
}
