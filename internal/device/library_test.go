package device_test

import (
	"math"
	"testing"

	"github.com/voxcam/voxcam"
	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/volume/format"
)

// The library takes a GPU where there is one, and explains on it as on the processor.
func TestLibraryOnGPU(t *testing.T) {
	const cases = "../../testdata/cases/methods/"
	v, err := voxcam.Read(t.Context(), cases+"volume.npy", format.Options{})
	if err != nil {
		t.Fatal(err)
	}
	explained := func(opt voxcam.Options) (saliency []float32, name string) {
		m, err := voxcam.Open(t.Context(), cases+"model.torchscript.onnx", opt)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}()
		r, err := m.Explain(t.Context(), v, cam.Request{Methods: []string{"saliency"}})
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
	simulated(t)
	want, _ := explained(voxcam.Options{Device: "cpu"})
	got, name := explained(voxcam.Options{Budget: "1GiB"})
	if name != "cuda/Simulator" {
		t.Errorf("with a GPU auto is %s", name)
	}
	if len(got) != len(want) {
		t.Fatalf("%d values instead of %d", len(got), len(want))
	}
	far, largest := 0.0, 0.0
	for i := range want {
		far = max(far, math.Abs(float64(got[i])-float64(want[i])))
		largest = max(largest, math.Abs(float64(want[i])))
	}
	if !(far <= 1e-4*largest) {
		t.Errorf("on the GPU the map is %g off, of %g", far, largest)
	}
}
