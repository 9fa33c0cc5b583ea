package gpusurvey

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/policy"
)

const (
	mib = bytesize.MiB
	gib = bytesize.GiB
	// What the simulator calls its first device.
	first = "GPU-73696d75-6c61-7465-6420-646576696365"
)

// standIn builds the NVML of testdata, in which a process holds 1 GiB of the first device.
func standIn(t *testing.T, holder int) string {
	t.Helper()
	compiler, err := exec.LookPath("g++")
	if err != nil {
		t.Skip("SURVEYS NOT CHECKED: there is no g++ to build a stand-in for NVML with")
	}
	path := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	out, err := exec.Command(compiler, "-shared", "-fPIC", fmt.Sprintf("-DHOLDER=%d", holder), "-o", path, "testdata/nvml.cpp").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

func look(t *testing.T, o Options) *Survey {
	t.Helper()
	v, err := Look(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func says(v *Survey, text string) bool {
	return strings.Contains(strings.Join(v.Notes, "\n"), text)
}

func TestSurvey(t *testing.T) {
	s := simulator.Load(t)
	s.SetCount(2)
	t.Setenv("CUDA_VISIBLE_DEVICES", "0,1")
	sessions := func(context.Context) ([]SessionUsage, error) {
		return []SessionUsage{
			{Name: "mine", PIDs: []int{os.Getpid()}, UUID: first,
				Usage: backend.Usage{Total: 8 * gib, Free: 4 * gib, Allocated: 200 * mib, Reserved: 600 * mib, Largest: 4*gib + 400*mib}},
			{Name: "unseen", PIDs: []int{3}, UUID: first, // by NVML
				Usage: backend.Usage{Total: 8 * gib, Free: 4 * gib, Allocated: 100 * mib, Reserved: 100 * mib, Overhead: 300 * mib, Largest: 4 * gib}},
			{Name: "processor", PIDs: []int{4}},
		}, errors.New("one does not answer")
	}
	v := look(t, Options{Driver: s.Path, NVML: standIn(t, os.Getpid()), Sessions: sessions})
	if len(v.GPUs) != 3 || len(v.Sessions) != 3 {
		t.Fatalf("%+v", v)
	}
	for i, want := range []struct{ number, index int }{{0, 2}, {1, 1}, {-1, 0}} {
		if g := v.GPUs[i]; g.Number != want.number || g.Index != want.index || g.Hidden() != (want.number < 0) {
			t.Errorf("GPU %d of the list is %d of CUDA and %d of NVML", i, g.Number, g.Index)
		}
	}
	g := v.GPUs[0]
	unused := float64(4*gib + 400*mib)
	want := Figures{Total: 8 * gib, Used: 3584 * mib, TrulyFree: 4 * gib, System: 512 * mib, Allocated: 300 * mib, Pool: 700 * mib,
		Reserved: gib + 400*mib, // what NVML says of the process of one, what the other says of itself
		Largest:  4*gib + 400*mib, Fragmentation: 0, Slack: 400. / 700}
	if g.Figures != want {
		t.Errorf("%+v\ninstead of\n%+v", g.Figures, want)
	}
	if g.Health != Caution || g.Utilization != 0.75 || g.MemoryUtilization != 0.5 || g.Unattributed != 2048*mib || g.Context != nil || g.Problem != "" {
		t.Errorf("%+v", g)
	}
	if u := v.GPUs[2]; u.Utilization != -1 || u.Health != Warning || u.Unattributed != u.Used {
		t.Errorf("%+v", u)
	}
	if len(g.Processes) != 3 {
		t.Fatalf("%+v", g.Processes)
	}
	mine, pid1, gone := g.Processes[0], g.Processes[1], g.Processes[2]
	if mine.PID != os.Getpid() || mine.Bytes != gib || !mine.Ours || mine.Session != "mine" || mine.UID != os.Getuid() || mine.User == "" ||
		mine.Parent != os.Getppid() || mine.Started == 0 || mine.Orphan || !strings.Contains(mine.Command, "test.") {
		t.Errorf("%+v", mine)
	}
	if pid1.PID != 1 || pid1.Ours || gone.PID != 4194305 || gone.Bytes != -1 || gone.Name != "" {
		t.Errorf("%+v\n%+v", pid1, gone)
	}
	for _, text := range []string{"one does not answer", `nvidia-smi calls 0: CUDA_VISIBLE_DEVICES is "0,1"`, "no process in its list", "which this process may not ask: 1", "how much some processes hold"} {
		if !says(v, text) {
			t.Errorf("the notes do not say %q: %q", text, v.Notes)
		}
	}
	if used := s.Used(); used != 0 {
		t.Errorf("it took %d bytes of a device", used)
	}

	// Two sessions that keep memory from each other: neither can have all of it as one block.
	split := look(t, Options{Driver: s.Path, NVML: standIn(t, 1), Sessions: func(context.Context) ([]SessionUsage, error) {
		u := backend.Usage{Total: 8 * gib, Free: 4 * gib, Reserved: 4 * gib, Largest: 8 * gib}
		return []SessionUsage{{Name: "a", UUID: first, Usage: u}, {Name: "b", UUID: first, Usage: u}}, nil
	}}).GPUs[0]
	if unused = float64(12 * gib); math.Abs(split.Fragmentation-(1-float64(8*gib)/unused)) > 1e-12 || split.Health != Warning || split.Slack != 1 {
		t.Errorf("%+v", split)
	}
}

// The keys of the original are there, in its unit.
func TestSurveyAsJSON(t *testing.T) {
	g := GPU{Figures: Figures{Total: 3 * gib, TrulyFree: gib / 2, Allocated: gib, Reserved: 2 * gib, Fragmentation: 0.25, Slack: 0.5}, Health: Warning}
	text, err := json.Marshal(Survey{GPUs: []GPU{g}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"allocated_gb":1,`, `"reserved_gb":2,`, `"truly_free_gb":0.5,`, `"total_gb":3}`, `"fragmentation_ratio":0.25,`,
		`"slack_ratio":0.5,`, `"total_bytes":3221225472,`, `"health":"warning"`, `"sessions":null`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is not in %s", want, text)
		}
	}
	g.TrulyFree = -1
	if text, err = json.Marshal(g); err != nil || !strings.Contains(string(text), `"truly_free_gb":null`) {
		t.Errorf("%s, %v", text, err)
	}
	var back GPU
	if err := json.Unmarshal(text, &back); err != nil || back.Total != g.Total || back.Health != g.Health {
		t.Errorf("%+v, %v", back, err)
	}
}

// Without NVML only a context tells what is free, and only where it was asked for.
func TestSurveyByTheDriver(t *testing.T) {
	s := simulator.Load(t)
	s.SetCount(2)
	o := Options{Driver: s.Path, NVML: "/absent/libnvidia-ml.so.1"}
	v := look(t, o)
	if g := v.GPUs[0]; len(v.GPUs) != 2 || g.TrulyFree != -1 || g.Health != Unknown || g.Total != 8*gib || !says(v, "only known from a context") {
		t.Errorf("%+v", v)
	}
	o.Context, o.Only = true, []int{1}
	v = look(t, o)
	if g := v.GPUs[1]; v.GPUs[0].Context != nil || g.Context == nil || g.TrulyFree != 8*gib || g.Health != Healthy || g.Context.Bytes != -1 || g.Context.Asked != 0 {
		t.Errorf("%+v", v.GPUs)
	}
	o.Probe, o.Only = true, nil
	g := look(t, o).GPUs[0]
	if c := g.Context; c.Asked != 8*gib-policy.Reserve || c.Got != c.Asked || g.Fragmentation != 0 {
		t.Errorf("%+v, %+v", g, c)
	}
	// The driver refuses some of it.
	s.FailCall("cuMemCreate", 3, 2)
	s.SetCapacity(2*gib + 300*mib)
	g = look(t, o).GPUs[0]
	if c := g.Context; c.Got != c.Asked || c.Asked != 2*gib+300*mib-policy.Reserve {
		t.Errorf("after a refusal of one size, smaller ones were not tried: %+v", c)
	}
	s.FailCall("cuMemMap", 2, 205)
	if g = look(t, o).GPUs[0]; !strings.Contains(g.Problem, "could not be mapped") || s.Used() != 0 {
		t.Errorf("%+v, %d bytes are left", g, s.Used())
	}
	s.FailCall("cuDevicePrimaryCtxRetain", 1, 2)
	if g = look(t, o).GPUs[0]; !strings.Contains(g.Problem, "no room for a context") {
		t.Errorf("%+v", g)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Look(ctx, o); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestSurveyWithoutGPU(t *testing.T) {
	t.Setenv("CUDA_VISIBLE_DEVICES", "")
	v := look(t, Options{Driver: "/absent/libcuda.so.1", NVML: "/absent/libnvidia-ml.so.1"})
	if len(v.GPUs) != 0 || !says(v, "no GPU: no NVIDIA driver") || len(v.Notes) != 1 {
		t.Errorf("%+v", v)
	}
	if h := v.Host; h.Free < 1 || h.Total < 1 || h.Health != DefaultBands().Judge(h.Free, 0) {
		t.Errorf("%+v", h)
	}
	// NVML sees GPUs that CUDA does not.
	v = look(t, Options{Driver: "/absent/libcuda.so.1", NVML: standIn(t, 1)})
	if len(v.GPUs) != 3 || !v.GPUs[0].Hidden() || !says(v, "CUDA shows no GPU to this process") {
		t.Errorf("%+v", v)
	}
}

// What other processes do with a GPU shows, and what this one does for the survey does not.
func TestSurveyOfASharedGPU(t *testing.T) {
	s := simulator.Share(t)
	const context = 300 * mib
	s.SetContext(context)
	s.SetReserved(512 * mib)
	other := exec.CommandContext(t.Context(), "sleep", "600")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end := func() {
		if !ended {
			ended = true
			_ = other.Process.Kill()
			_ = other.Wait() // that it was killed
		}
	}
	defer end()
	s.TakeAs(other.Process.Pid, "train", 0, gib)
	s.Take(2 * gib)
	o := Options{Driver: s.Path, NVML: s.Path, Context: true, Probe: true}
	surveyor := Open(o)
	defer func() {
		if err := surveyor.Close(); err != nil {
			t.Error(err)
		}
	}()
	survey := func() GPU {
		t.Helper()
		v, err := surveyor.Survey(t.Context())
		if err != nil || len(v.GPUs) != 1 {
			t.Fatalf("%v, %+v", err, v)
		}
		return v.GPUs[0]
	}
	g := survey()
	if g.Total != 8*gib+512*mib || g.System != 512*mib || g.Used != 3*gib || g.TrulyFree != 5*gib || g.Unattributed != 2*gib || g.Reserved != 0 {
		t.Errorf("%+v", g.Figures)
	}
	if len(g.Processes) != 1 || g.Processes[0].PID != other.Process.Pid || g.Processes[0].Bytes != gib || g.Processes[0].Name != "sleep" || g.Processes[0].Program {
		t.Errorf("%+v", g.Processes)
	}
	if c := g.Context; c == nil || c.Bytes != context/2 || c.Free != 5*gib-context/2 || // without stacks
		c.Asked != c.Free-policy.Reserve || c.Got != c.Asked {
		t.Errorf("%+v", c)
	}
	end()
	if g = survey(); g.TrulyFree != 6*gib || len(g.Processes) != 0 || g.Health != Healthy {
		t.Errorf("%+v", g)
	}
	s.Take(8*gib - context/2)
	if g = survey(); !strings.Contains(g.Problem, "no room for a context") || g.TrulyFree != context/2 || g.Health != Critical {
		t.Errorf("%+v", g)
	}
}
