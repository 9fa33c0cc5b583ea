// Package volume holds three-dimensional images in memory, voxels with their geometry, and prepares them for a network: Scale and CropPad.
// Package volume/format reads them from files and writes them.
//
// Conventions. A volume is [C, D, H, W] in row-major order: channel outermost, width fastest. An index (d, h, w) is a voxel
// centre. Geometry maps such an index to patient space in millimetres.
package volume

import (
	"errors"
	"fmt"
)

// Volume is a multi-channel image of float32 voxels.
type Volume struct {
	Data     []float32 // Channels*Depth*Height*Width values, row-major [C, D, H, W]
	Channels int
	Depth    int
	Height   int
	Width    int
	Geometry Geometry

	// Axes names the axes of the array that the volume was read from, as stored (letters of N, C, D, H, W); "" if it was not read, or
	// was changed since.
	Axes string
	// Warnings has remarks on the volume's file for the record of results.
	Warnings []string
}

// New returns a volume of zeros with the identity geometry. All sizes must be positive, which it does not check: for sizes that come from outside
// take voxcam.NewVolume.
func New(channels, depth, height, width int) *Volume {
	return &Volume{
		Data:     make([]float32, channels*depth*height*width),
		Channels: channels, Depth: depth, Height: height, Width: width,
		Geometry: Identity(),
	}
}

// CheckSize returns an error if a volume is none: it is nil, a size is below 1, or Data has another length than the sizes have.
func (v *Volume) CheckSize() error {
	if v == nil {
		return errors.New("there is no volume: it is nil")
	}
	n := 1
	for _, d := range []int{v.Channels, v.Depth, v.Height, v.Width} {
		if d < 1 {
			return fmt.Errorf("the volume is %s, channels x depth x height x width: each must be at least 1", v.Shape())
		}
		if n > len(v.Data)/d {
			n = -1 // more than there are
			break
		}
		n *= d
	}
	if n != len(v.Data) {
		return fmt.Errorf("the volume is %s, channels x depth x height x width, but has %d values", v.Shape(), len(v.Data))
	}
	return nil
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
