//go:build unix

package kernel

import (
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// cases are the convolutions of 3D ResNets and EfficientNets that bench/cpu_peer.py measures for PyTorch; names agree.
var cases = []struct {
	name  string
	shape ConvShape
	in    [3]int
}{
	{"stem_3_64_k3x7x7_s1x2x2", conv(3, 64, 1, [3]int{3, 7, 7}, [3]int{1, 2, 2}), [3]int{32, 112, 112}},
	{"stem_1_32_k3_s2", conv(1, 32, 1, [3]int{3, 3, 3}, [3]int{2, 2, 2}), [3]int{64, 128, 128}},
	{"dense_64_64_k3", conv(64, 64, 1, [3]int{3, 3, 3}, [3]int{1, 1, 1}), [3]int{32, 56, 56}},
	{"dense_128_128_k3", conv(128, 128, 1, [3]int{3, 3, 3}, [3]int{1, 1, 1}), [3]int{16, 28, 28}},
	{"dense_512_512_k3", conv(512, 512, 1, [3]int{3, 3, 3}, [3]int{1, 1, 1}), [3]int{4, 7, 7}},
	{"dense_64_128_k3_s2", conv(64, 128, 1, [3]int{3, 3, 3}, [3]int{2, 2, 2}), [3]int{32, 56, 56}},
	{"pointwise_24_144", conv(24, 144, 1, [3]int{1, 1, 1}, [3]int{1, 1, 1}), [3]int{32, 64, 64}},
	{"pointwise_144_24", conv(144, 24, 1, [3]int{1, 1, 1}, [3]int{1, 1, 1}), [3]int{32, 64, 64}},
	{"depthwise_96_k3", conv(96, 96, 96, [3]int{3, 3, 3}, [3]int{1, 1, 1}), [3]int{32, 64, 64}},
	{"depthwise_96_k3_s2", conv(96, 96, 96, [3]int{3, 3, 3}, [3]int{2, 2, 2}), [3]int{32, 64, 64}},
	{"depthwise_240_k5", conv(240, 240, 240, [3]int{5, 5, 5}, [3]int{1, 1, 1}), [3]int{8, 16, 16}},
}

// conv is a convolution padded to keep its size, or to halve it.
func conv(cin, cout, groups int, k, s [3]int) ConvShape {
	p := [3]int{k[0] / 2, k[1] / 2, k[2] / 2}
	return ConvShape{Cin: cin, Cout: cout, Groups: groups, Kernel: k, Stride: s, Dilation: [3]int{1, 1, 1}, PadBefore: p, PadAfter: p}
}

// BenchmarkConv prints GFLOP/s over GOMAXPROCS threads (-cpu 1,2).
func BenchmarkConv(b *testing.B) {
	for _, tc := range cases {
		for _, backward := range []bool{false, true} {
			for _, s := range Sets() {
				if s.name == "go" {
					continue
				}
				name := fmt.Sprintf("%s/%s/%s", tc.name, map[bool]string{false: "forward", true: "backward"}[backward], s.name)
				b.Run(name, func(b *testing.B) { benchConv(b, s, tc.shape, tc.in, backward) })
			}
		}
	}
}

func benchConv(b *testing.B, s *Set, shape ConvShape, in [3]int, backward bool) {
	r := source(1)
	out := shape.Out(in)
	w := Floats(randoms(r, shape.Cout*shape.Cin/shape.Groups*shape.taps()))
	pack, from, to := s.PackConv, in, out
	if backward {
		pack, from, to = s.PackConvBackward, out, in
	}
	c, err := pack(shape, w)
	if err != nil {
		b.Fatal(err)
	}
	cin, cout := c.Channels()
	src := Whole(randoms(r, from[0]*from[1]*from[2]*cin), from[0], from[1], from[2], cin)
	dst := Whole(make([]float32, to[0]*to[1]*to[2]*cout), to[0], to[1], to[2], cout)
	threads := runtime.GOMAXPROCS(0)
	scratch := make([][]float32, threads)
	for i := range scratch {
		scratch[i] = make([]float32, c.Scratch())
	}
	flop := 2 * float64(out[0]*out[1]*out[2]*shape.Cout) * float64(shape.Cin/shape.Groups*shape.taps())
	start := cpuTime()
	b.ResetTimer()
	for b.Loop() {
		var wg sync.WaitGroup
		for i := range threads {
			wg.Go(func() {
				c.Run(dst, src, Region{Z0: to[0] * i / threads, Z1: to[0] * (i + 1) / threads}, Epilogue{}, scratch[i])
			})
		}
		wg.Wait()
	}
	b.ReportMetric(flop*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
	if used := cpuTime() - start; used > 0 { // what the machine's other users do not distort
		b.ReportMetric(flop*float64(b.N)/used.Seconds()/1e9, "GFLOP/cpu-s")
	}
}

// cpuTime is the processor time that this process has used, or 0 where the system does not say.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkActivation(b *testing.B) {
	x := randoms(source(1), 1<<14)
	y := make([]float32, len(x))
	for _, s := range Sets() {
		for _, a := range Activations() {
			b.Run(a.Name+"/"+s.name, func(b *testing.B) {
				b.SetBytes(int64(4 * len(x)))
				for b.Loop() {
					s.Apply(a, y, x)
				}
			})
		}
	}
}

// BenchmarkMatMul has the products of attention (217 tokens, heads of 64) and of a classifier head.
func BenchmarkMatMul(b *testing.B) {
	for _, tc := range []struct {
		name    string
		m, n, k int
		ta, tb  bool
	}{
		{"scores", 217, 217, 64, false, true},
		{"values", 217, 64, 217, false, false},
		{"gradient", 217, 64, 217, true, false},
		{"large", 512, 512, 512, false, false},
	} {
		for _, s := range Sets() {
			b.Run(tc.name+"/"+s.name, func(b *testing.B) {
				x := randoms(source(1), 1<<18)
				c, scratch := make([]float32, tc.m*tc.n), make([]float32, s.MatMulScratch())
				lda, ldb := tc.k, tc.n
				if tc.ta {
					lda = tc.m
				}
				if tc.tb {
					ldb = tc.k
				}
				for b.Loop() {
					s.MatMul(tc.m, tc.n, tc.k, c, tc.n, Operand{x, lda, tc.ta}, Operand{x, ldb, tc.tb}, false, scratch)
				}
				b.ReportMetric(2*float64(tc.m*tc.n*tc.k)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
	for _, s := range Sets() {
		b.Run("vector_2048_1000/"+s.name, func(b *testing.B) {
			x, c := randoms(source(1), 2048), make([]float32, 1000)
			p := s.PackMatrix(2048, 1000, Floats(randoms(source(2), 2048*1000)), true)
			b.SetBytes(4 * 2048 * 1000)
			for b.Loop() {
				p.Mul(c, 1000, x, 2048, 1, nil, false)
			}
		})
	}
}
