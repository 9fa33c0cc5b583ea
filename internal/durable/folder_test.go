package durable

import (
	"errors"
	"io/fs"
	"os"
	"testing"
)

// unfinished lists what lies among unfinished files.
func unfinished(t *testing.T, f *Folder) []fs.DirEntry {
	t.Helper()
	entries, err := os.ReadDir(f.Path(partialName))
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// What was removed takes no room, and what was linked is one file with two names, both to be read.
func TestNothingStaysUnfinished(t *testing.T) {
	f := open(t, t.TempDir())
	stage, err := f.Stage("maps/case")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stage.Write("a", text("hello")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(stage.Link("a", "links/a"), stage.Commit()); err != nil {
		t.Fatal(err)
	}
	first, err := os.Stat(f.Path("maps/case/a"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.Stat(f.Path("links/a"))
	if err != nil || !os.SameFile(first, second) {
		t.Errorf("a copy instead of a link: %v", err)
	}
	for _, name := range []string{"maps/case/a", "links/a"} {
		if b, err := fs.ReadFile(f.FS(), name); err != nil || string(b) != "hello" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if err := errors.Join(f.Remove("maps/case"), f.Remove("maps/case"), f.Remove("links/a")); err != nil {
		t.Error(err)
	}
	if left := unfinished(t, f); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := f.FS().Open("links/a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that was removed: %v", err)
	}
}

// RemoveEmpty removes an empty folder, and nothing else: no file, nor a folder with something in it.
func TestRemoveEmpty(t *testing.T) {
	f := open(t, t.TempDir())
	if err := os.Mkdir(f.Path("empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "full/file"} {
		if _, err := f.WriteFile(name, text("")); err != nil {
			t.Fatal(err)
		}
	}
	for name, stays := range map[string]bool{"empty": false, "file": true, "full": true, "missing": false} {
		f.RemoveEmpty(name)
		if _, err := os.Lstat(f.Path(name)); (err == nil) != stays {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOnlyOurs(t *testing.T) {
	f := open(t, t.TempDir())
	ours := func() bool {
		entries, err := os.ReadDir(f.Root())
		if err != nil || len(entries) < 2 {
			t.Fatal(entries, err)
		}
		return OnlyOurs(entries)
	}
	if !OnlyOurs(nil) || !ours() {
		t.Error("a new folder holds something else")
	}
	if _, err := f.WriteFile("file", text("")); err != nil {
		t.Fatal(err)
	}
	if ours() {
		t.Error("a file is not seen")
	}
}

// What is kept gets a number of its own each time.
func TestKeptTwice(t *testing.T) {
	f := open(t, t.TempDir())
	for _, want := range []string{"case.kept-1", "case.kept-2"} {
		if _, err := f.WriteFile("case/notes", text(want)); err != nil {
			t.Fatal(err)
		}
		kept, err := f.RemoveOurs("case", func(string) bool { return false })
		if err != nil || kept != want {
			t.Errorf("kept as %q, %v, want %q", kept, err, want)
		}
		if b, _ := os.ReadFile(f.Path(want + "/notes")); string(b) != want {
			t.Errorf("%s holds %q", want, b)
		}
	}
}
