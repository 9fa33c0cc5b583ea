package cam

import (
	"fmt"
	"math"
	"slices"

	"github.com/voxcam/voxcam/internal/parallel"
)

// Finding is a reason why a heatmap does not show its map in full; empty: it does.
type Finding string

const (
	// NoEvidence: no value of the map is positive, so ReLU left nothing. The heatmap is zero.
	NoEvidence Finding = "map has no positive evidence"
	// Flat: the values differ by no more than float32 rounding; a layer of one cell always gives this. The heatmap is zero.
	Flat Finding = "map is constant"
	// Faint: the map's range is below the 1e-8 that min-max adds to the denominator, so the heatmap stays below one half.
	Faint Finding = "map's range is too small for min-max with 1e-8"
)

const (
	epsilon = 1e-8 // of min-max, from the original system
	// flat is the range, relative to the largest magnitude, up to which differences are taken for rounding.
	flat = 4.0 / (1 << 23)
)

// Heatmap turns the map of a method, [d,h,w] = from, into values in [0, 1] over the volume, [D,H,W] = to: ReLU for Positive
// methods, trilinear up-sampling where the sizes differ, then (v - min) / (max - min + 1e-8).
func (m Method) Heatmap(signed []float32, from, to [3]int) ([]float32, Finding, error) {
	if bad, first := countNotFinite(signed); bad > 0 {
		return nil, "", fmt.Errorf("cam: %s: %d of %d values of the map are %w, the first at voxel %d", m.Name, bad, len(signed),
			ErrNotFinite, first)
	}
	if err := checkDims(len(signed), from, to); err != nil {
		return nil, "", fmt.Errorf("cam: %s: %w", m.Name, err)
	}
	src := make([]float32, len(signed))
	parallel.Parts(len(src), parallel.Values, func(_, from, to int) {
		copy(src[from:to], signed[from:to])
		if m.Positive {
			for i := from; i < to; i++ {
				src[i] = max(src[i], 0)
			}
		}
	})
	// A constant is found before up-sampling: min-max would blow the rounding of the interpolation up to a picture.
	low, high := extremes(src)
	if finding := m.Finding(low, high, low, high); finding == Flat || finding == NoEvidence {
		return make([]float32, to[0]*to[1]*to[2]), finding, nil
	}
	heat := src
	if from != to {
		heat = upsample(src, from, to)
	}
	upLow, upHigh := extremes(heat)
	scale := 1 / (float64(upHigh) - float64(upLow) + epsilon)
	parallel.Parts(len(heat), parallel.Values, func(_, from, to int) {
		for i, v := range heat[from:to] {
			heat[from+i] = float32((float64(v) - float64(upLow)) * scale)
		}
	})
	return heat, m.Finding(low, high, upLow, upHigh), nil
}

// Finding returns the finding for a map whose values, behind the ReLU of positive methods, go from low to high, and from
// upLow to upHigh when it has the volume's size.
func (m Method) Finding(low, high, upLow, upHigh float32) Finding {
	size := max(math.Abs(float64(low)), math.Abs(float64(high)))
	switch {
	case float64(high)-float64(low) > flat*size:
		if float64(upHigh)-float64(upLow) < epsilon {
			return Faint
		}
		return ""
	case m.Positive && high == 0:
		return NoEvidence
	}
	return Flat
}

func extremes(m []float32) (low, high float32) {
	lows := make([]float32, parallel.Count(len(m), parallel.Values))
	highs := make([]float32, len(lows))
	parallel.Parts(len(m), parallel.Values, func(part, from, to int) {
		low, high := m[from], m[from]
		for _, v := range m[from:to] {
			if v < low {
				low = v
			}
			if v > high {
				high = v
			}
		}
		lows[part], highs[part] = low, high
	})
	return slices.Min(lows), slices.Max(highs)
}

// Upsample resizes a map [d,h,w] = from to [D,H,W] = to by trilinear interpolation with cell centres at half-integers, the
// arithmetic of PyTorch's interpolate(mode="trilinear", align_corners=False, size=to) in float32.
func Upsample(src []float32, from, to [3]int) ([]float32, error) {
	if err := checkDims(len(src), from, to); err != nil {
		return nil, fmt.Errorf("cam: up-sampling: %w", err)
	}
	return upsample(src, from, to), nil
}

func checkDims(values int, from, to [3]int) error {
	for _, dims := range [][3]int{from, to} {
		left := math.MaxInt / 4
		for _, n := range dims {
			if n <= 0 || n > left {
				return fmt.Errorf("no map of size %dx%dx%d", dims[0], dims[1], dims[2])
			}
			left /= n
		}
	}
	if n := from[0] * from[1] * from[2]; n != values {
		return fmt.Errorf("the map has %d values, want %dx%dx%d", values, from[0], from[1], from[2])
	}
	return nil
}

// tap says that a destination lies between sources low and high, at share of the way from low.
type tap struct {
	low, high int
	share     float32
}

// taps are the taps of one axis. Float32 as in PyTorch, where scale and position of a float32 image are float32 too.
func taps(in, out int) []tap {
	t := make([]tap, out)
	scale := float32(in) / float32(out)
	for i := range t {
		if in == out {
			t[i] = tap{i, i, 0}
			continue
		}
		at := max(float32(scale*(float32(i)+0.5))-0.5, 0)
		low := min(int(at), in-1)
		t[i] = tap{low, min(low+1, in-1), min(at-float32(low), 1)}
	}
	return t
}

// upsample works on some planes at a time.
func upsample(src []float32, from, to [3]int) []float32 {
	dst := make([]float32, to[0]*to[1]*to[2])
	depth, height, width := taps(from[0], to[0]), taps(from[1], to[1]), taps(from[2], to[2])
	plane := to[1] * to[2]
	parallel.Parts(to[0], max(1, 4*parallel.Values/plane), func(_, first, last int) {
		upsamplePlanes(dst[first*plane:last*plane], src, from, depth[first:last], height, width)
	})
	return dst
}

// upsamplePlanes works axis by axis: width and height of a source plane once, into one of two planes that are kept, then depth between
// the two. Values are low + share*(high-low), which leaves constants exactly constant.
func upsamplePlanes(dst, src []float32, from [3]int, depth, height, width []tap) {
	plane := len(height) * len(width)
	rows := make([]float32, from[1]*len(width))
	kept := [2][]float32{make([]float32, plane), make([]float32, plane)}
	holds := [2]int{-1, -1} // the source plane that each of kept holds
	at := func(z int) []float32 {
		slot := z % 2 // low and high are neighbours or equal, so that they never want the same slot for two planes
		if holds[slot] != z {
			upsamplePlane(kept[slot], rows, src[z*from[1]*from[2]:][:from[1]*from[2]], from[2], height, width)
			holds[slot] = z
		}
		return kept[slot]
	}
	for z, t := range depth {
		mix(dst[z*plane:][:plane], at(t.low), at(t.high), t.share)
	}
}

// upsamplePlane resizes one plane of rows of n values; rows is scratch for the plane resized along width only.
func upsamplePlane(dst, rows, src []float32, n int, height, width []tap) {
	for y := range len(src) / n {
		row := src[y*n:][:n]
		for x, t := range width {
			rows[y*len(width)+x] = row[t.low] + t.share*(row[t.high]-row[t.low])
		}
	}
	for y, t := range height {
		mix(dst[y*len(width):][:len(width)], rows[t.low*len(width):], rows[t.high*len(width):], t.share)
	}
}

// mix sets dst to low + share*(high-low).
func mix(dst, low, high []float32, share float32) {
	if share == 0 {
		copy(dst, low)
		return
	}
	low, high = low[:len(dst)], high[:len(dst)]
	for i := range dst {
		dst[i] = low[i] + share*(high[i]-low[i])
	}
}
