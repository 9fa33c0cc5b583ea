package worker

import (
	"os/exec"
	"testing"
)

// Only a kill by the system since the child began is one for want of memory. Where the system does not count (-1), a kill from outside is taken
// for one.
func TestKilledForWantOfMemory(t *testing.T) {
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
		before, after int
		want          bool
	}{
		"killed by the system":           {killed, 3, 4, true},
		"killed, nobody counts":          {killed, -1, -1, true},
		"killed by somebody else":        {killed, 0, 0, false},
		"killed by somebody, others too": {killed, 3, 3, false},
		"ended by itself":                {done, 3, 4, false},
	} {
		c := &child{cmd: test.cmd, kills: test.before, ended: make(chan struct{}), gone: make(chan struct{}), stderr: &tail{}}
		close(c.ended)
		close(c.gone)
		w := &Worker{child: c, set: Options{OOMKills: func() int { return test.after }}}
		if died := w.Died(); died.OutOfMemory != test.want {
			t.Errorf("%s: %+v", name, died)
		}
	}
}
