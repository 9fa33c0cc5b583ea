package backend

import (
	"fmt"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/noise"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Attribution is the arithmetic around the network, done where the network runs, so that nothing of the size of a volume leaves a
// device before a map is done. Volumes and the gradients by them are fields [D, H, W, C], maps and heatmaps fields with one value a
// voxel. Package cam has the formulas; backends refuse the same inputs, with the same errors.
type Attribution interface {
	// Upload writes a volume, [C, D, H, W], to dst. The caller must leave the slice alone as long as the field is in use: a field on
	// the host may use it in place.
	Upload(dst Field, volume []float32, channels int) error
	// Copy copies a field to one of the same length.
	Copy(dst, src Field) error
	// Perturb writes the point that p makes from the volume x to dst; z is the noise of each voxel and channel, read if there is any.
	Perturb(dst, x Field, channels int, p cam.Perturbation, z noise.Stream) error
	// NewMoments takes memory for the moments that the choices need of the gradients at many points, of that many values each.
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
	// Add adds the gradient at a point, whose weight is the given share of the weight of all points up to it.
	Add(gradient Field, share float64) error
	// Map writes the map of a method that the moments were made for. Methods on a path read the volume x and the baseline.
	Map(dst Field, c cam.Choice, x Field, baseline float32) error
	// Draws returns the number of gradients that were added.
	Draws() int
	// Len returns the number of values of the state. Save copies the state out; Load sets it to a saved state after that number of
	// draws, which moments of the same choices saved, on this backend or another one: they continue from there exactly.
	Len() int
	Save(dst []float32) error
	Load(src []float32, draws int) error
	Close() error
}

// Layer is a target layer for one volume and class.
type Layer struct {
	Activation Field
	Gradient   Field // of the same layout; nil for conventions that look at the activation alone
	Layout     Layout
	Score      float64
}

// Layout is the place of voxel [z, y, x] and channel c in a tensor: at Start plus the sum of the indices times Stride, plus
// c*ChannelStride. Strides may be negative.
type Layout struct {
	Voxels, Channels int
	Start            int
	Size, Stride     [3]int // depth, height, width
	ChannelStride    int
}

// NewLayout finds the layout of a layer's tensor. Its axes must have channels as one part or none, and each of D, H and W at most once.
func NewLayout(shape tensor.Shape, axes ir.Axes) (Layout, error) {
	l := Layout{Voxels: 1, Channels: 1, Size: [3]int{1, 1, 1}}
	if len(axes) != len(shape) {
		return l, fmt.Errorf("a layer %v with axes %v", shape, axes)
	}
	strides, seen := shape.Strides(), map[byte]bool{}
	for i, axis := range axes {
		if axis.Size() != shape[i] {
			return l, fmt.Errorf("a layer %v with axes %v: axis %d has another size", shape, axes, i)
		}
		l.Start += axis.Before * strides[i]
		stride := strides[i]
		for _, p := range slices.Backward(axis.Parts) {
			if p.Letter == 'N' && p.Size != 1 {
				return l, fmt.Errorf("the target layer has a batch of %d for one volume", p.Size)
			}
			if seen[p.Letter] && p.Letter != 'N' {
				return l, fmt.Errorf("a layer %v with axes %v has %c twice", shape, axes, p.Letter)
			}
			seen[p.Letter] = true
			step := stride
			if p.Reversed {
				l.Start += (p.Size - 1) * stride
				step = -stride
			}
			switch k := strings.IndexByte("DHW", p.Letter); {
			case k >= 0:
				l.Size[k], l.Stride[k] = p.Size, step
				l.Voxels *= p.Size
			case p.Letter == 'C':
				l.Channels, l.ChannelStride = p.Size, step
			case p.Letter != 'N':
				return l, fmt.Errorf("a layer %v with axes %v: %q is none of N, C, D, H, W", shape, axes, p.Letter)
			}
			stride *= p.Size
		}
	}
	return l, nil
}

// At returns the place of channel 0 of voxel v.
func (l *Layout) At(v int) int {
	x, y, z := v%l.Size[2], v/l.Size[2]%l.Size[1], v/l.Size[2]/l.Size[1]
	return l.Start + z*l.Stride[0] + y*l.Stride[1] + x*l.Stride[2]
}
