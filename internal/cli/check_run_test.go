package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/fit"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/session"
)

// What check says of a policy's thresholds is what explain does: whether volumes are begun, and with how many draws.
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
		said, err := fit.Ask(t.Context(), fit.Question{Methods: []string{"smoothgrad"}, Samples: 50,
			Engine: engine.Options{Model: cases + "model.torchscript.onnx", Device: "cuda", Policy: p}})
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
