package cam

import (
	"fmt"
	"strconv"
	"strings"
)

// RegionKind is a way of choosing voxels of an output with space.
type RegionKind int

const (
	RegionPredicted RegionKind = iota // the voxels that the model gives the target's class, on the volume as it is
	RegionAll                         // every voxel
	RegionVoxel                       // the voxel Voxel
	RegionMask                        // the voxels of Mask
)

// Region chooses the voxels of an output with space (a segmentation) whose scores are summed. The zero value is RegionPredicted.
type Region struct {
	Kind  RegionKind
	Voxel [3]int // depth, height, width, from 0; for RegionVoxel
	Mask  *Mask  // for RegionMask
}

// Mask is a set of voxels.
type Mask struct {
	Dims [3]int // depth, height, width
	Bits []byte // voxel i, in row-major order, is bit i%8 of byte i/8
}

// NewMask returns the voxels of a grid that are in a set.
func NewMask(dims [3]int, in func(voxel int) bool) *Mask {
	n := dims[0] * dims[1] * dims[2]
	m := &Mask{Dims: dims, Bits: make([]byte, (n+7)/8)}
	for i := range n {
		if in(i) {
			m.Bits[i/8] |= 1 << (i % 8)
		}
	}
	return m
}

// Has reports whether a voxel, by its number in row-major order, is in the mask.
func (m *Mask) Has(i int) bool { return m.Bits[i/8]>>(i%8)&1 == 1 }

// ParseRegion reads predicted, all, or a voxel as z,y,x; "" is predicted. Other texts are left to the caller, as names of files: ok is false.
func ParseRegion(text string) (r Region, ok bool) {
	switch text {
	case "", "predicted":
		return Region{}, true
	case "all":
		return Region{Kind: RegionAll}, true
	}
	parts := strings.Split(text, ",")
	if len(parts) != 3 {
		return r, false
	}
	r.Kind = RegionVoxel
	for i, part := range parts {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil {
			return Region{}, false
		}
		r.Voxel[i] = n
	}
	return r, true
}

// String returns the region in words.
func (r Region) String() string {
	switch r.Kind {
	case RegionAll:
		return "all voxels"
	case RegionVoxel:
		return fmt.Sprintf("the voxel %d,%d,%d", r.Voxel[0], r.Voxel[1], r.Voxel[2])
	case RegionMask:
		return "the voxels of the mask"
	}
	return "the voxels that are predicted to be of that class"
}

// Select returns 1 for the voxels of the region and 0 for others, on a grid of the given size with the given class of each voxel, and the
// number of voxels. A region of another grid is an error.
func (r Region) Select(dims [3]int, labels []float32, class int) (weights []float32, voxels int, err error) {
	in := func(int) bool { return true }
	switch r.Kind {
	case RegionPredicted:
		in = func(i int) bool { return labels[i] == float32(class) }
	case RegionVoxel:
		for i, x := range r.Voxel {
			if x < 0 || x >= dims[i] {
				return nil, 0, fmt.Errorf("the voxel %v does not lie in the output, which has %v voxels", r.Voxel, dims)
			}
		}
		in = func(i int) bool { return i == (r.Voxel[0]*dims[1]+r.Voxel[1])*dims[2]+r.Voxel[2] }
	case RegionMask:
		if r.Mask.Dims != dims {
			return nil, 0, fmt.Errorf("the mask has %v voxels, and the output of the model has %v", r.Mask.Dims, dims)
		}
		in = r.Mask.Has
	}
	weights = make([]float32, dims[0]*dims[1]*dims[2])
	for i := range weights {
		if in(i) {
			weights[i] = 1
			voxels++
		}
	}
	return weights, voxels, nil
}
