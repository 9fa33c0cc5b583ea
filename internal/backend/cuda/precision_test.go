package cuda

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/volume/format"
)

// What the precisions of tensor cores cost on whole networks, against float32 on the processor: the figures of docs/gpu.md come from
// the log of this test. All dense convolutions run on tensor cores here, however small they are.
func TestPrecisionsOnNetworks(t *testing.T) {
	if !backendtest.Long() {
		t.Skip("PRECISIONS NOT COMPARED ON NETWORKS: set VOXCAM_LONG=1; it takes a minute")
	}
	for _, name := range []string{"plain3d", "resnet3d", "effnet3d", "densenet3d"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join("../../../../shared/golden", name)
			v, err := format.Read(filepath.Join(dir, "volume.npy"), format.Options{})
			if err != nil {
				t.Skip("PRECISIONS NOT COMPARED ON NETWORKS: ", err)
			}
			run := func(b backend.Backend) *cam.Result {
				m, err := executor.Open(context.Background(), filepath.Join(dir, "model.torchscript.onnx"), b, executor.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				r, err := m.Explain(context.Background(), v, cam.Request{Methods: []string{"gradcam", "saliency"}})
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			processor, err := cpu.New(cpu.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer processor.Close()
			want := run(processor)
			for _, p := range []struct {
				name           string
				value          Precision
				scores, camMap float64
			}{{"tf32", TF32, 1e-2, 0.1}, {"bf16", BFloat16, 3e-2, 0.1}} {
				got := run(openTensor(t, p.value))
				scores, _ := distance(got.Logits, want.Logits)
				cam, camMean := distance(got.Methods[0].Map, want.Methods[0].Map)
				gradient, gradientMean := distance(got.Methods[1].Map, want.Methods[1].Map)
				t.Logf("%s: scores %.1e; Grad-CAM %.1e, mean %.1e; saliency %.1e, mean %.1e", p.name, scores, cam, camMean, gradient, gradientMean)
				if !(scores <= p.scores && cam <= p.camMap) {
					t.Errorf("%s: scores are %.1e of the maximum off, more than %.1e, or the map of Grad-CAM is %.1e, more than %.1e", p.name, scores, p.scores, cam, p.camMap)
				}
			}
		})
	}
}

// distance is the largest difference over the largest value, and the sum of differences over that of values.
func distance(a, b []float32) (most, mean float64) {
	var top, difference, values float64
	for i := range a {
		d := math.Abs(float64(a[i]) - float64(b[i]))
		most, top = max(most, d), max(top, math.Abs(float64(b[i])))
		difference, values = difference+d, values+math.Abs(float64(b[i]))
	}
	return most / top, difference / values
}
