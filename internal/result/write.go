package result

import (
	"io"

	"github.com/voxcam/voxcam/internal/picture"
	"github.com/voxcam/voxcam/internal/volume/mat"
	"github.com/voxcam/voxcam/internal/volume/nifti"
	"github.com/voxcam/voxcam/internal/volume/npy"
)

func writeMapNIfTI(w io.Writer, m *Map) error {
	return nifti.Write(w, m.Dims, m.Map, m.sample.Volume.Geometry.Resample(m.CellSize()))
}

func writeHeatmapNIfTI(w io.Writer, m *Map) error {
	return nifti.Write(w, m.HeatDims, m.Heatmap, m.sample.Volume.Geometry)
}

func writeLabelsNIfTI(w io.Writer, s *Subject, l []float32) error {
	return nifti.Write(w, s.Volume.Dims(), l, s.Volume.Geometry)
}

func writeLabelsNPY(w io.Writer, s *Subject, l []float32) error {
	dims := s.Volume.Dims()
	return npy.Write(w, dims[:], l)
}

func writeMapNPY(w io.Writer, m *Map) error     { return npy.Write(w, m.Dims[:], m.Map) }
func writeHeatmapNPY(w io.Writer, m *Map) error { return npy.Write(w, m.HeatDims[:], m.Heatmap) }

// writeMAT writes the variables of the original system's files, and the map.
func writeMAT(w io.Writer, m *Map) error {
	shape := []int32{int32(m.HeatDims[0]), int32(m.HeatDims[1]), int32(m.HeatDims[2])}
	return mat.Write(w, []mat.Variable{
		{Name: "heatmap", Shape: m.HeatDims[:], Data: m.Heatmap},
		{Name: "shape", Shape: []int{3}, Data: shape},
		{Name: "method", Data: m.Method},
		{Name: "sample_id", Data: m.sample.ID},
		{Name: "true_class", Data: m.sample.TrueClass}, // a number in the original's files
		{Name: "predicted_class", Data: m.sample.PredictedClass},
		{Name: "map", Shape: m.Dims[:], Data: m.Map},
	})
}

func writeHeatmapTIFF(w io.Writer, m *Map) error { return m.view.WriteHeatmap(w) }
func writeOverlayTIFF(w io.Writer, m *Map) error { return m.view.WriteOverlay(w) }

func writeSheetPNG(w io.Writer, s *picture.Sheet) error { return s.WritePNG(w) }
