package onnx

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/reference"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/pass"
)

// contested are vectors that this program does not follow, with the reason.
var contested = map[string]string{
	"test_reduce_max_empty_set_bool":                     "the maximum of nothing",
	"test_averagepool_2d_ceil_last_window_starts_on_pad": "its result is rounded to four digits",
	"test_mod_float_edge_cases_fmod_0_float32":           "remainders of infinities",
	"test_resize_downsample_scales_cubic_align_corners":  "aligns corners of a size that is not whole, as PyTorch does not",
	"test_resize_downsample_scales_linear_align_corners": "aligns corners of a size that is not whole, as PyTorch does not",
}

// TestNodes checks single operations against the vectors of ONNX's own conformance suite, which testdata/node_cases.py writes
// into the folder that VOXCAM_NODES names: const.onnx has constant inputs, runtime.onnx a first input from in.npy, out0.npy is
// the result.
func TestNodes(t *testing.T) {
	folder := os.Getenv("VOXCAM_NODES")
	if folder == "" {
		t.Skip("VOXCAM_NODES names no folder of node cases")
	}
	for _, kind := range []string{"const", "runtime"} {
		paths, _ := filepath.Glob(filepath.Join(folder, "*", kind+".onnx"))
		for _, path := range paths {
			t.Run(kind+"/"+filepath.Base(filepath.Dir(path)), func(t *testing.T) { checkNode(t, path, kind == "const") })
		}
	}
}

func checkNode(t *testing.T, path string, constant bool) {
	dir := filepath.Dir(path)
	if why := contested[filepath.Base(dir)]; why != "" {
		t.Skip(why)
	}
	if _, err := os.Stat(filepath.Join(dir, "out0.npy")); err != nil {
		t.Skip("no result")
	}
	want := readArray(t, filepath.Join(dir, "out0.npy"), "")
	m, err := Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var got []float64
	if constant {
		im := &importer{ctx: context.Background(), m: m, g: &ir.Graph{}, folded: 1 << 24, maxOne: 1 << 24, out: &Imported{Names: map[string]*ir.Value{}, ParamElements: map[string]int{}}}
		f := &frame{slots: map[string]*slot{}, opsets: m.Opsets}
		if err := im.initializers(f, m.Graph); err != nil {
			t.Fatal(err)
		}
		if err := im.run(f, m.Graph.Nodes); err != nil {
			t.Fatal(err)
		}
		s := f.find(m.Graph.Outputs[0].Name)
		switch {
		case s.err != nil:
			skipUnsupported(t, s.err)
		case s.lit == nil:
			t.Skip("not computed at import")
		}
		for i := range s.lit.len() {
			got = append(got, s.lit.float(i))
		}
	} else {
		im, err := Import(m, Options{})
		if err != nil {
			skipUnsupported(t, err)
		}
		g := im.Graph
		g.Outputs = g.Outputs[:1]
		if err := pass.Run(context.Background(), g, nil, pass.Recognition); err != nil {
			t.Fatal(err)
		}
		values, err := reference.Eval(context.Background(), g, map[*ir.Value][]float64{im.Input: readArray(t, filepath.Join(dir, "in.npy"), "")})
		if err != nil {
			t.Fatal(err)
		}
		got = values[g.Outputs[0]]
	}
	if len(got) != len(want) {
		t.Fatalf("%d numbers, not %d", len(got), len(want))
	}
	for i := range want {
		if math.IsNaN(want[i]) && math.IsNaN(got[i]) || want[i] == got[i] {
			continue
		}
		if !(math.Abs(got[i]-want[i]) <= 1e-5*(1+math.Abs(want[i]))) {
			t.Fatalf("element %d is %g, not %g (%s)", i, got[i], want[i], fmt.Sprint(m.Graph.Nodes[0].Op))
		}
	}
}

func skipUnsupported(t *testing.T, err error) {
	var u *UnsupportedError
	var in *InputError
	if errors.As(err, &u) || errors.As(err, &in) || strings.Contains(err.Error(), "does not depend on the input") {
		t.Skip(err)
	}
	t.Fatal(err)
}
