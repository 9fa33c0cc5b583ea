package executor_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/volume/format"
)

// sharedCase is a folder of the cases from use, which lie outside the repository.
func sharedCase(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join("../../../shared/cases/models_and_files", name)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("CASE %s NOT CHECKED: %v", name, err)
	}
	return dir
}

// TestUnsortedFloat16 explains a model of float16 whose casts of input and output stand at the end of the list. The scores are those of
// onnxruntime, which computes in float16.
func TestUnsortedFloat16(t *testing.T) {
	dir := sharedCase(t, "08-unsorted-fp16")
	v, err := format.Read(filepath.Join(dir, "volume.npy"), format.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var want map[string][]float64
	text, err := os.ReadFile(filepath.Join(dir, "expected.json"))
	if err == nil {
		err = json.Unmarshal(text, &want)
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	m, err := executor.Open(t.Context(), filepath.Join(dir, "model.onnx"), b, executor.Options{ModelOptions: network.ModelOptions{TargetLayer: "relu"}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	r, err := m.Explain(t.Context(), v, cam.Request{Methods: []string{"gradcam"}, Target: cam.Target{Class: cam.Class{Kind: cam.ClassPredicted}}})
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range want["logits of onnxruntime"] {
		if !(math.Abs(float64(r.Logits[i])-x) < 5e-3) {
			t.Errorf("scores %v, want %v", r.Logits, want)
		}
	}
	if r.Predicted != 2 || r.Methods[0].Status != cam.StatusOK {
		t.Errorf("class %d, %+v", r.Predicted, r.Methods[0].Status)
	}
}
