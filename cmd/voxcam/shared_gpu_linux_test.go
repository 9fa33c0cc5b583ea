package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/memory"
	"github.com/voxcam/voxcam/internal/report"
)

// gpuRun is a run of the program on a simulated GPU that this process looks at from outside.
type gpuRun struct {
	t    *testing.T
	gpu  *simulator.Shared
	dir  string
	out  *bytes.Buffer
	cmd  *exec.Cmd
	done chan error
}

// share writes a data set of so many volumes, and gives it a GPU.
func share(t *testing.T, volumes int) *gpuRun {
	t.Helper()
	r := &gpuRun{t: t, gpu: simulator.Share(t), dir: t.TempDir()}
	runtime, err := os.MkdirTemp("", "vx") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(runtime) })
	t.Setenv("XDG_RUNTIME_DIR", runtime) // where sessions of others are not
	t.Setenv("TMPDIR", runtime)
	text, model := methodsCase(t)
	labels := "caseID,label,split\n"
	for i := range volumes {
		labels += fmt.Sprintf("v%d,1,val\n", i)
		r.write(fmt.Sprintf("v%d.npy", i), text)
	}
	r.write("labels.csv", []byte(labels))
	r.write("config.toml", fmt.Appendf(nil, `
[model]
file = %q
[data]
folder = "."
labels = "labels.csv"
scale = "none"
[explain]
device = "cuda"
methods = ["gradcam", "smoothgrad"]
n_samples = 12
[output]
dir = "out"
formats = ["npy"]
`, model))
	return r
}

// methodsCase is a small volume, and the path of a model for it.
func methodsCase(t *testing.T) (volume []byte, model string) {
	t.Helper()
	volume, err := os.ReadFile("../../testdata/cases/methods/volume.npy")
	if err != nil {
		t.Fatal(err)
	}
	if model, err = filepath.Abs("../../testdata/cases/methods/model.torchscript.onnx"); err != nil {
		t.Fatal(err)
	}
	return volume, model
}

func (r *gpuRun) write(name string, text []byte) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), text, 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// start starts the run of a session.
func (r *gpuRun) start(name string, args ...string) {
	r.t.Helper()
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	r.out, r.done = &bytes.Buffer{}, make(chan error, 1)
	r.cmd = &exec.Cmd{Path: self, Args: append([]string{"voxcam", "run", "--config", "config.toml", "--session", name}, args...), Dir: r.dir,
		Stdout: r.out, Stderr: r.out}
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	cmd, done := r.cmd, r.done
	go func() { done <- cmd.Wait() }()
	r.t.Cleanup(func() { cmd.Process.Kill() }) //nolint:errcheck // it has ended, if all went well
}

// end waits for the run, and wants its exit code.
func (r *gpuRun) end(code int) string {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(2 * patience):
		r.t.Fatal("the run does not end")
	}
	if got := r.cmd.ProcessState.ExitCode(); got != code {
		r.t.Fatalf("exit code %d instead of %d:\n%s", got, code, r.out.String())
	}
	return r.out.String()
}

// until asks the session what it does until an answer will do.
func (r *gpuRun) until(what string, will func(control.Status) bool) (*control.Client, control.Status) {
	r.t.Helper()
	var status control.Status
	for began := time.Now(); time.Since(began) < patience; time.Sleep(5 * time.Millisecond) {
		client, err := control.Dial(r.t.Context(), r.cmd.Process.Pid)
		if err != nil {
			continue
		}
		if status, err = client.Status(r.t.Context()); err == nil && will(status) {
			return client, status
		}
	}
	r.cmd.Process.Kill() //nolint:errcheck // the test fails anyway
	<-r.done
	r.t.Fatalf("%s did not come: %+v\n%s", what, status, r.out.String())
	return nil, status
}

func (r *gpuRun) records(name string) []*report.Sample {
	r.t.Helper()
	folder := os.DirFS(filepath.Join(r.dir, "out", "session_"+name))
	session, err := report.ReadSession(folder)
	if err != nil {
		r.t.Fatal(err)
	}
	samples, problems, err := report.Collect(folder, session)
	if err != nil || len(problems) > 0 {
		r.t.Fatal(err, problems)
	}
	return samples
}

func isComputing(s control.Status) bool { return s.Passes > 0 && s.Sample != "" }

// What a run on a GPU says of itself, what NVML says of it, and what lands in its timeline agree.
func TestTimelineOfSharedGPU(t *testing.T) {
	r := share(t, 3)
	r.gpu.SetContext(300 << 20)
	r.start("s")
	r.end(0)
	for _, s := range r.records("s") {
		if e := s.Execution; e == nil || !strings.HasPrefix(e.Device, "cuda") || e.Level == "" || e.Level == explain.LevelCPU {
			t.Errorf("%s: %+v", s.ID, e)
		}
	}
	moments, err := report.ReadTimeline(os.DirFS(filepath.Join(r.dir, "out/session_s")))
	if err != nil {
		t.Fatal(err)
	}
	last := moments[len(moments)-2]
	if f := last.Figures; f == nil || f.GPUTotal == 0 || f.GPUFree == 0 || f.Reserved == 0 || f.Overhead != 150<<20 || f.Resident == 0 || f.Worker == 0 || f.GPUUsed != f.Reserved+f.Overhead {
		text, _ := json.Marshal(last)
		t.Errorf("%s", text)
	}
}

// A session gives its memory to others when a signal says so, and takes it back when it is ordered to.
func TestSignalYieldsMemory(t *testing.T) {
	r := share(t, 1)
	r.start("s", "--n-samples", "100000")
	client, before := r.until("a pass", isComputing)
	if before.Held {
		t.Errorf("%+v", before)
	}
	if err := r.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	_, held := r.until("that it is held", func(s control.Status) bool { return s.Held })
	if held.Until.IsZero() || held.Until.After(time.Now().Add(time.Minute)) {
		t.Errorf("%+v", held)
	}
	r.until("the least that works", func(s control.Status) bool { return s.Level == explain.LevelHost && isComputing(s) })
	if _, err := client.Order(t.Context(), memory.Order{Operation: memory.Resume}); err != nil {
		t.Error(err)
	}
	r.until("that it is not held", func(s control.Status) bool { return !s.Held })
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if out := r.end(130); !strings.Contains(out, "note: signal user defined signal 1: release: gave back ") {
		t.Error(out)
	}
}

// A run whose worker is killed, or loses the device, goes on with another one, from the draws that were done, to the same results; its
// records tell of it.
func TestWorkersThatEnd(t *testing.T) {
	r := share(t, 2)
	r.start("whole", "--n-samples", "30")
	r.end(0)
	r.start("killed", "--n-samples", "30")
	_, s := r.until("a pass", func(s control.Status) bool { return isComputing(s) && s.Passes > 3 && s.Worker != 0 })
	if err := syscall.Kill(s.Worker, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if out := r.end(0); !strings.Contains(out, ": restarted: ") {
		t.Error(out)
	}
	if a, b := r.maps("whole"), r.maps("killed"); a != b || a == "" {
		t.Errorf("the results differ:\n%s\n%s", a, b)
	}
	if r.restarts("killed") == 0 {
		t.Error("no record tells of it")
	}
	// The same where each worker loses the device, which the next one finds sound.
	t.Setenv("SIMULATOR_FAULTS", "lose:1000:700")
	r.start("lost", "--n-samples", "30")
	r.end(0)
	if a, b := r.maps("whole"), r.maps("lost"); a != b || r.restarts("lost") == 0 {
		t.Errorf("%d restarts; the results are\n%s\n%s", r.restarts("lost"), a, b)
	}
}

// restarts counts those that the records of a session tell of.
func (r *gpuRun) restarts(name string) (n int) {
	r.t.Helper()
	for _, s := range r.records(name) {
		for _, i := range s.Execution.Incidents {
			if i.Kind == explain.IncidentRestart {
				n++
			}
		}
	}
	return n
}

// maps are the digests of a session's arrays.
func (r *gpuRun) maps(name string) string {
	r.t.Helper()
	var b strings.Builder
	for _, s := range r.records(name) {
		for _, f := range s.Files {
			if strings.HasSuffix(f.Path, ".npy") {
				fmt.Fprintln(&b, f.Path, f.SHA256)
			}
		}
	}
	return b.String()
}

// Where nothing holds a volume it is skipped, not failed, and the session is continued when there is memory.
func TestSkippedForLackOfMemory(t *testing.T) {
	r := share(t, 2)
	r.gpu.SetCapacity(4 << 20)
	r.start("s", "--cpu-fallback=false", "--wait", "0s")
	if out := r.end(4); !strings.Contains(out, "0 ok, 0 degraded, 0 failed, 2 skipped for lack of memory") {
		t.Error(out)
	}
	for _, s := range r.records("s") {
		if s.Status != explain.StatusSkipped || s.PredictedClass != nil || s.Execution == nil || len(s.Execution.Incidents) == 0 {
			t.Errorf("%+v, %+v", s, s.Execution)
		}
	}
	r.gpu.SetCapacity(8 << 30)
	r.start("s")
	if out := r.end(0); !strings.Contains(out, "2 samples, 2 ok, 0 degraded, 0 failed, ") {
		t.Error(out)
	}
}
