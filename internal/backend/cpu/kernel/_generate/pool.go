package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/operand"
)

// pools makes the pooling kernels: one vector of channels, four voxels at a time.
func (a *asm) pools() {
	for _, masked := range []bool{false, true} {
		a.pool("maxPool", masked)
		a.pool("meanPool", masked)
		if a.wide || !masked {
			a.pool("maxIndex", masked)
		}
	}
}

func (a *asm) pool(name string, masked bool) {
	twin, note := "maxIndexGo", fmt.Sprintf("exactly %d", a.lanes())
	if name == "meanPool" {
		twin = "meanPoolGo"
	}
	full := name + a.tag
	if masked {
		full, note = full+"m", fmt.Sprintf("up to %d", a.lanes())
	}
	a.text(full, "func(dst, src []float32, index []uint8, taps []int32, scale float32, p depthwiseParams)",
		fmt.Sprintf("is a poolFunc for %s channels; its twin is %s.", note, twin))
	var m mask
	if masked {
		m = a.masks(1, a.field("cols"))
	}
	load := func(src operand.Mem) vec {
		v := a.vec()
		if masked {
			a.load(m, 0, src, v)
		} else {
			a.VMOVUPS(src, v)
		}
		return v
	}
	local := a.AllocLocal(16)
	tapEnd, dstStep := local, local
	dstStep.Disp += 8
	stride, src, s, s3 := a.GP64(), a.GP64(), a.GP64(), a.GP64()
	a.MOVQ(a.field("stride"), stride)
	a.SHLQ(operand.Imm(2), stride)
	a.MOVQ(a.field("shift"), src)
	a.IMULQ(stride, src)
	a.ADDQ(a.base("src"), src)
	a.MOVQ(a.field("srcStep"), s)
	a.SHLQ(operand.Imm(2), s)
	a.LEAQ(mem(s, s, 2, 0), s3)
	{
		t, u := a.GP64(), a.GP64()
		a.MOVQ(a.length("taps"), t)
		a.SHLQ(operand.Imm(2), t)
		a.MOVQ(a.base("taps"), u)
		a.ADDQ(u, t)
		a.MOVQ(t, tapEnd)
		a.MOVQ(a.field("dstStep"), t)
		a.MOVQ(t, dstStep)
	}
	dst, index, n := a.GP64(), a.GP64(), a.GP64()
	a.MOVQ(a.base("dst"), dst)
	a.MOVQ(a.base("index"), index)
	a.MOVQ(a.field("n"), n)
	for _, r := range []int{4, 1} {
		at4 := func(what string) string { return fmt.Sprintf("%s%d", what, r) }
		a.Label(at4("rows"))
		a.CMPQ(n, imm(r))
		a.JLT(a.jump(at4("next")))
		acc, win := a.vecs(r), a.vecs(r)
		for i := range r {
			if name == "meanPool" {
				a.zero(acc[i])
			} else {
				a.VMOVUPS(a.word(math.Float32bits(float32(math.Inf(-1)))), acc[i])
			}
		}
		tap := a.GP64()
		a.MOVQ(a.base("taps"), tap)
		if name == "maxIndex" { // the first tap leads, whatever its value
			for i := range r {
				a.zero(win[i])
			}
			a.CMPQ(tap, tapEnd)
			a.JEQ(a.jump(at4("store")))
			for i := range r {
				a.VPBROADCASTD(at(tap, 4), win[i])
			}
		}
		a.CMPQ(tap, tapEnd)
		a.JEQ(a.jump(at4("store")))
		a.Label(at4("tap"))
		x := a.GP64()
		a.MOVLQSX(at(tap, 0), x)
		a.IMULQ(stride, x)
		a.ADDQ(src, x)
		var k vec
		if name == "maxIndex" {
			k = a.vec()
			a.VPBROADCASTD(at(tap, 4), k)
		}
		for i := range r {
			v := load([]operand.Mem{at(x, 0), mem(x, s, 1, 0), mem(x, s, 2, 0), mem(x, s3, 1, 0)}[i])
			if name == "meanPool" {
				a.VADDPS(v, acc[i], acc[i])
				continue
			}
			const unordered = 3
			if a.wide {
				gt, nan := a.K(), a.K()
				a.VCMPPS(operand.Imm(greaterThan), acc[i], v, gt)
				a.VCMPPS(operand.Imm(unordered), v, v, nan)
				a.KORW(gt, nan, gt)
				a.VMOVAPS(v, gt, acc[i])
				if name == "maxIndex" {
					a.VMOVDQA32(k, gt, win[i])
				}
			} else {
				gt, nan := a.vec(), a.vec()
				a.VCMPPS(operand.Imm(greaterThan), acc[i], v, gt)
				a.VCMPPS(operand.Imm(unordered), v, v, nan)
				a.VORPS(gt, nan, gt)
				a.VBLENDVPS(gt, v, acc[i], acc[i])
				if name == "maxIndex" {
					a.VBLENDVPS(gt, k, win[i], win[i])
				}
			}
		}
		a.ADDQ(imm(8), tap)
		a.CMPQ(tap, tapEnd)
		a.JNE(a.jump(at4("tap")))
		a.Label(at4("store"))
		step := a.GP64()
		a.MOVQ(dstStep, step)
		for i := range r {
			if name == "meanPool" {
				scale := a.vec()
				a.VBROADCASTSS(a.param("scale"), scale)
				a.VMULPS(scale, acc[i], acc[i])
			}
			if masked {
				a.store(m, 0, acc[i], at(dst, 0))
			} else {
				a.VMOVUPS(acc[i], at(dst, 0))
			}
			a.LEAQ(mem(dst, step, 4, 0), dst)
			if name != "maxIndex" {
				continue
			}
			switch {
			case a.wide && masked:
				a.VPMOVDB(win[i], m.k[0], at(index, 0))
			case a.wide:
				a.VPMOVDB(win[i], at(index, 0))
			default:
				hi := a.XMM()
				lo := win[i].AsX()
				a.VEXTRACTI128(operand.Imm(1), win[i], hi)
				a.VPACKUSDW(hi, lo, hi)
				a.VPACKUSWB(hi, hi, hi)
				a.VMOVQ(hi, at(index, 0))
			}
			a.ADDQ(step, index)
		}
		for range r {
			a.ADDQ(s, src)
		}
		a.SUBQ(imm(r), n)
		a.JMP(a.jump(at4("rows")))
		a.Label(at4("next"))
	}
	a.ret()
}
