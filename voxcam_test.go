package voxcam_test

import (
	"math"
	"strings"
	"testing"

	"github.com/voxcam/voxcam"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/device"
)

const (
	model = "testdata/cases/methods/model.torchscript.onnx"
	input = "testdata/cases/methods/volume.npy"
)

// explained is the map of a method.
func explained(t *testing.T, opt voxcam.Options, method string) (maps []float32, deviceName string) {
	t.Helper()
	m, err := voxcam.Open(model, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	v, err := voxcam.Read(input, voxcam.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := m.Explain(t.Context(), v, voxcam.Request{Methods: []string{method}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Methods[0].Status != voxcam.StatusOK {
		t.Fatalf("%s: %s", r.Methods[0].Status, r.Methods[0].Reason)
	}
	if notes := m.Notes(); len(notes) != 0 {
		t.Errorf("notes: %q", notes)
	}
	return r.Methods[0].Map, m.Device()
}

func TestDevices(t *testing.T) {
	t.Setenv(device.Driver, "/absent/libcuda.so.1")
	want, name := explained(t, voxcam.Options{Device: "cpu"}, "saliency")
	auto, same := explained(t, voxcam.Options{}, "saliency")
	if name != same || !strings.HasPrefix(name, "cpu/") || distance(want, auto) != 0 {
		t.Errorf("without a GPU auto is %s, and the maps are %g apart", same, distance(want, auto))
	}
	for opt, says := range map[voxcam.Options]string{
		{Device: "cuda"}:                     "no NVIDIA driver",
		{Device: "gpu"}:                      `device "gpu" is not known`,
		{Device: "cuda:x"}:                   `device "cuda:x"`,
		{Precision: "bf16"}:                  "precision bf16 needs a GPU",
		{Device: "cpu", Precision: "double"}: `precision "double" is not known`,
	} {
		if m, err := voxcam.Open(model, opt); err == nil {
			t.Errorf("%+v opened %s", opt, m.Device())
		} else if !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v", opt, err)
		}
	}

	t.Setenv(device.Driver, simulator.Build(t))
	gpu, name := explained(t, voxcam.Options{Budget: voxcam.Budget{Bytes: 1 << 30}}, "saliency")
	if name != "cuda/Simulator" {
		t.Errorf("with a GPU auto is %s", name)
	}
	if d := distance(want, gpu); !(d <= 1e-4) {
		t.Errorf("on the GPU the map is %g of the maximum off", d)
	}
}

// distance is the largest difference of two maps, of the largest value.
func distance(a, b []float32) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	most, largest := 0.0, 0.0
	for i := range a {
		most = max(most, math.Abs(float64(a[i])-float64(b[i])))
		largest = max(largest, math.Abs(float64(a[i])))
	}
	return most / largest
}
