package noise

import "math"

const rounds = 10

// Multipliers and Weyl increments of Philox4x32 (SC 2011, section 4.3).
const (
	mul0, mul1   = 0xD2511F53, 0xCD9E8D57
	weyl0, weyl1 = 0x9E3779B9, 0xBB67AE85
)

// roundKeys is the key schedule: the key of round r is the key plus r Weyl increments.
func roundKeys(k0, k1 uint32) (keys [rounds][2]uint32) {
	for r := range keys {
		keys[r] = [2]uint32{k0, k1}
		k0 += weyl0
		k1 += weyl1
	}
	return keys
}

// philox is the Philox4x32-10 function of a counter.
func philox(keys *[rounds][2]uint32, c0, c1, c2, c3 uint32) (x0, x1, x2, x3 uint32) {
	for r := range keys {
		k := &keys[r]
		p0 := uint64(c0) * mul0
		p1 := uint64(c2) * mul1
		c0, c1, c2, c3 = uint32(p1>>32)^c1^k[0], uint32(p1), uint32(p0>>32)^c3^k[1], uint32(p0)
	}
	return c0, c1, c2, c3
}

// Polynomials fitted to their functions for the least largest relative error, which is given for exact arithmetic.
const (
	// -2 ln(1+f) = -2f + f^2 + f^3 P(f) for 1+f in [sqrt(1/2), sqrt(2)], 3.1e-8.
	log0, log1, log2, log3 = -0.66667819, 0.500026762, -0.399261236, 0.331551701
	log4, log5, log6       = -0.298295796, 0.285349786, -0.174007356
	// sin p = p + p^3 S(p^2) for |p| <= pi/4, 3.6e-9.
	sin0, sin1, sin2 = -0.166666552, 0.008332178, -0.000195172965
	// cos p = 1 - p^2/2 + p^4 C(p^2) for |p| <= pi/4, 9.5e-11 absolute.
	cos0, cos1, cos2 = 0.0416666456, -0.00138873677, 2.44384482e-05

	minusTwoLn2   = -2 * math.Ln2
	halfRootBits  = 0x3f3504f3 // the float32 next to sqrt(1/2)
	quarterTurn32 = math.Pi / 2 / (1 << 32)
)

// boxMuller makes two standard normals of two random words, as the package comment defines. Each product is converted explicitly:
// the language then forbids its fusion with the sum, which would change bits from one processor to another.
func boxMuller(a, b uint32) (z0, z1 float32) {
	bits := math.Float32bits(float32(a|1) * (1.0 / (1 << 32)))
	e := int32(bits-halfRootBits) >> 23
	f := math.Float32frombits(bits-uint32(e)<<23) - 1
	p := float32(f*log6) + log5
	p = float32(p*f) + log4
	p = float32(p*f) + log3
	p = float32(p*f) + log2
	p = float32(p*f) + log1
	p = float32(p*f) + log0
	ff := float32(f * f)
	p = float32(float32(ff*f)*p) + ff
	p = float32(f*-2) + p
	r := float32(math.Sqrt(float64(float32(float32(e)*minusTwoLn2) + p)))

	t := float32(float32(int32(b<<2)) * quarterTurn32)
	tt := float32(t * t)
	s := float32(tt*sin2) + sin1
	s = float32(s*tt) + sin0
	s = float32(float32(s*tt)*t) + t
	c := float32(tt*cos2) + cos1
	c = float32(c*tt) + cos0
	c = float32(c*tt) - 0.5
	c = float32(c*tt) + 1

	// Turn (c, s) by q quarter turns on the bits: a branch on random data would be mispredicted half of the time.
	q := (b + 1<<29) >> 30
	cb, sb := math.Float32bits(float32(r*c)), math.Float32bits(float32(r*s))
	swap := (cb ^ sb) & -(q & 1)
	cb ^= swap ^ (q+1)>>1<<31
	sb ^= swap ^ q>>1<<31
	return math.Float32frombits(cb), math.Float32frombits(sb)
}
