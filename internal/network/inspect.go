package network

import (
	"context"
	"errors"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/layer"
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
func Inspect(ctx context.Context, path string, opt ModelOptions) (s *Summary, err error) {
	memory := OpeningBytes(cam.Budget{}, nil)
	f, err := OpenFile(ctx, path, opt, memory)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	shape, err := f.FullShape()
	if err != nil {
		return nil, err
	}
	m, err := f.importFor(ctx, shape, memory)
	if err != nil {
		return nil, err
	}
	file := f.onnx
	s = &Summary{Path: path, SHA256: file.SHA256(), Producer: file.Producer, Opset: file.Opsets[""], Volume: shape}
	if f.assumed != "" {
		s.Warnings = append(s.Warnings, f.assumed)
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
