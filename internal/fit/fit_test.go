package fit_test

import (
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/fit"
	"github.com/voxcam/voxcam/internal/policy"
)

// A device that nobody names is the GPU if there is one, and the processor goes on where that has no room.
func TestDeviceByItself(t *testing.T) {
	q := fit.Question{Methods: []string{"saliency"}, Samples: 1, Engine: engine.Options{Model: "../demo/model.onnx", Policy: policy.DefaultPolicy()}}
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
