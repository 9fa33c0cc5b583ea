package fit_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/fit"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/policy"
)

// A device that nobody names is the GPU if there is one, and the processor goes on where that has no room.
func TestDeviceByItself(t *testing.T) {
	q := fit.Question{Request: cam.Request{Methods: []string{"saliency"}, NSamples: 1}, Engine: engine.Options{Options: instance.Options{Model: "../demo/model.onnx"}, Policy: policy.DefaultPolicy()}}
	ask := func(device string, level cam.Level) {
		t.Helper()
		a, err := fit.Ask(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if !a.Fits || a.Device != device || (a.Level == cam.LevelCPU) != (level == cam.LevelCPU) {
			t.Errorf("on %s, %s (%s), not on %s", a.Device, a.Level, a.Reason, device)
		}
	}
	t.Setenv(device.Driver, "/absent/libcuda.so.1")
	ask("cpu", cam.LevelWhole)
	s := simulator.Load(t)
	t.Setenv(device.Driver, s.Path)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	ask("cuda", cam.LevelWhole)
	s.SetCapacity(3 << 20)
	ask("cpu", cam.LevelCPU)
	q.Engine.Policy.CPU = false
	if a, err := fit.Ask(t.Context(), q); err != nil || a.Fits || a.Device != "cuda" {
		t.Errorf("without the processor: %+v, %v", a, err)
	}
}

// Each pass runs once at the volume and once at each point; methods with the same points share them.
func TestRunsOfAPass(t *testing.T) {
	s := simulator.Load(t)
	t.Setenv(device.Driver, s.Path)
	for _, c := range []struct {
		request cam.Request
		runs    []int // at the layer, at the volume
	}{
		{cam.Request{Methods: []string{"gradcam", "eigencam"}}, []int{1}},
		{cam.Request{Methods: []string{"saliency", "input-x-gradient"}}, []int{1}},
		{cam.Request{Methods: []string{"smoothgrad", "vargrad"}}, []int{cam.DefaultNSamples}},
		{cam.Request{Methods: []string{"gradcam", "smoothgrad", "saliency"}, NSamples: 7}, []int{1, 8}},
		{cam.Request{Methods: []string{"integrated-gradients"}, Steps: 20}, []int{21}}, // and the baseline
		{cam.Request{Methods: []string{"integrated-gradients", "smoothgrad", "saliency"}, Steps: 20, NSamples: 7}, []int{29}},
		{cam.Request{Methods: []string{"smoothgrad", "vargrad"}, NSamples: 7, Convention: map[string]string{"smoothgrad": "monai"}}, []int{14}}, // noise of two levels
	} {
		a, err := fit.Ask(t.Context(), fit.Question{Request: c.request, Engine: engine.Options{Options: instance.Options{Model: "../demo/model.onnx"}, Policy: policy.DefaultPolicy()}})
		if err != nil {
			t.Fatal(err)
		}
		var runs []int
		seconds := 0.0
		for _, p := range a.Passes {
			runs = append(runs, p.Runs)
			seconds += float64(p.Runs) * p.Seconds
		}
		if !slices.Equal(runs, c.runs) || a.Seconds != seconds {
			t.Errorf("%v: %v runs, want %v; %g s, want %g", c.request.Methods, runs, c.runs, a.Seconds, seconds)
		}
	}
}

// A method that looks at the activation alone has a pass without a gradient, which takes less.
func TestPassOfAnActivation(t *testing.T) {
	pass := map[string]cam.Pass{}
	for _, method := range []string{"eigencam", "gradcam"} {
		q := fit.Question{Request: cam.Request{Methods: []string{method}}, Engine: engine.Options{Options: instance.Options{Device: "cpu", Model: "../demo/model.onnx"}, Policy: policy.DefaultPolicy()}}
		a, err := fit.Ask(t.Context(), q)
		if err != nil || len(a.Passes) != 1 {
			t.Fatalf("%s: %+v, %v", method, a, err)
		}
		pass[method] = a.Passes[0]
	}
	one, other := pass["eigencam"], pass["gradcam"]
	if !strings.HasPrefix(one.Name, "activation of the layer ") || !strings.HasPrefix(other.Name, "gradient at the layer ") || one.Seconds >= other.Seconds || one.Whole > other.Whole {
		t.Errorf("the activation alone: %+v; with a gradient: %+v", one, other)
	}
}
