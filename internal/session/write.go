package session

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/voxcam/voxcam/internal/durable"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/picture"
	"github.com/voxcam/voxcam/internal/report"
	"github.com/voxcam/voxcam/internal/volume"
	"github.com/voxcam/voxcam/internal/volume/mat"
	"github.com/voxcam/voxcam/internal/volume/nifti"
	"github.com/voxcam/voxcam/internal/volume/npy"
)

// writers is how many files of a sample are encoded at a time; more would take the processor from the network.
const writers = 2

// write stores a sample, whatever became of it. A result that no file format can hold becomes a failed sample; only a
// failure to store anything is an error.
func (r *run) write(j *job) (*report.Sample, error) {
	record, err := r.store(j)
	var output *durable.Error
	if err != nil && !errors.As(err, &output) {
		j.err, j.results = fmt.Errorf("the result cannot be written: %w", err), nil
		record, err = r.store(j)
	}
	return record, err
}

func (r *run) store(j *job) (*report.Sample, error) {
	record := r.describe(j)
	place := r.place(j.sample)
	stage, err := r.folder.Stage(place)
	if err != nil {
		return nil, err
	}
	defer stage.Abort()
	if err := r.writeFiles(stage, place, j, record); err != nil {
		return nil, err
	}
	_, err = stage.Write(report.MetadataName(j.sample.Name), func(w *durable.File) error { return report.WriteJSON(w, record) })
	if err != nil {
		return nil, err
	}
	// Records of the same sample under another label or split would be counted twice.
	for _, old := range r.stale[j.sample.ID] {
		if old != place && !r.ownedByAnother(old, j.sample.ID) {
			if err := r.folder.Remove(old); err != nil {
				return nil, err
			}
		}
	}
	return record, stage.Commit()
}

// ownedByAnother reports whether a place belongs to another row of the table with the same ID (a row that repeats an ID is a
// failed sample with a place of its own).
func (r *run) ownedByAnother(place, id string) bool {
	for _, s := range r.set.Samples {
		if s.ID == id && r.place(s) == place {
			return true
		}
	}
	return false
}

// describe makes the record of a sample, but for its files.
func (r *run) describe(j *job) *report.Sample {
	s := j.sample
	record := &report.Sample{
		Schema: report.Schema, ID: s.ID, Name: s.Name, Split: string(s.Split), Status: explain.StatusOK,
		Methods: []report.Method{}, Statistics: map[string]report.Statistics{}, Files: []report.File{},
		Seed: r.config.Explain.Seed, ModelSHA256: r.info.SHA256, Hash: r.record.Hash, Version: r.opt.Version,
		Finished: r.now().UTC(), Seconds: j.seconds,
	}
	if s.Label >= 0 && s.Label < r.info.Classes {
		record.TrueClass, record.TrueClassName = &s.Label, &r.names[s.Label]
	}
	if p := j.prepared; p != nil {
		v := p.Volume
		record.Input, record.InputShape, record.CropOffset, record.Scaling = &p.Input, &p.InputShape, &p.CropOffset, &p.Scaling
		record.Shape = &[4]int{v.Channels, v.Depth, v.Height, v.Width}
	}
	if j.err != nil {
		record.Status, record.Reason = explain.StatusFailed, j.err.Error()
		return record
	}
	first := j.results[0] // the prediction does not depend on the target
	record.PredictedClass, record.PredictedClassName = &first.Predicted, &r.names[first.Predicted]
	record.Logits, record.Probabilities = first.Logits, first.Probabilities
	record.Confidence = &first.Probabilities[first.Predicted]
	right := first.Predicted == s.Label
	record.CorrectPrediction = &right
	record.TargetLayer, record.CellSize = first.TargetLayer, &first.CellSize

	for _, result := range j.results {
		for _, m := range result.Methods {
			rm := report.Method{Method: m.Method, Key: r.key(m.Method, result.TargetClass), Status: m.Status, Reason: m.Reason,
				Seconds: m.Seconds, Parameters: m.Parameters}
			if c := result.TargetClass; c >= 0 && c < r.info.Classes {
				rm.TargetClass, rm.TargetClassName = &c, &r.names[c]
			}
			if m.Status != explain.StatusFailed {
				rm.MapShape = &m.Dims
				record.Statistics[rm.Key] = report.Measure(m.Map, m.Heatmap, m.HeatDims)
			}
			record.Methods = append(record.Methods, rm)
		}
	}
	record.Status, record.Reason = overall(record.Methods)
	return record
}

// key names a method's files, as the original system does where it has a name.
func (r *run) key(method string, class int) string {
	parts := []string{}
	if len(r.methods) > 1 {
		parts = append(parts, method)
	}
	if r.all {
		parts = append(parts, fmt.Sprintf("class_%d", class))
	}
	return strings.Join(append(parts, "volume"), "_")
}

// overall is the status of a sample by those of its methods: failed if none has a map, degraded if not all are ok.
func overall(methods []report.Method) (explain.Status, string) {
	var reasons []string
	maps := 0
	for _, m := range methods {
		if m.Status != explain.StatusFailed {
			maps++
		}
		if m.Status != explain.StatusOK {
			name := m.Method
			if m.Key != "volume" {
				name = strings.TrimSuffix(m.Key, "_volume")
			}
			reasons = append(reasons, fmt.Sprintf("%s %s: %s", name, m.Status, m.Reason))
		}
	}
	reason := strings.Join(reasons, "; ")
	switch {
	case maps == 0:
		return explain.StatusFailed, reason
	case len(reasons) > 0:
		return explain.StatusDegraded, reason
	}
	return explain.StatusOK, ""
}

// output is a file of a sample.
type output struct {
	name  string // in the sample's folder
	write func(io.Writer) error
}

// writeFiles stores maps and pictures and lists them in the record.
func (r *run) writeFiles(stage *durable.Stage, place string, j *job, record *report.Sample) error {
	sheetName := path.Join("visualizations", string(j.sample.Split), j.sample.Name+"_combined.png")
	overlayName := path.Join("visualizations", string(j.sample.Split), j.sample.Name+"_full_volume_overlay.tiff")
	if len(record.Statistics) == 0 {
		// Nothing to show: pictures of an earlier attempt must not stay behind.
		return errors.Join(r.folder.Remove(sheetName), r.folder.Remove(overlayName))
	}
	v := j.prepared.Volume
	window := picture.FullWindow(v.Channel(0))
	sheet := &picture.Sheet{Title: r.title(record)}
	var outputs []output
	firstOverlay := ""
	i := 0
	for _, result := range j.results {
		for _, m := range result.Methods {
			rm := record.Methods[i]
			i++
			label := rm.Method
			if rm.TargetClassName != nil {
				label += ", class " + *rm.TargetClassName
			}
			if m.Status != explain.StatusOK {
				label += fmt.Sprintf(" (%s: %s)", m.Status, m.Reason)
			}
			if m.Status == explain.StatusFailed {
				sheet.Rows = append(sheet.Rows, picture.Row{Label: label, Note: "no map"})
				continue
			}
			view, err := picture.NewView(v, window, m.Heatmap, r.config.Output.OverlayAlpha)
			if err != nil {
				return err
			}
			sheet.Rows = append(sheet.Rows, picture.Row{Label: label, View: view})
			stem := j.sample.Name + "_" + rm.Key
			outputs = append(outputs, r.arrays(stem, record, m, cellSize(m), v)...)
			if r.formats["tiff"] {
				outputs = append(outputs, output{stem + "_heatmap.tiff", view.WriteHeatmap}, output{stem + "_overlay.tiff", view.WriteOverlay})
				if firstOverlay == "" {
					firstOverlay = stem + "_overlay.tiff"
				}
			}
		}
	}
	var mu sync.Mutex
	add := func(name string, info durable.Info) {
		mu.Lock()
		defer mu.Unlock()
		record.Files = append(record.Files, report.File{Path: name, Bytes: info.Bytes, SHA256: info.SHA256})
	}
	var group errgroup.Group
	group.SetLimit(writers)
	for _, o := range outputs {
		group.Go(func() error {
			info, err := stage.Write(o.name, func(f *durable.File) error { return o.write(f) })
			if err == nil {
				add(path.Join(place, o.name), info)
			}
			return err
		})
	}
	if r.formats["png"] {
		group.Go(func() error {
			info, err := r.folder.WriteFile(sheetName, func(f *durable.File) error { return sheet.WritePNG(f) })
			if err == nil {
				add(sheetName, info)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if firstOverlay != "" {
		if err := stage.Link(firstOverlay, overlayName); err != nil {
			return err
		}
		i := slices.IndexFunc(record.Files, func(f report.File) bool { return f.Path == path.Join(place, firstOverlay) })
		add(overlayName, durable.Info{Bytes: record.Files[i].Bytes, SHA256: record.Files[i].SHA256})
	}
	slices.SortFunc(record.Files, func(a, b report.File) int { return strings.Compare(a.Path, b.Path) })
	return nil
}

// arrays are the files of numbers of one method.
func (r *run) arrays(stem string, record *report.Sample, m explain.MethodResult, cell [3]float64, v *volume.Volume) (out []output) {
	if r.formats["nifti"] {
		out = append(out,
			output{stem + "_map.nii.gz", func(w io.Writer) error { return nifti.Write(w, m.Dims, m.Map, v.Geometry.Resample(cell)) }},
			output{stem + "_heatmap.nii.gz", func(w io.Writer) error { return nifti.Write(w, m.HeatDims, m.Heatmap, v.Geometry) }})
	}
	if r.formats["npy"] {
		out = append(out,
			output{stem + "_map.npy", func(w io.Writer) error { return npy.Write(w, m.Dims[:], m.Map) }},
			output{stem + "_heatmap.npy", func(w io.Writer) error { return npy.Write(w, m.HeatDims[:], m.Heatmap) }})
	}
	if r.formats["mat"] {
		truth := -1 // as the original's key is a number
		if record.TrueClass != nil {
			truth = *record.TrueClass
		}
		shape := []int32{int32(m.HeatDims[0]), int32(m.HeatDims[1]), int32(m.HeatDims[2])}
		out = append(out, output{stem + ".mat", func(w io.Writer) error {
			return mat.Write(w, []mat.Variable{
				{Name: "heatmap", Shape: m.HeatDims[:], Data: m.Heatmap},
				{Name: "shape", Shape: []int{3}, Data: shape},
				{Name: "method", Data: m.Method},
				{Name: "sample_id", Data: record.ID},
				{Name: "true_class", Data: truth},
				{Name: "predicted_class", Data: *record.PredictedClass},
				{Name: "map", Shape: m.Dims[:], Data: m.Map},
			})
		}})
	}
	return out
}

// cellSize is the extent of a map's cell in voxels along each axis.
func cellSize(m explain.MethodResult) (cell [3]float64) {
	for i := range cell {
		cell[i] = float64(m.HeatDims[i]) / float64(m.Dims[i])
	}
	return cell
}

func (r *run) title(record *report.Sample) []string {
	truth := "unknown"
	if record.TrueClassName != nil {
		truth = *record.TrueClassName
	}
	return []string{fmt.Sprintf("%s (%s)   true: %s   predicted: %s (%.3f)   layer: %s", record.ID, record.Split, truth,
		*record.PredictedClassName, *record.Confidence, record.TargetLayer)}
}
