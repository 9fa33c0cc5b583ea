package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// ErrLocked says that another process works in the folder.
var ErrLocked = errors.New("in use by another process")

type lock struct{ f fileHandle }

// takeLock takes an advisory lock that the kernel gives back when the process ends, however it ends; the file itself
// stays, so that no process can lock a file that another has just removed.
func (f *Folder) takeLock() (*lock, error) {
	file, _, err := f.openFile(lockName, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, f.failed(lockName, err)
	}
	if err := f.sys.Lock(file); err != nil {
		defer file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			holder, _ := io.ReadAll(io.LimitReader(file, 64))
			return nil, fmt.Errorf("%s is %w (%s); wait for it or use another session", f.Path(lockName), ErrLocked, strings.TrimSpace(string(holder)))
		}
		return nil, f.failed(lockName, err)
	}
	// The holder's name is for messages only; a full disk is noticed by the first result.
	file.Truncate(0)
	fmt.Fprintf(file, "process %d\n", os.Getpid())
	return &lock{f: file}, nil
}

func (l *lock) release() error { return l.f.Close() }

// links is the number of names that a file has.
func links(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(stat.Nlink)
	}
	return 1
}
