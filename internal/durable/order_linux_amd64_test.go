package durable

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tracedFolder, if set, makes this test binary the program that TestOrderOfSystemCalls looks at.
const tracedFolder = "DURABLE_TEST_TRACED"

// The order of system calls decides what is left after a power failure: bytes reach the disk before the name that they get, and the folder with
// the name before the call returns. The calls are those of a process that does each operation once.
func TestOrderOfSystemCalls(t *testing.T) {
	if dir := os.Getenv(tracedFolder); dir != "" {
		doEverything(t, dir)
		return
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d := disk{root: dir, dirty: map[string]string{}}
	output := trace(t, dir, d.see)
	if !strings.Contains(output, "PASS") {
		t.Fatalf("the traced process failed:\n%s", output)
	}
	if want := []string{"WriteFile", "Open", "Folder.WriteFile", "Stage.Write", "Stage.Link", "Commit", "Commit again", "Remove", "Close"}; !slices.Equal(d.returned, want) {
		t.Fatalf("the traced process did %q, not %q\n%s", d.returned, want, strings.Join(d.history, "\n"))
	}
	for _, p := range d.problems {
		t.Error(p)
	}
	if len(d.problems) > 0 {
		t.Logf("the calls were\n%s", strings.Join(d.history, "\n"))
	}
	if d.renamed < 5 || d.synced < 10 {
		t.Errorf("%d renames and %d syncs were seen", d.renamed, d.synced)
	}
}

// doEverything does each operation, and writes its name to the standard output when it has returned.
func doEverything(t *testing.T, dir string) {
	done := func(what string, err error) {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		os.Stdout.WriteString("returned " + what)
	}
	_, err := WriteFile(filepath.Join(dir, "alone"), text("hello"))
	done("WriteFile", err)
	f, err := Open(filepath.Join(dir, "new", "session"))
	done("Open", err)
	_, err = f.WriteFile("some/where/file", func(w *File) error {
		if _, err := io.WriteString(w, "hellx"); err != nil {
			return err
		}
		_, err := w.WriteAt([]byte("o"), 4)
		return err
	})
	done("Folder.WriteFile", err)
	for _, commit := range []string{"Commit", "Commit again"} {
		stage, err := f.Stage("maps/val/case")
		if err != nil {
			t.Fatal(err)
		}
		_, err = stage.Write("first", text("hello"))
		if err == nil {
			_, err = stage.Write("second", text("hello"))
		}
		if commit == "Commit" {
			done("Stage.Write", err)
			done("Stage.Link", stage.Link("first", "links/first"))
		}
		done(commit, stage.Commit())
	}
	done("Remove", f.Remove("maps/val/case"))
	done("Close", f.Close())
}

// disk knows what a power failure would lose.
type disk struct {
	root            string
	dirty           map[string]string // files with bytes, and folders with names, that are not on the disk, and why
	returned        []string          // operations
	problems        []string
	history         []string
	renamed, synced int
}

// temporary reports whether nobody misses a path after a power failure.
func (d *disk) temporary(path string) bool {
	return strings.Contains(path, "/"+partialName) || strings.HasSuffix(path, "/.lock")
}

// named notes that a folder has another name in it, or one less.
func (d *disk) named(path, why string) {
	if d.temporary(path) && (strings.HasSuffix(path, "/"+partialName) || strings.HasSuffix(path, "/.lock")) {
		return
	}
	d.dirty[filepath.Dir(path)] = why
}

// see takes in a system call. Other paths than those below root are not looked at.
func (d *disk) see(call string, paths ...string) {
	if call == "returned" {
		d.history = append(d.history, call+" "+paths[0])
		d.returned = append(d.returned, paths[0])
		for path, why := range d.dirty {
			if !d.temporary(path) {
				d.problems = append(d.problems, fmt.Sprintf("%s returned, and %s is not on the disk since %s", paths[0], path, why))
				delete(d.dirty, path) // told once
			}
		}
		return
	}
	if !strings.HasPrefix(paths[len(paths)-1], d.root) {
		return
	}
	this := call + " " + strings.Join(paths, " ")
	d.history = append(d.history, this)
	path := paths[0]
	switch call {
	case "write":
		d.dirty[path] = this
	case "sync":
		d.synced++
		delete(d.dirty, path)
	case "create", "mkdir", "link":
		d.named(paths[len(paths)-1], this)
	case "unlink":
		d.named(path, this)
		delete(d.dirty, path)
	case "rename":
		d.renamed++
		to := paths[1]
		for lost, why := range d.dirty {
			if (lost == path || strings.HasPrefix(lost, path+"/")) && !d.temporary(to) {
				d.problems = append(d.problems, fmt.Sprintf("%s gets the name %s, and %s is not on the disk since %s", path, to, lost, why))
			}
			if lost == path || strings.HasPrefix(lost, path+"/") {
				delete(d.dirty, lost)
			}
		}
		d.named(to, this)
		if !d.temporary(path) {
			d.named(path, this)
		}
	}
}

// trace runs this test in another process, tells of the system calls that change files, and returns what the process wrote.
func trace(t *testing.T, dir string, tell func(call string, paths ...string)) string {
	t.Helper()
	runtime.LockOSThread() // all of a trace is done by one thread
	defer runtime.UnlockOSThread()
	file, err := os.Create(filepath.Join(t.TempDir(), "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestOrderOfSystemCalls$")
	cmd.Env = append(os.Environ(), tracedFolder+"="+dir)
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Skipf("ORDER OF SYSTEM CALLS NOT CHECKED: processes cannot be traced here: %v", err)
	}
	pid := cmd.Process.Pid
	deadline := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() }) //nolint:errcheck // it may have ended
	defer deadline.Stop()
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		t.Fatal(err)
	}
	const sysgood, kill = 1, 0x100000 // PTRACE_O_TRACESYSGOOD, PTRACE_O_EXITKILL
	if err := syscall.PtraceSetOptions(pid, sysgood|kill|syscall.PTRACE_O_TRACECLONE); err != nil {
		cmd.Process.Kill() //nolint:errcheck // as above
		t.Skipf("ORDER OF SYSTEM CALLS NOT CHECKED: processes cannot be traced here: %v", err)
	}
	inside := map[int]bool{} // threads that are in a call
	for thread, deliver := pid, 0; ; {
		if err := syscall.PtraceSyscall(thread, deliver); err != nil && err != syscall.ESRCH {
			t.Fatal(err)
		}
		if thread, err = syscall.Wait4(-1, &status, syscall.WALL, nil); err != nil {
			t.Fatal(err)
		}
		deliver = 0
		switch {
		case (status.Exited() || status.Signaled()) && thread == pid:
			text, err := os.ReadFile(file.Name())
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		case status.Stopped() && status.StopSignal() == syscall.SIGTRAP|0x80:
			if inside[thread] = !inside[thread]; inside[thread] {
				var regs syscall.PtraceRegs
				if err := syscall.PtraceGetRegs(thread, &regs); err == nil {
					look(pid, &regs, tell)
				}
			}
		case status.Stopped() && status.StopSignal() != syscall.SIGTRAP && status.StopSignal() != syscall.SIGSTOP:
			deliver = int(status.StopSignal()) // the runtime's own signals
		}
	}
}

// look tells of the system call that a thread begins.
func look(pid int, r *syscall.PtraceRegs, tell func(call string, paths ...string)) {
	const renameat2 = 316
	here := -100 // AT_FDCWD
	switch r.Orig_rax {
	case syscall.SYS_WRITE:
		if r.Rdi == 1 {
			if name, ok := strings.CutPrefix(readText(pid, r.Rsi, int(r.Rdx)), "returned "); ok {
				tell("returned", name)
			}
			return
		}
		tell("write", fileOf(pid, r.Rdi))
	case syscall.SYS_PWRITE64, syscall.SYS_FTRUNCATE:
		tell("write", fileOf(pid, r.Rdi))
	case syscall.SYS_FSYNC, syscall.SYS_FDATASYNC:
		tell("sync", fileOf(pid, r.Rdi))
	case syscall.SYS_OPENAT:
		path := pathOf(pid, int(int32(r.Rdi)), r.Rsi)
		if _, err := os.Lstat(path); err != nil && r.Rdx&syscall.O_CREAT != 0 {
			tell("create", path)
		}
	case syscall.SYS_MKDIR:
		tell("mkdir", pathOf(pid, here, r.Rdi))
	case syscall.SYS_MKDIRAT:
		tell("mkdir", pathOf(pid, int(int32(r.Rdi)), r.Rsi))
	case syscall.SYS_UNLINKAT:
		tell("unlink", pathOf(pid, int(int32(r.Rdi)), r.Rsi))
	case syscall.SYS_UNLINK, syscall.SYS_RMDIR:
		tell("unlink", pathOf(pid, here, r.Rdi))
	case syscall.SYS_LINKAT:
		tell("link", pathOf(pid, int(int32(r.Rdi)), r.Rsi), pathOf(pid, int(int32(r.Rdx)), r.R10))
	case syscall.SYS_RENAME:
		tell("rename", pathOf(pid, here, r.Rdi), pathOf(pid, here, r.Rsi))
	case syscall.SYS_RENAMEAT, renameat2:
		tell("rename", pathOf(pid, int(int32(r.Rdi)), r.Rsi), pathOf(pid, int(int32(r.Rdx)), r.R10))
	}
}

// fileOf is the path of an open file.
func fileOf(pid int, fd uint64) string {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
	if err != nil {
		return ""
	}
	return path
}

// pathOf is the path that a call names, relative to an open folder.
func pathOf(pid, folder int, at uint64) string {
	name := readText(pid, at, 4096)
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	dir, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/fd/" + strconv.Itoa(folder))
	if folder < 0 || err != nil {
		dir, _ = os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	}
	return filepath.Join(dir, name)
}

// readText reads a string of the traced process, which ends at a zero or after so many bytes.
func readText(pid int, at uint64, most int) string {
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return ""
	}
	defer memory.Close()
	text := make([]byte, most)
	n, _ := memory.ReadAt(text, int64(at)) // as far as it is mapped
	text, _, _ = bytes.Cut(text[:n], []byte{0})
	return string(text)
}
