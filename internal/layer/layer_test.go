package layer_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/layer"
	"github.com/voxcam/voxcam/internal/onnx"
)

func load(t *testing.T, path string, shape []int) *onnx.Imported {
	t.Helper()
	file, err := onnx.Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	m, err := onnx.Import(file, onnx.Options{InputShape: shape})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const cases = "../../testdata/cases"

// The value that is found by a module's name is the one that equals the module's output in PyTorch, which the script that made the
// cases found by comparing numbers. Where an in-place ReLU follows, it is that ReLU's.
func TestModulesAreFound(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(cases, "*", "case.json"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases in %s: %v", cases, err)
	}
	for _, path := range paths {
		var c struct {
			Target string            `json:"target_layer"`
			Shape  []int             `json:"input_shape"`
			Grid   []int             `json:"token_grid"`
			Layer  []int             `json:"activation_shape"`
			Values map[string]string `json:"target_values"`
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &c); err != nil {
			t.Fatal(err)
		}
		for form, value := range c.Values {
			t.Run(filepath.Base(filepath.Dir(path))+"/"+form, func(t *testing.T) {
				m := load(t, filepath.Join(filepath.Dir(path), "model."+form+".onnx"), c.Shape)
				got, err := layer.Find(m, layer.Request{Name: c.Target, Volume: [3]int(c.Shape[2:])})
				if err != nil {
					t.Fatal(err)
				}
				want := m.Names[value]
				if len(got.Notes) == 0 && got.Value != want {
					t.Errorf("%s is %q, not %q", c.Target, got.Value.Name, value)
				}
				cells := got.Grid[0] * got.Grid[1] * got.Grid[2]
				if c.Grid != nil && got.Grid != [3]int(c.Grid) {
					t.Errorf("the grid is %v, not %v", got.Grid, c.Grid)
				}
				if elements := got.Value.Shape().Elements(); cells < 1 || elements < cells {
					t.Errorf("a grid %v for %d values", got.Grid, elements)
				}
				if len(got.Axes) != len(got.Value.Shape()) || !strings.Contains(got.Axes.String(), "C") {
					t.Errorf("axes %q for %v", got.Axes, got.Value.Shape())
				}
			})
		}
	}
}

func TestUnknownNamesListCandidates(t *testing.T) {
	m := load(t, filepath.Join(cases, "methods", "model.torchscript.onnx"), []int{1, 1, 12, 16, 14})
	_, err := layer.Find(m, layer.Request{Name: "backbone.head_con", Volume: [3]int{12, 16, 14}})
	var e *layer.NotFoundError
	if !errors.As(err, &e) || len(e.Candidates) == 0 || !strings.HasSuffix(e.Candidates[0], "head_conv") {
		t.Errorf("the first candidate for backbone.head_con is not head_conv: %v", err)
	}
	if _, err := layer.Find(m, layer.Request{Name: "backbone.head_conv", Grid: [3]int{2, 2, 2}, Volume: [3]int{12, 16, 14}}); err == nil {
		t.Error("a token grid for a layer without tokens is taken")
	}
}

// A layer that is named by the value of the file is exactly that value, and the default has spatial extent.
func TestValuesAndDefault(t *testing.T) {
	m := load(t, filepath.Join(cases, "methods", "model.torchscript.onnx"), []int{1, 1, 12, 16, 14})
	i := slices.IndexFunc(m.Nodes, func(n *onnx.NodeInfo) bool { return n.Op == "Conv" })
	v := m.Nodes[i].Outputs[0]
	got, err := layer.Find(m, layer.Request{Name: v.Name, Volume: [3]int{12, 16, 14}})
	if err != nil || got.Value != v {
		t.Errorf("the value %q is found as %v, %v", v.Name, got.Value, err)
	}
	got, err = layer.Find(m, layer.Request{Volume: [3]int{12, 16, 14}})
	if err != nil || got.Grid[0]*got.Grid[1]*got.Grid[2] < 2 {
		t.Errorf("the default is %q with grid %v, %v", got.Label, got.Grid, err)
	}
}
