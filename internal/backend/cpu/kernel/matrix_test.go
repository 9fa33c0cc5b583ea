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

// Every tile against its twin: partial tiles and panels, padding rows, destinations out of order, both ways to begin a sum.
func TestTiles(t *testing.T) {
	forSets(t, func(t *testing.T, s *Set) {
		for _, tile := range s.tiles {
			rapid.Check(t, func(t *rapid.T) {
				r := source(rapid.Uint64().Draw(t, "seed"))
				p := gemmParams{
					m: rapid.IntRange(1, 40).Draw(t, "rows"), taps: rapid.IntRange(0, 5).Draw(t, "taps"), kc: rapid.IntRange(1, 20).Draw(t, "run"),
					cols: rapid.IntRange(1, tile.width).Draw(t, "columns"), acc: rapid.IntRange(0, 1).Draw(t, "accumulate"), tapStep: 60,
				}
				p.aStride, p.cStride = p.kc+rapid.IntRange(0, 3).Draw(t, "a stride"), p.cols+rapid.IntRange(0, 3).Draw(t, "c stride")
				rows, crow := make([]int32, 5*60), make([]int32, 60)
				for i := range rows {
					rows[i] = int32(r.IntN(51)) - 1
				}
				for i, q := range r.Perm(60) {
					crow[i] = int32(q)
				}
				a, b, bias := randoms(r, 50*p.aStride), randoms(r, p.taps*p.kc*tile.width+1), randoms(r, p.cols)
				got := randoms(r, 60*p.cStride)
				want := append([]float32(nil), got...)
				tile.run(got, a, b, bias, make([]float32, p.kc), rows, crow, p)
				gemmTwin(tile.width)(want, a, b, bias, nil, rows, crow, p)
				for i := range got {
					if d := math.Abs(float64(got[i] - want[i])); !(d <= 1e-4) {
						t.Fatalf("tile of %d columns: value %d is %g, want %g", tile.width, i, got[i], want[i])
					}
				}
			})
		}
	})
}
