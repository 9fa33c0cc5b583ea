package contention

import (
	"encoding/json"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/harm"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/report"
)

// What a run on a GPU says of itself, what NVML says of it, and what lands in its timeline agree.
func TestTimelineOfSharedGPU(t *testing.T) {
	r := harm.New(t, 3)
	r.GPU.SetContext(300 << 20)
	r.Run("s", 0)
	for _, s := range r.Records("s") {
		if e := s.Execution; e == nil || !strings.HasPrefix(e.Device, "cuda") || e.Level == "" || e.Level == cam.LevelCPU {
			t.Errorf("%s: %+v", s.ID, e)
		}
	}
	moments, err := report.ReadTimeline(os.DirFS(r.Folder("s")))
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
	r := harm.New(t, 1)
	r.Start("s", "--n-samples", "100000")
	client, before := r.Until("a pass", harm.IsComputing)
	if before.Held {
		t.Errorf("%+v", before)
	}
	if err := r.Cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	_, held := r.Until("that it is held", func(s control.Status) bool { return s.Held })
	if held.Until.IsZero() || held.Until.After(time.Now().Add(time.Minute)) {
		t.Errorf("%+v", held)
	}
	r.Until("the least that works", func(s control.Status) bool { return s.Level == cam.LevelHost && harm.IsComputing(s) })
	if _, err := client.Order(t.Context(), policy.Order{Operation: policy.Resume}); err != nil {
		t.Error(err)
	}
	r.Until("that it is not held", func(s control.Status) bool { return !s.Held })
	if err := r.Cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if out := r.Finish(130); !strings.Contains(out, "note: signal user defined signal 1: release: gave back ") {
		t.Error(out)
	}
}

// Where nothing holds a volume it is skipped, not failed, and the session is continued when there is memory.
func TestSkippedForLackOfMemory(t *testing.T) {
	r := harm.New(t, 2)
	r.GPU.SetCapacity(4 << 20)
	r.Start("s", "--cpu-fallback=false", "--wait", "0s")
	if out := r.Finish(4); !strings.Contains(out, "0 ok, 0 degraded, 0 failed, 2 skipped for lack of memory") {
		t.Error(out)
	}
	for _, s := range r.Records("s") {
		if s.Status != cam.StatusSkipped || s.PredictedClass != nil || s.Execution == nil || len(s.Execution.Events) == 0 {
			t.Errorf("%+v, %+v", s, s.Execution)
		}
	}
	r.GPU.SetCapacity(harm.Capacity)
	r.Start("s")
	if out := r.Finish(0); !strings.Contains(out, "2 samples, 2 ok, 0 degraded, 0 failed, ") {
		t.Error(out)
	}
}
