package harm

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/voxcam/voxcam/internal/control"
)

// Limits of waiting, far longer than needed.
const (
	patience  = 30 * time.Second // for an answer of a run
	processes = time.Minute      // for processes to vanish after a run
)

// Program returns a call of the program, with the rig's GPU.
func (r *Rig) Program(args ...string) *exec.Cmd {
	r.T.Helper()
	self, err := os.Executable()
	if err != nil {
		r.T.Fatal(err)
	}
	return &exec.Cmd{Path: self, Args: append([]string{r.program}, args...), Dir: r.Dir}
}

// HarmOnce lets the simulator harm the first worker alone of the runs to come: the one that makes the file mark. Without faults it harms none.
func (r *Rig) HarmOnce(mark, faults string) {
	r.program, r.env = programOnce, []string{onceMark + "=" + mark, onceFaults + "=" + faults}
}

// HarmEach lets the simulator harm each process of the runs to come.
func (r *Rig) HarmEach(faults string) { r.program, r.env = program, []string{Faults + "=" + faults} }

// HarmNone ends the harm of HarmOnce and HarmEach.
func (r *Rig) HarmNone() { r.program, r.env = program, nil }

// Start starts the run of a session.
func (r *Rig) Start(session string, args ...string) {
	r.T.Helper()
	r.out, r.done = &bytes.Buffer{}, make(chan struct{})
	r.Cmd = r.Program(slices.Concat([]string{"run", "--config", "config.toml", "--session", session}, r.Args, args)...)
	r.Cmd.Env, r.Cmd.Stdout, r.Cmd.Stderr, r.Cmd.WaitDelay = append(os.Environ(), r.env...), r.out, r.out, time.Second
	if err := r.Cmd.Start(); err != nil {
		r.T.Fatal(err)
	}
	cmd, done := r.Cmd, r.done
	go func() {
		defer close(done)
		cmd.Wait() //nolint:errcheck // the state says more
	}()
	r.T.Cleanup(func() { cmd.Process.Kill() }) //nolint:errcheck // it has ended, if all went well
}

// Run runs a session from its beginning to its end, and returns its output.
func (r *Rig) Run(session string, code int, args ...string) string {
	r.T.Helper()
	r.Start(session, args...)
	return r.Finish(code)
}

// IsRunning reports whether the run has not ended.
func (r *Rig) IsRunning() bool {
	select {
	case <-r.done:
		return false
	default:
		return true
	}
}

// Done returns a channel that is closed when the run has ended.
func (r *Rig) Done() <-chan struct{} { return r.done }

// Finish waits for the run's end, wants its exit code and that nothing of it is left in the machine, and returns its output.
func (r *Rig) Finish(code int) string {
	r.T.Helper()
	select {
	case <-r.done:
	case <-time.After(4 * patience):
		r.Cmd.Process.Signal(syscall.SIGQUIT) //nolint:errcheck // the test fails anyway
		<-r.done
		r.T.Fatalf("the run does not end:\n%s", r.out.String())
	}
	if got := r.Cmd.ProcessState.ExitCode(); got != code {
		r.T.Errorf("exit code %d instead of %d:\n%s", got, code, r.out.String())
	}
	r.IsGone()
	return r.out.String()
}

// IsGone waits until no process of the runs lives.
func (r *Rig) IsGone() {
	r.T.Helper()
	for began := time.Now(); len(r.processes()) > 0; time.Sleep(2 * time.Millisecond) {
		if time.Since(began) > processes {
			r.T.Fatalf("processes are left: %v\n%s", r.processes(), r.out.String())
		}
	}
}

// processes are those that use the test's GPU and live, but for the test's own.
func (r *Rig) processes() (pids []int) {
	found, _ := filepath.Glob("/proc/[0-9]*/environ")
	mark := []byte("SIMULATOR_DEVICE=" + r.GPU.File + "\x00")
	for _, path := range found {
		text, err := os.ReadFile(path) // of a process that has ended it is empty
		if pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil && bytes.Contains(text, mark) && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Workers returns the workers among the processes that use the GPU, by their process IDs.
func (r *Rig) Workers() (pids []int) {
	for _, pid := range r.processes() {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err == nil && bytes.Contains(text, []byte("VOXCAM_WORKER=1\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Until asks the latest run for its status until will accepts it.
func (r *Rig) Until(what string, will func(control.Status) bool) (*control.Client, control.Status) {
	r.T.Helper()
	var status control.Status
	for began := time.Now(); time.Since(began) < patience; time.Sleep(5 * time.Millisecond) {
		client, err := control.Dial(r.T.Context(), r.Cmd.Process.Pid)
		if err != nil {
			continue
		}
		if status, err = client.Status(r.T.Context()); err == nil && will(status) {
			return client, status
		}
	}
	r.Cmd.Process.Kill() //nolint:errcheck // the test fails anyway
	<-r.done
	r.T.Fatalf("%s did not come: %+v\n%s", what, status, r.out.String())
	return nil, status
}

// IsComputing reports whether a session is in the middle of a sample.
func IsComputing(s control.Status) bool { return s.Passes > 0 && s.Sample != "" }
