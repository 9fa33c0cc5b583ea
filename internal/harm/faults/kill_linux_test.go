package faults

import (
	"math/rand/v2"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/harm"
)

// Runs, runs with their workers, and workers alone are killed at random moments. The session is continued until it is done, to the results of
// one that was left alone.
func TestHarmKills(t *testing.T) {
	h := harm.WithMethods(t, harm.Often(2, 3), 16)
	began := time.Now()
	h.Undisturbed()
	takes := time.Since(began)
	random := rand.New(rand.NewPCG(5, 5))
	kills, sessions, kinds := map[string]int{}, 0, map[cam.EventKind]int{}
	for most := harm.Often(8, 50); kills["run"]+kills["both"]+kills["worker"] < most; sessions++ {
		name := "killed" + strconv.Itoa(sessions)
		done := false
		for _, what := range [][]string{{"run", "both", "worker"}, {"both", "run", "worker"}, {"worker"}}[sessions%3] { // after that the run goes on
			if !done {
				h.Start(name)
				done = kill(h, what, time.Duration(random.Float64()*float64(takes)*3/4), kills)
			}
			h.CheckPart(name)
			h.IsFree(0)
		}
		if worst := h.Check(name); worst != 0 {
			t.Errorf("%s is %.1e off", name, worst)
		}
		_, k := h.Levels(name)
		for kind, n := range k {
			kinds[kind] += n
		}
	}
	t.Logf("an undisturbed run takes %.1f s; killed in %d sessions: %v; what the records tell: %v", takes.Seconds(), sessions, kills, kinds)
	swept(h)
}

// kill kills the run, its worker, or both after some time, waits until all has ended, and reports whether the session is done: because
// that was faster, or because the run survived.
func kill(h *harm.Rig, what string, after time.Duration, kills map[string]int) (done bool) {
	h.T.Helper()
	select { // any moment will do
	case <-h.Done():
		h.Finish(0)
		return true
	case <-time.After(after):
	}
	var victims []int
	if what != "run" {
		victims = h.Workers()
	}
	if what != "worker" {
		victims = append(victims, h.Cmd.Process.Pid)
	}
	for _, pid := range victims {
		syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // it may have ended just now
	}
	if len(victims) > 0 && (what != "both" || len(victims) > 1) {
		kills[what]++
	}
	if what == "worker" {
		h.Finish(0)
		return true
	}
	<-h.Done()
	h.IsGone()
	return h.Cmd.ProcessState.ExitCode() == 0
}

// swept wants no socket to be left after somebody has looked for sessions.
func swept(h *harm.Rig) {
	h.T.Helper()
	if out, err := h.Program("recover", "--clear-cache", "--dry-run").CombinedOutput(); err != nil {
		h.T.Errorf("%v: %s", err, out)
	}
	h.NoSockets()
}
