package main

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/voxcam/voxcam/internal/explain"
)

// Runs, runs with their workers, and workers alone are killed at random moments. The session is continued until it is done, to the results of
// one that was left alone.
func TestHarmKills(t *testing.T) {
	h := withMethods(t, often(2, 3), 16)
	began := time.Now()
	h.wholly()
	takes := time.Since(began)
	random := rand.New(rand.NewPCG(5, 5))
	kills, sessions, kinds := map[string]int{}, 0, map[explain.IncidentKind]int{}
	for most := often(8, 50); kills["run"]+kills["both"]+kills["worker"] < most; sessions++ {
		name := "killed" + strconv.Itoa(sessions)
		done := false
		for _, what := range [][]string{{"run", "both", "worker"}, {"both", "run", "worker"}, {"worker"}}[sessions%3] { // after that the run goes on
			if !done {
				h.begin(name)
				done = h.kill(what, time.Duration(random.Float64()*float64(takes)*3/4), kills)
			}
			h.sound(name)
			h.isFree(0)
		}
		if worst := h.check(name); worst != 0 {
			t.Errorf("%s is %.1e off", name, worst)
		}
		_, k := h.levels(name)
		for kind, n := range k {
			kinds[kind] += n
		}
	}
	t.Logf("an undisturbed run takes %.1f s; killed in %d sessions: %v; what the records tell: %v", takes.Seconds(), sessions, kills, kinds)
	h.swept()
}

// kill kills the run, its worker, or both after some time, waits until all has ended, and reports whether the session is done: because
// that was faster, or because the run survived.
func (h *harm) kill(what string, after time.Duration, kills map[string]int) (done bool) {
	h.t.Helper()
	select { // any moment will do
	case err := <-h.done:
		h.done <- err
		h.finish(0)
		return true
	case <-time.After(after):
	}
	var victims []int
	if what != "run" {
		victims = h.workers()
	}
	if what != "worker" {
		victims = append(victims, h.cmd.Process.Pid)
	}
	for _, pid := range victims {
		syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // it may have ended just now
	}
	if len(victims) > 0 && (what != "both" || len(victims) > 1) {
		kills[what]++
	}
	if what == "worker" {
		h.finish(0)
		return true
	}
	<-h.done
	h.isGone()
	return h.cmd.ProcessState.ExitCode() == 0
}

// sound wants what there is of a session that was killed to be complete: results checks the files of each record.
func (h *harm) sound(session string) {
	h.t.Helper()
	if _, err := os.Stat(h.folder(session)); errors.Is(err, fs.ErrNotExist) {
		return
	}
	for name, values := range h.results(session) {
		if e := difference(values, h.want[name]); e != 0 {
			h.t.Errorf("%s of %s, which was killed, is %.1e off", name, session, e)
		}
	}
}

// swept wants no socket to be left after somebody has looked for sessions.
func (h *harm) swept() {
	h.t.Helper()
	look := &exec.Cmd{Path: h.self(), Args: []string{"voxcam", "recover", "--clear-cache", "--dry-run"}, Dir: h.dir}
	if out, err := look.CombinedOutput(); err != nil {
		h.t.Errorf("%v: %s", err, out)
	}
	h.noSockets()
}
