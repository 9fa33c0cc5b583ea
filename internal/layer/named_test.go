package layer_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/layer"
	"github.com/voxcam/voxcam/internal/onnx"
)

// reported are files of public reports, made again; they lie beside the repository.
const reported = "../../../shared/cases"

// loadReported imports a file of a public report for volumes of the shape that it states.
func loadReported(t *testing.T, name string) *onnx.Imported {
	t.Helper()
	path := filepath.Join(reported, name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("SKIPPED, the case is not here: %v", err)
	}
	return load(t, path, nil)
}

// find resolves a request for volumes of the shape that the model was imported for.
func find(m *onnx.Imported, req layer.Request) (layer.Match, error) {
	req.Volume = [3]int(m.Input.Shape()[2:])
	return layer.Find(m, req)
}

// TestModulesByTheirFiles names modules of which PyTorch's exporters leave too little: calls that look like names, convolutions with a
// norm folded into them, a ReLU that may or may not run in place. Values are those that equal the module's output in PyTorch.
func TestModulesByTheirFiles(t *testing.T) {
	const twice, folded, apart = "models_and_files/04-module-called-twice/", "models_and_files/05-folded-norm-then-relu/", "models_and_files/06-relu-not-in-place/"
	for _, c := range []struct {
		file, name  string
		value       string
		call, calls int
		another     bool   // the output is not in the file
		warning     string // a part of one; "" for none
	}{
		{twice + "model_torchscript.onnx", "layer4.1.relu", "/layer4/layer4.1/relu_1/Relu_output_0", 2, 2, false, "call 2 of 2"},
		{twice + "model_torchscript.onnx", "layer4.1.relu@1", "/layer4/layer4.1/relu/Relu_output_0", 1, 2, false, "call 1 of 2"},
		{twice + "model_torchscript.onnx", "layer4.1", "/layer4/layer4.1/relu_1/Relu_output_0", 1, 1, false, ""},
		{twice + "model_dynamo.onnx", "layer4.1.relu", "relu_3", 2, 2, false, ""},
		{twice + "model_dynamo.onnx", "layer4.1.relu@1", "relu_2", 1, 2, false, ""},
		{folded + "model_torchscript.onnx", "conv", "/conv/Conv_output_0", 1, 1, true, "tools/export_onnx.py"},
		{folded + "model_dynamo.onnx", "conv", "getitem", 1, 1, true, "folded bn into conv"},
		{folded + "model_kept_apart.onnx", "conv", "/conv/Conv_output_0", 1, 1, false, ""},
		{apart + "model_torchscript.onnx", "body.2", "/body/body.3/Relu_output_0", 1, 1, false, `name "/body/body.2/Conv_output_0"`},
		{apart + "model_dynamo.onnx", "body.2", "relu_1", 1, 1, false, `name "conv3d_1"`},
		{"architectures/folded_conv_relu.ts17.onnx", "conv1", "/conv1/Conv_output_0", 1, 1, true, "not the module's own"},
		{"architectures/folded_conv_relu.dynamo.onnx", "bn1", "relu", 1, 1, false, "in place"},
	} {
		t.Run(filepath.Base(filepath.Dir(c.file))+"/"+filepath.Base(c.file)+"/"+c.name, func(t *testing.T) {
			got, err := find(loadReported(t, c.file), layer.Request{Name: c.name})
			if err != nil {
				t.Fatal(err)
			}
			if got.Value.Name != c.value || got.Call != c.call || got.Calls != c.calls || (got.Another != "") != c.another {
				t.Errorf("found %q, call %d of %d, another: %q", got.Value.Name, got.Call, got.Calls, got.Another)
			}
			if text := strings.Join(got.Warnings, "\n"); !strings.Contains(text, c.warning) || c.warning == "" && text != "" {
				t.Errorf("warnings: %s", text)
			}
		})
	}
}

// TestFoldedNormsAreExplained names a norm that is in no node of the file any more.
func TestFoldedNormsAreExplained(t *testing.T) {
	m := loadReported(t, "models_and_files/05-folded-norm-then-relu/model_torchscript.onnx")
	_, err := find(m, layer.Request{Name: "bn"})
	var missing *layer.NotFoundError
	if !errors.As(err, &missing) || !strings.Contains(err.Error(), "folded BatchNorms into the convolutions before them (1 in this file)") || !strings.Contains(err.Error(), "tools/export_onnx.py") {
		t.Errorf("bn: %v", err)
	}
}

// TestCallsAreCounted names calls that there are not.
func TestCallsAreCounted(t *testing.T) {
	m := loadReported(t, "models_and_files/04-module-called-twice/model_torchscript.onnx")
	for _, name := range []string{"layer4.1.relu@0", "layer4.1.relu@3", "layer4.1.relu@-1"} {
		if got, err := find(m, layer.Request{Name: name}); err == nil || !strings.Contains(err.Error(), "calls") {
			t.Errorf("%s: %v, %v", name, got.Value, err)
		}
	}
	// What the file knows the parents of is not looked for elsewhere.
	if got, err := find(m, layer.Request{Name: "layer4.0.fc"}); err == nil {
		t.Errorf("layer4.0.fc is found as %q", got.Value.Name)
	}
	got, err := find(m, layer.Request{Name: "module.layer4.0"})
	if err != nil || got.Module != "layer4.0" || len(got.Warnings) != 1 {
		t.Errorf("module.layer4.0: %q, %q, %v", got.Module, got.Warnings, err)
	}
}
