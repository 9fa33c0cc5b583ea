package dl_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/dl"
)

func TestNVIDIADirs(t *testing.T) {
	root := t.TempDir()
	folder := func(path string) string {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := func(path string) {
		folder(filepath.Dir(path))
		if err := os.WriteFile(filepath.Join(root, path), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := func(old, path string) {
		folder(filepath.Dir(path))
		if err := os.Symlink(filepath.Join(root, old), filepath.Join(root, path)); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		folder("chosen"),
		folder("chosen/lib"),
		folder("loader"),
		folder("conda/lib"),
		folder("conda/lib/python3.12/site-packages/nvidia/cudnn/lib"),
		folder("venv/lib/python3.13/site-packages/nvidia/cu13/lib"),
		folder("path/lib/python3.11/site-packages/nvidia/cudnn/lib"),
		folder("base/lib/python3.11/dist-packages/nvidia/cublas/lib"),
		folder("home/.local/lib/python3.10/site-packages/nvidia/cudnn/lib"),
	}
	file("base/bin/python3.11")
	link("base/bin/python3.11", "path/bin/python3")
	link("loader", "again") // is searched once
	t.Setenv("LD_LIBRARY_PATH", want[2]+":"+root+"/missing:"+root+"/again")
	t.Setenv("CONDA_PREFIX", root+"/conda")
	t.Setenv("VIRTUAL_ENV", root+"/venv")
	t.Setenv("PATH", root+"/path/bin")
	t.Setenv("HOME", root+"/home")
	got := slices.DeleteFunc(dl.NVIDIADirs(want[0]), func(dir string) bool { return !strings.HasPrefix(dir, root) }) // not this system's
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestMissing(t *testing.T) {
	dir := t.TempDir()
	_, err := dl.Open([]string{"libnone.so.9", "libnone.so"}, []string{dir})
	missing, ok := errors.AsType[*dl.MissingError](err)
	if !ok || len(missing.Names) != 2 || !strings.Contains(err.Error(), "libnone.so.9 or libnone.so") || !strings.Contains(err.Error(), dir) {
		t.Error(err)
	}
}

// TestBroken: that a file is there and cannot be loaded is what the error says, not that the loader's path has none.
func TestBroken(t *testing.T) {
	linux(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "libnone.so.9"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := dl.Open([]string{"libnone.so.9"}, []string{dir})
	if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "libnone.so.9")+" cannot be loaded: ") {
		t.Error(err)
	}
}

func TestCall(t *testing.T) {
	linux(t)
	lib, err := dl.Open([]string{"libc.so.6"}, nil)
	if err != nil {
		t.Skip(err) // another C library
	}
	if !filepath.IsAbs(lib.Path()) {
		t.Errorf("the path is %s", lib.Path())
	}
	var abs, none uintptr
	if err := dl.Bind(lib, []dl.Symbol{{Name: "abs", To: &abs}, {Name: "no_such_function", To: &none, Optional: true}}); err != nil {
		t.Fatal(err)
	}
	minus := -5
	if got := int32(dl.Call(abs, uintptr(minus))); got != 5 || none != 0 {
		t.Errorf("abs(-5) = %d", got)
	}
	err = dl.Bind(lib, []dl.Symbol{{Name: "abs", To: &abs}, {Name: "no_such_function", To: &none}})
	if err == nil || !strings.Contains(err.Error(), "lacks no_such_function") {
		t.Error(err)
	}
	if _, err := lib.Symbol("no_such_function"); err == nil || !strings.Contains(err.Error(), lib.Path()) {
		t.Error(err)
	}
}

func linux(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("shared libraries are loaded on Linux only")
	}
}
