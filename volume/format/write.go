package format

import (
	"fmt"
	"io"
	"strings"

	"github.com/voxcam/voxcam/internal/durable"
	"github.com/voxcam/voxcam/internal/volume/mat"
	"github.com/voxcam/voxcam/internal/volume/nifti"
	"github.com/voxcam/voxcam/internal/volume/npy"
	"github.com/voxcam/voxcam/volume"
)

// Written returns the extensions of the files that Write writes.
func Written() []string {
	var all []string
	for _, f := range table {
		if f.write != nil {
			all = append(all, f.Extensions[0])
		}
	}
	return all
}

// Write writes a volume to a file of a format that its extension names, one of Written:
//
//	.npy     float32, [D, H, W], or [C, D, H, W] of several channels
//	.nii.gz  NIfTI-1, float32, with the volume's geometry; of one channel
//	.mat     level 5, float32, the variable imgMat, with axes as in .npy
//
// The file has its name only when it is complete; an earlier file of that name is replaced. Reading it gives the same volume, but for the
// geometry, which only NIfTI has.
func Write(path string, v *volume.Volume) error {
	if err := v.CheckSize(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	f, extension, ok := Find(path)
	if !ok || f.write == nil || !strings.EqualFold(extension, f.Extensions[0]) {
		return fmt.Errorf("%s: volumes are written to %s", path, strings.Join(Written(), ", "))
	}
	_, err := durable.WriteFile(path, func(w *durable.File) error { return f.write(w, v) })
	return err
}

// stored is the shape of a volume's array in a file.
func stored(v *volume.Volume) []int {
	if v.Channels == 1 {
		return []int{v.Depth, v.Height, v.Width}
	}
	return []int{v.Channels, v.Depth, v.Height, v.Width}
}

func writeNPY(w io.Writer, v *volume.Volume) error { return npy.Write(w, stored(v), v.Data) }

func writeNIfTI(w io.Writer, v *volume.Volume) error {
	if v.Channels != 1 {
		return volume.Unsupported("nifti", "a volume of %d channels is not written: write one channel a file, or .npy", v.Channels)
	}
	return nifti.Write(w, v.Dims(), v.Data, v.Geometry)
}

func writeMAT(w io.Writer, v *volume.Volume) error {
	return mat.Write(w, []mat.Variable{{Name: mat.DefaultVariable, Shape: stored(v), Data: v.Data}})
}
