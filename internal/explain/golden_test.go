package explain_test

import (
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/internal/volume/npy"
	"github.com/voxcam/voxcam/volume/format"
)

// goldenCase is case.json of a golden case.
type goldenCase struct {
	Target     string                     `json:"target_layer"`
	Class      int                        `json:"target_class"`
	Grid       []int                      `json:"token_grid"`
	NoiseLevel float64                    `json:"noise_level"`
	Samples    int                        `json:"noise_samples"`
	Exports    map[string]json.RawMessage `json:"exports"`
	WithTarget []string                   `json:"forms_with_target"`
}

// tolerance is relative to the maximum of the reference.
const tolerance = 1e-4

// limits are the cases in which float32 cannot reach the tolerance, with the reason.
var limits = map[string]struct {
	tolerance float64
	why       string
}{
	"effnet3d_mid/dynamo": {1e-3, "the exporter has folded the BatchNorms in float32: in float64 throughout, this file gives a map that is 3.2e-4 off"},
}

func TestGoldenCases(t *testing.T) {
	for _, folder := range []string{"../../testdata/cases", "../../../shared/golden"} {
		paths, err := filepath.Glob(filepath.Join(folder, "*", "case.json"))
		if err != nil {
			t.Fatal(err)
		}
		if len(paths) == 0 {
			t.Run(folder, func(t *testing.T) { t.Skipf("GOLDEN CASES NOT CHECKED: there are none in %s", folder) })
		}
		for _, p := range paths {
			dir := filepath.Dir(p)
			var c goldenCase
			text, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(text, &c); err != nil {
				t.Fatalf("%s: %v", p, err)
			}
			for form := range c.Exports {
				t.Run(filepath.Base(dir)+"/"+form, func(t *testing.T) { checkGolden(t, dir, form, c) })
			}
		}
	}
}

func checkGolden(t *testing.T, dir, form string, c goldenCase) {
	expected := readExpected(t, filepath.Join(dir, "expected.npz"))
	v, err := format.Read(filepath.Join(dir, "volume.npy"), format.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	opt := network.ModelOptions{TargetLayer: c.Target}
	if c.Grid != nil {
		opt.TokenGrid = [3]int(c.Grid)
	}
	n := bind(t, b, filepath.Join(dir, "model."+form+".onnx"), opt, v)
	req := cam.Request{
		Methods: []string{"saliency"}, Target: cam.Target{Class: cam.Class{Kind: cam.ClassIndex, Index: c.Class}},
		NSamples: c.Samples, NoiseLevel: c.NoiseLevel,
	}
	if slices.Contains(c.WithTarget, form) {
		req.Methods = append(req.Methods, "gradcam", "gradcam++", "hirescam", "layercam")
	}
	if noise, ok := expected["noise"]; ok {
		req.Methods = append(req.Methods, "smoothgrad", "vargrad")
		req.Noise = draws(noise.Data)
		if len(noise.Data) != c.Samples*len(v.Data) {
			t.Fatalf("%d values of noise for %d draws of %d voxels", len(noise.Data), c.Samples, len(v.Data))
		}
	}
	r := explainOn(t, n, v, req)
	limit, why := tolerance, ""
	if l, ok := limits[filepath.Base(dir)+"/"+form]; ok {
		limit, why = l.tolerance, " ("+l.why+")"
	}
	check := func(what string, got, want []float32, limit float64) {
		t.Helper()
		if e := worst(got, want); !(e <= limit) {
			t.Errorf("%s is %.1e of the maximum off, more than %.0e%s", what, e, limit, why)
		}
	}
	check("logits", r.Logits, expected["logits"].Data, limit)
	references := map[string]string{"hirescam": "pytorch_grad_cam.HiResCAM", "layercam": "pytorch_grad_cam.LayerCAM"}
	for _, method := range r.Methods {
		if method.Status == cam.StatusFailed {
			t.Errorf("%s: %s", method.Method, method.Reason)
			continue
		}
		name := method.Method
		if other := references[name]; other != "" {
			name = other
		}
		if name == "saliency" {
			if want, ok := expected["input_gradient"]; ok {
				check("input gradient", method.Map, absolute(want, v.Voxels()), limit)
			}
			continue
		}
		if want, ok := expected[name+".map"]; ok {
			if name != method.Method { // that library applies ReLU to its maps
				check(name, relu(method.Map), relu(want.Data), limit)
			} else {
				check(name+" map", method.Map, want.Data, limit)
			}
		}
		if want, ok := expected[name+".heatmap"]; ok {
			check(name+" heatmap", method.Heatmap, want.Data, limit)
		}
	}
}

// draws serves injected noise, [n, C, D, H, W].
type draws []float32

func (d draws) Draw(i int, dst []float32) error { copy(dst, d[i*len(dst):]); return nil }
func (d draws) Len() int                        { return len(d) } // an upper bound; the test checks the size

func readExpected(t *testing.T, path string) map[string]*array.Array {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	all, err := npy.ReadAll(io.NewSectionReader(f, 0, info.Size()))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return all
}

// absolute is the sum over channels of the absolute values of [C, D, H, W].
func absolute(a *array.Array, voxels int) []float32 {
	out := make([]float32, voxels)
	for i, x := range a.Data {
		out[i%voxels] += float32(math.Abs(float64(x)))
	}
	return out
}

func relu(x []float32) []float32 {
	out := make([]float32, len(x))
	for i := range x {
		out[i] = max(x[i], 0)
	}
	return out
}

// worst is the largest difference relative to the largest magnitude of want; differing lengths and NaN are infinitely bad.
func worst(got, want []float32) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	off, top := 0.0, 1e-30
	for i := range want {
		d := math.Abs(float64(got[i]) - float64(want[i]))
		if math.IsNaN(d) {
			return math.Inf(1)
		}
		off, top = max(off, d), max(top, math.Abs(float64(want[i])))
	}
	return off / top
}
