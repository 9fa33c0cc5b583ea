package executor_test

import (
	"context"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/volume"
	"github.com/voxcam/voxcam/volume/format"
)

// inputCases are models with inputs in an order of their own. The layer is a convolution of one voxel, so that the map of a volume with
// one bright voxel is bright there alone.
var inputCases = []struct {
	model, axes string
	volume      [4]int // [C, D, H, W]
	err         string
	warning     string
}{
	{model: "ndhwc", volume: [4]int{2, 4, 6, 8}},
	{model: "ndhwc", axes: "NDHWC", volume: [4]int{2, 4, 6, 8}},
	{model: "ndhwc", volume: [4]int{4, 6, 8, 2}, err: "the model takes [n,4,6,8,2] (NDHWC)"},
	{model: "ndhwc", axes: "NDHWX", err: `input axes "NDHWX"`},
	{model: "ndhwc", axes: "NDHC", err: "H and W"},
	{model: "ndhwc_open", volume: [4]int{1, 4, 6, 8}},
	{model: "ndhwc_open", volume: [4]int{1, 3, 5, 7}},
	{model: "ndchw", volume: [4]int{2, 4, 6, 8}},
	{model: "ndchw_images", volume: [4]int{2, 4, 6, 8}},
	{model: "ncdhw_images", volume: [4]int{2, 4, 6, 8}},
	{model: "nhwc", volume: [4]int{2, 1, 6, 8}},
	{model: "dchw", axes: "DCHW", volume: [4]int{2, 4, 6, 8}},
	{model: "ndhw", axes: "NDHW", volume: [4]int{1, 4, 6, 8}},
	{model: "open", volume: [4]int{1, 4, 6, 8}},
	{model: "open_last", volume: [4]int{4, 6, 8, 1}, err: "the option input_axes"},
	{model: "open_last", axes: "NDHWC", volume: [4]int{1, 4, 6, 8}},
	{model: "linear", volume: [4]int{2, 4, 6, 8}, warning: "are taken to be NCDHW"},
	{model: "linear", axes: "NCDHW", volume: [4]int{2, 4, 6, 8}},
	{model: "linear_last", volume: [4]int{2, 4, 6, 8}, err: "the option input_axes"},
	{model: "linear_last", axes: "NDHWC", volume: [4]int{2, 4, 6, 8}},
}

func TestInputAxes(t *testing.T) {
	b, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, c := range inputCases {
		t.Run(c.model+"/"+c.axes, func(t *testing.T) {
			opt := executor.Options{ModelOptions: network.ModelOptions{InputAxes: c.axes}}
			methods := []string{"saliency"}
			if !strings.HasPrefix(c.model, "linear") {
				opt.TargetLayer, methods = "layer", []string{"saliency", "gradcam"}
			}
			r, info, at, err := explainBright(b, filepath.Join("testdata", "inputs", c.model+".onnx"), opt, c.volume, methods)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("the error is %v, not %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if text := strings.Join(info.Warnings, "; "); !strings.Contains(text, c.warning) || c.warning == "" && text != "" {
				t.Errorf("the warnings are %q, not %q", text, c.warning)
			}
			for _, m := range r.Methods {
				if m.HeatDims != [3]int(c.volume[1:]) {
					t.Errorf("%s: a heatmap of %v", m.Method, m.HeatDims)
				}
				if m.Method == "gradcam" && peak(m.Map) != at {
					t.Errorf("the map is brightest at %d, not %d", peak(m.Map), at)
				}
			}
		})
	}
}

// explainBright explains a volume with one bright voxel, which is at a place.
func explainBright(b *cpu.Backend, path string, opt executor.Options, shape [4]int, methods []string) (*cam.Result, cam.Info, int, error) {
	m, err := executor.Open(context.Background(), path, b, opt)
	if err != nil {
		return nil, cam.Info{}, 0, err
	}
	defer m.Close()
	v := volume.New(shape[0], shape[1], shape[2], shape[3])
	voxels := shape[1] * shape[2] * shape[3]
	at := voxels * 5 / 7
	for c := range shape[0] {
		v.Data[c*voxels+at] = 9
	}
	r, err := m.Explain(context.Background(), v, cam.Request{Methods: methods})
	return r, m.Info(), at, err
}

// peak returns the place of the largest magnitude.
func peak(m []float32) (at int) {
	for i, x := range m {
		if math.Abs(float64(x)) > math.Abs(float64(m[at])) {
			at = i
		}
	}
	return at
}

// A Keras model by tf2onnx, with volumes as its users store them.
func TestChannelsLastInput(t *testing.T) {
	folder := "../../../shared/cases/models_and_files/01-channels-last-input"
	want := map[string]struct {
		opt format.Options
		err string
	}{
		"volume_dhw.npy":  {},
		"volume_dhw1.npy": {opt: format.Options{Axes: "DHWC"}},
	}
	b, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for name, w := range want {
		v, err := format.Read(filepath.Join(folder, name), w.opt)
		if err != nil {
			t.Skipf("SHARED CASE NOT CHECKED: %v", err)
		}
		m, err := executor.Open(context.Background(), filepath.Join(folder, "model.onnx"), b, executor.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		r, err := m.Explain(context.Background(), v, cam.Request{Methods: []string{"gradcam"}})
		if err != nil {
			t.Fatal(err)
		}
		got := r.Methods[0]
		for file, have := range map[string][]float32{"expected.map.npy": got.Map, "expected.heatmap.npy": got.Heatmap} {
			expected, err := format.Read(filepath.Join(folder, file), format.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if len(have) != len(expected.Data) {
				t.Fatalf("%s: %d values, not %d", file, len(have), len(expected.Data))
			}
			for i, x := range expected.Data {
				if math.Abs(float64(x-have[i])) > 1e-5 {
					t.Fatalf("%s of %s: value %d is %v, not %v", file, name, i, have[i], x)
				}
			}
		}
	}
}
