// Package picture turns maps into images for people: colours by jet, the heatmap over the volume, and a sheet of slices.
// All colours are on a fixed scale, so that two slices, methods or samples compare: a heatmap's 0 to 1 spans the whole map,
// a volume's darkest to brightest voxel spans black to white.
//
// Stacks are made and written one page at a time.
package picture

import (
	"fmt"
	"io"
	"math"

	"github.com/voxcam/voxcam/internal/volume/tiff"
	"github.com/voxcam/voxcam/volume"
)

// levels is the number of colours of a map.
const levels = 256

// jet is Matplotlib's map of that name: each channel is linear between these points (position, value).
var jet = table(
	[]point{{0, 0}, {0.35, 0}, {0.66, 1}, {0.89, 1}, {1, 0.5}},
	[]point{{0, 0}, {0.125, 0}, {0.375, 1}, {0.64, 1}, {0.91, 0}, {1, 0}},
	[]point{{0, 0.5}, {0.11, 1}, {0.34, 1}, {0.65, 0}, {1, 0}},
)

type point struct{ at, value float64 }

func table(channels ...[]point) (t [levels][3]uint8) {
	for i := range t {
		x := float64(i) / (levels - 1)
		for c, points := range channels {
			k := 1
			for points[k].at < x {
				k++
			}
			a, b := points[k-1], points[k]
			t[i][c] = uint8(math.Round(255 * (a.value + (b.value-a.value)*(x-a.at)/(b.at-a.at))))
		}
	}
	return t
}

// Jet is the colour of x in 0 to 1; values outside take the nearest end, NaN the lower one.
func Jet(x float32) [3]uint8 { return jet[level(x)] }

// level is the number of the colour of x.
func level(x float32) int {
	if !(x > 0) {
		return 0
	}
	return min(int(x*levels), levels-1)
}

// Window maps intensities to grey: Low is black, High is white.
type Window struct{ Low, High float32 }

// FullWindow spans all values.
func FullWindow(values []float32) Window {
	w := Window{values[0], values[0]}
	for _, x := range values {
		w.Low, w.High = min(w.Low, x), max(w.High, x)
	}
	return w
}

// Grey is the brightness of x. A window without extent is black.
func (w Window) Grey(x float32) uint8 {
	if !(w.High > w.Low) {
		return 0
	}
	return uint8(255*min(max((x-w.Low)/(w.High-w.Low), 0), 1) + 0.5)
}

// A View is a volume and a heatmap on the same grid, to be shown together.
type View struct {
	Dims    [3]int    // depth, height, width
	Grey    []float32 // [D, H, W]; the first channel of the volume
	Window  Window
	Heat    []float32 // [D, H, W] in 0 to 1; nil shows the volume alone
	Alpha   float64   // weight of the heatmap's colour; the rest is the volume
	Spacing [3]float64
	Slices  []int // of a thinned view: which slices of the volume it has; nil for all
}

// NewView shows heat (nil for none) over the first channel of v.
func NewView(v *volume.Volume, w Window, heat []float32, alpha float64) (*View, error) {
	if heat != nil && len(heat) != v.Voxels() {
		return nil, fmt.Errorf("picture: a heatmap of %d voxels over a volume of %d", len(heat), v.Voxels())
	}
	view := &View{Dims: v.Dims(), Grey: v.Channel(0), Window: w, Heat: heat, Alpha: alpha}
	if v.Geometry.Known {
		view.Spacing = Spacing(v.Geometry)
	}
	return view, nil
}

// Thin returns a view of n slices spread evenly over v, on a copy of them: enough for a Sheet, without the rest of the volume.
func (v *View) Thin(n int) *View {
	at := EvenSlices(v.Dims[0], n)
	plane := v.Dims[1] * v.Dims[2]
	out := *v
	out.Dims[0], out.Slices = n, at
	pick := func(from []float32) []float32 {
		if from == nil {
			return nil
		}
		to := make([]float32, 0, n*plane)
		for _, d := range at {
			to = append(to, from[d*plane:(d+1)*plane]...)
		}
		return to
	}
	out.Grey, out.Heat = pick(v.Grey), pick(v.Heat)
	return &out
}

// Spacing is the size of a voxel in mm along depth, height, width.
func Spacing(g volume.Geometry) (s [3]float64) {
	for c := range s {
		s[c] = math.Sqrt(g.Affine[0][c]*g.Affine[0][c] + g.Affine[1][c]*g.Affine[1][c] + g.Affine[2][c]*g.Affine[2][c])
	}
	return s
}

// overlay fills dst, red green blue by voxel, with slice d.
func (v *View) overlay(dst []byte, d int) {
	n := v.Dims[1] * v.Dims[2]
	grey := v.Grey[d*n : (d+1)*n]
	if v.Heat == nil {
		for i, x := range grey {
			g := v.Window.Grey(x)
			dst[3*i], dst[3*i+1], dst[3*i+2] = g, g, g
		}
		return
	}
	heat := v.Heat[d*n : (d+1)*n]
	alpha := float32(v.Alpha)
	var base [256]float32       // the share of each grey
	var tint [levels][3]float32 // of each colour
	for i := range base {
		base[i] = (1-alpha)*float32(i) + 0.5 // rounds
	}
	for i, colour := range jet {
		for c, x := range colour {
			tint[i][c] = alpha * float32(x)
		}
	}
	for i, x := range grey {
		g, t, to := base[v.Window.Grey(x)], &tint[level(heat[i])], dst[3*i:3*i+3]
		to[0], to[1], to[2] = uint8(g+t[0]), uint8(g+t[1]), uint8(g+t[2])
	}
}

// WriteOverlay writes the stack of overlays as TIFF, one page a slice.
func (v *View) WriteOverlay(w io.Writer) error { return v.stack(w, v.overlay) }

// WriteHeatmap writes the heatmap alone in the colours of jet, as TIFF, one page a slice.
func (v *View) WriteHeatmap(w io.Writer) error {
	n := v.Dims[1] * v.Dims[2]
	return v.stack(w, func(dst []byte, d int) {
		for i, x := range v.Heat[d*n : (d+1)*n] {
			colour, to := &jet[level(x)], dst[3*i:3*i+3]
			to[0], to[1], to[2] = colour[0], colour[1], colour[2]
		}
	})
}

func (v *View) stack(w io.Writer, fill func(dst []byte, d int)) error {
	e, err := tiff.NewEncoder(w, tiff.Options{Width: v.Dims[2], Height: v.Dims[1], Pages: v.Dims[0], Spacing: v.Spacing})
	if err != nil {
		return err
	}
	page := make([]byte, 3*v.Dims[1]*v.Dims[2])
	for d := range v.Dims[0] {
		fill(page, d)
		if err := e.WritePage(page); err != nil {
			return err
		}
	}
	return e.Close()
}
