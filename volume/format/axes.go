package format

import (
	"fmt"
	"strings"

	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/volume"
)

// letters are the names of axes: sample, channel, depth, height, width. A volume is in the order of the last four.
const letters = "NCDHW"

// CheckAxes reports whether axes can name the axes of an array: letters out of N C D H W, none twice, H and W among them.
// The empty string, for the default, is fine.
func CheckAxes(axes string) error {
	if axes == "" {
		return nil
	}
	for i, c := range axes {
		if !strings.ContainsRune(letters, c) {
			return fmt.Errorf("axes %q: %q is none of N (sample), C (channel), D (depth), H (height), W (width)", axes, c)
		}
		if strings.ContainsRune(axes[:i], c) {
			return fmt.Errorf("axes %q: %c appears twice", axes, c)
		}
	}
	for _, c := range "HW" {
		if !strings.ContainsRune(axes, c) {
			return fmt.Errorf("axes %q: %c is missing", axes, c)
		}
	}
	return nil
}

// arrange names the axes of an array, brings them into the order [C, D, H, W] and permutes the geometry with them. axes is
// as in Options. The voxels are copied only if they are not in that order already.
//
// An affine belongs to the first three stored axes. If those are not D, H and W in some order, it says nothing about the
// voxels, and the geometry is the unknown one.
func arrange(a *array.Array, f Format, axes string) (*volume.Volume, error) {
	rank := len(a.Shape)
	if axes == "" {
		if axes = f.DefaultAxes(rank); axes == "" {
			advice := `name the axes as stored to read it, e.g. axes = "HW"`
			switch {
			case rank < 2:
				advice = "save it in its own shape"
			case rank > len(letters):
				advice = "save the part that the model sees with at most 5 axes"
			}
			return nil, fmt.Errorf("an array of shape %s has %s; a volume has 3 (D, H, W) to 5; %s",
				array.FormatShape(a.Shape), countAxes(rank), advice)
		}
	}
	if err := CheckAxes(axes); err != nil {
		return nil, err
	}
	if len(axes) != rank {
		return nil, fmt.Errorf("axes %q name %s, the array has shape %s", axes, countAxes(len(axes)), array.FormatShape(a.Shape))
	}
	shape, strides := [4]int{1, 1, 1, 1}, [4]int{}
	var perm [3]int // perm[i] is the stored axis of spatial axis i
	spatial := 0
	for i, c := range axes {
		to := strings.IndexRune(letters, c) - 1
		if to < 0 {
			if a.Shape[i] != 1 {
				return nil, fmt.Errorf("the array of shape %s holds %d samples along axis N (axes %q); save one volume a file",
					array.FormatShape(a.Shape), a.Shape[i], axes)
			}
			continue
		}
		shape[to], strides[to] = a.Shape[i], a.Strides[i]
		if to > 0 {
			perm[to-1] = i
			if i < 3 {
				spatial++
			}
		}
	}
	v := &volume.Volume{
		Data:     array.Gather(a.Data, shape[:], strides[:]),
		Channels: shape[0], Depth: shape[1], Height: shape[2], Width: shape[3],
		Geometry: volume.Identity(), Axes: axes,
	}
	if rank == 2 { // the header of an image of two axes has a third, of one voxel
		perm[0] = 2
		spatial++
	}
	switch {
	case a.Geometry == nil:
	case spatial < 3:
		v.Warnings = append(v.Warnings, fmt.Sprintf("the affine of the volume's file is not used: it is of the first three stored axes, "+
			"which are not D, H and W (axes %q); results have one millimetre a voxel", axes))
	default:
		v.Geometry = a.Geometry.Permute(perm)
		if !v.Geometry.Forms.Coded() {
			v.Warnings = append(v.Warnings, "the volume's file does not say where it lies (its qform_code and sform_code are 0), and programs differ in "+
				"where they put it: NIfTI results on another grid than its own, as maps and crops, are placed for nibabel (sform) and ITK (qform)")
		}
	}
	return v, nil
}

func countAxes(n int) string {
	if n == 1 {
		return "1 axis"
	}
	return fmt.Sprintf("%d axes", n)
}
