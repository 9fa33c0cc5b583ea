package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrLocked says that another process works in the folder.
var ErrLocked = errors.New("in use by another process")

type lock struct{ f *os.File }

// takeLock takes an advisory lock that the kernel gives back when the process ends, however it ends; the file itself
// stays, so that no process can lock a file that another has just removed.
func takeLock(path string) (*lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, &Error{Path: path, Err: err}
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			holder, _ := io.ReadAll(io.LimitReader(f, 64))
			return nil, fmt.Errorf("%s is %w (%s); wait for it or use another session", path, ErrLocked, strings.TrimSpace(string(holder)))
		}
		return nil, &Error{Path: path, Err: err}
	}
	// Who holds it is only told, not relied upon; a full disk is noticed by the first result.
	f.Truncate(0)
	fmt.Fprintf(f, "process %d\n", os.Getpid())
	return &lock{f: f}, nil
}

func (l *lock) release() error { return l.f.Close() }
