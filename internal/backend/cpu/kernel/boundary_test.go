//go:build linux

package kernel

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fence returns n values that end at an unmapped page, so that a read or write behind them faults.
func fence(t *testing.T, v []float32) []float32 {
	t.Helper()
	page := unix.Getpagesize()
	size := (4*len(v) + page - 1) / page * page
	b, err := unix.Mmap(-1, 0, size+page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	if err := unix.Mprotect(b[size:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	out := unsafe.Slice((*float32)(unsafe.Pointer(&b[size-4*len(v)])), len(v))
	copy(out, v)
	return out
}

// No kernel may touch what lies behind its operands.
func TestBoundaries(t *testing.T) {
	one := [3]int{1, 1, 1}
	forSets(t, func(t *testing.T, s *Set) {
		r := source(5)
		for _, shape := range []ConvShape{
			{Cin: 5, Cout: 5, Groups: 5, Kernel: [3]int{1, 3, 3}, Stride: one, Dilation: one, PadBefore: one, PadAfter: one},
			{Cin: 21, Cout: 37, Groups: 1, Kernel: [3]int{1, 3, 3}, Stride: one, Dilation: one, PadBefore: one, PadAfter: one},
			{Cin: 3, Cout: 9, Groups: 1, Kernel: [3]int{1, 3, 3}, Stride: [3]int{1, 2, 2}, Dilation: one, PadBefore: one, PadAfter: one},
		} {
			in := [3]int{2, 5, 7}
			out := shape.Out(in)
			w := Floats(randoms(r, shape.Cout*shape.Cin/shape.Groups*9))
			x, y := randoms(r, 70*shape.Cin), randoms(r, out[0]*out[1]*out[2]*shape.Cout)
			for _, backward := range []bool{false, true} {
				pack := s.PackConv
				src, dst := Whole(fence(t, x), in[0], in[1], in[2], shape.Cin), Whole(fence(t, y), out[0], out[1], out[2], shape.Cout)
				if backward {
					pack, src, dst = s.PackConvBackward, dst, src
				}
				c, err := pack(shape, w)
				if err != nil {
					t.Fatal(err)
				}
				e := Epilogue{Bias: fence(t, make([]float32, dst.C)), Accumulate: true}
				c.Run(dst, src, Region{Z1: dst.Depth}, e, fence(t, make([]float32, c.Scratch())))
			}
		}
		for n := 1; n < 70; n += 3 {
			x, y := fence(t, randoms(r, n)), fence(t, randoms(r, n))
			for op := range s.unary {
				s.unary[op](y, x, 1, 1)
			}
			for op := range s.binary {
				s.binary[op](y, x, y, 1, 1)
			}
			for op := range s.channel {
				s.channel[op](y, x, x, x, 1, n)
			}
			sum := make([]float64, n)
			for op := range s.reduce {
				s.reduce[op](sum, x, y, 1, n)
			}
			s.MatMul(n, n, 1, fence(t, make([]float32, n*n)), n, Operand{x, 1, false}, Operand{y, n, false}, false, make([]float32, s.MatMulScratch()))
		}
	})
}
