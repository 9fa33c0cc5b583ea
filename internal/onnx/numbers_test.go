package onnx

import (
	"context"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/reference"
	"github.com/voxcam/voxcam/internal/grad"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/pass"
	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/internal/volume/npy"
)

// readArray reads a .npy file, or an array of a .npz file, in row-major order.
func readArray(t testing.TB, path, name string) []float64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	read := npy.Read
	if name != "" {
		read = npy.ReadZip
	}
	a, err := read(io.NewSectionReader(f, 0, info.Size()), array.Options{Variable: name})
	if err != nil {
		t.Fatal(err)
	}
	out := make([]float64, 0, len(a.Data))
	walk(a.Shape, [][]int{a.Strides}, func(_ int, at []int) { out = append(out, float64(a.Data[at[0]])) })
	return out
}

// distance is the largest difference, relative to the largest magnitude.
func distance(t testing.TB, got, want []float64) float64 {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d numbers, not %d", len(got), len(want))
	}
	worst, largest := 0.0, 0.0
	for i := range want {
		d := math.Abs(got[i] - want[i])
		if !(d <= worst) {
			worst = d
		}
		largest = max(largest, math.Abs(want[i]))
	}
	return worst / largest
}

func channelsLastOf(x []float64, channels int) []float64 {
	out, n := make([]float64, len(x)), len(x)/channels
	for i := range x {
		out[i%n*channels+i/n] = x[i]
	}
	return out
}

func channelsFirstOf(x []float64, channels int) []float64 { return channelsLastOf(x, len(x)/channels) }

// TestNumbers evaluates models in float64 and compares their scores and the gradient of the first one with PyTorch's. It takes
// minutes for a large corpus, so it runs on the folder that VOXCAM_CASES names.
func TestNumbers(t *testing.T) {
	folder := os.Getenv("VOXCAM_CASES")
	if folder == "" {
		t.Skip("VOXCAM_CASES names no folder of cases")
	}
	for path, c := range caseFiles(t, folder) {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir)+"/"+filepath.Base(path), func(t *testing.T) {
			m, err := Open(context.Background(), path)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			im, err := Import(m, Options{InputShape: c.Shape})
			if err != nil {
				t.Fatal(err)
			}
			g := im.Graph
			g.Outputs = g.Outputs[:1]
			if err := pass.Run(context.Background(), g, nil, pass.Recognition, pass.Lowering); err != nil {
				t.Fatal(err)
			}
			input := g.Inputs[0] // channels-last now
			seed, dx, err := grad.Build(g, g.Outputs[0], []*ir.Value{input})
			if err != nil {
				t.Fatal(err)
			}
			score := g.Outputs[0]
			g.Outputs = []*ir.Value{score, dx[0]}
			g.Prune()
			hot := make([]float64, seed.Shape().Elements())
			hot[c.Class] = 1
			values, err := reference.Eval(context.Background(), g, map[*ir.Value][]float64{
				input: channelsLastOf(readArray(t, filepath.Join(dir, "volume.npy"), ""), c.Shape[1]), seed: hot})
			if err != nil {
				t.Fatal(err)
			}
			expected := filepath.Join(dir, "expected.npz")
			for _, check := range []struct {
				name string
				got  []float64
			}{{"logits", values[score]}, {"input_gradient", channelsFirstOf(values[dx[0]], c.Shape[1])}} {
				if d := distance(t, check.got, readArray(t, expected, check.name)); !(d < 1e-5) {
					t.Errorf("%s differ by %.2g", check.name, d)
				}
			}
		})
	}
}
