// Package durable writes result files so that they are either complete or absent, whatever happens to the process or the
// machine: a file or folder gets its final name by a rename, after its bytes and before its parent folder reached the disk.
//
// A Folder is a tree of results that one process at a time writes into:
//
//	folder, err := durable.Open(dir)           // locks it and removes unfinished files of a killed process
//	defer folder.Close()
//	stage, err := folder.Stage("maps/case-1")  // a sub-folder under a temporary name
//	info, err := stage.Write("map.nii.gz", write)
//	err = stage.Commit()                       // now maps/case-1 exists, complete and on disk
//
// Invariant D1: no name outside the folder .partial ever belongs to an incomplete file.
//
// Invariant D2: a Folder may have been made by another person or program. Nothing outside of it is ever read, written or removed: its files
// are opened relative to it, no link in it is followed, and a file that has a second name is not written in place.
package durable

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"

	"github.com/voxcam/voxcam/internal/input"
)

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

// noLocks is the advice for network file systems whose locks are turned off, or whose lock server does not answer.
const noLocks = "; its file system cannot do that (locks, for example): choose an output folder on another one, such as a local disk"

// remedies has advice for the usual causes.
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
	{errLink, "; remove it or put what it leads to in its place (the output folder itself may be a link)"},
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
	f      fileHandle
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

// finish closes the file once write is done with it, and describes it.
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

// fill runs write on f. A failure of the file system takes precedence over the error that write made of it.
func fill(f fileHandle, path string, write func(*File) error) (Info, error) {
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
// synced, and the folder is synced after that. An error of write is returned as it is, one of the file system as *Error. Only a regular
// file is replaced: a link, a pipe or a device is refused.
func WriteFile(path string, write func(*File) error) (Info, error) {
	return writeFile(system{}, path, write)
}

func writeFile(sys fileSystem, path string, write func(*File) error) (Info, error) {
	root, err := sys.OpenRoot(filepath.Dir(path))
	if err != nil {
		return Info{}, &Error{Path: path, Err: err}
	}
	defer root.Close()
	return replace(root, filepath.Base(path), ".", path, write)
}

// replace writes the file name of root by way of a temporary one in the folder temp of root. path names it in messages.
func replace(root folderHandle, name, temp, path string, write func(*File) error) (info Info, err error) {
	if err := replaceable(root, name, path); err != nil {
		return Info{}, &Error{Path: path, Err: err}
	}
	temporary, err := unused(filepath.Join(temp, ".new"), func(name string) error {
		info, err = create(root, name, path, write)
		return err
	})
	if err != nil {
		return Info{}, err
	}
	if err := root.Rename(temporary, name); err != nil {
		root.Remove(temporary) //nolint:errcheck // the first error is told
		return Info{}, &Error{Path: path, Err: err}
	}
	return info, syncDir(root, filepath.Dir(name), filepath.Dir(path))
}

// replaceable refuses to replace anything but a regular file. A missing file can be replaced.
func replaceable(root folderHandle, name, path string) error {
	at, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return input.Regular(path, at)
}

// create writes the new file name of root and syncs it; one that cannot be written is removed. path names it in messages.
func create(root folderHandle, name, path string, write func(*File) error) (info Info, err error) {
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return Info{}, &Error{Path: path, Err: err}
	}
	defer func() {
		if cerr := f.Close(); cerr != nil && err == nil {
			err = &Error{Path: path, Err: cerr}
		}
		if err != nil {
			root.Remove(name) //nolint:errcheck // what is left in .partial is removed by the next Open
		}
	}()
	if info, err = fill(f, path, write); err != nil {
		return Info{}, err
	}
	if err := f.Sync(); err != nil {
		return Info{}, &Error{Path: path, Err: err}
	}
	return info, nil
}

// unused makes something under a name that begins with stem and that nothing has.
func unused(stem string, make func(name string) error) (name string, err error) {
	for range 100 {
		name = fmt.Sprintf("%s-%d", stem, rand.Uint32())
		if err = make(name); !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	return name, err
}

// Modes of new files and folders, before the umask.
const (
	fileMode   = 0o666
	folderMode = 0o777
)

// SyncDir makes the names in a folder durable.
func SyncDir(dir string) error { return syncFolder(system{}, dir) }

func syncFolder(sys fileSystem, dir string) error {
	d, err := sys.Open(dir)
	return syncOpen(d, err, dir)
}

// syncDir is SyncDir for a folder of root. path names it in messages.
func syncDir(root folderHandle, dir, path string) error {
	d, err := root.Open(dir)
	return syncOpen(d, err, path)
}

func syncOpen(d fileHandle, err error, dir string) error {
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
func MkdirAll(dir string) error { return mkdirAll(system{}, dir) }

func mkdirAll(sys fileSystem, dir string) error {
	if info, err := sys.Stat(dir); err == nil {
		if info.IsDir() {
			return nil
		}
		return &Error{Path: dir, Err: syscall.ENOTDIR}
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := mkdirAll(sys, parent); err != nil {
			return err
		}
	}
	if err := sys.Mkdir(dir, folderMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return &Error{Path: dir, Err: err}
	}
	return syncFolder(sys, parent)
}
