package reclaim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/voxcam/voxcam/internal/gpusurvey"
)

// Process is a process of this machine. PID and Started together name it for good: a number that was given to another process since has
// another start.
type Process struct {
	gpusurvey.ProcessInfo
	Euid    int           // with whose rights it runs
	Age     time.Duration // since it was started
	Ended   bool          // it only waits for its parent to ask how it ended
	UsesGPU bool          // the driver's library or devices are in its address space
}

// errGone says that there is no such process, or no more.
var errGone = fmt.Errorf("the process has ended: %w", fs.ErrNotExist)

// System is the machine's processes.
type System interface {
	// Find looks at a process; errGone if there is none.
	Find(pid int) (Process, error)
	// Hold returns a handle that stays with the process that has the number now, whoever gets the number later.
	Hold(pid int) (Handle, error)
	// Self is this process.
	Self() int
}

// Handle is a hold on a process.
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
			break // it belongs to another namespace, or is hidden: so is all above it
		}
		if err != nil {
			return nil, fmt.Errorf("looking up which processes began this one: %w", err)
		}
		pid = p.Parent
	}
	return family, nil
}

// readMore adds to what package gpusurvey tells of a process what is to be known before it gets signals, from proc(5) below root. up is for
// how long the system runs; drivers are files that are the driver's library.
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
	if started != p.Started { // it has ended between two looks
		return p, errGone
	}
	status, err := fs.ReadFile(root, path.Join(dir, "status"))
	if err != nil {
		return p, gone(err)
	}
	if p.UID, p.Euid, err = parseUID(string(status)); err != nil {
		return p, fmt.Errorf("/proc/%d/status cannot be read: %w", p.PID, err)
	}
	if maps, err := fs.ReadFile(root, path.Join(dir, "maps")); err == nil { // of others' processes it may not be read: they are not touched
		p.UsesGPU = mapsDriver(string(maps), drivers)
	}
	return p, nil
}

// ticks of the clock that starts are given in, a second: USER_HZ, which is 100 on all architectures that CUDA runs on.
const ticks = 100

// gone makes of all that the system says about a process that has just ended one error.
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

// parseUID reads whose a process is from /proc/PID/status: real, effective, saved and of the file system.
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
		if strings.HasPrefix(file, "/dev/nvidia") || strings.HasPrefix(filepath.Base(file), "libcuda.so") {
			return true
		}
		for _, d := range drivers {
			if file == d {
				return true
			}
		}
	}
	return false
}
