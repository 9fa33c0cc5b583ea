package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/voxcam/voxcam/internal/input"
)

// partialName is the sub-folder of a Folder in which unfinished files live. It is emptied by Open.
const partialName = ".partial"

// lockName is the file by which a process has a Folder alone.
const lockName = ".lock"

// errLink says that a link stands where a Folder has files and folders.
var errLink = errors.New("a symbolic link, which is not followed")

// Folder is a tree of results that this process alone writes into, until Close. Names in it are slash-separated and relative to it.
type Folder struct {
	sys  fileSystem
	path string
	root folderHandle
	lock *lock
}

// Open makes the folder if it does not exist, locks it, and removes unfinished files of a killed process. It fails
// with ErrLocked when another process holds it, and with *Error when it cannot be written.
func Open(path string) (*Folder, error) { return openFolder(system{}, path) }

func openFolder(sys fileSystem, path string) (*Folder, error) {
	if err := mkdirAll(sys, path); err != nil {
		return nil, err
	}
	root, err := sys.OpenRoot(path)
	if err != nil {
		return nil, &Error{Path: path, Err: err}
	}
	f := &Folder{sys: sys, path: path, root: root}
	if f.lock, err = f.takeLock(); err != nil {
		root.Close()
		return nil, err
	}
	if err := f.sweep(); err != nil {
		f.Close()
		return nil, err
	}
	if err := f.mkdirAll(partialName); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// OnlyOurs reports whether a folder holds nothing but the files of a new one after Open.
func OnlyOurs(entries []fs.DirEntry) bool {
	return !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() != lockName && e.Name() != partialName })
}

// sweep removes the folder for unfinished files.
func (f *Folder) sweep() error {
	err := f.straight(partialName)
	if err == nil {
		err = f.root.RemoveAll(partialName)
	}
	return f.failed(partialName, err)
}

// Root is the folder's path.
func (f *Folder) Root() string { return f.path }

// Moved reports whether the folder's path no longer leads to it, because the folder or one above it was moved.
func (f *Folder) Moved() bool {
	ours, err := f.root.Stat(".")
	if err != nil {
		return false
	}
	there, err := f.sys.Stat(f.path)
	return errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(ours, there)
}

// Path joins a name to the folder's path. It is for messages and for people: files are opened by the methods of Folder.
func (f *Folder) Path(rel string) string { return filepath.Join(f.path, filepath.FromSlash(rel)) }

// Close removes the folder for unfinished files and gives the lock back.
func (f *Folder) Close() error { return errors.Join(f.sweep(), f.lock.release(), f.root.Close()) }

// failed is err as an *Error about a name, or nil.
func (f *Folder) failed(rel string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Path: f.Path(rel), Err: err}
}

// straight refuses names that lead out of the folder or through a link. A missing file is straight.
func (f *Folder) straight(rel string) error {
	name := filepath.FromSlash(rel)
	if !filepath.IsLocal(name) {
		return fmt.Errorf("%q leads out of the folder", rel)
	}
	parts := strings.Split(name, string(filepath.Separator))
	for i := range parts {
		at := filepath.Join(parts[:i+1]...)
		info, err := f.root.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			return fmt.Errorf("%s is %w", f.Path(filepath.ToSlash(at)), errLink)
		}
	}
	return nil
}

// FS is the tree for reading: its folders and regular files.
func (f *Folder) FS() fs.FS { return tree{f} }

type tree struct{ folder *Folder }

func (t tree) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if err := t.folder.straight(name); err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	info, err := t.folder.root.Lstat(filepath.FromSlash(name))
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case err == nil && info.IsDir():
		return t.folder.root.Open(filepath.FromSlash(name))
	}
	file, _, err := t.folder.openFile(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return file, nil
}

// Log is a file for appending, whose end can be cut off.
type Log interface {
	io.WriteCloser
	Truncate(size int64) error
}

// Append opens a regular file of the tree for appending, or makes it. It is written in place: it is as durable as the system is.
func (f *Folder) Append(rel string) (Log, fs.FileInfo, error) {
	if err := f.mkdirAll(path.Dir(rel)); err != nil {
		return nil, nil, err
	}
	log, info, err := f.openFile(rel, os.O_WRONLY|os.O_APPEND|os.O_CREATE)
	if err != nil {
		return nil, nil, f.failed(rel, err)
	}
	return log, info, nil
}

// openFile opens a regular file. One that is to be written must have no other name, which may lie in another folder.
func (f *Folder) openFile(rel string, flag int) (fileHandle, fs.FileInfo, error) {
	if err := f.straight(rel); err != nil {
		return nil, nil, err
	}
	name := filepath.FromSlash(rel)
	if info, err := f.root.Lstat(name); err == nil { // first, because opening a device may already do something
		if err := input.Regular(f.Path(rel), info); err != nil {
			return nil, nil, err
		}
	}
	file, err := f.root.OpenFile(name, flag|input.Flag, fileMode)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err == nil {
		err = input.Regular(f.Path(rel), info)
	}
	if err == nil && flag != os.O_RDONLY && links(info) > 1 {
		err = errors.New("the file has another name besides (a hard link): remove it here")
	}
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, info, nil
}

// mkdirAll makes a folder of the tree and its missing parents, durably.
func (f *Folder) mkdirAll(rel string) error {
	if err := f.straight(rel); err != nil {
		return f.failed(rel, err)
	}
	name := filepath.FromSlash(rel)
	info, err := f.root.Stat(name)
	if err == nil {
		if !info.IsDir() {
			return f.failed(rel, &fs.PathError{Op: "mkdir", Path: name, Err: syscall.ENOTDIR})
		}
		return nil
	}
	parent := path.Dir(rel)
	if parent != rel {
		if err := f.mkdirAll(parent); err != nil {
			return err
		}
	}
	if err := f.root.Mkdir(name, folderMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return f.failed(rel, err)
	}
	return f.sync(parent)
}

// sync makes the names in a folder of the tree durable.
func (f *Folder) sync(rel string) error { return syncDir(f.root, filepath.FromSlash(rel), f.Path(rel)) }

// temporary makes a folder for unfinished files.
func (f *Folder) temporary(stem string) (name string, err error) {
	return unused(filepath.Join(partialName, stem), func(name string) error { return f.root.Mkdir(name, folderMode) })
}

// WriteFile writes one file of the tree atomically; parents are made.
func (f *Folder) WriteFile(rel string, write func(*File) error) (Info, error) {
	if err := f.mkdirAll(path.Dir(rel)); err != nil {
		return Info{}, err
	}
	return replace(f.root, filepath.FromSlash(rel), partialName, f.Path(rel), write)
}

// Remove deletes a file or a sub-folder of the tree. A sub-folder leaves its name in one step, so that no half of it is
// ever seen. A missing file is no error.
func (f *Folder) Remove(rel string) error {
	if err := f.straight(rel); err != nil {
		return f.failed(rel, err)
	}
	name := filepath.FromSlash(rel)
	if _, err := f.root.Lstat(name); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return f.failed(rel, err)
	}
	grave, err := f.temporary("old")
	if err != nil {
		return f.failed(rel, err)
	}
	if err := f.root.Rename(name, filepath.Join(grave, "old")); err != nil {
		return f.failed(rel, err)
	}
	if err := f.sync(path.Dir(rel)); err != nil {
		return err
	}
	return f.failed(rel, f.root.RemoveAll(grave))
}

// RemoveEmpty removes a sub-folder of the tree if it is there and empty.
func (f *Folder) RemoveEmpty(rel string) {
	name := filepath.FromSlash(rel)
	if info, err := f.root.Lstat(name); err == nil && info.IsDir() && f.straight(rel) == nil {
		f.root.Remove(name) //nolint:errcheck // one that is not empty stays
	}
}

// RemoveOurs is Remove for a file or sub-folder that other programs may have made or added to. It removes only regular files whose names
// ours knows. The rest is kept beside, in NAME.kept-1 or another number, which is returned; "" if there is no rest.
func (f *Folder) RemoveOurs(rel string, ours func(name string) bool) (kept string, err error) {
	if err := f.straight(rel); err != nil {
		return "", f.failed(rel, err)
	}
	info, err := f.root.Lstat(filepath.FromSlash(rel))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", f.failed(rel, err)
	}
	mine := func(e fs.DirEntry) bool { return e.Type().IsRegular() && ours(e.Name()) }
	entries := []fs.DirEntry{fs.FileInfoToDirEntry(info)}
	if info.IsDir() {
		if entries, err = fs.ReadDir(f.FS(), rel); err != nil {
			return "", f.failed(rel, err)
		}
	}
	if !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !mine(e) }) {
		return "", f.Remove(rel)
	}
	for n := 1; ; n++ {
		kept = fmt.Sprintf("%s.kept-%d", rel, n)
		_, err := f.root.Lstat(filepath.FromSlash(kept))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return "", f.failed(kept, err)
		}
	}
	if err := f.root.Rename(filepath.FromSlash(rel), filepath.FromSlash(kept)); err != nil {
		return "", f.failed(rel, err)
	}
	if err := f.sync(path.Dir(rel)); err != nil {
		return "", err
	}
	if !info.IsDir() {
		return kept, nil
	}
	for _, e := range entries {
		if mine(e) || e.IsDir() { // of folders only empty ones can be removed so
			f.root.Remove(filepath.FromSlash(path.Join(kept, e.Name()))) //nolint:errcheck // then it stays
		}
	}
	if f.root.Remove(filepath.FromSlash(kept)) == nil {
		kept = ""
	}
	return kept, nil
}

// Stage is a sub-folder in the making. Its files get their place in the tree all at once, by Commit.
type Stage struct {
	// Ours knows the names of the files that this program puts into such a folder. Other files in an earlier folder of that name are
	// kept by Commit, in the folder Kept, see Folder.RemoveOurs. With nil the earlier folder is removed as it is.
	Ours func(name string) bool
	Kept string

	folder *Folder
	rel    string
	dir    string // relative to the folder's root
	closed bool
}

// Stage begins the sub-folder rel.
func (f *Folder) Stage(rel string) (*Stage, error) {
	dir, err := f.temporary("stage")
	if err != nil {
		return nil, f.failed(rel, err)
	}
	return &Stage{folder: f, rel: rel, dir: dir}, nil
}

// Path returns the place of the file of that name until Commit.
func (s *Stage) Path(name string) string { return filepath.Join(s.folder.path, s.dir, name) }

// Write adds a file and syncs it. It may be called from several goroutines with different names.
func (s *Stage) Write(name string, write func(*File) error) (info Info, err error) {
	return create(s.folder.root, filepath.Join(s.dir, name), s.folder.Path(path.Join(s.rel, name)), write)
}

// Link gives the stage's file name a second name in the tree, at once and beside the first: rel. Where the file system has no links, it
// is a copy.
func (s *Stage) Link(name, rel string) error {
	f := s.folder
	if err := f.mkdirAll(path.Dir(rel)); err != nil {
		return err
	}
	if err := replaceable(f.root, filepath.FromSlash(rel), f.Path(rel)); err != nil {
		return f.failed(rel, err)
	}
	dir, err := f.temporary("link")
	if err != nil {
		return f.failed(rel, err)
	}
	defer f.root.RemoveAll(dir) //nolint:errcheck // what is left is removed by the next Open
	temp := filepath.Join(dir, "link")
	if err := f.root.Link(filepath.Join(s.dir, name), temp); err != nil {
		_, err := f.WriteFile(rel, func(w *File) error {
			file, err := f.root.Open(filepath.Join(s.dir, name))
			if err != nil {
				return err
			}
			defer file.Close()
			_, err = io.Copy(w, file)
			return err
		})
		return err
	}
	if err := f.root.Rename(temp, filepath.FromSlash(rel)); err != nil {
		return f.failed(rel, err)
	}
	return f.sync(path.Dir(rel))
}

// Commit gives the sub-folder its name, replacing an earlier one, and makes that durable. Between the removal of an
// earlier folder and the new name there is a moment with neither.
func (s *Stage) Commit() error {
	if s.closed {
		return errors.New("durable: stage committed twice")
	}
	f := s.folder
	if err := syncDir(f.root, s.dir, f.Path(s.rel)); err != nil {
		return err
	}
	if err := f.mkdirAll(path.Dir(s.rel)); err != nil {
		return err
	}
	var err error
	if s.Ours == nil {
		err = f.Remove(s.rel)
	} else {
		s.Kept, err = f.RemoveOurs(s.rel, s.Ours)
	}
	if err != nil {
		return err
	}
	if err := f.root.Rename(s.dir, filepath.FromSlash(s.rel)); err != nil {
		return f.failed(s.rel, err)
	}
	s.closed = true
	return f.sync(path.Dir(s.rel))
}

// Abort throws an uncommitted stage away. It is harmless after Commit.
func (s *Stage) Abort() {
	if !s.closed {
		s.closed = true
		s.folder.root.RemoveAll(s.dir) //nolint:errcheck // what cannot be removed now is removed by the next Open
	}
}
