package phantom

import "math/rand/v2"

// mul is a product that is rounded before anything is added to it. Without the conversion a compiler may fuse x*y + z into
// one rounding on processors that can, and the bytes of a phantom would depend on the machine.
func mul(x, y float64) float64 { return float64(x * y) }

func lerp(a, b, t float64) float64 { return a + mul(b-a, t) }

func clamp(x, lo, hi float64) float64 { return max(lo, min(hi, x)) }

// smoothstep rises from 0 at x <= lo to 1 at x >= hi with zero slope at both ends.
func smoothstep(lo, hi, x float64) float64 {
	t := clamp((x-lo)/(hi-lo), 0, 1)
	return mul(mul(t, t), 3-mul(2, t))
}

// random is the one source of chance of a phantom. It turns PCG output into numbers itself, so that the bytes depend on the
// published generator alone.
type random struct{ src *rand.PCG }

func newRandom(seed, stream uint64) *random { return &random{rand.NewPCG(seed, stream)} }

// unit is uniform in [0, 1).
func (r *random) unit() float64 { return float64(r.src.Uint64()>>11) / (1 << 53) }

// between is uniform in [lo, hi).
func (r *random) between(lo, hi float64) float64 { return lerp(lo, hi, r.unit()) }

// count is uniform over the integers lo to hi, both included.
func (r *random) count(lo, hi int) int { return lo + int(mul(r.unit(), float64(hi-lo+1))) }

func (r *random) chance(p float64) bool { return r.unit() < p }

// normal is a sum of four uniform 16-bit numbers scaled to mean 0 and variance 1: near enough to normal for speckle.
func (r *random) normal() float64 {
	u := r.src.Uint64()
	sum := u&0xffff + u>>16&0xffff + u>>32&0xffff + u>>48
	const mean, invStd = 2 * 0xffff, 1.0 / 37837.2 // std = 65536 * sqrt(4/12)
	return mul(float64(int64(sum)-mean), invStd)
}

// lattice is smooth noise in [0, 1]: random values on a coarse grid, interpolated.
type lattice struct {
	values  []float64
	n       [3]int
	spacing [3]float64
}

func newLattice(r *random, dims [3]int, spacing [3]float64) *lattice {
	l := &lattice{spacing: spacing}
	total := 1
	for i := range dims {
		l.n[i] = int(float64(dims[i])/spacing[i]) + 2
		total *= l.n[i]
	}
	l.values = make([]float64, total)
	for i := range l.values {
		l.values[i] = r.unit()
	}
	return l
}

func (l *lattice) at(d, h, w int) float64 {
	var lo [3]int
	var t [3]float64
	for i, x := range [3]int{d, h, w} {
		p := float64(x) / l.spacing[i]
		lo[i] = int(p)
		t[i] = smoothstep(0, 1, p-float64(lo[i]))
	}
	row := func(d, h int) float64 {
		i := (d*l.n[1]+h)*l.n[2] + lo[2]
		return lerp(l.values[i], l.values[i+1], t[2])
	}
	plane := func(d int) float64 { return lerp(row(d, lo[1]), row(d, lo[1]+1), t[1]) }
	return lerp(plane(lo[0]), plane(lo[0]+1), t[0])
}
