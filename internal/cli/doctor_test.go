package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/device"
)

// simulated makes the simulator the driver, and the user's cache an empty one.
func simulated(t *testing.T) *simulator.Simulator {
	t.Helper()
	s := simulator.Load(t)
	t.Setenv(device.Driver, s.Path)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	return s
}

// runCommand runs the program and returns what it prints, results before messages.
func runCommand(t *testing.T, want int, args ...string) (results, messages string) {
	t.Helper()
	var out, talk bytes.Buffer
	if code := Run(t.Context(), args, &out, &talk); code != want {
		t.Fatalf("voxcam %s: exit code %d instead of %d: %s", strings.Join(args, " "), code, want, talk.String())
	}
	return out.String(), talk.String()
}

func TestDoctor(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(t *testing.T, s *simulator.Simulator)
		says []string // patterns
	}{
		"one": {func(*testing.T, *simulator.Simulator) {}, []string{
			`driver +for CUDA 12.4 and older \(.*\.so\)`, `cuda:0 +Simulator, compute capability 9.0, 8 GiB free of 8 GiB\n`, `NVML +`, `--device auto +cuda:0\n`}},
		"two": {func(_ *testing.T, s *simulator.Simulator) { s.SetCount(2) }, []string{`cuda:0 +Simulator`, `cuda:1 +Simulator`}},
		"slice": {func(_ *testing.T, s *simulator.Simulator) { s.SetSlices() },
			[]string{`cuda:0 +Simulator, a MIG slice, compute`, `--device auto +cuda:0\n`}},
		"old GPU": {func(_ *testing.T, s *simulator.Simulator) { s.SetDevice(6, 1, 8) },
			[]string{`cuda:0 +not usable: .*compute capability 6.1.*too old`, `--device auto +cpu\n`}},
		"first does not work": {func(_ *testing.T, s *simulator.Simulator) {
			s.SetCount(2)
			s.FailCall("cuDevicePrimaryCtxRetain", 1, 46)
		}, []string{`cuda:0 +not usable: .*exclusive`, `cuda:1 +Simulator, compute`, `--device auto +cpu, because cuda:0 does not work; --device cuda:1 does`}},
		"old driver": {func(_ *testing.T, s *simulator.Simulator) { s.SetVersion(11040) },
			[]string{`cuda:0 +not usable: .*CUDA 11.4 and older: update it`, `--device auto +cpu\n`}},
		"hidden": {func(t *testing.T, _ *simulator.Simulator) { t.Setenv("CUDA_VISIBLE_DEVICES", "-1") },
			[]string{`driver +CUDA_VISIBLE_DEVICES is set to "-1", which leaves no GPU`, `--device auto +cpu\n`}},
		"no cuDNN": {func(t *testing.T, _ *simulator.Simulator) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "libcudnn.so.9"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv(device.Libraries, dir)
		}, []string{`cuDNN +(9[0-9.]+ \(|cuDNN 9 cannot be used: .*libcudnn.so.9 cannot be loaded: .*pip install nvidia-cudnn)`}},
	} {
		t.Run(name, func(t *testing.T) {
			c.set(t, simulated(t))
			text, _ := runCommand(t, 0, "doctor")
			for _, pattern := range c.says {
				if !regexp.MustCompile(pattern).MatchString(text) {
					t.Errorf("doctor does not say %s:\n%s", pattern, text)
				}
			}
		})
	}
}

// On a device with memory of its own the plan says what of it volumes and maps take, and the budget is that of the device.
func TestPlanOnADevice(t *testing.T) {
	s := simulated(t)
	const fields = "volumes on the device"
	text, err := runPlan(t, demoModel, "--method", "gradcam,saliency", "--device", "cuda")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text, "budget 4.8 GiB") || strings.Count(text, fields) != 2 || strings.Contains(text, "counted apart") {
		t.Errorf("60 %% of 8 GiB:\n%s", text)
	}
	if text, err = runPlan(t, demoModel, "--method", "saliency", "--device", "cuda", "--json"); err != nil || !strings.Contains(text, `"device_volume_bytes":`) {
		t.Errorf("JSON (%v):\n%s", err, text)
	}
	for _, args := range [][]string{{"--memory-budget", "min", "--device", "cuda"}, {"--device", "cpu"}} {
		if text, err = runPlan(t, append([]string{demoModel, "--method", "saliency"}, args...)...); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(text, fields) || !strings.Contains(text, "counted apart: volume") {
			t.Errorf("%v:\n%s", args, text)
		}
	}
	if used := s.Used(); used != 0 {
		t.Errorf("%d bytes of the device are still taken", used)
	}
}

// A volume that does not fit into the device is explained on the processor, and that is told; where the processor may not, it is skipped.
// A budget in which nothing can be done is refused before the work, with what to do.
func TestDeviceIsFull(t *testing.T) {
	s := simulated(t)
	s.SetCapacity(2 << 20)
	dir := t.TempDir()
	const cases = "../../testdata/cases/methods/"
	args := []string{"explain", cases + "volume.npy", "--model", cases + "model.torchscript.onnx", "--device", "cuda", "--method", "saliency",
		"--wait", "0s", "--out", dir + "/out"}
	for _, c := range []struct {
		more []string
		exit int
		says string
	}{
		{nil, 0, "voxcam: memory: cpu: the processor takes the device's place: the least that works is"},
		{[]string{"--memory-budget", "1GiB"}, 0, "end other programs on the GPU or set a smaller memory budget"},
		{[]string{"--cpu-fallback=false"}, 4, "skipped: there is not enough memory: the least that works is"},
		{[]string{"--policy", "original"}, 4, "the policy original begins no volume with so little memory"},
		{[]string{"--memory-budget", "1MiB"}, 2, "the memory budget of 1.0 MiB is too small: the least that works is"},
	} {
		_, text := runCommand(t, c.exit, append(args, c.more...)...)
		if !strings.Contains(text, c.says) {
			t.Errorf("%v: %s", c.more, text)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "out", "result.json"))
	if err != nil || !strings.Contains(string(text), `"level": "cpu"`) || !strings.Contains(string(text), `"kind": "cpu"`) {
		t.Errorf("result.json is %s (%v)", text, err)
	}
	if used := s.Used(); used != 0 {
		t.Errorf("%d bytes of the device are still taken", used)
	}
}

// When the device is lost in the midst of a volume, which nothing in the process can change, the processor goes on with it.
func TestDeviceIsLost(t *testing.T) {
	s := simulated(t)
	dir := t.TempDir()
	const cases = "../../testdata/cases/methods/"
	args := []string{"explain", cases + "volume.npy", "--model", cases + "model.torchscript.onnx", "--device", "cuda", "--method", "smoothgrad",
		"--n-samples", "6", "--out", dir + "/out"}
	runCommand(t, 0, args...)
	calls := s.Count()
	for _, c := range []struct {
		more []string
		exit int
		says []string
	}{
		{nil, 0, []string{"memory: cpu: the processor takes the device's place: the device is lost", "memory: resumed: "}},
		{[]string{"--cpu-fallback=false"}, 4, []string{"the device is lost"}},
	} {
		s.Reset()
		s.LoseAfter(calls * 2 / 3)
		_, text := runCommand(t, c.exit, append(args, c.more...)...)
		for _, says := range c.says {
			if !strings.Contains(text, says) {
				t.Errorf("%v: %s", c.more, text)
			}
		}
		if used := s.Used(); used != 0 {
			t.Errorf("%d bytes of the device are still taken", used)
		}
	}
}

// A session's results are those of one precision.
func TestSessionsHaveOnePrecision(t *testing.T) {
	simulated(t)
	dir := t.TempDir()
	model, err := filepath.Abs("../../testdata/cases/methods/model.torchscript.onnx")
	if err != nil {
		t.Fatal(err)
	}
	volume, err := os.ReadFile("../../testdata/cases/methods/volume.npy")
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "config.toml")
	for file, data := range map[string]string{
		config:                           "[data]\nfolder = \"data\"\nlabels = \"labels.csv\"\nscale = \"none\"\n[output]\nformats = [\"npy\"]\n",
		filepath.Join(dir, "labels.csv"): "caseID,label,split\na,1,val\n",
		filepath.Join(dir, "data/a.npy"): string(volume),
	} {
		if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(data), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	args := func(session string, more ...string) []string {
		return append([]string{"run", "--config", config, "--model", model, "--output-dir", dir + "/out", "--session", session}, more...)
	}
	runCommand(t, 0, args("strict", "--device", "cpu")...)
	runCommand(t, 0, args("strict", "--device", "cuda")...) // where it is computed makes no difference
	_, text := runCommand(t, 2, args("strict", "--device", "cuda", "--precision", "tf32")...)
	if !strings.Contains(text, "explain.precision: the session has absent, this run tf32") {
		t.Errorf("fp32 continued with tf32: %s", text)
	}
	runCommand(t, 0, args("fast", "--device", "cuda", "--precision", "tf32")...)
	_, text = runCommand(t, 2, args("fast", "--device", "cuda", "--precision", "bf16")...)
	if !strings.Contains(text, "explain.precision: the session has tf32, this run bf16") {
		t.Errorf("tf32 continued with bf16: %s", text)
	}
	runCommand(t, 2, args("fast", "--device", "cuda")...)
	runCommand(t, 0, args("fast", "--device", "cuda", "--precision", "tf32")...)
}
