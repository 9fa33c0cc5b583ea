package voxcam_test

import (
	"math"
	"strings"
	"testing"

	"github.com/voxcam/voxcam"
	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/volume"
	"github.com/voxcam/voxcam/volume/format"
)

const (
	model = "testdata/cases/methods/model.torchscript.onnx"
	input = "testdata/cases/methods/volume.npy"
)

// explained is the map of a method.
func explained(t *testing.T, opt voxcam.Options, method string) (maps []float32, deviceName string) {
	t.Helper()
	m, err := voxcam.Open(t.Context(), model, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	v, err := voxcam.Read(t.Context(), input, format.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := m.Explain(t.Context(), v, cam.Request{Methods: []string{method}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Methods[0].Status != cam.StatusOK {
		t.Fatalf("%s: %s", r.Methods[0].Status, r.Methods[0].Reason)
	}
	if warnings, notes := m.Notes(); len(warnings)+len(notes) != 0 {
		t.Errorf("notes: %q, %q", warnings, notes)
	}
	return r.Methods[0].Map, m.Device()
}

// With a GPU see internal/device, TestLibraryOnGPU: building the simulator takes half a minute.
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
		if m, err := voxcam.Open(t.Context(), model, opt); err == nil {
			t.Errorf("%+v opened %s", opt, m.Device())
		} else if !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v", opt, err)
		}
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

// Zero values of a request stand for its documented defaults.
func TestDefaults(t *testing.T) {
	m, v := opened(t, voxcam.Options{Device: "cpu"})
	maps := map[string][]float32{}
	for name, req := range map[string]cam.Request{
		"zero":     {},
		"defaults": {NSamples: 50, NoiseLevel: 0.15},
		"fewer":    {NSamples: 49},
		"less":     {NoiseLevel: 0.1},
		"saliency": {Methods: []string{"saliency"}},
	} {
		if req.Methods == nil {
			req.Methods = []string{"SmoothGrad", "smoothgrad"}
		}
		r, err := m.Explain(t.Context(), v, req)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(r.Methods) != 1 || r.Methods[0].Status != cam.StatusOK {
			t.Fatalf("%s: %+v", name, r.Methods)
		}
		maps[name] = r.Methods[0].Map
		if p := r.Methods[0].Parameters; name == "zero" && (p["n_samples"] != 50 || p["noise_level"] != 0.15) {
			t.Errorf("the record says %v", p)
		}
	}
	for name, far := range map[string]bool{"defaults": false, "fewer": true, "less": true, "saliency": true} {
		if d := distance(maps["zero"], maps[name]); (d > 0) != far {
			t.Errorf("zero values and %s are %g apart", name, d)
		}
	}
}

// What is out of range is refused with its name, its value and what it may be.
func TestRangeOfOptions(t *testing.T) {
	for _, c := range []struct {
		opt  voxcam.Options
		says string
	}{
		{voxcam.Options{LayerLayout: "nonsense"}, `layer_layout cannot be used: layer layout "nonsense": 'n' is not known; it is auto, channels-first`},
		{voxcam.Options{TargetLayer: "head_conv", LayerLayout: "nonsense"}, `layer_layout cannot be used: layer layout "nonsense"`},
		{voxcam.Options{LayerLayout: "NDHWW"}, "W twice"},
		{voxcam.Options{TokenGrid: [3]int{1, 2, 0}}, "token_grid is [1 2 0]; it must be three sizes from 1 to 65536"},
		{voxcam.Options{TokenGrid: [3]int{-1, 2, 2}}, "token_grid is [-1 2 2]"},
		{voxcam.Options{Shape: [4]int{1, 12, -16, 14}}, "volume_shape is [1 12 -16 14]; sizes must be at least 0"},
		{voxcam.Options{Budget: "-1"}, `memory_budget cannot be used: "-1"`},
	} {
		c.opt.Device = "cpu"
		m, err := voxcam.Open(t.Context(), model, c.opt)
		if err == nil {
			m.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v, want %s", c.opt, err, c.says)
		}
	}
	m, v := opened(t, voxcam.Options{Device: "cpu"})
	draws := []string{"smoothgrad"}
	for _, c := range []struct {
		req  cam.Request
		says []string
	}{
		{cam.Request{}, []string{"methods names no method: choose from gradcam"}},
		{cam.Request{Methods: []string{"gradcamm"}}, []string{`methods has an unknown method "gradcamm"`}},
		{cam.Request{Methods: draws, NSamples: -1, NoiseLevel: -0.5},
			[]string{"n_samples is -1; it must be from 1 to 2147483647", "noise_level is -0.5; it must be a positive number"}},
		{cam.Request{Methods: draws, NSamples: 1 << 40}, []string{"n_samples is 1099511627776"}},
		{cam.Request{Methods: draws, NoiseLevel: math.NaN()}, []string{"noise_level is NaN"}},
		{cam.Request{Methods: draws, NoiseLevel: math.Inf(1)}, []string{"noise_level is +Inf"}},
		{cam.Request{Methods: draws, NoiseLevel: 1e39}, []string{"noise_level is 1e+39"}},
		{cam.Request{Methods: draws, NoiseLevel: 1e-60}, []string{"noise_level is 1e-60"}}, // 0 as a float32
		{cam.Request{Methods: []string{"vargrad"}, NSamples: 1}, []string{"n_samples is 1; vargrad (original) needs at least 2"}},
		{cam.Request{Methods: draws, Convention: map[string]string{"smoothgrad": "papr"}}, []string{`conventions has an unknown convention`}},
		{cam.Request{Methods: draws, Target: cam.Target{Class: cam.Class{Kind: 7}}}, []string{"target_class is of kind 7"}},
		{cam.Request{Methods: draws, Target: cam.Target{Class: cam.Class{Kind: cam.ClassIndex, Index: -1}}}, []string{"target_class is -1; it must be at least 0"}},
		{cam.Request{Methods: draws, Target: cam.Target{Class: cam.Class{Kind: cam.ClassIndex, Index: 4}}}, []string{"class 4 is out of range", "0 to 3"}},
	} {
		r, err := m.Explain(t.Context(), v, c.req)
		for _, says := range c.says {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%+v: %v, %v, want %s", c.req, r, err, says)
			}
		}
	}
}

// opened is the tests' model, which is closed with the test, and its volume.
func opened(t *testing.T, opt voxcam.Options) (*voxcam.Model, *volume.Volume) {
	t.Helper()
	m, err := voxcam.Open(t.Context(), model, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	v, err := voxcam.Read(t.Context(), input, format.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return m, v
}

// A volume of one value has nothing in it to see, whatever the maps look like.
func TestVolumeOfOneValue(t *testing.T) {
	m, v := opened(t, voxcam.Options{Device: "cpu"})
	for i := range v.Data {
		v.Data[i] = 0.5
	}
	req := cam.Request{Methods: []string{"gradcam", "saliency", "smoothgrad"}, NSamples: 2, Convention: map[string]string{"smoothgrad": "monai"}}
	r, err := m.Explain(t.Context(), v, req)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range r.Methods {
		if r.Status != cam.StatusDegraded || !strings.Contains(r.Reason, "every voxel of the volume has the value 0.5") {
			t.Errorf("%s: %s: %s", r.Method, r.Status, r.Reason)
		}
	}
	if reason := r.Methods[2].Reason; !strings.Contains(reason, "the noise has a standard deviation of 0") {
		t.Error(reason)
	}
	v.Data[7] = 0.75
	if r, err = m.Explain(t.Context(), v, req); err != nil || r.Methods[2].Status != cam.StatusOK {
		t.Errorf("with two values: %v, %+v", err, r.Methods)
	}
}
