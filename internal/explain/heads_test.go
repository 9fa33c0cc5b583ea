package explain_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/volume"
)

// outputs is a model with outputs of many kinds, by testdata/make.py.
const outputs = "testdata/outputs.onnx"

// explainOutput explains an output of that model.
func explainOutput(t *testing.T, name string, req cam.Request) *cam.Result {
	t.Helper()
	return explainWaves(t, outputs, network.ModelOptions{Output: name}, volume.New(1, 4, 4, 4), req)
}

// explainWaves explains a volume of that size.
func explainWaves(t *testing.T, file string, opt network.ModelOptions, v *volume.Volume, req cam.Request) *cam.Result {
	t.Helper()
	b, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	for i := range v.Data {
		v.Data[i] = float32(math.Sin(float64(i * i)))
	}
	return explainOn(t, bind(t, b, file, opt, v), v, req)
}

// Integrated gradients sum to the difference of the score that is explained, whatever it is.
func TestCompleteForEveryScore(t *testing.T) {
	index := func(i int) cam.Class { return cam.Class{Kind: cam.ClassIndex, Index: i} }
	others := cam.Against{Kind: cam.AgainstOthers}
	for output, targets := range map[string][]cam.Target{
		"values":    {{}, {Class: index(2)}, {Class: index(1), Score: "probability"}, {Class: index(0), Against: others}, {Class: index(0), Score: "probability", Against: others}},
		"softmax":   {{Class: index(2)}, {Class: index(2), Score: "probability"}},
		"one_value": {{Class: index(0)}, {Class: index(1)}, {Class: index(1), Against: others}, {Class: index(0), Score: "probability"}},
		"sigmoid":   {{Class: index(1)}, {Class: index(0), Score: "probability"}, {Class: index(1), Score: "probability", Against: others}},
		"voxels":    {{Class: index(1)}, {Class: index(2), Against: others, Region: cam.Region{Kind: cam.RegionAll}}},
		"voxel":     {{Class: index(0)}, {Class: index(1), Region: cam.Region{Kind: cam.RegionVoxel, Voxel: [3]int{3, 2, 1}}}},
	} {
		for _, target := range targets {
			m := explainOutput(t, output, cam.Request{Methods: []string{"integrated-gradients"}, Steps: 32, Target: target}).Methods[0]
			gap, known := m.Parameters["completeness_gap"].(float64)
			difference, _ := m.Parameters["score_difference"].(float64)
			if m.Status != cam.StatusOK || !known || difference == 0 || math.Abs(gap) > 1e-4*math.Abs(difference) {
				t.Errorf("%s of %q: %s %s: a gap of %v at a difference of %v", output, target.Score, m.Status, m.Reason, gap, difference)
			}
		}
	}
}

// An output has its own name, also where it is the same value as another one. Whole numbers, and what does not depend on the input, are passed over, and
// refused by name.
func TestChosenOutputs(t *testing.T) {
	for asked, want := range map[string]string{"": "values", "softmax": "softmax"} {
		if h := explainOutput(t, asked, cam.Request{Methods: []string{"saliency"}}).Head; h.Output != want || slices.Contains(h.Others, want) {
			t.Errorf("%q: %q, beside %q", asked, h.Output, h.Others)
		}
	}
	for output, want := range map[string]string{"argmax": "holds int64", "always": "the outputs of the model are"} {
		if s, err := network.Inspect(t.Context(), outputs, network.ModelOptions{Output: output}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is explained: %+v, %v", output, s, err)
		}
	}
}

// Probabilities behind other operations are no logits: one value is refused without a task, several are said to be doubtful.
func TestNoLogits(t *testing.T) {
	for _, output := range []string{"slice", "clipped", "complement", "voxel_clipped"} {
		if s, err := network.Inspect(t.Context(), outputs, network.ModelOptions{Output: output}); err == nil || !strings.Contains(err.Error(), "no logit") {
			t.Errorf("%s: %+v, %v", output, s, err)
		}
	}
	target := cam.Target{Class: cam.Class{Kind: cam.ClassIndex}}
	for output, doubtful := range map[string]bool{"percent": true, "hard": true, "wrong_axis": true, "both": true, "voxels_across": true, "values": false, "softmax": false,
		"log": false, "voxels": false, "voxel_sigmoid": false, "one_value": false} {
		r := explainOutput(t, output, cam.Request{Methods: []string{"hirescam"}, Target: target})
		if m := r.Methods[0]; strings.Contains(m.Reason, "no logits") != doubtful || doubtful && m.Status != cam.StatusDegraded {
			t.Errorf("%s: %s %s", output, m.Status, m.Reason)
		}
	}
	if h := explainOutput(t, "log", cam.Request{Methods: []string{"saliency"}}).Head; h.Activation != cam.LogSoftmax {
		t.Errorf("the logarithm of a softmax: %+v", h)
	}
}

// The default layer of a segmentation is not the output itself.
func TestLayerBeforeTheVoxels(t *testing.T) {
	for _, output := range []string{"voxels", "voxel_sigmoid"} {
		r := explainOutput(t, output, cam.Request{Methods: []string{"gradcam"}, Target: cam.Target{Class: cam.Class{Kind: cam.ClassIndex}}})
		if r.Layer == nil || r.Layer.Value != "act" {
			t.Errorf("%s: %+v", output, r.Layer)
		}
	}
}

// Classes of pixels are explained as those of voxels are, wherever the channels are.
func TestClassesOfPixels(t *testing.T) {
	r := explainWaves(t, "testdata/images.onnx", network.ModelOptions{}, volume.New(2, 1, 5, 4), cam.Request{Methods: []string{"gradcam", "integrated-gradients"},
		Steps: 32, Target: cam.Target{Class: cam.Class{Kind: cam.ClassIndex, Index: 1}, Region: cam.Region{Kind: cam.RegionVoxel, Voxel: [3]int{0, 4, 2}}}})
	gap, known := r.Methods[1].Parameters["completeness_gap"].(float64)
	if r.Layer == nil || r.Layer.Value != "act" || len(r.Labels) != 5*4 || !known || math.Abs(gap) > 1e-5 || r.Methods[1].Status != cam.StatusOK {
		t.Errorf("layer %+v, %d labels, a gap of %v: %+v", r.Layer, len(r.Labels), gap, r.Methods[1].Reason)
	}
}

// An output of steps has the gradient zero, and maps of it say so.
func TestStepsHaveNoEvidence(t *testing.T) {
	for _, output := range []string{"floor", "place"} {
		for _, m := range explainOutput(t, output, cam.Request{Methods: []string{"hirescam", "gradcam", "saliency"}}).Methods {
			if m.Status != cam.StatusDegraded || slices.ContainsFunc(m.Map, func(x float32) bool { return x != 0 }) {
				t.Errorf("%s of %s: %s, %v", m.Method, output, m.Status, m.Map)
			}
		}
	}
}
