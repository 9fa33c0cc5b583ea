package faults

import (
	"strings"
	"syscall"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/harm"
)

// A run on the paths of integrated gradients, with Eigen-CAM, whose worker is killed or loses the device in between goes on with another worker
// from the points that were done; one that was killed itself is continued; and one that competes for memory follows it. All give the same bits.
func TestPathsGoOn(t *testing.T) {
	r := harm.WithMethods(t, 2, 1)
	r.Args = []string{"--method", "eigencam,integrated-gradients", "--steps", "24", "--baseline", "min", "--wait", "1s"}
	r.Undisturbed()
	within := func(s control.Status) bool { return harm.IsComputing(s) && s.Passes > 3 && s.Worker != 0 }

	r.Start("worker")
	_, s := r.Until("a pass", within)
	if err := syscall.Kill(s.Worker, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if out := r.Finish(0); !strings.Contains(out, ": restarted: ") {
		t.Error(out)
	}
	if _, kinds := r.Levels("worker"); kinds[cam.EventRestart] == 0 || kinds[cam.EventResumed] == 0 {
		t.Errorf("no record tells of the worker's end, or of going on from a point: %v", kinds)
	}
	r.Check("worker")

	r.Start("killed")
	r.Until("a pass", within)
	if err := r.Cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-r.Done()
	r.IsGone()
	r.CheckPart("killed")
	r.Run("killed", 0)
	r.Check("killed")

	r.HarmEach("lose:1000:700") // which the next worker finds sound
	r.Run("lost", 0)
	r.HarmNone()
	_, kinds := r.Levels("lost")
	if kinds[cam.EventRestart] == 0 || kinds[cam.EventResumed] == 0 {
		t.Errorf("the device was not lost, or no path went on from a point: %v", kinds)
	}
	r.Check("lost")

	for seed := range uint64(harm.Often(2, 20)) {
		r.GPU.CompeteEach(10, seed, 0, 8*harm.Piece)
		name := "competed" + string(rune('a'+seed))
		r.Run(name, 0)
		r.GPU.Rest()
		levels, kinds := r.Levels(name)
		t.Logf("%s: %v, %v, %.1e off", name, levels, kinds, r.Check(name))
		r.IsFree(0)
	}
	swept(r)
}
