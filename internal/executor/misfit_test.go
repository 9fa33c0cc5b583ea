package executor_test

import (
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

// TestMisfit demands that an error says what is wrong with which file and layer, in the user's words, and what can help.
func TestMisfit(t *testing.T) {
	b, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	shapeOf := func(axes string, shape ...int) *volume.Volume {
		v := volume.New(shape[0], shape[1], shape[2], shape[3])
		v.Axes = axes
		return v
	}
	const scores = `are not computed from layer "aux.conv", which leads elsewhere, as an auxiliary head does`
	for _, test := range []struct {
		model, layer string
		volume       *volume.Volume
		want         []string // parts of the error; none: no error
		not          string
	}{
		{"auxiliary.onnx", "body.conv", shapeOf("DHW", 1, 5, 6, 7), nil, ""},
		{"auxiliary.onnx", "aux.conv", shapeOf("DHW", 1, 5, 6, 7), []string{`auxiliary.onnx: the class scores (output "scores") ` + scores}, "%"},
		{"auxiliary.onnx", "aux.act", shapeOf("DHW", 1, 5, 6, 7), []string{`the module "aux.act"`, "leads to another output"}, "%"},
		{"auxiliary.onnx", "", shapeOf("CDHW", 5, 6, 7, 1), []string{"channels 5 instead of 1", "instead of 7; if the stored axes are DHWC, say so by the option axes: DHWC; or else crop, pad"}, ""},
		{"auxiliary.onnx", "", shapeOf("DHW", 1, 7, 5, 6), []string{"depth 7 instead of 5", "the stored axes are WDH"}, ""},
		{"auxiliary.onnx", "", shapeOf("DHW", 1, 8, 6, 7), []string{"depth 8 instead of 5; crop, pad"}, "the option axes"},
		{"one_size.onnx", "", shapeOf("DHW", 1, 3, 4, 3), nil, ""},
		{"one_size.onnx", "", shapeOf("DHW", 1, 4, 4, 4),
			[]string{"for a volume of shape [1 4 4 4] [C D H W]: ", "[1,32] and [8,3] do not multiply", "the model takes volumes of one size only"}, ""},
		{"one_size.onnx", "", shapeOf("DHWC", 2, 4, 4, 4), []string{"channels 2 instead of 1; save the channels that the model takes (1 of 2)"}, "for a volume"},
	} {
		m, err := executor.Open(t.Context(), filepath.Join("testdata", test.model), b, executor.Options{ModelOptions: network.ModelOptions{TargetLayer: test.layer}})
		if err == nil {
			_, err = m.Explain(t.Context(), test.volume, cam.Request{Methods: []string{"gradcam"}, Target: cam.Target{Class: cam.Class{Kind: cam.ClassPredicted}}})
			m.Close()
		}
		if (err == nil) != (test.want == nil) {
			t.Errorf("%s, layer %q, %s: %v, want %q", test.model, test.layer, test.volume.Shape(), err, test.want)
			continue
		}
		for _, part := range test.want {
			if !strings.Contains(err.Error(), part) || test.not != "" && strings.Contains(err.Error(), test.not) {
				t.Errorf("%s, layer %q, %s: %v, want %q", test.model, test.layer, test.volume.Shape(), err, test.want)
			}
		}
	}
}

// TestMisfitCases reads the cases from use: each is refused with the advice that helps, and with it, explained.
func TestMisfitCases(t *testing.T) {
	dir := sharedCase(t, "11-advice-for-shapes")
	b, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, test := range []struct{ volume, model, axes, want string }{
		{"four_d.nii.gz", "one_channel.onnx", "", "channels 3 instead of 1; save the channels that the model takes (1 of 3)"},
		{"dhw1.npy", "one_channel.onnx", "", "the option axes: DHWC"},
		{"dhw1.npy", "one_channel.onnx", "DHWC", ""},
		{"stack.npy", "slices_as_channels.onnx", "", "the option axes: CHW"},
		{"stack.npy", "slices_as_channels.onnx", "CHW", ""},
		{"ok.npy", "batch_of_2.onnx", "", "export it with a batch of 1"},
		{"ok.npy", "one_channel.onnx", "", ""},
	} {
		v, err := format.Read(filepath.Join(dir, test.volume), format.Options{Axes: test.axes})
		if err != nil {
			t.Fatal(err)
		}
		m, err := executor.Open(t.Context(), filepath.Join(dir, test.model), b, executor.Options{})
		if err == nil {
			_, err = m.Explain(t.Context(), v, cam.Request{Methods: []string{"saliency"}, Target: cam.Target{Class: cam.Class{Kind: cam.ClassPredicted}}})
			m.Close()
		}
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s, %s, axes %q: %v, want %q", test.volume, test.model, test.axes, err, test.want)
		}
	}
}
