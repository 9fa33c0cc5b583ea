package explain

import (
	"context"
	"errors"

	"github.com/voxcam/voxcam/internal/layer"
	"github.com/voxcam/voxcam/internal/onnx"
)

// Summary describes a model for a person who looks for a target layer.
type Summary struct {
	Path          string      `json:"path"`
	SHA256        string      `json:"sha256"`
	Producer      string      `json:"producer"`
	Opset         int         `json:"opset"`
	Volume        [4]int      `json:"volume"` // channels, depth, height, width
	Classes       int         `json:"classes"`
	Parameters    int         `json:"parameters"`
	DefaultTarget string      `json:"default_target,omitempty"`
	DefaultValue  string      `json:"default_value,omitempty"` // of the layers' values, the one that is meant
	Layers        []layer.Row `json:"layers"`
	Warnings      []string    `json:"warnings,omitempty"`
}

// Inspect reads a model as options say, for volumes of their shape. ctx stops it.
func Inspect(ctx context.Context, path string, opt Options) (s *Summary, err error) {
	file, err := onnx.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	opt, assumed, err := opt.withInput(ctx, file, nil)
	if err != nil {
		return nil, err
	}
	shape, err := fullShape(file, opt)
	if err != nil {
		return nil, err
	}
	m, err := importModel(ctx, file, shape, opt, nil)
	if err != nil {
		return nil, err
	}
	s = &Summary{Path: path, SHA256: file.SHA256(), Producer: file.Producer, Opset: file.Opsets[""], Volume: shape}
	if assumed != "" {
		s.Warnings = append(s.Warnings, assumed)
	}
	if logits, err := scores(m.Graph); err != nil {
		s.Warnings = append(s.Warnings, err.Error())
	} else {
		s.Classes = logits.Shape().Elements()
	}
	s.Layers = layer.Table(m, [3]int(shape[1:]))
	for _, r := range s.Layers {
		s.Parameters += r.Parameters
	}
	if t, err := layer.Find(m, layer.Request{Volume: [3]int(shape[1:])}); err != nil {
		s.Warnings = append(s.Warnings, err.Error())
	} else {
		s.DefaultTarget, s.DefaultValue = t.Label, t.Value.Name
	}
	s.Warnings = append(s.Warnings, m.Notes...)
	return s, file.Err()
}
