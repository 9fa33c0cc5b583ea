// Package noise makes the random draws of SmoothGrad, VarGrad and their kin. Every value is a pure function of (seed, sample,
// draw, voxel), so a slab of a volume, a resumed run, a CPU and a GPU all see the same noise, and no noise volume is ever stored.
//
// # Definition
//
// The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011), which maps a
// key of two and a counter of four 32-bit words to four random words x0..x3. Here
//
//	key     = (seed mod 2^32, seed div 2^32)
//	counter = (i div 4, draw, h mod 2^32, h div 2^32)
//
// with i the flat index of the value in [C, D, H, W] (width fastest), and h the first eight bytes, little-endian, of the SHA-256
// of the sample's name. Different (seed, h, draw, i div 4) never share a (key, counter).
//
// Two words make two standard normals by Box-Muller: (x0, x1) those of i mod 4 = 0 and 1, (x2, x3) those of 2 and 3. With a the
// first and b the second word of a pair, all arithmetic in IEEE float32 rounded to nearest even,
//
//	u = float32(a | 1) * 2^-32             in (0, 1]: one rounding, in the conversion
//	q = (b + 2^29) div 2^30 mod 4          the nearest quarter turn
//	t = float32(int32(4 b mod 2^32))       the rest of the angle, in units of 2^-32 quarter turns, within [-2^31, 2^31]
//	r = sqrt(-2 ln u)                      at most 6.66
//	z[0] = r cos(q pi/2 + t 2^-33 pi),  z[1] = r sin(q pi/2 + t 2^-33 pi)
//
// u, q and t are exact in any implementation. The logarithm, cosine and sine are polynomials here, without fused multiply-adds, so
// every processor gives the same bits; z is within 1.2e-6 of the formula above in exact arithmetic: 1.05e-6 is the
// most that 10^8 random pairs, half of them from the tails, were off. A kernel elsewhere that uses its own functions agrees to such
// a rounding.
package noise

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
)

// Stream is the noise of one draw for one sample: an unbounded sequence of standard normals that is read from any position.
// Values are distinct for indices below 2^34. It is a value without state and may be used by many goroutines.
type Stream struct {
	keys   [rounds][2]uint32 // round keys: they depend on the seed alone
	draw   uint32
	sample [2]uint32
}

// New returns the noise of draw (0 <= draw < 2^32) for the sample of that name.
func New(seed uint64, sample string, draw int) (Stream, error) {
	if draw < 0 || int64(draw) > math.MaxUint32 {
		return Stream{}, fmt.Errorf("noise: draw %d of sample %q is out of range: use 0 to %d", draw, sample, uint32(math.MaxUint32))
	}
	h := SampleHash(sample)
	return Stream{
		keys:   roundKeys(uint32(seed), uint32(seed>>32)),
		draw:   uint32(draw),
		sample: [2]uint32{uint32(h), uint32(h >> 32)},
	}, nil
}

// SampleHash is the 64-bit number that stands for a sample's name: the first eight bytes, little-endian, of its SHA-256.
func SampleHash(sample string) uint64 {
	sum := sha256.Sum256([]byte(sample))
	return binary.LittleEndian.Uint64(sum[:8])
}

// Counter returns the Philox key and counter of the block that holds value index, from which a kernel on another device starts.
func (s *Stream) Counter(index uint64) (key [2]uint32, counter [4]uint32) {
	return s.keys[0], [4]uint32{uint32(index / 4), s.draw, s.sample[0], s.sample[1]}
}

// block returns values 4*b to 4*b+3.
func (s *Stream) block(b uint32) (z0, z1, z2, z3 float32) {
	x0, x1, x2, x3 := philox(&s.keys, b, s.draw, s.sample[0], s.sample[1])
	z0, z1 = boxMuller(x0, x1)
	z2, z3 = boxMuller(x2, x3)
	return z0, z1, z2, z3
}

// Fill sets dst[k] to the value of index first+k.
func (s *Stream) Fill(dst []float32, first uint64) {
	dst = dst[s.head(dst, nil, 0, 1, first):]
	b := uint32((first + 3) / 4)
	for ; len(dst) >= 4; b++ {
		d := dst[:4:4]
		d[0], d[1], d[2], d[3] = s.block(b)
		dst = dst[4:]
	}
	s.tail(dst, nil, 0, 1, b)
}

// AddTo sets dst[k] to x[k] + sigma*z, z the value of index first+k. dst and x have equal lengths and may be the same.
func (s *Stream) AddTo(dst, x []float32, sigma float32, first uint64) {
	x = x[:len(dst)]
	n := s.head(dst, x, sigma, 1, first)
	dst, x = dst[n:], x[n:]
	b := uint32((first + 3) / 4)
	for ; len(dst) >= 4; b++ {
		d, y := dst[:4:4], x[:4:4]
		z0, z1, z2, z3 := s.block(b)
		d[0] = y[0] + float32(sigma*z0)
		d[1] = y[1] + float32(sigma*z1)
		d[2] = y[2] + float32(sigma*z2)
		d[3] = y[3] + float32(sigma*z3)
		dst, x = dst[4:], x[4:]
	}
	s.tail(dst, x, sigma, 1, b)
}

// Slab is a run of consecutive voxels, in memory with the channel fastest ([voxel, channel]), of a volume [C, D, H, W].
type Slab struct {
	Channels int
	Voxels   int // D*H*W of the whole volume
	First    int // the slab's first voxel; its length follows from the buffer
}

// FillSlab is Fill for channels-last memory: dst[v*C+c] is the value of index c*Voxels + First+v, the same noise that a voxel
// has in a [C, D, H, W] buffer. len(dst) is a multiple of the number of channels.
func (s *Stream) FillSlab(dst []float32, at Slab) {
	if at.Channels == 1 {
		s.Fill(dst, uint64(at.First))
		return
	}
	for c := range at.Channels {
		s.strided(dst, nil, 0, at, c)
	}
}

// AddToSlab is AddTo for channels-last memory, with the layout of FillSlab.
func (s *Stream) AddToSlab(dst, x []float32, sigma float32, at Slab) {
	if at.Channels == 1 {
		s.AddTo(dst, x, sigma, uint64(at.First))
		return
	}
	for c := range at.Channels {
		s.strided(dst, x[:len(dst)], sigma, at, c)
	}
}

// strided writes channel c of a channels-last slab; x is nil for plain noise.
func (s *Stream) strided(dst, x []float32, sigma float32, at Slab, c int) {
	step := at.Channels
	first := uint64(c)*uint64(at.Voxels) + uint64(at.First)
	if c >= len(dst) {
		return
	}
	dst = dst[c:]
	if x != nil {
		x = x[c:]
	}
	n := s.head(dst, x, sigma, step, first) * step
	b := uint32((first + 3) / 4)
	for ; n+3*step < len(dst); n += 4 * step {
		z0, z1, z2, z3 := s.block(b)
		b++
		if x == nil {
			dst[n], dst[n+step], dst[n+2*step], dst[n+3*step] = z0, z1, z2, z3
			continue
		}
		dst[n] = x[n] + float32(sigma*z0)
		dst[n+step] = x[n+step] + float32(sigma*z1)
		dst[n+2*step] = x[n+2*step] + float32(sigma*z2)
		dst[n+3*step] = x[n+3*step] + float32(sigma*z3)
	}
	if n < len(dst) {
		if x != nil {
			x = x[n:]
		}
		s.tail(dst[n:], x, sigma, step, b)
	}
}

// head writes the values before the first whole block, at stride step, and returns how many there were.
func (s *Stream) head(dst, x []float32, sigma float32, step int, first uint64) int {
	lane := int(first % 4)
	if lane == 0 {
		return 0
	}
	return s.lanes(dst, x, sigma, step, uint32(first/4), lane)
}

// tail writes the values of block b that still fit, at stride step.
func (s *Stream) tail(dst, x []float32, sigma float32, step int, b uint32) {
	if len(dst) > 0 {
		s.lanes(dst, x, sigma, step, b, 0)
	}
}

func (s *Stream) lanes(dst, x []float32, sigma float32, step int, b uint32, lane int) (n int) {
	var z [4]float32
	z[0], z[1], z[2], z[3] = s.block(b)
	for k := 0; lane < 4 && k < len(dst); k += step {
		if x == nil {
			dst[k] = z[lane]
		} else {
			dst[k] = x[k] + float32(sigma*z[lane])
		}
		lane++
		n++
	}
	return n
}

// Source gives whole draws of one sample by number, in [C, D, H, W] order.
type Source struct {
	Seed   uint64
	Sample string
}

// Draw fills dst with the draw of that number, from its first value on.
func (s Source) Draw(draw int, dst []float32) error {
	stream, err := New(s.Seed, s.Sample, draw)
	if err != nil {
		return err
	}
	stream.Fill(dst, 0)
	return nil
}

// Len is the number of draws that exist, capped to an int.
func (s Source) Len() int { return min(math.MaxInt, math.MaxUint32) }
