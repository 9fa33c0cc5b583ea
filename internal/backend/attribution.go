package backend

import (
	"fmt"
	"slices"

	"github.com/voxcam/voxcam/internal/cam"
	"github.com/voxcam/voxcam/internal/noise"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Attribution is what happens around the network, done where the network runs, so that nothing of the size of a volume leaves a
// device before a map is done. Volumes and the gradients by them are fields [D, H, W, C], maps and heatmaps fields with one value a
// voxel. Package cam has the formulas; what it refuses is refused here with the same errors.
type Attribution interface {
	// Upload writes a volume, [C, D, H, W], to dst. The caller must leave the slice alone as long as the field is in use: a field on
	// the host may use it in place.
	Upload(dst Field, volume []float32, channels int) error
	// Copy copies a field to one of the same length.
	Copy(dst, src Field) error
	// AddNoise writes x + sigma*z to dst; z is the stream's noise of each voxel and channel.
	AddNoise(dst, x Field, channels int, z noise.Stream, sigma float32) error
	// NewMoments takes memory for what the choices keep of the gradients of many draws, each of so many values.
	NewMoments(values, channels int, where Place, choices ...cam.Choice) (Moments, error)
	// LayerMap writes the map of a method that looks at a layer.
	LayerMap(dst Field, c cam.Choice, l Layer) error
	// InputMap writes the map of a method that looks at the gradient by the input.
	InputMap(dst Field, c cam.Choice, x, gradient Field, channels int) error
	// Heatmap writes the heatmap, of size to, of a map of size from. Where the sizes are equal, dst may be signed.
	Heatmap(dst, signed Field, c cam.Choice, from, to [3]int) (cam.Finding, error)
}

// Moments are running moments of gradients; see cam.Moments.
type Moments interface {
	Add(gradient Field) error
	// Map writes the map of a method that the moments were made for.
	Map(dst Field, c cam.Choice) error
	// Draws is how many gradients were added.
	Draws() int
	// Len is the number of values of the state. Save copies it out; Load makes it that of so many draws, as moments of the same choices
	// saved it, also those of another backend: they go on from there as if nothing had been.
	Len() int
	Save(dst []float32) error
	Load(src []float32, draws int) error
	Close() error
}

// Layer is a target layer for one volume and class.
type Layer struct {
	Activation, Gradient Field
	Layout               Layout
	Score                float64
}

// Layout says where voxel v and channel c are in a tensor: with i = v + Skip as an index into Size, outermost first, at the sum of
// the indices times Stride, plus c*ChannelStride.
type Layout struct {
	Voxels, Channels int
	Skip             int // leading tokens that belong to no voxel
	Size, Stride     [3]int
	ChannelStride    int
}

// NewLayout finds the layout of a layer's tensor, whose axes are named by letters.
func NewLayout(shape tensor.Shape, axes string, voxels int) (Layout, error) {
	l := Layout{Voxels: voxels, Size: [3]int{1, 1, 1}}
	strides := shape.Strides()
	total, k := 1, 0
	for _, letter := range "DHWT" {
		i := slices.Index([]byte(axes), byte(letter))
		if i < 0 {
			continue
		}
		if k == len(l.Size) {
			return l, fmt.Errorf("a layer %v with axes %q has too many axes in space", shape, axes)
		}
		l.Size[k], l.Stride[k] = shape[i], strides[i]
		total *= shape[i]
		k++
	}
	for i, a := range []byte(axes) {
		switch {
		case a == 'C':
			l.Channels, l.ChannelStride = shape[i], strides[i]
		case a == 'N' && shape[i] != 1:
			return l, fmt.Errorf("the target layer has a batch of %d for one volume", shape[i])
		}
	}
	if l.Skip = total - voxels; l.Channels == 0 || l.Skip < 0 {
		return l, fmt.Errorf("a layer %v with axes %q does not hold %d voxels", shape, axes, voxels)
	}
	return l, nil
}

// At is where channel 0 of voxel v is.
func (l *Layout) At(v int) int {
	v += l.Skip
	x, y, z := v%l.Size[2], v/l.Size[2]%l.Size[1], v/l.Size[2]/l.Size[1]
	return z*l.Stride[0] + y*l.Stride[1] + x*l.Stride[2]
}
