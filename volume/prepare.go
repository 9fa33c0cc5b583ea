package volume

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// scalings are the ways of bringing intensities to the range that a network expects.
var scalings = []string{"div255", "minmax", "zscore", "none"}

// Scalings returns the names that Scale knows.
func Scalings() []string { return slices.Clone(scalings) }

// Scaling records how intensities were changed: y = (x - Offset) / Divisor.
type Scaling struct {
	Name    string  `json:"name"` // of Scalings
	Offset  float64 `json:"offset"`
	Divisor float64 `json:"divisor"` // not 0
}

// Scale brings intensities to the range that the network saw in training. It changes v's intensities in place, with one offset and divisor
// for all channels:
//
//	div255  x / 255
//	minmax  (x - min) / (max - min)
//	zscore  (x - mean) / standard deviation, with divisor n
//	none    x
//
// The statistics are those of v as it is, so zeros that a pad added count. A volume of one value has no minmax or zscore.
func Scale(v *Volume, name string) (Scaling, error) {
	s := Scaling{Name: name, Divisor: 1}
	if err := v.CheckSize(); err != nil {
		return s, err
	}
	switch name {
	case "none":
		return s, nil
	case "div255":
		s.Divisor = 255
	case "minmax":
		lo, hi := float64(v.Data[0]), float64(v.Data[0])
		for _, x := range v.Data {
			lo, hi = min(lo, float64(x)), max(hi, float64(x))
		}
		s.Offset, s.Divisor = lo, hi-lo
	case "zscore":
		n := float64(len(v.Data))
		for _, x := range v.Data {
			s.Offset += float64(x) / n
		}
		variance := 0.0
		for _, x := range v.Data {
			d := float64(x) - s.Offset
			variance += d * d / n
		}
		s.Divisor = math.Sqrt(variance)
	default:
		return s, fmt.Errorf("no scaling is called %q; choose one of: %s", name, strings.Join(scalings, ", "))
	}
	// A computed deviation of a constant volume may be a rounding error away from 0.
	if !(s.Divisor > 1e-12*math.Abs(s.Offset)) || s.Divisor == 0 {
		return s, fmt.Errorf("all voxels have the value %g, so that %s would divide by zero", v.Data[0], name)
	}
	for i, x := range v.Data {
		v.Data[i] = float32((float64(x) - s.Offset) / s.Divisor)
	}
	return s, nil
}

// CropPad returns v cropped or zero-padded to shape [D, H, W], centred on each axis; where the excess is odd, the extra
// voxel falls at the end. Voxel (0, 0, 0) of the result is voxel offset of v: positive offsets cropped, negative padded.
// The geometry follows. v itself is returned if nothing changes. Sizes below 1, and a volume that is none, are an error.
func CropPad(v *Volume, shape [3]int) (out *Volume, offset [3]int, err error) {
	if err := v.CheckSize(); err != nil {
		return nil, offset, err
	}
	dims := v.Dims()
	if dims == shape {
		return v, offset, nil
	}
	if slices.Min(shape[:]) < 1 {
		return nil, offset, fmt.Errorf("a volume cannot be cropped to %v: depth, height and width must be at least 1", shape)
	}
	for i := range 3 {
		if excess := dims[i] - shape[i]; excess >= 0 {
			offset[i] = excess / 2
		} else {
			offset[i] = -(-excess / 2)
		}
	}
	out = New(v.Channels, shape[0], shape[1], shape[2])
	out.Geometry, out.Warnings = v.Geometry.Shift(offset), v.Warnings
	// The part of the result that v covers, on each axis.
	var from, to [3]int
	for i := range 3 {
		from[i] = max(0, -offset[i])
		to[i] = min(shape[i], dims[i]-offset[i])
	}
	for c := range v.Channels {
		src, dst := v.Channel(c), out.Channel(c)
		for d := from[0]; d < to[0]; d++ {
			for h := from[1]; h < to[1]; h++ {
				row := ((d+offset[0])*dims[1]+h+offset[1])*dims[2] + offset[2]
				copy(dst[(d*shape[1]+h)*shape[2]:][from[2]:to[2]], src[row+from[2]:row+to[2]])
			}
		}
	}
	return out, offset, nil
}
