package durable

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func text(s string) func(*File) error {
	return func(w *File) error { _, err := io.WriteString(w, s); return err }
}

func open(t *testing.T, root string) *Folder {
	t.Helper()
	f, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// sha256 of "hello"
const helloSum = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"

func TestWriteFileDescribesWhatItWrote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.txt")
	for name, write := range map[string]func(*File) error{
		"sequential": text("hello"),
		"seeking": func(w *File) error {
			if _, err := io.WriteString(w, "xello"); err != nil {
				return err
			}
			if _, err := w.Seek(0, io.SeekStart); err != nil {
				return err
			}
			_, err := io.WriteString(w, "h")
			return err
		},
		"at": func(w *File) error {
			if _, err := io.WriteString(w, "hexxo"); err != nil {
				return err
			}
			_, err := w.WriteAt([]byte("ll"), 2)
			return err
		},
	} {
		info, err := WriteFile(path, write)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if info.Bytes != 5 || info.SHA256 != helloSum {
			t.Errorf("%s: got %+v", name, info)
		}
	}
	if info, _ := os.Stat(path); info.Mode().Perm()&0o444 != 0o444&^umask() {
		t.Errorf("mode %v: results must be readable by others as the umask allows", info.Mode())
	}
}

func umask() os.FileMode {
	old := syscall.Umask(0)
	syscall.Umask(old)
	return os.FileMode(old)
}

func TestFailedWriteKeepsTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.txt")
	if _, err := WriteFile(path, text("old")); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	_, err := WriteFile(path, func(w *File) error { io.WriteString(w, "new"); return boom })
	if !errors.Is(err, boom) {
		t.Fatalf("got %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "old" {
		t.Errorf("content %q", b)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("leftovers: %v", entries)
	}
}

func TestStageAppearsOnlyWhenCommitted(t *testing.T) {
	root := filepath.Join(t.TempDir(), "session")
	f := open(t, root)
	stage, err := f.Stage("maps/case")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stage.Write("a", text("hello")); err != nil {
		t.Fatal(err)
	}
	if err := stage.Link("a", "links/second"); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(f.Path("links/second")); string(b) != "hello" {
		t.Fatalf("linked content %q", b)
	}
	if _, err := os.Stat(f.Path("maps")); err == nil {
		t.Fatal("the folder exists before it is committed")
	}
	if err := stage.Commit(); err != nil {
		t.Fatal(err)
	}
	stage.Abort()
	if b, _ := os.ReadFile(f.Path("maps/case/a")); string(b) != "hello" {
		t.Fatalf("content %q", b)
	}

	again, err := f.Stage("maps/case")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Write("b", text("new")); err != nil {
		t.Fatal(err)
	}
	if err := again.Commit(); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(f.Path("maps/case")); len(entries) != 1 || entries[0].Name() != "b" {
		t.Errorf("a new stage must replace the old folder as a whole: %v", entries)
	}
}

func TestOpenSweepsAndLocks(t *testing.T) {
	root := t.TempDir()
	left := filepath.Join(root, partialName, "case-123")
	if err := os.MkdirAll(left, 0o755); err != nil {
		t.Fatal(err)
	}
	f := open(t, root)
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("leftover not swept: %v", err)
	}
	if _, err := Open(root); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "process ") {
		t.Errorf("second Open: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, root)
}

func TestUnwritable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Open(filepath.Join(file, "session"))
	var out *Error
	if !errors.As(err, &out) || !strings.Contains(err.Error(), "choose another output folder") {
		t.Errorf("got %v", err)
	}
	_, err = WriteFile(filepath.Join(t.TempDir(), "missing", "a"), text("x"))
	if !errors.As(err, &out) {
		t.Errorf("got %v", err)
	}
}

// A limit on the size of files stands in for a full disk: the write itself fails after some bytes.
func TestFullDisk(t *testing.T) {
	if dir := os.Getenv("DURABLE_TEST_LIMITED"); dir != "" {
		signal.Ignore(syscall.SIGXFSZ)
		limit := syscall.Rlimit{Cur: 4096, Max: 4096}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
		f, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		stage, err := f.Stage("case")
		if err != nil {
			t.Fatal(err)
		}
		defer stage.Abort()
		_, err = stage.Write("big", func(w *File) error {
			if _, err := w.Write(make([]byte, 10000)); err != nil {
				return errors.New("encoder: " + err.Error()) // an encoder that hides the cause
			}
			return nil
		})
		var out *Error
		if !errors.As(err, &out) || !errors.Is(err, syscall.EFBIG) {
			t.Fatalf("got %v", err)
		}
		if _, err := os.Stat(stage.Path("big")); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("the half-written file is still there: %v", err)
		}
		return
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
	cmd.Env = append(os.Environ(), "DURABLE_TEST_LIMITED="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "case")); err == nil {
		t.Error("a folder with a failed file got its name")
	}
}
