package kernel

import (
	"math"
	"math/rand/v2"

	"pgregory.net/rapid"
)

// Loops that define what the kernels compute, in float64.

func randoms(r *rand.Rand, n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(r.NormFloat64())
	}
	return v
}

func source(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// naiveForward computes all planes of a convolution, [D, H, W, Cout]; mag is the sum of absolute products.
func naiveForward(s ConvShape, x, w []float32, in, out [3]int) (y, mag []float64) {
	y, mag = make([]float64, out[0]*out[1]*out[2]*s.Cout), make([]float64, out[0]*out[1]*out[2]*s.Cout)
	visit(s, in, out, func(o, i, wi int) {
		p := float64(x[i]) * float64(w[wi])
		y[o] += p
		mag[o] += math.Abs(p)
	})
	return y, mag
}

// naiveBackward computes dx from dy.
func naiveBackward(s ConvShape, dy, w []float32, in, out [3]int) (dx, mag []float64) {
	dx, mag = make([]float64, in[0]*in[1]*in[2]*s.Cin), make([]float64, in[0]*in[1]*in[2]*s.Cin)
	visit(s, in, out, func(o, i, wi int) {
		p := float64(dy[o]) * float64(w[wi])
		dx[i] += p
		mag[i] += math.Abs(p)
	})
	return dx, mag
}

// visit calls f with the indices of output, input and weight of every product.
func visit(s ConvShape, in, out [3]int, f func(o, i, w int)) {
	cig, cog := s.Cin/s.Groups, s.Cout/s.Groups
	for v := range out[0] * out[1] * out[2] {
		o := [3]int{v / out[2] / out[1], v / out[2] % out[1], v % out[2]}
		for t := range s.taps() {
			k, p, inside := s.tap(t), [3]int{}, true
			for a := range p {
				p[a] = o[a]*s.Stride[a] - s.PadBefore[a] + k[a]*s.Dilation[a]
				inside = inside && p[a] >= 0 && p[a] < in[a]
			}
			if !inside {
				continue
			}
			q := (p[0]*in[1]+p[1])*in[2] + p[2]
			for co := range s.Cout {
				g := co / cog
				for ci := range cig {
					f(v*s.Cout+co, q*s.Cin+g*cig+ci, (co*cig+ci)*s.taps()+t)
				}
			}
		}
	}
}

// ring copies the planes [lo, hi) of a whole tensor into a ring; everything else is NaN, so that reading it shows.
func ring(data []float32, d, h, w, c, lo, hi int) View {
	n := h * w * c
	planes := max(hi-lo, 1)
	v := View{Data: make([]float32, planes*n), H: h, W: w, C: c, Depth: d, Planes: planes}
	for i := range v.Data {
		v.Data[i] = float32(math.NaN())
	}
	for z := lo; z < hi; z++ {
		copy(v.Plane(z), data[z*n:][:n])
	}
	return v
}

// near fails unless got is want within the rounding of a sum of the given magnitude.
func near(t failer, what string, got []float32, want, mag []float64) {
	t.Helper()
	for i := range want {
		if d := math.Abs(float64(got[i]) - want[i]); !(d <= 1e-5*mag[i]+1e-6) {
			t.Fatalf("%s: value %d of %d is %g, want %g (magnitude %g)", what, i, len(want), got[i], want[i], mag[i])
		}
	}
}

type failer interface {
	Helper()
	Fatalf(string, ...any)
}

var axis = [3]string{"d", "h", "w"}

// drawShape draws a convolution and its input size, with the corners that break window arithmetic.
func drawShape(t *rapid.T) (s ConvShape, in [3]int) {
	s.Groups = rapid.SampledFrom([]int{1, 1, 1, 2, 3}).Draw(t, "groups")
	ch := rapid.SampledFrom([]int{1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 24, 33})
	s.Cin, s.Cout = s.Groups*ch.Draw(t, "cin"), s.Groups*ch.Draw(t, "cout")
	if rapid.IntRange(0, 3).Draw(t, "depthwise") == 0 {
		s.Groups, s.Cout = s.Cin, s.Cin
	}
	for a := range in {
		in[a] = rapid.IntRange(1, 9).Draw(t, "in "+axis[a])
		s.Kernel[a] = rapid.IntRange(1, 4).Draw(t, "kernel "+axis[a])
		s.Stride[a] = rapid.IntRange(1, 3).Draw(t, "stride "+axis[a])
		s.Dilation[a] = rapid.IntRange(1, 2).Draw(t, "dilation "+axis[a])
		s.PadBefore[a] = rapid.IntRange(-1, 5).Draw(t, "before "+axis[a])
		s.PadAfter[a] = rapid.IntRange(-1, 5).Draw(t, "after "+axis[a])
	}
	return s, in
}

// gemmTwin is the reference for a tile of any width.
func gemmTwin(width int) gemmFunc {
	return func(c, a, b, bias, zero []float32, rows, crow []int32, p gemmParams) {
		for i := range p.m {
			for j := range p.cols {
				sum := float64(bias[j])
				for t := range p.taps {
					r := rows[t*p.tapStep+i]
					if r < 0 {
						continue
					}
					for k := range p.kc {
						sum += float64(a[int(r)*p.aStride+k]) * float64(b[(t*p.kc+k)*width+j])
					}
				}
				q := &c[int(crow[i])*p.cStride+j]
				if p.acc != 0 {
					sum += float64(*q)
				}
				*q = float32(sum)
			}
		}
	}
}
