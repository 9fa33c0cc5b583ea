package worker

import (
	"os/exec"
	"strings"
	"testing"
)

// Only a child that computed on the processor, and that the system has killed since it began, leaves less memory to the next one: half the
// first time, then the least. Where the system does not count (-1), a kill from outside is taken for one for want of memory.
func TestWhoLeavesLessMemory(t *testing.T) {
	killed := exec.Command("sleep", "60")
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	killed.Process.Kill() //nolint:errcheck // it runs
	killed.Wait()         //nolint:errcheck // it was killed
	done := exec.Command("true")
	if err := done.Run(); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		cmd           *exec.Cmd
		processor     bool
		before, after int
		want          []string // budgets after one such end and another
	}{
		"killed by the system":           {killed, true, 3, 4, []string{"4294967296", "min"}},
		"killed, nobody counts":          {killed, true, -1, -1, []string{"4294967296", "min"}},
		"killed by somebody else":        {killed, true, 0, 0, []string{"8GiB", "8GiB"}},
		"killed by somebody, others too": {killed, true, 3, 3, []string{"8GiB", "8GiB"}},
		"computed on a device":           {killed, false, 3, 4, []string{"8GiB", "8GiB"}},
		"ended by itself":                {done, true, 3, 4, []string{"8GiB", "8GiB"}},
	} {
		w := &Worker{budget: "8GiB", changed: make(chan struct{}), set: Options{oomKills: func() int { return test.after }}}
		c := &child{cmd: test.cmd, processor: test.processor, kills: test.before, ended: make(chan struct{})}
		close(c.ended)
		for i, want := range test.want {
			said := w.lessMemory(c)
			if w.budget != want || strings.Contains(said, "budget of "+want) != (want != "8GiB") {
				t.Errorf("%s, end %d: budget %s, %q, want %s", name, i+1, w.budget, said, want)
			}
		}
	}
}
