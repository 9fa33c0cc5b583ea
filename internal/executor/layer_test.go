package executor_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/volume/format"
)

// TestLayerIsRecorded asks for layers that exporters left out, or left in doubt: result and model say so, and a map of another tensor is
// degraded.
func TestLayerIsRecorded(t *testing.T) {
	for _, c := range []struct {
		folder, file, layer string
		want                cam.Layer
		warnings            int
		status              cam.Status // of Grad-CAM
	}{
		{"05-folded-norm-then-relu", "model_torchscript.onnx", "conv", cam.Layer{Value: "/conv/Conv_output_0", Module: "conv", Call: 1, Calls: 1,
			AnotherTensor: "the exporter has folded the BatchNorm behind it into conv"}, 1, cam.StatusDegraded},
		{"05-folded-norm-then-relu", "model_dynamo.onnx", "conv", cam.Layer{Value: "getitem", Module: "conv", Call: 1, Calls: 1,
			AnotherTensor: "the exporter has folded bn into conv"}, 1, cam.StatusDegraded},
		{"06-relu-not-in-place", "model_dynamo.onnx", "body.2", cam.Layer{Value: "relu_1", Module: "body.2", Call: 1, Calls: 1}, 1, cam.StatusOK},
		{"06-relu-not-in-place", "model_dynamo.onnx", "conv3d_1", cam.Layer{Value: "conv3d_1"}, 0, cam.StatusOK},
		{"04-module-called-twice", "model_dynamo.onnx", "layer4.1.relu", cam.Layer{Value: "relu_3", Module: "layer4.1.relu", Call: 2, Calls: 2}, 0, cam.StatusOK},
	} {
		t.Run(c.file+"/"+c.layer, func(t *testing.T) {
			folder := filepath.Join("../../../shared/cases/models_and_files", c.folder)
			if _, err := os.Stat(folder); err != nil {
				t.Skipf("SKIPPED, the case is not here: %v", err)
			}
			v, err := format.Read(filepath.Join(folder, "volume.npy"), format.Options{})
			if err != nil {
				t.Fatal(err)
			}
			b, err := cpu.New(cpu.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			m, err := executor.Open(context.Background(), filepath.Join(folder, c.file), b, executor.Options{ModelOptions: network.ModelOptions{TargetLayer: c.layer}})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			r, err := m.Explain(context.Background(), v, cam.Request{Methods: []string{"gradcam", "saliency"}})
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range []*cam.Layer{r.Layer, m.Info().Layer} {
				if l == nil || l.Name != c.layer || l.Value != c.want.Value || l.Module != c.want.Module || l.Call != c.want.Call || l.Calls != c.want.Calls ||
					!strings.HasPrefix(l.AnotherTensor, c.want.AnotherTensor) || c.want.AnotherTensor == "" && l.AnotherTensor != "" ||
					len(l.Warnings) != c.warnings || len(l.Shape) != 5 || l.Axes != "NCDHW" {
					t.Errorf("the record is %+v", l)
				}
			}
			layer, input := r.Methods[0], r.Methods[1]
			if layer.Status != c.status || !strings.HasPrefix(layer.Reason, c.want.AnotherTensor) || input.Status != cam.StatusOK {
				t.Errorf("gradcam is %s (%s), saliency %s (%s)", layer.Status, layer.Reason, input.Status, input.Reason)
			}
		})
	}
}
