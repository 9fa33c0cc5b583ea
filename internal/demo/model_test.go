package demo

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/phantom"
)

// TestModelClassifiesAndPoints holds the model to its promises on phantoms that it was not trained on: 90 % of the grades
// right, and 85 % of the heatmaps of the predicted class with their maximum in the dilated lesion mask.
func TestModelClassifiesAndPoints(t *testing.T) {
	n := 120
	if testing.Short() {
		n = 40
	}
	path := filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(path, []byte(Model), 0o666); err != nil {
		t.Fatal(err)
	}
	device, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d := phantom.DefaultDims
	model, err := executor.Open(context.Background(), path, device, executor.Options{ModelOptions: network.ModelOptions{TargetLayer: TargetLayer, Shape: [4]int{1, d[0], d[1], d[2]}}})
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()

	var right, lesions, pointed int
	for _, c := range Cases(n, 2024) {
		p, err := phantom.Generate(c.Params)
		if err != nil {
			t.Fatal(err)
		}
		v := p.Volume()
		for i := range v.Data {
			v.Data[i] /= 255
		}
		r, err := model.Explain(t.Context(), v, cam.Request{Methods: []string{"gradcam"}, SampleID: c.ID})
		if err != nil {
			t.Fatal(err)
		}
		if r.Predicted == int(p.Grade) {
			right++
		}
		if r.CellSize != [3]float64{CellVoxels, CellVoxels, CellVoxels} {
			t.Fatalf("cell size %v, want %d", r.CellSize, CellVoxels)
		}
		if p.Grade == phantom.Normal {
			continue
		}
		m := r.Methods[0]
		if m.Status != cam.StatusOK || m.HeatDims != p.Dims {
			t.Fatalf("%s: %s %s, size %v", c.ID, m.Status, m.Reason, m.HeatDims)
		}
		lesions++
		if p.PointedAt(m.Heatmap, PointingRadius) {
			pointed++
		}
	}
	t.Logf("%d of %d grades right, %d of %d heatmaps point to the lesion", right, n, pointed, lesions)
	if float64(right) < 0.90*float64(n) {
		t.Errorf("%d of %d grades right, want 90 %%", right, n)
	}
	if float64(pointed) < 0.85*float64(lesions) {
		t.Errorf("%d of %d heatmaps have their maximum within %d voxels of the lesion, want 85 %%", pointed, lesions, PointingRadius)
	}
}
