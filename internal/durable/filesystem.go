package durable

import (
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// fileSystem has the calls that this package makes. The program uses the operating system's (system); tests put a file system with failing
// calls in front of it.
type fileSystem interface {
	Stat(path string) (fs.FileInfo, error)
	Mkdir(path string, mode fs.FileMode) error
	Open(path string) (fileHandle, error)
	OpenRoot(path string) (folderHandle, error)
	// Lock takes an advisory lock on an open file, or fails at once.
	Lock(f fileHandle) error
}

// folderHandle is an open folder. Names are relative to it, as in os.Root.
type folderHandle interface {
	Lstat(name string) (fs.FileInfo, error)
	Stat(name string) (fs.FileInfo, error)
	Open(name string) (fileHandle, error)
	OpenFile(name string, flag int, mode fs.FileMode) (fileHandle, error)
	Mkdir(name string, mode fs.FileMode) error
	Link(name, other string) error
	Rename(name, other string) error
	Remove(name string) error
	RemoveAll(name string) error
	Close() error
}

// fileHandle is an open file or folder, as os.File.
type fileHandle interface {
	io.ReadWriteSeeker
	io.ReaderAt
	io.WriterAt
	fs.ReadDirFile
	Truncate(size int64) error
	Sync() error
	Fd() uintptr
}

// system is the file system of the operating system.
type system struct{}

func (system) Stat(path string) (fs.FileInfo, error)     { return os.Stat(path) }
func (system) Mkdir(path string, mode fs.FileMode) error { return os.Mkdir(path, mode) }
func (system) Open(path string) (fileHandle, error)      { return opened(os.Open(path)) }
func (system) Lock(f fileHandle) error                   { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

func (system) OpenRoot(path string) (folderHandle, error) {
	r, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return systemRoot{r}, nil
}

type systemRoot struct{ *os.Root }

func (r systemRoot) Open(name string) (fileHandle, error) { return opened(r.Root.Open(name)) }

func (r systemRoot) OpenFile(name string, flag int, mode fs.FileMode) (fileHandle, error) {
	return opened(r.Root.OpenFile(name, flag, mode))
}

// opened keeps a failure from becoming an interface that is not nil.
func opened(f *os.File, err error) (fileHandle, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}
