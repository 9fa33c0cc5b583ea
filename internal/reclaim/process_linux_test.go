package reclaim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/voxcam/voxcam/internal/gpusurvey"
)

// roleKey makes the test binary, run again, a process of that role.
const roleKey = "RESCUE_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleKey); role != "" {
		if err := play(role); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// play is a process that holds memory (holder), one that does so and ignores SIGTERM (deaf), or one with a holder as its child, which it
// leaves behind as soon as its input ends (session).
func play(role string) error {
	time.AfterFunc(time.Minute, func() { os.Exit(2) }) // should a test forget it
	switch role {
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
	case "session":
		child := exec.Command(os.Args[0], "worker")
		child.Env = append(os.Environ(), roleKey+"=holder")
		out, err := child.StdoutPipe()
		if err != nil {
			return err
		}
		if err := child.Start(); err != nil {
			return err
		}
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			return err
		}
		fmt.Println(child.Process.Pid)
		_, err = io.Copy(io.Discard, os.Stdin)
		return err
	}
	if err := takeMemory(); err != nil {
		return err
	}
	fmt.Println(os.Getpid())
	select {}
}

// child starts a process of a role, and returns it with the number that it prints.
func child(t *testing.T, role, argument string) (cmd *exec.Cmd, pid int, end func()) {
	t.Helper()
	cmd = exec.Command(os.Args[0], argument)
	cmd.Env = append(os.Environ(), roleKey+"="+role)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		pid, err = strconv.Atoi(strings.TrimSpace(line))
	}
	if err != nil {
		t.Fatal(err)
	}
	end = func() { in.Close(); cmd.Wait() }
	t.Cleanup(func() {
		cmd.Process.Kill()
		end()
		if pid != cmd.Process.Pid { // in the same group nobody else has started
			if p, err := gpusurvey.Identify(pid); err == nil && p.Program {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	return cmd, pid, end
}

// user is this machine as somebody sees it who is not root, for tests that run as root.
type user struct{ System }

func (u user) Find(pid int) (Process, error) {
	p, err := u.System.Find(pid)
	for _, id := range []*int{&p.UID, &p.Euid} {
		if *id == 0 {
			*id = me
		}
	}
	return p, err
}

// byNumber is the machine without pidfd.
type byNumber struct{ System }

func (b byNumber) Hold(pid int) (Handle, error) {
	p, err := b.Find(pid)
	return &number{b.System.(user).System.(machine), pid, p.Started}, err
}

func thisMachine(t *testing.T) System {
	t.Helper()
	exe, err := os.Executable() // for the driver, which is mapped in all who use it
	if err != nil {
		t.Fatal(err)
	}
	return user{Machine(exe)}
}

// alive is a GPU whose memory belongs to processes as long as they live.
func alive(bytes map[int]int) func(context.Context) ([]gpusurvey.GPU, error) {
	return func(context.Context) ([]gpusurvey.GPU, error) {
		c := &card{total: 1000, holds: map[int]int{}}
		for pid, n := range bytes {
			if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
				if ended, _, err := parseStat(string(stat)); err != nil || ended {
					continue
				}
				c.holds[pid] = n
			}
		}
		return c.survey(context.Background())
	}
}

func TestRealProcessesEnd(t *testing.T) {
	for _, c := range []struct {
		role, how string
		grace     time.Duration
		system    func(System) System
	}{
		{"holder", EndedTerm, 20 * time.Second, nil},
		{"deaf", EndedKill, 50 * time.Millisecond, nil},
		{"holder", EndedTerm, 20 * time.Second, func(s System) System { return byNumber{s} }},
		{"deaf", EndedKill, 50 * time.Millisecond, func(s System) System { return byNumber{s} }},
	} {
		t.Run(c.role, func(t *testing.T) {
			cmd, pid, _ := child(t, c.role, "hold")
			s := thisMachine(t)
			if c.system != nil {
				s = c.system(s)
			}
			o := Options{System: s, Survey: alive(map[int]int{pid: 100, os.Getpid(): 7}), End: true, Grace: c.grace, Consent: Consent{Named: []int{pid}},
				Sessions: func(context.Context) ([]Session, error) { return nil, nil }}
			r, err := Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if got := find(t, r, "end", pid); !got.Done || got.Freed != 100 || !strings.HasPrefix(got.Text, c.how) {
				t.Errorf("%+v", got)
			}
			cmd.Wait()
			if s := cmd.ProcessState.Sys().(syscall.WaitStatus); !s.Signaled() {
				t.Errorf("it ended by itself: %v", cmd.ProcessState)
			}
		})
	}
}

// Yes ends a worker when its session is gone, and not before; never this process or what began it.
func TestOnlyOrphansEndUnasked(t *testing.T) {
	_, worker, end := child(t, "session", "run")
	_, plain, _ := child(t, "holder", "hold")
	s := thisMachine(t)
	o := Options{System: s, Survey: alive(map[int]int{worker: 100, plain: 50, os.Getpid(): 7, os.Getppid(): 3}), End: true, Grace: 20 * time.Second,
		Consent: Consent{Yes: true}, Sessions: func(context.Context) ([]Session, error) { return nil, nil }}
	r, err := Run(t.Context(), o)
	if err != nil || len(r.Steps) != 0 {
		t.Fatalf("a worker with a session was not left alone: %+v, %v", r.Steps, err)
	}
	end()
	if r, err = Run(t.Context(), o); err != nil || len(r.Steps) != 1 {
		t.Fatalf("%+v, %+v, %v", r.Steps, r.Processes, err)
	}
	if got := find(t, r, "end", worker); !got.Done || got.Freed != 100 || !strings.HasPrefix(got.Text, EndedTerm) {
		t.Errorf("%+v", got)
	}
	if p, err := s.Find(plain); err != nil || p.Ended {
		t.Errorf("the other process: %+v, %v", p, err)
	}
}

func TestThisProcess(t *testing.T) {
	s := Machine()
	p, err := s.Find(os.Getpid())
	if err != nil || p.UID != os.Getuid() || p.Euid != os.Geteuid() || p.Parent != os.Getppid() || p.Ended || p.Age < 0 || p.Age > time.Hour {
		t.Errorf("%+v, %v", p, err)
	}
	family, err := ancestors(s)
	if err != nil || !family[os.Getpid()] || !family[os.Getppid()] {
		t.Errorf("%v, %v", family, err)
	}
	if _, err := s.Find(1 << 30); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such process: %v", err)
	}
	if _, err := s.Hold(1 << 22); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EINVAL) {
		t.Errorf("no such process: %v", err)
	}
}
