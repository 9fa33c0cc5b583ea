package gpusurvey

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// proc makes a folder of proc(5).
type proc struct {
	t   *testing.T
	dir string
}

func (p proc) add(pid, parent int, exe, maps string, arguments ...string) {
	p.t.Helper()
	dir := filepath.Join(p.dir, fmt.Sprint(pid))
	if err := os.MkdirAll(dir, 0o777); err != nil {
		p.t.Fatal(err)
	}
	line := ""
	for _, a := range arguments {
		line += a + "\x00"
	}
	for name, text := range map[string]string{
		"stat":   fmt.Sprintf("%d (a (b) c) S %d 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 12345 0 0", pid, parent),
		"status": "Name:\ta\nUid:\t987654\t0\t0\t0\n", "cmdline": line, "maps": maps,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			p.t.Fatal(err)
		}
	}
	if exe != "" {
		if err := os.Symlink(exe, filepath.Join(dir, "exe")); err != nil {
			p.t.Fatal(err)
		}
	}
}

func TestIdentify(t *testing.T) {
	p := proc{t, t.TempDir()}
	const cuda = "7f00-7f01 r-xp 0 0 0 /usr/lib/libcuda.so.550.54.15\n"
	p.add(1, 0, "/sbin/init", "")
	p.add(20, 1, "/usr/bin/python3.11", cuda, "python", "train.py", "--lr", "1e-3")
	p.add(30, 1, "/opt/bin/voxcam", "", "voxcam", "run")
	p.add(31, 30, "/opt/bin/voxcam", cuda, "voxcam", "worker")
	p.add(32, 1, "/opt/bin/voxcam (deleted)", cuda, "/opt/bin/voxcam", "worker")
	p.add(33, 999, "/opt/bin/voxcam", cuda, "voxcam", "worker")
	p.add(34, 20, "/opt/bin/voxcam", cuda, "voxcam", "explain", "worker")
	p.add(35, 20, "/tmp/self", cuda, "self", "worker")
	p.add(36, 1, "/usr/bin/python3.11", cuda, "voxcam", "worker") // pretends
	p.add(37, 1, "", cuda, "voxcam", "worker")                    // another user's
	q := &processes{proc: p.dir, self: "/tmp/self", host: true}
	for pid, want := range map[int]struct{ program, orphan bool }{
		20: {}, 30: {program: true}, 31: {program: true}, 32: {true, true}, 33: {true, true}, 34: {program: true}, 35: {true, true}, 36: {}, 37: {},
	} {
		is, err := q.identify(pid)
		if err != nil || is.Program != want.program || is.Orphan != want.orphan || is.Name != "a (b) c" || is.UID != 987654 || is.User != "987654" || is.Started != 12345 {
			t.Errorf("%d: %v, %+v", pid, err, is)
		}
	}
	if is := q.holder(20); is.Command != "python train.py --lr 1e-3" || is.Elsewhere {
		t.Errorf("%+v", is)
	}
	if _, err := q.identify(99); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	// On the host a process that is gone is gone; in a container it is one of another.
	if is := q.holder(99); is.Elsewhere {
		t.Errorf("%+v", is)
	}
	q.host = false
	for pid, want := range map[int]bool{99: true, 20: false, 30: false, 31: false} {
		if is := q.holder(pid); is.Elsewhere != want {
			t.Errorf("%d: %+v", pid, is)
		}
	}
	p.add(40, 1, "/bin/sleep", "7f00-7f01 r-xp 0 0 0 /usr/lib/libc.so.6\n", "sleep", "1")
	if is := q.holder(40); !is.Elsewhere || is.Name != "" || is.PID != 40 {
		t.Errorf("the number of a process without a GPU: %+v", is)
	}
}

func TestIdentifyThisProcess(t *testing.T) {
	is, err := Identify(os.Getpid())
	if err != nil || is.UID != os.Getuid() || is.Parent != os.Getppid() || !is.Program || is.Orphan {
		t.Errorf("%v, %+v", err, is)
	}
}
