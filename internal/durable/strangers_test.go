package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/voxcam/voxcam/internal/input"
)

// outside makes a folder with a file that is not to be touched, and returns it with a check of that.
func outside(t *testing.T) (dir string, untouched func()) {
	t.Helper()
	dir = t.TempDir()
	const precious = "precious, without a newline"
	if err := os.WriteFile(filepath.Join(dir, "only_copy"), []byte(precious), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, func() {
		t.Helper()
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 {
			t.Errorf("the folder outside holds %v, %v", entries, err)
		}
		if text, err := os.ReadFile(filepath.Join(dir, "only_copy")); err != nil || string(text) != precious {
			t.Errorf("the file outside holds %q, %v", text, err)
		}
	}
}

func put(t *testing.T, path string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("x"), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(target, path)); err != nil {
		t.Fatal(err)
	}
}

// Each operation meets a link in each place that it goes through, to a folder, to a file and within the tree.
func TestLinksAreNotFollowed(t *testing.T) {
	dir, untouched := outside(t)
	operations := map[string]func(f *Folder, name string) error{
		"write":  func(f *Folder, name string) error { _, err := f.WriteFile(name, text("new")); return err },
		"append": func(f *Folder, name string) error { _, _, err := f.Append(name); return err },
		"read":   func(f *Folder, name string) error { _, err := fs.ReadFile(f.FS(), name); return err },
		"list":   func(f *Folder, name string) error { _, err := fs.ReadDir(f.FS(), name); return err },
		"remove": func(f *Folder, name string) error { return f.Remove(name) },
		"remove ours": func(f *Folder, name string) error {
			_, err := f.RemoveOurs(name, func(string) bool { return true })
			return err
		},
		"commit": func(f *Folder, name string) error {
			s, err := f.Stage(name)
			if err != nil {
				return err
			}
			defer s.Abort()
			return s.Commit()
		},
		"link": func(f *Folder, name string) error {
			s, err := f.Stage("new")
			if err != nil {
				return err
			}
			defer s.Abort()
			if _, err := s.Write("a", text("new")); err != nil {
				return err
			}
			return s.Link("a", name)
		},
	}
	for operation, do := range operations {
		for _, target := range []string{dir, filepath.Join(dir, "only_copy"), "../real", filepath.Join(dir, "absent")} {
			for _, at := range []string{"a", "a/only_copy", "a/b/c"} {
				root := t.TempDir()
				put(t, filepath.Join(root, "real", "only_copy"))
				link(t, target, filepath.Join(root, "x", "a"))
				err := do(open(t, root), "x/"+at)
				if err == nil {
					t.Errorf("%s of %s through a link to %s was done", operation, at, target)
				}
				if _, err := os.Lstat(filepath.Join(root, "x", "a")); err != nil {
					t.Errorf("%s of %s: the link is gone: %v", operation, at, err)
				}
				if text, _ := os.ReadFile(filepath.Join(root, "real", "only_copy")); string(text) != "x" {
					t.Errorf("%s of %s through a link within the tree", operation, at)
				}
			}
		}
	}
	untouched()
}

func TestNamesStayInside(t *testing.T) {
	dir, untouched := outside(t)
	f := open(t, filepath.Join(dir, "session"))
	defer os.RemoveAll(filepath.Join(dir, "session"))
	for _, name := range []string{"../only_copy", "a/../../only_copy", filepath.Join(dir, "only_copy"), "..", ""} {
		_, err := f.WriteFile(name, text("new"))
		_, kept := f.RemoveOurs(name, func(string) bool { return true })
		stage, serr := f.Stage(name)
		if serr == nil {
			serr = stage.Commit()
			stage.Abort()
		}
		if err == nil || kept == nil || serr == nil || f.Remove(name) == nil {
			t.Errorf("%q: write %v, remove %v, commit %v", name, err, kept, serr)
		}
	}
	f.Close()
	if err := os.RemoveAll(filepath.Join(dir, "session")); err != nil {
		t.Fatal(err)
	}
	untouched()
}

// The lock is written in place, and the folder for unfinished files is emptied.
func TestOpenTouchesNothingOutside(t *testing.T) {
	dir, untouched := outside(t)
	for name, prepare := range map[string]func(root string) error{
		"the lock is a link": func(root string) error {
			return os.Symlink(filepath.Join(dir, "only_copy"), filepath.Join(root, lockName))
		},
		"the lock is a hard link": func(root string) error {
			return os.Link(filepath.Join(dir, "only_copy"), filepath.Join(root, lockName))
		},
		"the lock is a pipe":           func(root string) error { return syscall.Mkfifo(filepath.Join(root, lockName), 0o600) },
		"the lock is a folder":         func(root string) error { return os.Mkdir(filepath.Join(root, lockName), 0o700) },
		"the unfinished are elsewhere": func(root string) error { return os.Symlink(dir, filepath.Join(root, partialName)) },
	} {
		root := t.TempDir()
		if err := prepare(root); err != nil {
			t.Fatal(err)
		}
		f, err := Open(root)
		var out *Error
		if !errors.As(err, &out) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			f.Close()
		}
	}
	untouched()
	root := t.TempDir()
	link(t, dir, filepath.Join(root, partialName, "case"))
	open(t, root)
	untouched()
}

// What is appended to must have no second name, which may be that of a file elsewhere.
func TestAppendRefusesHardLinks(t *testing.T) {
	dir, untouched := outside(t)
	root := t.TempDir()
	if err := os.Link(filepath.Join(dir, "only_copy"), filepath.Join(root, "log")); err != nil {
		t.Skip(err)
	}
	if _, _, err := open(t, root).Append("log"); err == nil || !strings.Contains(err.Error(), "hard link") {
		t.Error(err)
	}
	untouched()
}

func TestRemoveOursKeepsTheRest(t *testing.T) {
	ours := func(name string) bool { return strings.HasPrefix(name, "case_") }
	for name, tc := range map[string]struct {
		made []string // a slash at the end: a folder
		kept []string
	}{
		"ours":           {[]string{"case/case_a", "case/case_b"}, nil},
		"a note":         {[]string{"case/case_a", "case/note.txt"}, []string{"note.txt"}},
		"a folder":       {[]string{"case/case_a", "case/case_b/mine"}, []string{"case_b"}},
		"empty folders":  {[]string{"case/case_a/", "case/b/"}, nil},
		"a file instead": {[]string{"case"}, nil},
	} {
		root := t.TempDir()
		for _, path := range tc.made {
			if p, folder := strings.CutSuffix(path, "/"); folder {
				if err := os.MkdirAll(filepath.Join(root, p), 0o755); err != nil {
					t.Fatal(err)
				}
				continue
			}
			put(t, filepath.Join(root, path))
		}
		f := open(t, root)
		kept, err := f.RemoveOurs("case", ours)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(f.Path("case")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: it is still there: %v", name, err)
		}
		if kept == "" {
			if tc.kept != nil || name == "a file instead" {
				t.Errorf("%s: nothing was kept", name)
			}
			continue
		}
		if info, err := os.Stat(f.Path(kept)); err != nil || kept != "case.kept-1" || !info.IsDir() {
			if name != "a file instead" {
				t.Errorf("%s: %s, %v", name, kept, err)
			}
			continue
		}
		entries, err := os.ReadDir(f.Path(kept))
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if err != nil || !slices.Equal(names, tc.kept) {
			t.Errorf("%s: %v are kept instead of %v, %v", name, names, tc.kept, err)
		}
	}
}

// A replaced file is a regular one: not a device, not what a link leads to, not the link.
func TestWriteFileReplacesOnlyFiles(t *testing.T) {
	dir, untouched := outside(t)
	place := t.TempDir()
	pipe, symlink := filepath.Join(place, "pipe"), filepath.Join(place, "link")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.Symlink(filepath.Join(dir, "only_copy"), symlink)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, symlink, dir} {
		if _, err := WriteFile(path, text("new")); !errors.Is(err, input.ErrNotRegular) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if entries, _ := os.ReadDir(place); len(entries) != 2 {
		t.Errorf("left: %v", entries)
	}
	untouched()
}

// What is made is open to others as far as the umask says.
func TestUmask(t *testing.T) {
	if dir := os.Getenv("DURABLE_TEST_UMASK"); dir != "" {
		f, err := Open(filepath.Join(dir, "session"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		stage, err := f.Stage("maps/case")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stage.Write("a", text("x")); err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteFile("reports/b", text("x"))
		if err := errors.Join(err, stage.Link("a", "links/c"), stage.Commit()); err != nil {
			t.Fatal(err)
		}
		return
	}
	for umask, want := range map[string]string{"077": "-rw------- drwx------", "002": "-rw-rw-r-- drwxrwxr-x"} {
		dir := t.TempDir()
		cmd := exec.Command("sh", "-c", "umask "+umask+` && exec "$0" -test.run='^TestUmask$'`, os.Args[0])
		cmd.Env = append(os.Environ(), "DURABLE_TEST_UMASK="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		err := filepath.WalkDir(filepath.Join(dir, "session"), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err == nil && !strings.Contains(want, fmt.Sprint(info.Mode())) {
				t.Errorf("umask %s: %s is %v", umask, path, info.Mode())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
