package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/voxcam/voxcam/internal/explain"
)

// These tests do harm to runs of the program, in processes of their own on a simulated GPU, and compare what comes out with a run that was
// left alone. With VOXCAM_LONG=1 they do as much of it as the memory manager is to stand; else a part.

const (
	capacity  = 8 << 30     // of the simulated GPU
	piece     = 2 << 20     // what the simulated GPU's memory is handed out in
	nearly    = 1e-4        // of the largest value: how far results of another device may be off
	processes = time.Minute // for what a test waits for outside of a run
)

func isLong() bool { return os.Getenv("VOXCAM_LONG") != "" }

// often is how often something is done.
func often(ci, long int) int {
	if isLong() {
		return long
	}
	return ci
}

// onceCommand is the program whose first worker alone is harmed by the simulator: the worker that makes the file onceVariable names has
// the faults of onceFaults.
const (
	onceCommand  = "voxcam-harmed-once"
	onceVariable = "VOXCAM_TEST_ONCE"
	onceFaults   = "VOXCAM_TEST_FAULTS"
	faults       = "SIMULATOR_FAULTS"
)

func init() { commands[onceCommand] = harmedOnce }

func harmedOnce() {
	if mark := os.Getenv(onceVariable); os.Getenv("VOXCAM_WORKER") != "" && os.Getenv(faults) == "" {
		if file, err := os.OpenFile(mark, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err == nil {
			file.Close()
			self, err := os.Executable()
			if err == nil { // the simulator reads the environment that a process begins with
				err = syscall.Exec(self, os.Args, append(os.Environ(), faults+"="+os.Getenv(onceFaults)))
			}
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	main()
}

// harm is a data set on a simulated GPU, with the results of a run that was left alone.
type harm struct {
	*gpuRun
	command string
	args    []string // of all runs
	env     []string // of all runs, besides
	want    map[string][]float32
	files   []string // of a session's folder
}

// withMethods is a data set of so many different volumes of the small network that all methods work on.
func withMethods(t *testing.T, volumes, draws int) *harm {
	t.Helper()
	h := newHarm(t, volumes)
	text, model := methodsCase(t)
	head := 10 + int(binary.LittleEndian.Uint16(text[8:]))
	for i := range volumes { // the same values in another order
		at := head + 4*(37*i%((len(text)-head)/4))
		h.write(fmt.Sprintf("v%d.npy", i), slices.Concat(text[:head], text[at:], text[head:at]))
	}
	h.write("config.toml", fmt.Appendf(nil, `
[model]
file = %q
target_layer = "/act_3/Relu_output_0" # of a module that is called four times: the default is told of
[data]
folder = "."
labels = "labels.csv"
scale = "none"
[explain]
device = "cuda"
methods = ["all"]
n_samples = %d
[output]
dir = "out"
formats = ["npy"]
`, model, draws))
	return h
}

// withDemo is a data set of so many phantoms of the demonstration, whose whole tensors take more than a piece of memory.
func withDemo(t *testing.T, volumes, draws int) *harm {
	t.Helper()
	h := newHarm(t, 0)
	demo := &exec.Cmd{Path: h.self(), Args: []string{"voxcam", "demo", "--out", "demo", "--volumes", strconv.Itoa(volumes)}, Dir: h.dir,
		Env: append(os.Environ(), "VOXCAM_CUDA_DRIVER=/absent")}
	if out, err := demo.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.RemoveAll(filepath.Join(h.dir, "demo", "results")); err != nil {
		t.Fatal(err)
	}
	h.dir = filepath.Join(h.dir, "demo")
	text, err := os.ReadFile(filepath.Join(h.dir, "config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	h.write("config.toml", []byte(strings.ReplaceAll(string(text), `dir = "results"`, `dir = "out"`)))
	h.args = []string{"--device", "cuda", "--method", "all,saliency", "--formats", "npy", "--n-samples", strconv.Itoa(draws)}
	return h
}

func newHarm(t *testing.T, volumes int) *harm {
	t.Helper()
	h := &harm{gpuRun: share(t, volumes), command: "voxcam"}
	scratch := t.TempDir()
	t.Setenv("TMPDIR", scratch)
	t.Cleanup(func() {
		if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
			t.Errorf("temporary files are left: %v, %v", left, err)
		}
	})
	return h
}

func (h *harm) self() string {
	h.t.Helper()
	self, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	return self
}

// begin starts a run.
func (h *harm) begin(session string, args ...string) {
	h.t.Helper()
	h.out, h.done = &bytes.Buffer{}, make(chan error, 1)
	h.cmd = &exec.Cmd{Path: h.self(), Args: slices.Concat([]string{h.command, "run", "--config", "config.toml", "--session", session}, h.args, args),
		Dir: h.dir, Env: append(os.Environ(), h.env...), Stdout: h.out, Stderr: h.out, WaitDelay: time.Second}
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	cmd, done := h.cmd, h.done
	go func() { done <- cmd.Wait() }()
	h.t.Cleanup(func() { cmd.Process.Kill() }) //nolint:errcheck // it has ended, if all went well
}

// run is a run from its beginning to its end.
func (h *harm) run(session string, code int, args ...string) string {
	h.t.Helper()
	h.begin(session, args...)
	return h.finish(code)
}

// isRunning reports whether the run has not ended.
func (h *harm) isRunning() bool {
	select {
	case err := <-h.done:
		h.done <- err
		return false
	default:
		return true
	}
}

// finish waits for the run's end, and that nothing of it is left in the machine.
func (h *harm) finish(code int) string {
	h.t.Helper()
	select {
	case <-h.done:
	case <-time.After(4 * patience):
		h.cmd.Process.Signal(syscall.SIGQUIT) //nolint:errcheck // the test fails anyway
		<-h.done
		h.t.Fatalf("the run does not end:\n%s", h.out.String())
	}
	if got := h.cmd.ProcessState.ExitCode(); got != code {
		h.t.Errorf("exit code %d instead of %d:\n%s", got, code, h.out.String())
	}
	h.isGone()
	return h.out.String()
}

// isGone waits until no process of the runs lives, and wants their memory to be free.
func (h *harm) isGone() {
	h.t.Helper()
	for began := time.Now(); len(h.processes()) > 0; time.Sleep(2 * time.Millisecond) {
		if time.Since(began) > processes {
			h.t.Fatalf("processes are left: %v\n%s", h.processes(), h.out.String())
		}
	}
}

// processes are those that use the test's GPU and live, but for the test's own.
func (h *harm) processes() (pids []int) {
	found, _ := filepath.Glob("/proc/[0-9]*/environ")
	mark := []byte("SIMULATOR_DEVICE=" + h.gpu.File + "\x00")
	for _, path := range found {
		text, err := os.ReadFile(path) // of a process that has ended it is empty
		if pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil && bytes.Contains(text, mark) && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// workers are those of processes that have the GPU.
func (h *harm) workers() (pids []int) {
	for _, pid := range h.processes() {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err == nil && bytes.Contains(text, []byte("VOXCAM_WORKER=1\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// wholly is a run that is left alone; others are compared with it.
func (h *harm) wholly() {
	h.t.Helper()
	if out := h.run("whole", 0); strings.Contains(out, "warning") {
		h.t.Error(out)
	}
	h.want, h.files = h.results("whole"), h.names("whole")
	for _, s := range h.records("whole") {
		if s.Status != explain.StatusOK || s.Execution.Level != explain.LevelWhole || len(s.Execution.Incidents) > 0 {
			h.t.Errorf("undisturbed: %s is %s, %+v", s.ID, s.Status, s.Execution)
		}
	}
	if len(h.want) == 0 {
		h.t.Fatal("there are no results")
	}
}

func (h *harm) folder(session string) string { return filepath.Join(h.dir, "out", "session_"+session) }

// results are the arrays of a session, by their names. Each file is the one that a record speaks of.
func (h *harm) results(session string) map[string][]float32 {
	h.t.Helper()
	all := map[string][]float32{}
	for _, s := range h.records(session) {
		for _, f := range s.Files {
			text, err := os.ReadFile(filepath.Join(h.folder(session), filepath.FromSlash(f.Path)))
			if err != nil {
				h.t.Error(err)
				continue
			}
			if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != f.SHA256 || len(text) != int(f.Bytes) {
				h.t.Errorf("%s is not what the record of %s says", f.Path, s.ID)
			}
			if filepath.Ext(f.Path) != ".npy" {
				continue
			}
			text = text[10+int(binary.LittleEndian.Uint16(text[8:])):]
			values := make([]float32, len(text)/4)
			for i := range values {
				values[i] = math.Float32frombits(binary.LittleEndian.Uint32(text[4*i:]))
			}
			all[f.Path] = values
		}
	}
	return all
}

// names are those of all files of a session, but for what a run tells of itself.
func (h *harm) names(session string) (names []string) {
	h.t.Helper()
	root := h.folder(session)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(root, path)
		if err == nil && (!d.IsDir() || strings.HasPrefix(name, ".partial/")) && !strings.Contains(name, "memory_timeline") {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		h.t.Error(err)
	}
	return names
}

// levels are how often a session's volumes were explained at each level, and kinds how often each thing happened to them.
func (h *harm) levels(session string) (levels map[explain.Level]int, kinds map[explain.IncidentKind]int) {
	h.t.Helper()
	levels, kinds = map[explain.Level]int{}, map[explain.IncidentKind]int{}
	for _, s := range h.records(session) {
		if s.Execution == nil {
			h.t.Errorf("%s does not tell where it was explained", s.ID)
			continue
		}
		levels[s.Execution.Level]++
		for _, i := range s.Execution.Incidents {
			kinds[i.Kind]++
		}
	}
	return levels, kinds
}

// check compares a session that is complete with the one that was left alone: a volume that was explained on the GPU has the same bits,
// whatever plans were followed, one that the processor had a part in nearly the same values. It gives the largest difference there was.
func (h *harm) check(session string) (worst float64) {
	h.t.Helper()
	exact := map[string]bool{}
	for _, s := range h.records(session) {
		if s.Status != explain.StatusOK || s.Execution == nil {
			h.t.Errorf("%s is %s (%s)", s.ID, s.Status, s.Reason)
			continue
		}
		for _, f := range s.Files {
			exact[f.Path] = !onProcessor(s.Execution)
		}
	}
	got := h.results(session)
	if a, b := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(h.want)); !slices.Equal(a, b) {
		h.t.Errorf("the results are %v, not %v", a, b)
		return 0
	}
	for name, values := range got {
		e := difference(values, h.want[name])
		if worst = max(worst, e); !(e <= nearly) || exact[name] && e != 0 {
			h.t.Errorf("%s of %s is %.1e of the largest value off", name, session, e)
		}
	}
	if names := h.names(session); !slices.Equal(names, h.files) {
		h.t.Errorf("the session's files are %v, not %v", names, h.files)
	}
	return worst
}

// onProcessor reports whether the processor had a part in explaining a volume.
func onProcessor(e *explain.Execution) bool {
	return e.Level == explain.LevelCPU || strings.HasPrefix(e.Device, "cpu") || slices.ContainsFunc(e.Incidents, func(i explain.Incident) bool { return i.Kind == explain.IncidentCPU })
}

// difference is the largest one, as a share of the largest value.
func difference(got, want []float32) (e float64) {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	top := 0.0
	for i := range got {
		e = max(e, math.Abs(float64(got[i])-float64(want[i])))
		top = max(top, math.Abs(float64(want[i])))
	}
	if e == 0 {
		return 0
	}
	return e / top
}

// isFree waits until all of the device's memory is free, but for so much: a process that was killed has it until the system has ended it.
func (h *harm) isFree(taken int) {
	h.t.Helper()
	for began := time.Now(); h.gpu.Free() != capacity-taken; time.Sleep(2 * time.Millisecond) {
		if time.Since(began) > processes {
			h.t.Fatalf("%d bytes of the device are free, not %d", h.gpu.Free(), capacity-taken)
		}
	}
}

// noSockets wants no socket to be left.
func (h *harm) noSockets() {
	h.t.Helper()
	if found, _ := filepath.Glob(filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "*", "*")); len(found) > 0 {
		h.t.Errorf("sockets are left: %v", found)
	}
}
