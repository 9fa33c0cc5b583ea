package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/voxcam/voxcam"
	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/volume"
	"github.com/voxcam/voxcam/volume/format"
)

// modelInput is an input that is explained.
type modelInput struct {
	input   string // its name; "" where the model has one
	path    string
	volume  *volume.Volume // as the network sees it; a vector is one row
	source  volume.Volume  // as it was, for pictures
	vector  bool
	refused error // the reason why the target layer is not computed from this input, once that was tried
}

// parts reads the volume at the path, or the files of --input.
func (f *explainFlags) parts(ctx context.Context, path string) (parts []*modelInput, err error) {
	if len(f.inputs) == 0 {
		v, err := voxcam.Read(ctx, path, format.Options{Variable: f.variable, Axes: f.axes})
		if err != nil {
			return nil, err
		}
		return []*modelInput{{path: path, volume: v, source: *v}}, nil
	}
	for _, text := range f.inputs {
		name, path, ok := strings.Cut(text, "=")
		if !ok || name == "" || path == "" {
			return nil, fmt.Errorf("--input %q: write NAME=FILE", text)
		}
		if slices.ContainsFunc(parts, func(p *modelInput) bool { return p.input == name }) {
			return nil, fmt.Errorf("--input has %s twice", name)
		}
		p := &modelInput{input: name, path: path}
		if p.volume, err = voxcam.ReadVector(path); err != nil {
			return nil, err
		}
		if p.vector = p.volume != nil; !p.vector {
			if p.volume, err = voxcam.Read(ctx, path, format.Options{Variable: f.variable, Axes: f.axes}); err != nil {
				return nil, err
			}
		}
		p.source = *p.volume
		parts = append(parts, p)
	}
	return parts, nil
}

// scale scales the voxels. Pictures show them as they were.
func (p *modelInput) scale(how string, pictures bool) error {
	if p.vector {
		return nil
	}
	if how != "none" && pictures {
		p.source.Data = slices.Clone(p.volume.Data)
	}
	if _, err := volume.Scale(p.volume, how); err != nil {
		return fmt.Errorf("%s: %w", p.path, err)
	}
	return nil
}

// others returns the data of all parts but one.
func others(parts []*modelInput, but *modelInput) map[string]cam.Array {
	inputs := map[string]cam.Array{}
	for _, p := range parts {
		if p != but {
			v := p.volume
			inputs[p.input] = cam.Array{Shape: []int{v.Channels, v.Depth, v.Height, v.Width}, Data: v.Data, Volume: !p.vector}
		}
	}
	return inputs
}

// sameLogits reports whether logits are the same but for rounding.
func sameLogits(a, b []float32) bool {
	largest, apart := float32(1), float32(0)
	for i := range min(len(a), len(b)) {
		largest, apart = max(largest, a[i], -a[i]), max(apart, a[i]-b[i], b[i]-a[i])
	}
	return len(a) == len(b) && apart <= 0.01*largest
}

// looksAtLayer reports whether a method looks at the target layer.
func looksAtLayer(method string) bool {
	choices, err := cam.Choose([]string{method}, nil)
	return err == nil && len(choices) == 1 && choices[0].Convention.Kind() == cam.AtLayer
}

// openPart opens the model for a part, and returns the methods that are for it: those that look at the layer only where that is computed from this
// input.
func (f *explainFlags) openPart(cmd *cobra.Command, p *modelInput, methods []string) (*voxcam.Model, []string, error) {
	f.Input = p.input
	m, err := f.open(cmd, p.volume)
	if p.input == "" {
		return m, methods, err
	}
	input := slices.DeleteFunc(slices.Clone(methods), looksAtLayer)
	if err == nil {
		if m.Info().Layer == nil {
			methods = input
		}
		if len(methods) == 0 {
			return nil, nil, m.Close()
		}
		return m, methods, nil
	}
	if f.TargetLayer == "" {
		return nil, nil, err
	}
	// Another part may have the layer.
	p.refused = err
	if len(input) == 0 {
		return nil, nil, nil
	}
	named := f.TargetLayer
	defer func() { f.TargetLayer = named }()
	f.TargetLayer = ""
	m, err = f.open(cmd, p.volume)
	return m, input, err
}

// join adds the methods of a part to a result. Other logits than those of the result are an error.
func (p *modelInput) join(to, r *cam.Result) (*cam.Result, error) {
	for i := range r.Methods {
		if p.input != "" && !looksAtLayer(r.Methods[i].Method) {
			r.Methods[i].Input = p.input
		}
	}
	if to == nil {
		return r, nil
	}
	if !sameLogits(to.Logits, r.Logits) {
		return nil, fmt.Errorf("with %s explained, the logits of the model are %v, and with another input %v: the axes of its inputs are not understood in "+
			"the same way; give them all in the order N C D H W", p.input, r.Logits, to.Logits)
	}
	if to.Layer == nil || slices.ContainsFunc(r.Methods, func(m cam.MethodResult) bool { return looksAtLayer(m.Method) }) {
		to.TargetLayer, to.Layer, to.CellSize = r.TargetLayer, r.Layer, r.CellSize
	}
	to.Methods = append(to.Methods, r.Methods...)
	return to, nil
}
