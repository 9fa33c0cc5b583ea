package kernel

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestMatrix(t *testing.T) {
	forSets(t, func(t *testing.T, s *Set) {
		rapid.Check(t, func(t *rapid.T) {
			dim := func(name string) int {
				return rapid.SampledFrom([]int{1, 2, 3, 5, 8, 11, 16, 17, 31, 48, 64, 65, 97, 130, 300, 401}).Draw(t, name)
			}
			m, n, k := dim("m"), dim("n"), dim("k")
			if m*n*k > 1<<21 {
				k = 9
			}
			ta, tb := rapid.Bool().Draw(t, "transpose a"), rapid.Bool().Draw(t, "transpose b")
			acc, packed := rapid.Bool().Draw(t, "accumulate"), rapid.Bool().Draw(t, "packed")
			pad := rapid.IntRange(0, 3).Draw(t, "stride")
			ta = ta && !packed
			r := source(rapid.Uint64().Draw(t, "seed"))
			store := func(rows, cols int, trans bool) Operand {
				if trans {
					rows, cols = cols, rows
				}
				return Operand{randoms(r, (rows-1)*(cols+pad)+cols), cols + pad, trans}
			}
			a, b := store(m, k, ta), store(k, n, tb)
			at := func(o Operand, i, j int) float64 {
				if o.Trans {
					i, j = j, i
				}
				return float64(o.Data[i*o.Stride+j])
			}
			ldc := n + pad
			c := randoms(r, (m-1)*ldc+n)
			want, mag := make([]float64, len(c)), make([]float64, len(c))
			for i, v := range c {
				want[i] = float64(v)
			}
			var bias []float32
			if packed && rapid.Bool().Draw(t, "bias") {
				bias = randoms(r, n)
			}
			for i := range m {
				for j := range n {
					q := i*ldc + j
					if !acc {
						want[q] = 0
					}
					if bias != nil {
						want[q] += float64(bias[j])
					}
					mag[q] = math.Abs(want[q])
					for l := range k {
						p := at(a, i, l) * at(b, l, j)
						want[q] += p
						mag[q] += math.Abs(p)
					}
				}
			}
			if packed {
				w := make([]float32, k*n)
				for l := range k {
					for j := range n {
						if tb {
							w[j*k+l] = float32(at(b, l, j))
						} else {
							w[l*n+j] = float32(at(b, l, j))
						}
					}
				}
				p := s.PackMatrix(k, n, Floats(w), tb)
				cut := rapid.IntRange(0, n).Draw(t, "cut")
				p.MulCols(c, ldc, a.Data, a.Stride, m, 0, cut, bias, acc)
				p.MulCols(c, ldc, a.Data, a.Stride, m, cut, n, bias, acc)
			} else {
				scratch := make([]float32, s.MatMulScratch())
				for i := range scratch {
					scratch[i] = float32(math.NaN())
				}
				s.MatMul(m, n, k, c, ldc, a, b, acc, scratch)
			}
			near(t, "product", c, want, mag)
		})
	})
}
