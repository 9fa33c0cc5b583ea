// Package volume holds three-dimensional images in memory: voxels with their geometry. The formats that volumes are read
// from and written to live in the packages below it, one package a format.
//
// Conventions. A volume is [C, D, H, W] in row-major order: channel outermost, width fastest. An index (d, h, w) is a voxel
// centre. Geometry maps such an index to patient space in millimetres.
package volume

import "fmt"

// Volume is a multi-channel image of float32 voxels.
type Volume struct {
	Data     []float32 // Channels*Depth*Height*Width values, row-major [C, D, H, W]
	Channels int
	Depth    int
	Height   int
	Width    int
	Geometry Geometry
}

// New returns a volume of zeros with the identity geometry. All sizes must be positive.
func New(channels, depth, height, width int) *Volume {
	return &Volume{
		Data:     make([]float32, channels*depth*height*width),
		Channels: channels, Depth: depth, Height: height, Width: width,
		Geometry: Identity(),
	}
}

// Dims returns the size of the spatial axes: depth, height, width.
func (v *Volume) Dims() [3]int { return [3]int{v.Depth, v.Height, v.Width} }

// Voxels is the number of voxels of one channel.
func (v *Volume) Voxels() int { return v.Depth * v.Height * v.Width }

// Channel returns the voxels of channel c, [D, H, W].
func (v *Volume) Channel(c int) []float32 { n := v.Voxels(); return v.Data[c*n : (c+1)*n] }

// Shape formats the size as CxDxHxW.
func (v *Volume) Shape() string {
	return fmt.Sprintf("%dx%dx%dx%d", v.Channels, v.Depth, v.Height, v.Width)
}

// Geometry places voxels in space.
type Geometry struct {
	// Affine maps the homogeneous voxel index (d, h, w, 1) to millimetres (x, y, z), in the convention of NIfTI (RAS+).
	Affine [3][4]float64
	// Known says whether the affine was read from the file; it is the identity otherwise.
	Known bool
}

// Identity is the geometry of a file that has none: one millimetre a voxel, origin at voxel (0, 0, 0).
func Identity() Geometry {
	return Geometry{Affine: [3][4]float64{{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}}}
}

// Shift returns the geometry of a volume whose voxel (0, 0, 0) is voxel offset of g: negative offsets pad, positive crop.
func (g Geometry) Shift(offset [3]int) Geometry {
	for r := range g.Affine {
		for c, o := range offset {
			g.Affine[r][3] += g.Affine[r][c] * float64(o)
		}
	}
	return g
}

// Resample returns the geometry of a grid over the same field of view with cells of the given size in voxels: the centre
// of cell 0 lies (cell-1)/2 voxels behind the centre of voxel 0 (align_corners = false).
func (g Geometry) Resample(cell [3]float64) Geometry {
	for r := range g.Affine {
		for c, s := range cell {
			g.Affine[r][3] += g.Affine[r][c] * (s - 1) / 2
			g.Affine[r][c] *= s
		}
	}
	return g
}

// Permute returns the geometry after the spatial axes were reordered: new axis i is old axis perm[i].
func (g Geometry) Permute(perm [3]int) Geometry {
	out := g
	for r := range g.Affine {
		for i, p := range perm {
			out.Affine[r][i] = g.Affine[r][p]
		}
	}
	return out
}
