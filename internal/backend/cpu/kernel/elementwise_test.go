package kernel

import (
	"fmt"
	"math"
	"testing"
)

// grid is every interesting float32: both signs, all magnitudes that change a result, zeros, infinities, NaN, and a fine sweep.
func grid() (v []float32) {
	for e := -30.; e < 8; e += 0.37 {
		v = append(v, float32(math.Exp2(e)), -float32(math.Exp2(e)))
	}
	for x := -30.; x < 30; x += 0.0137 {
		v = append(v, float32(x))
	}
	return append(v, 0, float32(math.Copysign(0, -1)), 1e-40, -1e-40, 87, 88.5, 88.73, 89, 100, -87.5, -90, -103, -104, -110)
}

var special = []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))}

// within fails unless got is within the units in the last place of want, or within the absolute error.
func within(t *testing.T, what string, x, got float32, want, ulps, abs float64) {
	t.Helper()
	if math.IsNaN(want) {
		if got == got {
			t.Fatalf("%s at %g is %g, want NaN", what, x, got)
		}
		return
	}
	w := float32(want)
	if got == w {
		return
	}
	unit := math.Abs(float64(math.Nextafter32(w, float32(math.Inf(1))) - w))
	if d := math.Abs(float64(got) - want); !(d <= ulps*unit || d <= abs) {
		t.Fatalf("%s at %g is %.9g, want %.9g: off by %.3g, %.1f units in the last place", what, x, got, want, d, d/unit)
	}
}

// accuracy is the promise of Activation's doc comment: units in the last place, or an absolute error in units of |x|.
var accuracy = map[string]struct{ ulps, abs float64 }{
	"exp": {2, 0}, "sigmoid": {4, 0}, "silu": {4, 0}, "tanh": {4, 0}, "softplus": {4, 0}, "elu": {4, 0},
	"mish": {5, 0}, "gelu": {6, 0}, "gelu_tanh": {6, 2e-8}, "hard_sigmoid": {2, 6e-8}, "hard_swish": {2, 6e-8},
}

func TestActivations(t *testing.T) {
	forSets(t, func(t *testing.T, s *Set) {
		x := grid()
		for _, a := range Activations() {
			t.Run(a.Name, func(t *testing.T) {
				acc, ok := accuracy[a.Name]
				if !ok {
					acc.ulps = 2
				}
				y := make([]float32, len(x))
				s.Apply(a, y, x)
				exact := make([]float32, len(x))
				plain().Apply(a, exact, x)
				for i := range x {
					if math.Abs(float64(exact[i])) < 1e-37 { // exp(-x) overflows, or is subnormal, along the way
						within(t, a.Name, x[i], y[i], float64(exact[i]), 0, 1e-37)
						continue
					}
					within(t, a.Name, x[i], y[i], float64(exact[i]), acc.ulps, acc.abs*math.Abs(float64(x[i])))
				}
				v := x
				if a.FromOutput {
					v = exact
				}
				dy := randoms(source(3), len(x))
				dx, want := make([]float32, len(x)), make([]float32, len(x))
				s.Derive(a, dx, dy, v)
				plain().Derive(a, want, dy, v)
				for i := range x {
					// A derivative crosses zero, so its error is absolute, in units of the largest term.
					within(t, a.Name+" derivative", x[i], dx[i], float64(want[i]), 4, 6e-7*math.Abs(float64(dy[i])))
				}
			})
		}
	})
}

// NaN must come out as NaN, infinities as the limit, in every lane and in the rest.
func TestActivationSpecials(t *testing.T) {
	forSets(t, func(t *testing.T, s *Set) {
		for _, a := range Activations() {
			for _, x := range special {
				want := []float32{0}
				plain().Apply(a, want, []float32{x})
				v := make([]float32, 21)
				for i := range v {
					v[i] = x
				}
				s.Apply(a, v, v)
				for _, got := range v {
					if x < 0 && want[0] != want[0] { // -inf * 0 for functions x g(x): either answer is as good
						continue
					}
					within(t, a.Name, x, got, float64(want[0]), 2, 1e-6)
				}
			}
		}
	})
}

// Every length and offset: nothing outside is written, and values do not depend on the place.
func TestElementwiseEdges(t *testing.T) {
	forSets(t, func(t *testing.T, s *Set) {
		p := plain()
		for n := range 40 {
			for off := range 3 {
				x, y := randoms(source(1), n+off)[off:], randoms(source(2), n+off)[off:]
				check := func(what string, f func(s *Set, dst []float32)) {
					t.Helper()
					got, want := guarded(n), guarded(n)
					copy(got[8:], x)
					copy(want[8:], x)
					f(s, got[8:8+n:8+n])
					f(p, want[8:8+n:8+n])
					for i := range got {
						within(t, fmt.Sprintf("%s, length %d, place %d", what, n, i-8), 0, got[i], float64(want[i]), 6, 1e-6)
					}
				}
				for op := range s.unary {
					check(fmt.Sprintf("unary %d", op), func(s *Set, dst []float32) { s.unary[op](dst, x, 0.3, 0.7) })
				}
				for op := range s.binary {
					check(fmt.Sprintf("binary %d", op), func(s *Set, dst []float32) { s.binary[op](dst, x, y, 0.3, 0.7) })
				}
			}
		}
	})
}

const guard = 12345

func guarded(n int) []float32 {
	v := make([]float32, n+16)
	for i := range v {
		v[i] = guard
	}
	return v
}

func TestChannels(t *testing.T) {
	forSets(t, func(t *testing.T, s *Set) {
		p := plain()
		for c := 1; c < 70; c++ {
			for _, n := range []int{1, 2, 5} {
				r := source(uint64(c))
				x, y, a, b := randoms(r, n*c), randoms(r, n*c), randoms(r, c), randoms(r, c)
				for op := range s.channel {
					got, want := guarded(n*c), guarded(n*c)
					copy(got[8:], y)
					copy(want[8:], y)
					s.channel[op](got[8:8+n*c], x, a, b, n, c)
					p.channel[op](want[8:8+n*c], x, a, b, n, c)
					for i := range got {
						within(t, fmt.Sprintf("channel %d, %d channels, place %d", op, c, i-8), 0, got[i], float64(want[i]), 2, 1e-6)
					}
				}
				for op := range s.reduce {
					got, want := make([]float64, c+1), make([]float64, c+1)
					got[0], want[0], got[c], want[c] = 1, 1, 7, 7
					q := y
					if op == redVar {
						q = a
					}
					s.reduce[op](got[:c], x, q, n, c)
					p.reduce[op](want[:c], x, q, n, c)
					for i := range got {
						if math.Abs(got[i]-want[i]) > 1e-13*(1+math.Abs(want[i])) {
							t.Fatalf("reduction %d, %d channels: sum %d is %g, want %g", op, c, i, got[i], want[i])
						}
					}
				}
			}
		}
	})
}
