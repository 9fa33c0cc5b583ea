// Package durable writes result files so that they are either complete or absent, whatever happens to the process or the
// machine: a file or folder gets its final name by a rename, after its bytes and before its parent folder reached the disk.
//
// A Folder is a tree of results that one process at a time writes into:
//
//	folder, err := durable.Open(dir)           // locks it and removes what a killed process left unfinished
//	defer folder.Close()
//	stage, err := folder.Stage("maps/case-1")  // a sub-folder under a temporary name
//	info, err := stage.Write("map.nii.gz", write)
//	err = stage.Commit()                       // now maps/case-1 exists, complete and on disk
//
// Invariant D1: no name outside the folder .partial ever belongs to an incomplete file.
package durable

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"
)

// partialName is the sub-folder of a Folder in which unfinished files live. It is emptied by Open.
const partialName = ".partial"

// Error is a failure to store results: a full disk, a missing permission. It is the environment's fault, so that the next
// file would fail too; callers stop on it.
type Error struct {
	Path string
	Err  error
}

func (e *Error) Error() string {
	cause := e.Err
	var pe *fs.PathError
	if errors.As(cause, &pe) {
		cause = pe.Err
	}
	var le *os.LinkError
	if errors.As(cause, &le) {
		cause = le.Err
	}
	return fmt.Sprintf("cannot write %s: %v%s", e.Path, cause, advice(e.Err))
}

func (e *Error) Unwrap() error { return e.Err }

// noLocks is for network file systems whose locks are turned off, or whose server of locks does not answer.
const noLocks = "; its file system cannot do that (locks, for example): choose an output folder on another one, such as a local disk"

// remedies says what a user can do about the usual causes.
var remedies = []struct {
	cause  error
	advice string
}{
	{syscall.ENOSPC, "; free some space there or choose another output folder, then run the same session again"},
	{syscall.EDQUOT, "; the disk quota is used up: free some space or choose another output folder, then run the same session again"},
	{syscall.EFBIG, "; the file system or a limit (ulimit -f) forbids a file of this size"},
	{syscall.ENOLCK, noLocks}, {syscall.ENOSYS, noLocks}, {syscall.EOPNOTSUPP, noLocks},
	{syscall.EROFS, "; choose another output folder"},
	{fs.ErrPermission, "; choose another output folder or change its permissions"},
	{syscall.ENOTDIR, "; a part of that path is a file: choose another output folder"},
}

func advice(err error) string {
	for _, r := range remedies {
		if errors.Is(err, r.cause) {
			return r.advice
		}
	}
	return ""
}

// Info describes a file that was written.
type Info struct {
	Bytes  int64
	SHA256 string // hex digest of the content
}

// File is an open result file. It may be written sequentially or with seeks.
type File struct {
	f      *os.File
	path   string // the final path, for messages
	sum    hash.Hash
	seeked bool
	err    error // the first failure of the file system
}

// Write appends at the current position.
func (w *File) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	if !w.seeked {
		w.sum.Write(p[:n])
	}
	return n, w.fail(err)
}

// Seek moves the position; the digest is then computed from the finished file.
func (w *File) Seek(offset int64, whence int) (int64, error) {
	w.seeked = true
	n, err := w.f.Seek(offset, whence)
	return n, w.fail(err)
}

// WriteAt writes at an absolute position without moving the current one.
func (w *File) WriteAt(p []byte, off int64) (int, error) {
	w.seeked = true
	n, err := w.f.WriteAt(p, off)
	return n, w.fail(err)
}

func (w *File) fail(err error) error {
	if err == nil {
		return nil
	}
	err = &Error{Path: w.path, Err: err}
	if w.err == nil {
		w.err = err
	}
	return err
}

// finish returns what was written, once write is done with the file.
func (w *File) finish() (Info, error) {
	size, err := w.f.Seek(0, io.SeekEnd)
	if err != nil {
		return Info{}, w.fail(err)
	}
	if w.seeked {
		w.sum.Reset()
		if _, err := io.Copy(w.sum, io.NewSectionReader(w.f, 0, size)); err != nil {
			return Info{}, w.fail(err)
		}
	}
	return Info{Bytes: size, SHA256: hex.EncodeToString(w.sum.Sum(nil))}, nil
}

// fill runs write on f. A failure of the file system wins over what write made of it.
func fill(f *os.File, path string, write func(*File) error) (Info, error) {
	w := &File{f: f, path: path, sum: sha256.New()}
	err := write(w)
	if w.err != nil {
		return Info{}, w.err
	}
	if err != nil {
		return Info{}, err
	}
	return w.finish()
}

// WriteFile writes path atomically: write fills a temporary file beside it, which replaces path only when complete and
// synced, and the folder is synced after that. An error of write is returned as it is, one of the file system as *Error.
func WriteFile(path string, write func(*File) error) (Info, error) {
	return writeFile(path, filepath.Dir(path), write)
}

func writeFile(path, tempDir string, write func(*File) error) (Info, error) {
	pending, err := renameio.NewPendingFile(path, renameio.WithTempDir(tempDir), renameio.WithPermissions(0o644))
	if err != nil {
		return Info{}, &Error{Path: path, Err: err}
	}
	defer pending.Cleanup()
	info, err := fill(pending.File, path, write)
	if err != nil {
		return Info{}, err
	}
	if err := pending.CloseAtomicallyReplace(); err != nil {
		return Info{}, &Error{Path: path, Err: err}
	}
	return info, SyncDir(filepath.Dir(path))
}

// SyncDir makes the names in a folder durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return &Error{Path: dir, Err: err}
	}
	defer d.Close()
	// Some network file systems cannot sync a folder and say EINVAL; there is nothing more to be done about names then.
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return &Error{Path: dir, Err: err}
	}
	return nil
}

// MkdirAll makes a folder and its missing parents, durably.
func MkdirAll(dir string) error {
	if info, err := os.Stat(dir); err == nil {
		if info.IsDir() {
			return nil
		}
		return &Error{Path: dir, Err: syscall.ENOTDIR}
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := MkdirAll(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return &Error{Path: dir, Err: err}
	}
	return SyncDir(parent)
}

// Folder is a tree of results that this process alone writes into, until Close.
type Folder struct {
	root string
	lock *lock
}

// Open makes the folder if it does not exist, locks it, and removes what a killed process left unfinished in it. It fails
// with ErrLocked when another process holds it, and with *Error when it cannot be written.
func Open(root string) (*Folder, error) {
	if err := MkdirAll(root); err != nil {
		return nil, err
	}
	l, err := takeLock(filepath.Join(root, ".lock"))
	if err != nil {
		return nil, err
	}
	f := &Folder{root: root, lock: l}
	partial := filepath.Join(root, partialName)
	if err := os.RemoveAll(partial); err != nil {
		f.Close()
		return nil, &Error{Path: partial, Err: err}
	}
	if err := MkdirAll(partial); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Root is the folder's path.
func (f *Folder) Root() string { return f.root }

// Path joins a slash-separated relative name to the folder's path.
func (f *Folder) Path(rel string) string { return filepath.Join(f.root, filepath.FromSlash(rel)) }

// Close removes the folder for unfinished files and gives the lock back.
func (f *Folder) Close() error {
	err := os.RemoveAll(filepath.Join(f.root, partialName))
	return errors.Join(err, f.lock.release())
}

// WriteFile writes one file of the tree atomically; parents are made. rel is slash-separated.
func (f *Folder) WriteFile(rel string, write func(*File) error) (Info, error) {
	path := f.Path(rel)
	if err := MkdirAll(filepath.Dir(path)); err != nil {
		return Info{}, err
	}
	return writeFile(path, filepath.Join(f.root, partialName), write)
}

// Remove deletes a file or a sub-folder of the tree. A sub-folder leaves its name in one step, so that no half of it is
// ever seen. What does not exist is no error.
func (f *Folder) Remove(rel string) error {
	path := f.Path(rel)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	grave, err := os.MkdirTemp(filepath.Join(f.root, partialName), "old-")
	if err != nil {
		return &Error{Path: path, Err: err}
	}
	if err := os.Rename(path, filepath.Join(grave, "old")); err != nil {
		return &Error{Path: path, Err: err}
	}
	if err := SyncDir(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.RemoveAll(grave); err != nil {
		return &Error{Path: path, Err: err}
	}
	return nil
}

// Stage is a sub-folder in the making. Its files get their place in the tree all at once, by Commit.
type Stage struct {
	folder *Folder
	rel    string
	dir    string
	closed bool
}

// Stage begins the sub-folder rel (slash-separated).
func (f *Folder) Stage(rel string) (*Stage, error) {
	base := strings.ReplaceAll(filepath.Base(filepath.FromSlash(rel)), "*", "_")
	dir, err := os.MkdirTemp(filepath.Join(f.root, partialName), base+"-")
	if err != nil {
		return nil, &Error{Path: f.Path(rel), Err: err}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, &Error{Path: f.Path(rel), Err: err}
	}
	return &Stage{folder: f, rel: rel, dir: dir}, nil
}

// Path is where the file of that name lies until Commit.
func (s *Stage) Path(name string) string { return filepath.Join(s.dir, name) }

// Write adds a file and syncs it. It may be called from several goroutines with different names.
func (s *Stage) Write(name string, write func(*File) error) (info Info, err error) {
	final := filepath.Join(s.folder.Path(s.rel), name)
	f, err := os.OpenFile(s.Path(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return Info{}, &Error{Path: final, Err: err}
	}
	defer func() {
		if cerr := f.Close(); cerr != nil && err == nil {
			err = &Error{Path: final, Err: cerr}
		}
		if err != nil {
			os.Remove(s.Path(name))
		}
	}()
	if info, err = fill(f, final, write); err != nil {
		return Info{}, err
	}
	if err := f.Sync(); err != nil {
		return Info{}, &Error{Path: final, Err: err}
	}
	return info, nil
}

// Link gives the stage's file name a second name in the tree, at once and beside the first: rel (slash-separated). Where the
// file system has no links, it is a copy.
func (s *Stage) Link(name, rel string) error {
	path := s.folder.Path(rel)
	if err := MkdirAll(filepath.Dir(path)); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Join(s.folder.root, partialName), "link-")
	if err != nil {
		return &Error{Path: path, Err: err}
	}
	defer os.RemoveAll(dir)
	temp := filepath.Join(dir, "link")
	if err := os.Link(s.Path(name), temp); err != nil {
		_, err := s.folder.WriteFile(rel, func(w *File) error {
			f, err := os.Open(s.Path(name))
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(w, f)
			return err
		})
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return &Error{Path: path, Err: err}
	}
	return SyncDir(filepath.Dir(path))
}

// Commit gives the sub-folder its name, replacing an earlier one, and makes that durable. Between the removal of an
// earlier folder and the new name there is a moment with neither.
func (s *Stage) Commit() error {
	if s.closed {
		return errors.New("durable: stage committed twice")
	}
	final := s.folder.Path(s.rel)
	if err := SyncDir(s.dir); err != nil {
		return err
	}
	if err := MkdirAll(filepath.Dir(final)); err != nil {
		return err
	}
	if err := s.folder.Remove(s.rel); err != nil {
		return err
	}
	if err := os.Rename(s.dir, final); err != nil {
		return &Error{Path: final, Err: err}
	}
	s.closed = true
	return SyncDir(filepath.Dir(final))
}

// Abort throws an uncommitted stage away. It is harmless after Commit.
func (s *Stage) Abort() {
	if !s.closed {
		s.closed = true
		os.RemoveAll(s.dir) // what cannot be removed now is removed by the next Open
	}
}
