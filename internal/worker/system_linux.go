package worker

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Supported tells whether this system can run an instance in a process of its own.
const Supported = true

// Usable returns the reason why this process cannot hand volumes to a child, nil if it can: the system counts shared memory as files, whose size a
// limit may bound; and old kernels, and filters of calls in containers, have no memory without a name, or do not take it back in parts.
func Usable() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err == nil && limit.Cur != math.MaxUint64 {
		return fmt.Errorf("files, and so shared memory, may not be larger than %d bytes (ulimit -f)", limit.Cur)
	}
	return usable(newShared, punch, newPair)
}

// usable tries the operations of a parent on shared memory and connections, by the given functions.
func usable(shared func(string) (*os.File, error), punch func(*os.File, region) error, pair func() (ours, theirs *os.File, err error)) error {
	file, err := shared("voxcam-probe")
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(make([]byte, page)); err != nil {
		return fmt.Errorf("shared memory cannot be written: %w", err)
	}
	if err := punch(file, region{0, page}); err != nil {
		return fmt.Errorf("shared memory cannot be given back in parts: %w", err)
	}
	ours, theirs, err := pair()
	if err != nil {
		return err
	}
	return errors.Join(ours.Close(), theirs.Close())
}

// newShared makes a file of shared memory without a name: it vanishes with the last process that has it.
func newShared(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("no shared memory: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// punch gives the memory of a region back to the system.
func punch(f *os.File, r region) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, r.Offset, (r.Length+page-1)/page*page)
}

// newPair makes a connection between two processes.
func newPair() (ours, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("no connection to a child process: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "parent"), nil
}

// program returns the file of this program, also when another version lies in its place by now.
func program() (string, error) {
	const running = "/proc/self/exe"
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	at, err := os.Stat(path)
	if own, ownErr := os.Stat(running); ownErr == nil && (err != nil || !os.SameFile(at, own)) {
		return running, nil
	}
	return path, nil
}

// offerToKiller asks the system's out-of-memory killer to end this process before its parent. Failures do not matter.
func offerToKiller() { _ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0) }

// outOfMemoryKills returns the number of processes that the system has killed for want of memory; -1 if it is not known.
func outOfMemoryKills() int {
	f, err := os.Open("/proc/vmstat")
	if err != nil {
		return -1
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "oom_kill "); ok {
			if n, err := strconv.Atoi(text); err == nil {
				return n
			}
		}
	}
	return -1
}
