package reclaim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/voxcam/voxcam/internal/gpusurvey"
)

// Process is a process of this machine. PID and Started together name one process for good: when the number goes to another process, the start
// differs.
type Process struct {
	gpusurvey.ProcessInfo
	Euid    int           // the user with whose rights it runs
	Age     time.Duration // since it was started
	Ended   bool          // it is a zombie: its parent has not reaped it yet
	UsesGPU bool          // the driver's library or devices are in its address space
}

// errGone says that a process does not exist, or not any more.
var errGone = fmt.Errorf("the process has ended: %w", fs.ErrNotExist)

// System gives access to the machine's processes.
type System interface {
	// Find describes a process; errGone if there is none.
	Find(pid int) (Process, error)
	// Hold returns a handle of the process that has the number now; it stays valid when another process gets the number.
	Hold(pid int) (Handle, error)
	// Self returns the number of this process.
	Self() int
}

// Handle refers to one process for good.
type Handle interface {
	// Signal sends a signal; errGone if it has ended.
	Signal(s syscall.Signal) error
	// Wait waits until the process has ended, but for no longer than d, and reports whether it has.
	Wait(ctx context.Context, d time.Duration) (ended bool, err error)
	Close() error
}

// ancestors are the processes that this one descends from, itself included: the shell, the terminal, the service that began them.
func ancestors(s System) (map[int]bool, error) {
	family := map[int]bool{}
	for pid := s.Self(); pid > 0 && !family[pid]; {
		family[pid] = true
		p, err := s.Find(pid)
		if errors.Is(err, fs.ErrNotExist) && pid != s.Self() {
			break // it belongs to another namespace, or is hidden: so are all above it
		}
		if err != nil {
			return nil, fmt.Errorf("looking up which processes began this one: %w", err)
		}
		pid = p.Parent
	}
	return family, nil
}

// readMore adds to the facts of package gpusurvey about a process those that are needed before it gets signals, from proc(5) below root. up is
// the time that the system has been running; drivers are the files of the driver's library.
func readMore(root fs.FS, is gpusurvey.ProcessInfo, up time.Duration, drivers []string) (Process, error) {
	p := Process{ProcessInfo: is, Age: max(0, up-time.Duration(is.Started)*(time.Second/ticks))}
	dir := strconv.Itoa(p.PID)
	stat, err := fs.ReadFile(root, path.Join(dir, "stat"))
	if err != nil {
		return p, gone(err)
	}
	started := uint64(0)
	if p.Ended, started, err = parseStat(string(stat)); err != nil {
		return p, fmt.Errorf("/proc/%d/stat cannot be read: %w", p.PID, err)
	}
	if started != p.Started { // it has ended between two readings
		return p, errGone
	}
	status, err := fs.ReadFile(root, path.Join(dir, "status"))
	if err != nil {
		return p, gone(err)
	}
	if p.UID, p.Euid, err = parseUID(string(status)); err != nil {
		return p, fmt.Errorf("/proc/%d/status cannot be read: %w", p.PID, err)
	}
	if maps, err := fs.ReadFile(root, path.Join(dir, "maps")); err == nil { // not readable for processes of other users: those are not touched
		p.UsesGPU = mapsDriver(string(maps), drivers)
	}
	return p, nil
}

// ticks is the number of ticks a second of the clock for starts: USER_HZ, which is 100 on all architectures that CUDA runs on.
const ticks = 100

// gone turns all errors of the system about a process that has just ended into errGone.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return errGone
	}
	return err
}

// parseStat reads from /proc/PID/stat whether a process has ended and when it was started. The name stands in parentheses and may itself
// hold blanks and parentheses.
func parseStat(text string) (ended bool, started uint64, err error) {
	rest := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(rest) < 20 {
		return false, 0, fmt.Errorf("%d fields instead of 20 behind the name", len(rest))
	}
	started, err = strconv.ParseUint(rest[19], 10, 64)
	return rest[0] == "Z" || rest[0] == "X", started, err
}

// parseUID reads the user of a process from /proc/PID/status: real, effective, saved and of the file system.
func parseUID(text string) (real, effective int, err error) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
			_, err = fmt.Sscan(rest, &real, &effective)
			return real, effective, err
		}
	}
	return 0, 0, errors.New("no line Uid")
}

// mapsDriver reports whether an address space holds NVIDIA's devices or the driver's library, by /proc/PID/maps. drivers are more files
// that are one.
func mapsDriver(maps string, drivers []string) bool {
	for line := range strings.Lines(maps) {
		at := strings.IndexByte(line, '/')
		if at < 0 {
			continue
		}
		file := strings.TrimSpace(line[at:])
		if strings.HasPrefix(file, "/dev/nvidia") || strings.HasPrefix(filepath.Base(file), "libcuda.so") || slices.Contains(drivers, file) {
			return true
		}
	}
	return false
}
