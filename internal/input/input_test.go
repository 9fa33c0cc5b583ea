package input

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, link} {
		f, info, err := Open(p)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if info.Size() != 5 {
			t.Errorf("%s: %d bytes", p, info.Size())
		}
		if text, err := ReadFile(p, 5); err != nil || string(text) != "hello" {
			t.Errorf("read %q, %v", text, err)
		}
	}
	if _, err := ReadFile(path, 4); err == nil || !strings.Contains(err.Error(), "more than 4 bytes") {
		t.Errorf("a file that is too long: %v", err)
	}
	if _, _, err := Open(path + "?"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// Nobody writes into the pipe, so that a reader that waits hangs this test.
func TestWhatIsNoFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(pipe, link); err != nil {
		t.Fatal(err)
	}
	for path, what := range map[string]string{
		pipe: "a pipe", link: "a pipe", socket: "a socket", dir: "a folder", "/dev/zero": "a device", "/dev/tty": "a device",
	} {
		_, _, err := Open(path)
		if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(path, "/dev") {
			continue
		}
		if !errors.Is(err, ErrNotRegular) || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want words on %s", path, err, what)
		}
		if _, err := ReadFile(path, 1); !errors.Is(err, ErrNotRegular) {
			t.Errorf("%s read: %v", path, err)
		}
	}
}
