package cam

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// goldenDir lies beside the repository where the reference data is at hand.
const goldenDir = "../../shared/golden"

// goldenMaps are the arrays of a golden file that are maps of a layer.
var goldenMaps = []struct{ array, method, convention string }{
	{"gradcam.map", "gradcam", "original"},
	{"gradcam++.map", "gradcam++", "original"},
	{"gradcam++.pytorch_grad_cam.map", "gradcam++", "pytorch-grad-cam"},
	{"gradcam++.monai.map", "gradcam++", "monai"},
	{"pytorch_grad_cam.HiResCAM.map", "hirescam", ""},
	{"pytorch_grad_cam.GradCAMElementWise.map", "gradcam-elementwise", ""},
	{"pytorch_grad_cam.LayerCAM.map", "layercam", ""},
	{"xgradcam.map", "xgradcam", ""},
}

// The largest differences seen, relative to the largest value: maps 5.0e-7, heatmaps 5.4e-7. References are float64 rounded to
// float32, computed of activations and gradients that were rounded after.
func TestGolden(t *testing.T) {
	const tolerance = 1e-6
	cases, err := filepath.Glob(filepath.Join(goldenDir, "*", "expected.npz"))
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) == 0 {
		t.Skipf("SKIPPED: no reference data in %s; testdata/formulas.json covers the formulas", goldenDir)
	}
	for _, path := range cases {
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			want := readNPZ(t, path)
			class, volume := goldenCase(t, filepath.Dir(path))
			a, channels := want["activation"].channelsLast()
			g, _ := want["gradient"].channelsLast()
			layer := LayerPoint{Activation: a, Gradient: g, Channels: channels, Score: float64(want["logits"].data[class])}
			seen := 0
			for _, m := range goldenMaps {
				ref, ok := want[m.array]
				if !ok {
					continue
				}
				seen++
				got, err := choice(t, m.method, m.convention).LayerMap(layer)
				if err != nil {
					t.Errorf("%s: %v", m.array, err)
					continue
				}
				compare(t, m.array, got, ref.data, tolerance)
			}
			if seen < 2 {
				t.Errorf("%d arrays were found to compare with", seen)
			}
			for _, name := range Methods() {
				ref, ok := want[name+".heatmap"]
				if !ok {
					continue
				}
				m := want[name+".map"]
				got, finding, err := choice(t, name, "").Heatmap(m.data, m.dims(), volume)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				compare(t, name+".heatmap", got, ref.data, tolerance)
				if blank := peak(ref.data) == 0; blank != (finding != "") {
					t.Errorf("%s: finding %q for a reference with maximum %g", name, finding, peak(ref.data))
				}
			}
		})
	}
}

func goldenCase(t *testing.T, dir string) (class int, volume [3]int) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "case.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		TargetClass int   `json:"target_class"`
		InputShape  []int `json:"input_shape"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return c.TargetClass, [3]int(c.InputShape[2:])
}

func choice(t *testing.T, method, convention string) Choice {
	t.Helper()
	m, err := Lookup(method)
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.In(convention)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func peak[T float32 | float64](values []T) (p float64) {
	for _, v := range values {
		p = max(p, math.Abs(float64(v)))
	}
	return p
}

// compare fails when got is further from want than tolerance times the largest magnitude of want.
func compare[T float32 | float64](t *testing.T, what string, got []float32, want []T, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d values, want %d", what, len(got), len(want))
		return
	}
	worst, at := 0.0, 0
	for i := range got {
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= worst) {
			worst, at = d, i
		}
	}
	if scale := peak(want); !(worst <= tolerance*scale) {
		t.Errorf("%s: value %d is %g, want %g: off by %.2g of the maximum", what, at, got[at], float64(want[at]), worst/scale)
	} else if scale > 0 {
		t.Logf("%s: within %.1e of the maximum", what, worst/scale)
	}
}
