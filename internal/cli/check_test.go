package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/fit"
	"github.com/voxcam/voxcam/internal/gpusurvey"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/printable"
	"github.com/voxcam/voxcam/internal/session"
)

// simulatedNVML builds the stand-in of package gpusurvey, which shows the simulator's two devices: of the first 4 GiB are free and
// this process holds 1, of the second 600 MiB are free.
func simulatedNVML(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	out, err := exec.Command("g++", "-shared", "-fPIC", fmt.Sprintf("-DHOLDER=%d", os.Getpid()), "-o", path, "../gpusurvey/testdata/nvml.cpp").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// runCheck checks and returns the exit code.
func runCheck(t *testing.T, o checkOptions) (code int, results, messages string) {
	t.Helper()
	if o.bands == (gpusurvey.Bands{}) {
		o.bands = gpusurvey.DefaultBands()
	}
	if o.sessions == nil {
		o.sessions = func(context.Context) ([]gpusurvey.SessionUsage, error) { return nil, nil }
	}
	var out, talk bytes.Buffer
	err := check(t.Context(), o, &out, &talk)
	var exit *exitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if err != nil {
		code = exit.code
		talk.WriteString(err.Error())
	}
	return code, out.String(), talk.String()
}

func TestCheck(t *testing.T) {
	s := simulated(t)
	nvml := simulatedNVML(t)
	sessions := func(context.Context) ([]gpusurvey.SessionUsage, error) {
		return []gpusurvey.SessionUsage{{Name: "mine", PIDs: []int{os.Getpid()}, UUID: "GPU-73696d75-6c61-7465-6420-646576696365",
			Usage: backend.Usage{Total: 8 << 30, Free: 4 << 30, Allocated: 200 << 20, Reserved: 600 << 20, Largest: 4<<30 + 400<<20}}}, nil
	}
	for name, c := range map[string]struct {
		o     checkOptions
		code  int
		says  []string // patterns of the results
		notes []string // patterns of the messages
	}{
		"all": {checkOptions{sessions: sessions}, session.ExitDegraded, []string{
			`cuda:0 +Simulator +8 GiB +3.5 GiB +4 GiB +1 GiB +0% +67% +75% +caution`, `cuda:1 +Simulator .* warning`, `NVML 0 +Stand-in .* \? +warning`,
			`cuda:0 is held by\n`, `1 GiB +session mine: \S*cli.test`, `2 GiB +not attributed`, `512 MiB +driver and firmware`, `host: .* free`,
			`session mine \(processes \d+\): 200 MiB allocated of 600 MiB`, `memory of cuda:0, cuda:1: warning`,
		}, []string{`nvidia-smi calls 0`}},
		"the first": {checkOptions{device: "auto"}, session.ExitOK, []string{`memory of cuda:0: caution`}, []string{`calls for caution`}},
		"one":       {checkOptions{device: "cuda:1"}, session.ExitDegraded, []string{`memory of cuda:1: warning`}, nil},
		"thresholds": {checkOptions{device: "cuda:1", bands: gpusurvey.Bands{Free: [3]int{8 << 30, 2 << 30, 1 << 30}, Fragmentation: [3]float64{.1, .2, .3}}},
			session.ExitFailed, []string{`memory of cuda:1: critical`}, nil},
		"processor": {checkOptions{device: "cpu"}, -1, []string{`memory of cpu: `}, nil},
		"none":      {checkOptions{device: "cuda:2"}, session.ExitRefused, nil, []string{`no such GPU`}},
		"wrong":     {checkOptions{device: "gpu"}, session.ExitRefused, nil, []string{`choose from all, auto`}},
		"no NVML": {checkOptions{}, session.ExitError, []string{`cuda:0 +Simulator +8 GiB +\? +\? .* unknown`, `: unknown`},
			[]string{`no NVML.*only known from a context`, `memory is unknown`}},
		"driver": {checkOptions{context: true, device: "cuda:1"}, session.ExitOK,
			[]string{`cuda:0 .* unknown`, `cuda:1 +Simulator +8 GiB +0 B +8 GiB .* healthy`, `the driver says of cuda:1: 8 GiB free`}, nil},
		"probe": {checkOptions{probe: true}, session.ExitOK, []string{`as one block it gave 7.94 GiB`}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s.SetCount(2)
			t.Setenv(device.NVML, nvml)
			if slices.Contains([]string{"no NVML", "driver", "probe"}, name) {
				t.Setenv(device.NVML, "/absent/libnvidia-ml.so.1")
			}
			code, results, messages := runCheck(t, c.o)
			if code != c.code && c.code >= 0 {
				t.Errorf("exit code %d instead of %d", code, c.code)
			}
			for text, patterns := range map[string][]string{results: c.says, messages: c.notes} {
				for _, pattern := range patterns {
					if !regexp.MustCompile(pattern).MatchString(text) {
						t.Errorf("%q does not match\n%s", pattern, text)
					}
				}
			}
			if s.Used() != 0 {
				t.Errorf("%d bytes are left on devices", s.Used())
			}
		})
	}
}

func TestCheckAsJSON(t *testing.T) {
	simulated(t).SetCount(1)
	t.Setenv(device.NVML, simulatedNVML(t))
	_, text, _ := runCheck(t, checkOptions{device: "cuda", asJSON: true,
		run: &fit.Question{Engine: engine.Options{Options: instance.Options{Model: demoModel, Precision: "fp32"}, Policy: policy.DefaultPolicy()}, Request: cam.Request{Methods: []string{"gradcam", "smoothgrad"}, NSamples: 7}}})
	var doc struct {
		GPUs []struct {
			Total         float64 `json:"total_gb"`
			Free          float64 `json:"truly_free_gb"`
			Allocated     *float64
			Reserved      *float64 `json:"reserved_gb"`
			Fragmentation *float64 `json:"fragmentation_ratio"`
			Slack         *float64 `json:"slack_ratio"`
			Health        gpusurvey.Health
			Processes     []gpusurvey.ProcessInfo
		}
		Host     struct{ Total float64 }
		Counted  []string
		Health   gpusurvey.Health
		ExitCode int `json:"exit_code"`
		Run      cam.Fit
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	g := doc.GPUs[0]
	if g.Total != 8 || g.Free != 4 || g.Reserved == nil || g.Fragmentation == nil || g.Slack == nil || g.Health != gpusurvey.Caution || len(g.Processes) != 3 || doc.Health != gpusurvey.Caution {
		t.Errorf("%s", text)
	}
	if r := doc.Run; !r.Fits || r.Level != "whole" || r.Device != "cuda:0" || r.Draws != 7 || len(r.Passes) != 2 || r.Passes[1].Runs != 7 || r.Seconds <= 0 {
		t.Errorf("%+v", r)
	}
}

// Whether a run fits follows what is free on the device.
func TestCheckRun(t *testing.T) {
	for name, c := range map[string]struct {
		set     func(*simulator.Simulator)
		budget  string
		device  string
		policy  string
		methods []string
		code    int
		says    []string
	}{
		"whole":    {nil, "auto", "cuda", "exact", []string{"saliency"}, 0, []string{`fits on cuda:0 with whole tensors \(a budget of 4.8 GiB, 8 GiB are free\)`, `about .* a volume .* H100`}},
		"streamed": {nil, "12MiB", "cuda", "exact", []string{"saliency"}, 0, []string{`fits on cuda:0 by streamed plans`, `gradient at the volume +saliency +streamed`}},
		"smallest": {nil, "min", "all", "exact", []string{"saliency"}, 0, []string{`by streamed plans, with volumes in the host.s memory.*the least that works`}},
		"larger than what is free": {func(s *simulator.Simulator) { s.SetCapacity(8 << 20) }, "1GiB", "cuda", "exact", []string{"saliency"}, 0,
			[]string{`fits on cuda:0 by streamed plans, with volumes in the host.s memory \(a budget of 7 MiB, 8 MiB are free`}},
		"the least is too much": {func(s *simulator.Simulator) { s.SetCapacity(2 << 20) }, "min", "cuda", "exact", []string{"saliency"}, session.ExitDegraded,
			[]string{`fits on cpu only on the processor`, `and 2 MiB are free`}},
		"processor": {func(s *simulator.Simulator) { s.SetCapacity(3 << 20) }, "auto", "cuda", "exact", []string{"saliency"}, session.ExitDegraded,
			[]string{`fits on cpu only on the processor`, `it takes .*and 3 MiB are free`, `ordinary processor`}},
		"the least, where a share has no room for it": {func(s *simulator.Simulator) { s.SetCapacity(5 << 20) }, "auto", "cuda", "exact", []string{"saliency"}, 0,
			[]string{`fits on cuda:0 by .*the least that works, 5 MiB are free`}},
		"no room for a context": {func(s *simulator.Simulator) { s.FailCall("cuDevicePrimaryCtxRetain", 1, 2) }, "auto", "auto", "exact", []string{"gradcam"},
			session.ExitDegraded, []string{`fits on cpu only on the processor`, `not enough memory is free`}},
		"policy": {func(s *simulator.Simulator) { s.SetCapacity(4 << 20) }, "auto", "cuda", "original", []string{"saliency"}, session.ExitFailed,
			[]string{`does not fit on cuda:0`, `skips volumes with less than 0.5 GB free, and 4 MiB are`}},
		"fewer draws": {func(s *simulator.Simulator) { s.SetCapacity(3 << 30) }, "auto", "cuda", "original", []string{"smoothgrad", "vargrad"}, 0,
			[]string{`25 draws`, `25 x `}},
		"nothing fits": {nil, "20KiB", "cuda", "exact", []string{"saliency"}, session.ExitFailed,
			[]string{`does not fit on cuda:0 \(a budget of 20 KiB`, `--memory-budget .* would do`, `does not fit +\S+ MiB`}},
	} {
		t.Run(name, func(t *testing.T) {
			s := simulated(t)
			q := &fit.Question{Engine: engine.Options{Options: instance.Options{Model: demoModel, Precision: "fp32", Budget: c.budget}}, Request: cam.Request{Methods: c.methods, NSamples: 50}}
			var err error
			if q.Engine.Policy, err = policy.ParsePolicy(c.policy); err != nil {
				t.Fatal(err)
			}
			if c.set != nil {
				c.set(s)
			}
			t.Setenv(device.NVML, simulatedNVML(t))
			bands := gpusurvey.DefaultBands()
			bands.Free = [3]int{} // all is healthy: the run alone decides
			code, results, messages := runCheck(t, checkOptions{device: c.device, bands: bands, run: q})
			if code != c.code {
				t.Errorf("exit code %d instead of %d: %s", code, c.code, messages)
			}
			for _, pattern := range c.says {
				if !regexp.MustCompile(pattern).MatchString(results) {
					t.Errorf("%q does not match\n%s", pattern, results)
				}
			}
			if s.Used() != 0 {
				t.Errorf("%d bytes are left on devices", s.Used())
			}
		})
	}
}

// Where a run by the thresholds of the original system would skip volumes or take fewer draws, check says so.
func TestCheckRunByThresholds(t *testing.T) {
	bytes := func(n int, err error) func(*device.Device) (int, error) {
		return func(*device.Device) (int, error) { return n, err }
	}
	for name, c := range map[string]struct {
		capacity int // of the GPU
		device   string
		budget   string
		cpu      bool // the policy lets the processor go on
		free     func(*device.Device) (int, error)
		code     int
		says     string
	}{
		"the processor has too little": {0, "cpu", "auto", false, bytes(400<<20, nil), session.ExitFailed, `does not fit on cpu .*\n.*skips volumes with less than 0.5 GB free, and 400 MiB are`},
		"the processor has enough":     {0, "cpu", "auto", false, bytes(600<<20, nil), 0, `fits on cpu .*600 MiB are free(.|\n)*5 draws`},
		"what is free is not known":    {0, "cpu", "1GiB", false, bytes(0, errors.New("not told")), 0, `fits on cpu (.|\n)*50 draws`},
		"no processor after a skip":    {400 << 20, "cuda", "auto", true, nil, session.ExitFailed, `does not fit on cuda:0 .*\n.*skips volumes`},
	} {
		t.Run(name, func(t *testing.T) {
			s := simulated(t)
			if c.capacity > 0 {
				s.SetCapacity(c.capacity)
			}
			t.Setenv(device.NVML, simulatedNVML(t))
			q := &fit.Question{Engine: engine.Options{Options: instance.Options{Model: demoModel, Precision: "fp32", Budget: c.budget}}, Request: cam.Request{Methods: []string{"smoothgrad"}, NSamples: 50},
				Free: c.free}
			q.Engine.Policy, _ = policy.ParsePolicy("original")
			q.Engine.Policy.CPU = c.cpu
			bands := gpusurvey.DefaultBands()
			bands.Free = [3]int{}
			code, results, messages := runCheck(t, checkOptions{device: c.device, bands: bands, run: q})
			if code != c.code || !regexp.MustCompile(c.says).MatchString(results) {
				t.Errorf("exit code %d, not %d; %q wanted in\n%s%s", code, c.code, c.says, results, messages)
			}
		})
	}
}

// The command takes the flags that its help names, and refuses what is wrong.
func TestCheckCommand(t *testing.T) {
	t.Setenv("VOXCAM_CUDA_DRIVER", "/absent/libcuda.so.1")
	noSessions(t)
	out, _ := runCommand(t, 0, "check", "--device", "cpu", "--thresholds", "2B,1B,0B", "--model", demoModel, "--method", "gradcam,vargrad", "--n_samples", "3",
		"--volume-shape", "1,32,64,64", "--memory-budget", "9MiB", "--policy", "exact")
	for _, text := range []string{"memory of cpu: healthy", "fits on cpu", "3 x "} {
		if !strings.Contains(out, text) {
			t.Errorf("no %q in\n%s", text, out)
		}
	}
	for want, args := range map[string][]string{
		"four sizes expected": {"--model", demoModel, "--volume-shape", "1,2,3"}, "needs --model": {"--volume-shape", "1,2,3,4"},
		"choose from all":      {"--device", "cuda:x"},
		"choose from fp32":     {"--model", demoModel, "--precision", "fp7"},
		"three sizes":          {"--thresholds", "5GiB"},
		"choose from exact":    {"--policy", "guess"},
		"none.onnx":            {"--model", "none.onnx"},
		"takes no argument":    {"now"},
		"there is no such GPU": {"--device", "cuda:0"},
		"needs a GPU":          {"--model", demoModel, "--precision", "tf32"},
	} {
		if _, talk := runCommand(t, session.ExitRefused, append([]string{"check"}, args...)...); !strings.Contains(talk, want) {
			t.Errorf("%q: %s", args, talk)
		}
	}
}

// noSessions makes the folders of sessions' sockets empty ones. Sockets have short paths: t.TempDir has the test's name in it.
func noSessions(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("", "vc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("XDG_RUNTIME_DIR", dir)
	t.Setenv("TMPDIR", dir)
}

// answering is a session that says of itself what it is made of.
type answering control.Status

func (a answering) Status(context.Context) (control.Status, error) { return control.Status(a), nil }
func (a answering) Order(context.Context, policy.Order) (policy.Outcome, error) {
	return policy.Outcome{}, errors.ErrUnsupported
}

func TestCheckAsksSessions(t *testing.T) {
	noSessions(t)
	if sessions, err := reachSessions(t.Context()); err != nil || len(sessions) != 0 {
		t.Errorf("%v, %v", sessions, err)
	}
	server, err := control.Serve(t.Context(), answering{PID: os.Getpid(), Worker: 77, Session: "s1", UUID: "GPU-1", Held: true, Usage: backend.Usage{Reserved: 5}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	sessions, err := reachSessions(t.Context())
	if err != nil || len(sessions) != 1 {
		t.Fatalf("%v, %v", sessions, err)
	}
	if s := sessions[0]; s.Name != "s1" || fmt.Sprint(s.PIDs) != fmt.Sprint([]int{os.Getpid(), 77}) || s.UUID != "GPU-1" || !s.Held || s.Usage.Reserved != 5 {
		t.Errorf("%+v", s)
	}
}

func TestPrintable(t *testing.T) {
	if got := printable.Short("a\x1b[31mb\nc", 80); got != `a\u001b[31mb\nc` {
		t.Errorf("%q", got)
	}
	if got := printable.Short("äöüß", 3); got != "äö…" {
		t.Errorf("%q", got)
	}
}
