package session

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/durable"
	"github.com/voxcam/voxcam/internal/picture"
	"github.com/voxcam/voxcam/internal/report"
	"github.com/voxcam/voxcam/internal/result"
)

// writer stores the results of one sample, target by target.
type writer struct {
	run    *run
	job    *job
	record *report.Sample
	stage  *durable.Stage
	sample *result.Subject
	sheet  picture.Sheet
	cover  string // name of the first overlay
	failed error  // the reason why there will be no results; the rest of the sample is passed over
	known  *cam.Execution
	mu     sync.Mutex
}

// add stores one part. The failure of a sample goes into its record; an error means that nothing can be stored.
func (w *writer) add(p part) error {
	if w.record == nil {
		w.record = w.run.describe(w.job)
	}
	w.record.Seconds += p.seconds
	found, err := w.run.result(&p)
	if found != nil {
		w.known = report.Join(w.known, found.Execution)
	} else {
		w.known = report.Join(w.known, cam.Execution{Events: p.events.all()})
	}
	if w.failed == nil {
		w.failed = err
	}
	if w.failed != nil {
		return nil
	}
	return w.attempt(func() error { return w.store(found) })
}

// attempt writes a part of the result. A result that no format can hold fails the sample; an error of the file system is returned.
func (w *writer) attempt(write func() error) error {
	err := guard(write)
	if err == nil || isA[*durable.Error](err) {
		return err
	}
	w.failed = fmt.Errorf("the result cannot be written: %w", err)
	return nil
}

// store writes the maps of one target.
func (w *writer) store(found *cam.Result) error {
	r := w.run
	if w.stage == nil {
		if err := w.begin(found); err != nil {
			return err
		}
	}
	var tasks []func() error
	for i := range found.Methods {
		m := &found.Methods[i]
		rm := r.describeMethod(m, found.TargetClass, found.Score)
		w.record.Methods = append(w.record.Methods, rm)
		class := ""
		if rm.TargetClassName != nil {
			class = *rm.TargetClassName
		}
		if m.Status == cam.StatusFailed {
			w.sheet.Rows = append(w.sheet.Rows, result.Row(m, class, nil))
			continue
		}
		tasks = append(tasks, func() error {
			statistics := report.Measure(m.Map, m.Heatmap, m.HeatDims)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.record.Statistics[rm.Key] = statistics
			return nil
		})
		of, err := w.sample.Map(m)
		if err != nil {
			return err
		}
		w.sheet.Rows = append(w.sheet.Rows, result.Row(m, class, of))
		for _, format := range r.formats {
			for _, file := range format.Files(of) {
				tasks = append(tasks, w.task(file, rm.Key))
			}
		}
	}
	var group errgroup.Group
	for _, task := range tasks {
		r.encoders <- struct{}{}
		group.Go(func() error {
			defer func() { <-r.encoders }()
			return guard(task)
		})
	}
	return group.Wait()
}

// begin begins the sample's folder, with the first result for it.
func (w *writer) begin(first *cam.Result) (err error) {
	r, v := w.run, w.job.prepared.Volume
	if w.stage, err = r.stage(w.job.sample); err != nil {
		return err
	}
	r.describePrediction(w.record, first)
	w.sheet.Title = title(w.record)
	w.sample = &result.Subject{ID: w.record.ID, Volume: v, Window: picture.FullWindow(v.Channel(0)), Alpha: r.config.Output.OverlayAlpha,
		TrueClass: -1, PredictedClass: first.Predicted}
	if w.record.TrueClass != nil {
		w.sample.TrueClass = *w.record.TrueClass
	}
	return nil
}

// task returns a function that writes a file of the method with a key.
func (w *writer) task(file result.Output, key string) func() error {
	name := file.Name(w.job.sample.Name+"_"+key, "_")
	if file.What == result.Overlay && w.cover == "" {
		w.cover = name
	}
	return func() error {
		info, err := w.stage.Write(name, func(f *durable.File) error { return guard(func() error { return file.Write(f) }) })
		if err == nil {
			w.list(path.Join(w.run.place(w.job.sample), name), info)
		}
		return err
	}
}

func (w *writer) list(name string, info durable.Info) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.record.Files = append(w.record.Files, report.FileRecord{Path: name, Bytes: info.Bytes, SHA256: info.SHA256})
}

// finish stores pictures and record and puts the sample in its place, with any status.
func (w *writer) finish() (*report.Sample, error) {
	defer w.abort()
	r := w.run
	place := r.place(w.job.sample)
	if w.failed == nil {
		w.record.Status, w.record.Reason = overall(w.record.Methods)
		if err := w.attempt(func() error { return w.pictures(place) }); err != nil {
			return nil, err
		}
	}
	if w.failed != nil {
		// Nothing but the record stays, also of targets that went well: half a sample is not a result.
		w.abort()
		seconds := w.record.Seconds
		w.record = r.describe(w.job)
		w.record.Seconds = seconds
		w.record.Status, w.record.Reason = statusOf(w.failed), w.failed.Error()
		var err error
		if w.stage, err = r.stage(w.job.sample); err != nil {
			return nil, err
		}
	}
	if len(w.record.Statistics) == 0 {
		// Pictures of an earlier attempt must not remain.
		for _, ending := range append(result.SheetEndings("_"), coverEnding) {
			if err := r.removePicture(pictureStem(w.job.sample) + ending); err != nil {
				return nil, err
			}
		}
	}
	w.record.Execution = w.known
	slices.SortFunc(w.record.Files, func(a, b report.FileRecord) int { return strings.Compare(a.Path, b.Path) })
	_, err := w.stage.Write(report.MetadataName(w.job.sample.Name), func(f *durable.File) error { return report.WriteJSON(f, w.record) })
	if err != nil {
		return nil, err
	}
	// Records of the same sample under another label or split would be counted twice.
	for _, old := range r.stale[w.job.sample.ID] {
		if old != place && !r.ownedByAnother(old, w.job.sample.ID) {
			if err := r.removeSample(old); err != nil {
				return nil, err
			}
		}
	}
	err = w.stage.Commit()
	r.warnKept(place, w.stage.Kept)
	return w.record, err
}

// statusOf returns the status of a sample that has no result because of an error. Errors that know better have a method Status.
func statusOf(err error) cam.Status {
	var knows interface{ Status() cam.Status }
	if errors.As(err, &knows) && knows.Status() == cam.StatusSkipped {
		return cam.StatusSkipped
	}
	return cam.StatusFailed
}

// abort discards the files that have no final name yet.
func (w *writer) abort() {
	if w.stage != nil {
		w.stage.Abort()
	}
}

// pictureStem begins the names of a sample's files in visualizations: sheets of slices, and the stack of the first overlay.
func pictureStem(s dataset.Sample) string {
	return path.Join("visualizations", string(s.Split), s.Name)
}

// coverEnding is the end of the name of the stack of the first overlay.
const coverEnding = "_full_volume_overlay.tiff"

// pictures stores the files outside of the sample's folder.
func (w *writer) pictures(place string) error {
	if len(w.record.Statistics) == 0 {
		return nil
	}
	stem := pictureStem(w.job.sample)
	for _, format := range w.run.formats {
		for _, file := range format.Sheets(&w.sheet) {
			name := file.Name(stem, "_")
			info, err := w.run.folder.WriteFile(name, func(f *durable.File) error { return file.Write(f) })
			if err != nil {
				return err
			}
			w.list(name, info)
		}
	}
	if w.cover != "" {
		overlay := stem + coverEnding
		if err := w.stage.Link(w.cover, overlay); err != nil {
			return err
		}
		i := slices.IndexFunc(w.record.Files, func(f report.FileRecord) bool { return f.Path == path.Join(place, w.cover) })
		w.list(overlay, durable.Info{Bytes: w.record.Files[i].Bytes, SHA256: w.record.Files[i].SHA256})
	}
	return nil
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
		Schema: report.Schema, ID: s.ID, Name: s.Name, Split: string(s.Split), Status: cam.StatusOK,
		Methods: []report.Method{}, Statistics: map[string]report.Statistics{}, Files: []report.FileRecord{},
		Seed: r.config.Explain.Seed, ModelSHA256: r.info.SHA256, Hash: r.record.Hash, Version: r.opt.Version,
		Finished: r.now().UTC(),
	}
	if s.Label >= 0 && s.Label < r.info.Classes {
		record.TrueClass, record.TrueClassName = &s.Label, &r.names[s.Label]
	}
	if p := j.prepared; p != nil {
		v := p.Volume
		record.Input, record.InputShape, record.CropOffset, record.Scaling = &p.Input, &p.InputShape, &p.CropOffset, &p.Scaling
		record.Shape = &[4]int{v.Channels, v.Depth, v.Height, v.Width}
		record.Warnings = v.Warnings
	}
	return record
}

// describePrediction adds the prediction, which does not depend on the target. Values are copied: a pointer into the
// result would keep its maps in memory.
func (r *run) describePrediction(record *report.Sample, found *cam.Result) {
	predicted, cell := found.Predicted, found.CellSize
	record.PredictedClass, record.PredictedClassName = &predicted, &r.names[predicted]
	record.Logits, record.Probabilities = found.Logits, found.Probabilities
	record.Confidence = &found.Probabilities[predicted]
	right := predicted == *record.TrueClass
	record.CorrectPrediction = &right
	record.TargetLayer, record.Layer, record.CellSize = found.TargetLayer, found.Layer, &cell
}

func (r *run) describeMethod(m *cam.MethodResult, class int, score cam.Score) report.Method {
	rm := report.Method{Method: m.Method, Key: r.key(m.Method, class), Status: m.Status, Reason: m.Reason,
		Seconds: m.Seconds, Parameters: m.Parameters, Score: score.Value, ScoreDefinition: score.Definition}
	if class >= 0 && class < r.info.Classes {
		rm.TargetClass, rm.TargetClassName = &class, &r.names[class]
	}
	if m.Status != cam.StatusFailed {
		dims := m.Dims
		rm.MapShape = &dims
	}
	return rm
}

// key names a method's files, with the original system's name if it has one.
func (r *run) key(method string, class int) string {
	parts := []string{}
	if len(r.request.Methods) > 1 {
		parts = append(parts, method)
	}
	if r.all {
		parts = append(parts, fmt.Sprintf("class_%d", class))
	}
	return strings.Join(append(parts, "volume"), "_")
}

// overall returns the status of a sample by those of its methods: failed if none has a map, degraded if not all are ok.
func overall(methods []report.Method) (cam.Status, string) {
	var reasons []string
	maps := 0
	for _, m := range methods {
		if m.Status != cam.StatusFailed {
			maps++
		}
		if m.Status != cam.StatusOK {
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
		return cam.StatusFailed, reason
	case len(reasons) > 0:
		return cam.StatusDegraded, reason
	}
	return cam.StatusOK, ""
}

func title(record *report.Sample) []string {
	truth := "unknown"
	if record.TrueClassName != nil {
		truth = *record.TrueClassName
	}
	return result.Title(fmt.Sprintf("%s (%s)", record.ID, record.Split), truth, fmt.Sprintf("%s (%.3f)", *record.PredictedClassName, *record.Confidence), record.TargetLayer)
}
