package faults

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/harm"
)

// A run whose worker is killed, or loses the device, goes on with another one, from the draws that were done, to the same results; its
// records tell of it.
func TestWorkersThatEnd(t *testing.T) {
	r := harm.New(t, 2)
	r.Run("whole", 0, "--n-samples", "30")
	r.Start("killed", "--n-samples", "30")
	_, s := r.Until("a pass", func(s control.Status) bool { return harm.IsComputing(s) && s.Passes > 3 && s.Worker != 0 })
	if err := syscall.Kill(s.Worker, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if out := r.Finish(0); !strings.Contains(out, ": restarted: ") {
		t.Error(out)
	}
	if a, b := maps(r, "whole"), maps(r, "killed"); a != b || a == "" {
		t.Errorf("the results differ:\n%s\n%s", a, b)
	}
	if restarts(r, "killed") == 0 {
		t.Error("no record tells of it")
	}
	// The same where each worker loses the device, which the next one finds sound.
	t.Setenv(harm.Faults, "lose:1000:700")
	r.Run("lost", 0, "--n-samples", "30")
	if a, b := maps(r, "whole"), maps(r, "lost"); a != b || restarts(r, "lost") == 0 {
		t.Errorf("%d restarts; the results are\n%s\n%s", restarts(r, "lost"), a, b)
	}
}

// restarts counts those that the records of a session tell of.
func restarts(r *harm.Rig, name string) (n int) {
	r.T.Helper()
	for _, s := range r.Records(name) {
		for _, i := range s.Execution.Events {
			if i.Kind == cam.EventRestart {
				n++
			}
		}
	}
	return n
}

// maps are the digests of a session's arrays.
func maps(r *harm.Rig, name string) string {
	r.T.Helper()
	var b strings.Builder
	for _, s := range r.Records(name) {
		for _, f := range s.Files {
			if strings.HasSuffix(f.Path, ".npy") {
				fmt.Fprintln(&b, f.Path, f.SHA256)
			}
		}
	}
	return b.String()
}
