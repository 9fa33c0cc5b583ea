package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/fit"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/session"
	"github.com/voxcam/voxcam/volume"
	"github.com/voxcam/voxcam/volume/format"
)

// check and explain agree about a policy's thresholds: whether volumes are begun, and with how many draws.
func TestCheckSaysWhatExplainDoes(t *testing.T) {
	const cases = "../../testdata/cases/methods/"
	s := simulated(t)
	t.Setenv(device.NVML, simulatedNVML(t))
	for _, free := range []int{400 << 20, 700 << 20, 1500 << 20, 3 << 30} {
		s.SetCapacity(free)
		p, err := policy.ParsePolicy("original")
		if err != nil {
			t.Fatal(err)
		}
		said, err := fit.Ask(t.Context(), fit.Question{Request: cam.Request{Methods: []string{"smoothgrad"}, NSamples: 50},
			Engine: engine.Options{Options: instance.Options{Model: cases + "model.torchscript.onnx", Device: "cuda"}, Policy: p}})
		if err != nil {
			t.Fatal(err)
		}
		code := session.ExitOK
		if !said.Fits {
			code = session.ExitFailed
		}
		out := t.TempDir()
		runCommand(t, code, "explain", cases+"volume.npy", "--model", cases+"model.torchscript.onnx", "--method", "smoothgrad", "--device", "cuda",
			"--policy", "original", "--out", out)
		if !said.Fits {
			continue
		}
		text, err := os.ReadFile(filepath.Join(out, "result.json"))
		if err != nil {
			t.Fatal(err)
		}
		var did struct {
			Methods []struct {
				Parameters struct {
					Draws int `json:"n_samples"`
				}
			}
			Execution cam.Execution
		}
		if err := json.Unmarshal(text, &did); err != nil {
			t.Fatal(err)
		}
		if n := did.Methods[0].Parameters.Draws; n != said.Draws || did.Execution.Level != said.Level {
			t.Errorf("%d MiB free: check says %d draws, %s; explain took %d, %s", free>>20, said.Draws, said.Level, n, did.Execution.Level)
		}
	}
}

// Under the policy exact, too, check says on what and by which plans explain computes, down to the processor.
func TestCheckSaysWhereExplainComputes(t *testing.T) {
	s := simulated(t)
	volumePath := filepath.Join(t.TempDir(), "v.npy")
	v := volume.New(1, 32, 64, 64)
	for i := range v.Data {
		v.Data[i] = float32(i % 7)
	}
	if err := format.Write(volumePath, v); err != nil {
		t.Fatal(err)
	}
	may := policy.DefaultPolicy()
	may.Wait = 0
	for _, free := range []int{1 << 20, 4 << 20, 8 << 20, 1 << 30} {
		for _, budget := range []string{"auto", "2MiB", "6MiB"} {
			s.SetCapacity(free)
			said, err := fit.Ask(t.Context(), fit.Question{Request: cam.Request{Methods: []string{"saliency"}, NSamples: 1},
				Engine: engine.Options{Options: instance.Options{Model: demoModel, Device: "cuda", Budget: budget}, Policy: may}})
			if err != nil {
				t.Fatal(err)
			}
			out := t.TempDir()
			var talk bytes.Buffer
			code := Run(t.Context(), []string{"explain", volumePath, "--model", demoModel, "--method", "saliency", "--device", "cuda",
				"--memory-budget", budget, "--wait", "0s", "--out", out}, &talk, &talk)
			var did struct{ Execution cam.Execution }
			if text, err := os.ReadFile(filepath.Join(out, "result.json")); err == nil {
				if err := json.Unmarshal(text, &did); err != nil {
					t.Fatal(err)
				}
			}
			if said.Fits != (code == session.ExitOK) || said.Fits && (said.Level != did.Execution.Level || !strings.HasPrefix(did.Execution.Device, said.Device+"/")) {
				t.Errorf("%d MiB free, a budget of %s: check says %v, %s on %s (%s); explain ends with %d, %s on %s: %s",
					free>>20, budget, said.Fits, said.Level, said.Device, said.Reason, code, did.Execution.Level, did.Execution.Device, talk.String())
			}
		}
	}
}
