package voxcam

import (
	"errors"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/result"
	"github.com/voxcam/voxcam/volume"
)

// SaveOptions choose the form of a written result. The zero value writes NIfTI.
type SaveOptions struct {
	Formats  []string // of SaveFormats; nil is nifti
	Alpha    float64  // weight of the heatmap in an overlay, 0 to 1; 0 is 0.4
	Classes  []string // names of the classes in the model's order; nil: they have none
	SampleID string   // for files with a place for it
}

// SaveFormats are the formats that results are written in: nifti, npy, mat (numbers), tiff and png (pictures).
func SaveFormats() []string { return result.Names() }

// Save writes a result to a folder, as voxcam explain does: METHOD.map, signed, at the layer's resolution, and METHOD.heatmap in each format,
// and result.json. v is the volume that was explained; pictures show its first channel. Files have their names only when they are complete,
// and replace those of an earlier result. A folder with a result.json of another program is refused;
// a *OutputError says that files cannot be written.
func (m *Model) Save(dir string, v *volume.Volume, r *cam.Result, o SaveOptions) error {
	if r == nil {
		return errors.New("there is no result to save: it is nil")
	}
	if err := v.CheckSize(); err != nil {
		return err
	}
	if o.Formats == nil {
		o.Formats = []string{"nifti"}
	}
	if o.Alpha == 0 {
		o.Alpha = result.DefaultAlpha
	}
	f := result.Folder{Dir: dir, Formats: o.Formats, Alpha: o.Alpha, Classes: o.Classes, SampleID: o.SampleID, TrueClass: -1}
	if err := f.Check(); err != nil {
		return named(err)
	}
	return named(f.Write(v, m.Info(), r))
}

// Heatmap returns the heatmap of a method as a volume on the grid of the volume that was explained, with its geometry: format.Write writes it.
// It shares the values of r, which must have a map.
func Heatmap(v *volume.Volume, r *cam.MethodResult) *volume.Volume {
	return &volume.Volume{Data: r.Heatmap, Channels: 1, Depth: r.HeatDims[0], Height: r.HeatDims[1], Width: r.HeatDims[2], Geometry: v.Geometry}
}

// SignedMap returns the signed map of a method as a volume on its own grid, at the layer's resolution, in place over the volume that was
// explained. It shares the values of r, which must have a map.
func SignedMap(v *volume.Volume, r *cam.MethodResult) *volume.Volume {
	return &volume.Volume{Data: r.Map, Channels: 1, Depth: r.Dims[0], Height: r.Dims[1], Width: r.Dims[2], Geometry: v.Geometry.Resample(r.CellSize())}
}
