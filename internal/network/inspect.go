package network

import (
	"context"
	"errors"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/layer"
)

// Inspect reads a model as options say, for volumes of their shape. ctx stops it.
func Inspect(ctx context.Context, path string, opt ModelOptions) (s *cam.Summary, err error) {
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
	s = &cam.Summary{Path: path, SHA256: file.SHA256(), Producer: file.Producer, Opset: file.Opsets[""], Volume: shape}
	if f.assumed != "" {
		s.Warnings = append(s.Warnings, f.assumed)
	}
	volume := [3]int(shape[1:])
	raw, head, err := f.findHead(m, volume)
	switch {
	case err != nil && (opt.Output != "" || opt.Task != ""): // what was asked for is not there
		return nil, err
	case err != nil:
		s.Warnings, head = append(s.Warnings, err.Error()), cam.Head{}
	default:
		s.Classes, s.Head, m.Graph.Outputs = head.Classes(), &head, []*ir.Value{raw}
	}
	s.Layers = []cam.LayerSummary{}
	for _, r := range layer.Table(m, volume) {
		s.Parameters += r.Parameters
		s.Layers = append(s.Layers, cam.LayerSummary{Name: r.Name, Value: r.Value, Operation: r.Operation, Shape: r.Shape, Parameters: r.Parameters,
			Candidate: r.Candidate, Cells: r.Cells, CellSize: r.CellSize})
	}
	if t, err := findLayer(m, head, raw, layer.Request{Volume: volume}); err != nil {
		s.Warnings = append(s.Warnings, err.Error())
	} else {
		s.DefaultTarget, s.DefaultValue = t.Label, t.Value.Name
	}
	s.Warnings = append(s.Warnings, m.Notes...)
	return s, file.Err()
}
