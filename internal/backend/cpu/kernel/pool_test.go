package kernel

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestPool(t *testing.T) {
	forSets(t, func(t *testing.T, s *Set) {
		rapid.Check(t, func(t *rapid.T) {
			conv, in := drawShape(t)
			c := rapid.IntRange(1, 40).Draw(t, "channels")
			shape := PoolShape{conv.Kernel, conv.Stride, conv.Dilation, conv.PadBefore, conv.PadAfter, rapid.Bool().Draw(t, "count padding")}
			for a := range 3 { // no window may lie in the padding alone
				shape.PadBefore[a] = max(0, min(shape.PadBefore[a], shape.Kernel[a]-1))
				shape.Dilation[a] = 1
				shape.PadAfter[a] = max(0, min(shape.PadAfter[a], shape.Kernel[a]-1))
			}
			conv.Dilation, conv.PadBefore, conv.PadAfter = shape.Dilation, shape.PadBefore, shape.PadAfter
			out := conv.Out(in)
			p, err := s.NewPool(shape)
			if err != nil {
				t.Fatal(err)
			}
			r := source(rapid.Uint64().Draw(t, "seed"))
			x := randoms(r, in[0]*in[1]*in[2]*c)
			for i := range x { // ties
				x[i] = float32(math.Round(float64(x[i]) * 2))
			}
			if rapid.IntRange(0, 4).Draw(t, "nan") == 0 {
				x[len(x)/2] = float32(math.NaN())
			}
			n := out[0] * out[1] * out[2] * c
			top, win, mean, count := make([]float64, n), make([]int, n), make([]float64, n), make([]float64, n)
			for i := range top {
				win[i] = -1
			}
			each := func(f func(o, i, tap int)) { // every value of every window, channel by channel
				one := ConvShape{Cin: 1, Cout: 1, Groups: 1, Kernel: shape.Kernel, Stride: shape.Stride, Dilation: shape.Dilation, PadBefore: shape.PadBefore}
				for ch := range c {
					visit(one, in, out, func(o, i, tap int) { f(o*c+ch, i*c+ch, tap) })
				}
			}
			each(func(o, i, tap int) {
				v := float64(x[i])
				if win[o] < 0 || v > top[o] || v != v {
					top[o], win[o] = v, tap
				}
				mean[o] += v
				count[o]++
			})
			for o := range count {
				if shape.CountPadding {
					count[o] = 1
					v := o / c
					for a, q := range [3]int{v / out[2] / out[1], v / out[2] % out[1], v % out[2]} {
						lo := q*shape.Stride[a] - shape.PadBefore[a]
						count[o] *= float64(min(lo+shape.Kernel[a], in[a]+shape.PadAfter[a]) - lo)
					}
				}
				mean[o] /= count[o]
			}
			dy := randoms(r, n)
			dmax, dmean, mag := make([]float64, len(x)), make([]float64, len(x)), make([]float64, len(x))
			each(func(o, i, tap int) {
				if win[o] == tap {
					dmax[i] += float64(dy[o])
				}
				dmean[i] += float64(dy[o]) / count[o]
				mag[i] += math.Abs(float64(dy[o]))
			})

			scratch := make([]float32, p.Scratch())
			index := make([]uint8, n)
			gotMax, gotIndexed, gotMean := make([]float32, n), make([]float32, n), make([]float32, n)
			slab, band := rapid.IntRange(1, 4).Draw(t, "slab"), rapid.IntRange(1, 4).Draw(t, "band")
			for z := 0; z < out[0]; z += slab {
				z1 := min(z+slab, out[0])
				lo, hi := p.SourcePlanes(z, z1, in[0])
				src := ring(x, in[0], in[1], in[2], c, lo, hi)
				for y := 0; y < out[1]; y += band {
					reg := Region{Z0: z, Z1: z1, Y0: y, Y1: min(y+band, out[1])}
					p.Max(Whole(gotMax, out[0], out[1], out[2], c), src, nil, reg, scratch)
					p.Max(Whole(gotIndexed, out[0], out[1], out[2], c), src, index, reg, scratch)
					p.Average(Whole(gotMean, out[0], out[1], out[2], c), src, reg, scratch)
				}
			}
			for o := range n {
				if math.IsNaN(top[o]) {
					if gotMax[o] == gotMax[o] || gotMean[o] == gotMean[o] {
						t.Fatalf("value %d: NaN in the window gives maximum %g, mean %g", o, gotMax[o], gotMean[o])
					}
					mean[o], gotMean[o] = 0, 0
				} else if float64(gotMax[o]) != top[o] || gotIndexed[o] != gotMax[o] {
					t.Fatalf("value %d: maximum %g, with index %g, want %g", o, gotMax[o], gotIndexed[o], top[o])
				}
				if int(index[o]) != win[o] {
					t.Fatalf("value %d: tap %d wins, want %d", o, index[o], win[o])
				}
			}
			ones := make([]float64, max(n, len(x)))
			for i := range ones {
				ones[i] = 1
			}
			near(t, "mean", gotMean, mean, ones)

			gotMax, gotMean = make([]float32, len(x)), make([]float32, len(x))
			grad := Whole(dy, out[0], out[1], out[2], c)
			for z := 0; z < in[0]; z += slab {
				for y := 0; y < in[1]; y += band {
					reg := Region{Z0: z, Z1: min(z+slab, in[0]), Y0: y, Y1: min(y+band, in[1])}
					p.MaxBackward(Whole(gotMax, in[0], in[1], in[2], c), grad, index, grad.Planes, reg, scratch)
					p.AverageBackward(Whole(gotMean, in[0], in[1], in[2], c), grad, reg, scratch)
				}
			}
			near(t, "gradient of the maximum", gotMax, dmax, mag)
			near(t, "gradient of the mean", gotMean, dmean, mag)
		})
	})
}
