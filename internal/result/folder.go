package result

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/durable"
	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/picture"
	"github.com/voxcam/voxcam/volume"
)

// RecordName is the file of a Folder that describes the explanation and the result of each method.
const RecordName = "result.json"

// Folder holds the result of one volume for one class: METHOD.map and METHOD.heatmap in each format, and RecordName. Files have their
// names only when they are complete; those of an earlier result are replaced.
type Folder struct {
	Dir     string
	Formats []string // of Names
	Alpha   float64  // weight of the heatmap in an overlay, 0 to 1
	Classes []string // names of the classes in the model's order; nil: they have none

	// SampleID and TrueClass are for files that have a place for them. TrueClass is -1 where it is not known.
	SampleID  string
	TrueClass int

	// Inputs are the volumes of a model with several inputs, by name.
	Inputs map[string]*volume.Volume
}

// ForeignError is the error of a folder whose RecordName is of another program: many use that name.
type ForeignError struct{ Path string }

func (e *ForeignError) Error() string {
	return e.Path + " holds no result of this program and is not overwritten: choose another folder"
}

// Check returns the reason for which a result cannot be written to the folder, as far as it is known beforehand.
func (f *Folder) Check() error {
	const most = 64 << 20
	if _, err := Choose(f.Formats); err != nil {
		return err
	}
	path := filepath.Join(f.Dir, RecordName)
	text, err := input.ReadFile(path, most)
	if errors.Is(err, input.ErrNotRegular) {
		return &durable.Error{Path: path, Err: err}
	}
	if err != nil {
		return nil //nolint:nilerr // it is not there; and that the folder is none, or closed, is told when it is made
	}
	var known struct {
		Model   *string          `json:"model_sha256"`
		Methods *json.RawMessage `json:"methods"`
	}
	if err := json.Unmarshal(text, &known); err != nil || known.Model == nil || known.Methods == nil {
		return &ForeignError{path}
	}
	return nil
}

// record is the content of RecordName. Keys are stable: programs read them.
type record struct {
	Head               cam.Head       `json:"head"`
	Logits             []float32      `json:"logits,omitempty"`          // none of a segmentation
	Probabilities      []float64      `json:"probabilities,omitempty"`   // none of a regression
	PredictedClass     *int           `json:"predicted_class,omitempty"` // of a classification
	PredictedClassName string         `json:"predicted_class_name,omitempty"`
	TargetClass        int            `json:"target_class"`
	TargetClassName    string         `json:"target_class_name,omitempty"`
	Score              float64        `json:"score"` // that is explained
	ScoreDefinition    string         `json:"score_definition"`
	TargetLayer        string         `json:"target_layer"`
	Layer              *cam.Layer     `json:"layer,omitempty"`
	CellSize           []float64      `json:"cell_size,omitempty"`
	Model              string         `json:"model"`
	ModelSHA256        string         `json:"model_sha256"`
	Warnings           []string       `json:"warnings,omitempty"`
	Methods            []methodRecord `json:"methods"`

	Execution cam.Execution `json:"execution"`
}

type methodRecord struct {
	Method     string         `json:"method"`
	Input      string         `json:"input,omitempty"` // of a model with several
	Status     cam.Status     `json:"status"`
	Reason     string         `json:"reason,omitempty"`
	Seconds    float64        `json:"seconds"`
	Parameters map[string]any `json:"parameters"`
}

// Write makes the folder, if it is not there, and writes a result: all maps that there are, and the record. v is the volume that was
// explained, as pictures are to show it.
func (f *Folder) Write(v *volume.Volume, info cam.Info, r *cam.Result) error {
	formats, err := Choose(f.Formats)
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(f.Dir); err != nil {
		return err
	}
	sample := &Subject{ID: f.SampleID, Volume: v, Alpha: f.Alpha, TrueClass: f.TrueClass, PredictedClass: r.Predicted}
	if slices.ContainsFunc(formats, func(f Format) bool { return f.Pictures }) {
		sample.Window = picture.FullWindow(v.Channel(0))
	}
	sheet := &picture.Sheet{Title: Title(f.SampleID, f.class(f.TrueClass), f.prediction(r), r.TargetLayer)}
	for i := range r.Methods {
		m := &r.Methods[i]
		var of *Map
		if m.Status != cam.StatusFailed {
			if of, err = f.subject(sample, m.Input).Map(m); err != nil {
				return err
			}
			for _, format := range formats {
				for _, file := range format.Files(of) {
					if err := f.write(file.Name(stem(m), "."), file.Write); err != nil {
						return err
					}
				}
			}
		}
		sheet.Rows = append(sheet.Rows, Row(m, f.number(r.TargetClass), of))
	}
	for _, format := range formats {
		for _, file := range slices.Concat(format.Sheets(sheet), format.Labels(sample, r.Labels)) {
			if err := f.write(file.Name("", ""), file.Write); err != nil {
				return err
			}
		}
	}
	return f.write(RecordName, func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(f.record(v, info, r))
	})
}

func (f *Folder) record(v *volume.Volume, info cam.Info, r *cam.Result) record {
	out := record{
		Head: r.Head, Score: r.Score.Value, ScoreDefinition: r.Score.Definition, Logits: r.Logits, Probabilities: r.Probabilities,
		TargetClass: r.TargetClass, TargetClassName: f.class(r.TargetClass), TargetLayer: r.TargetLayer, Layer: r.Layer,
		Model: info.Path, ModelSHA256: info.SHA256, Warnings: slices.Concat(info.Warnings, v.Warnings),
		Execution: r.Execution,
	}
	if r.Probabilities != nil {
		out.PredictedClass, out.PredictedClassName = &r.Predicted, f.class(r.Predicted)
	}
	if r.CellSize[0] > 0 {
		out.CellSize = r.CellSize[:]
	}
	for _, m := range r.Methods {
		out.Methods = append(out.Methods, methodRecord{m.Method, m.Input, m.Status, m.Reason, m.Seconds, m.Parameters})
	}
	return out
}

// subject returns the sample with the volume of an input.
func (f *Folder) subject(sample *Subject, input string) *Subject {
	v := f.Inputs[input]
	if v == nil {
		return sample
	}
	of := *sample
	of.Volume = v
	if sample.Window != (picture.Window{}) {
		of.Window = picture.FullWindow(v.Channel(0))
	}
	return &of
}

// stem begins the names of the files of a method.
func stem(m *cam.MethodResult) string {
	if m.Input == "" {
		return m.Method
	}
	return m.Method + "." + m.Input
}

// prediction returns the predicted class with its probability, or the value of a regression.
func (f *Folder) prediction(r *cam.Result) string {
	switch {
	case r.Labels != nil:
		return "a segmentation"
	case r.Probabilities == nil:
		return fmt.Sprintf("%.4g", r.Logits[r.Predicted])
	}
	return fmt.Sprintf("%s (%.3f)", f.number(r.Predicted), r.Probabilities[r.Predicted])
}

// class returns the name of a class; "" where it has none.
func (f *Folder) class(i int) string {
	if i < 0 || i >= len(f.Classes) {
		return ""
	}
	return f.Classes[i]
}

// number returns the name of a class, or its number as text.
func (f *Folder) number(i int) string {
	if name := f.class(i); name != "" {
		return name
	}
	return fmt.Sprint(i)
}

func (f *Folder) write(name string, write func(io.Writer) error) error {
	_, err := durable.WriteFile(filepath.Join(f.Dir, name), func(f *durable.File) error { return write(f) })
	return err
}
