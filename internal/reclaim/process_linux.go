package reclaim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/voxcam/voxcam/internal/gpusurvey"
)

// Machine returns this machine's processes. drivers are files of the driver's library with another name than libcuda.
func Machine(drivers ...string) System {
	var real []string
	for _, d := range drivers {
		if path, err := filepath.EvalSymlinks(d); err == nil { // maps name files as links resolve them
			real = append(real, path)
		}
	}
	return machine{real}
}

type machine struct{ drivers []string }

func (machine) Self() int { return os.Getpid() }

func (m machine) Find(pid int) (Process, error) {
	var up unix.Timespec // not /proc/uptime, in which containers show their own time
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return Process{}, fmt.Errorf("for how long the system runs: %w", err)
	}
	is, err := gpusurvey.Identify(pid)
	if err != nil {
		return Process{}, gone(err)
	}
	return readMore(os.DirFS("/proc"), is, time.Duration(up.Nano()), m.drivers)
}

func (m machine) Hold(pid int) (Handle, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	switch {
	case err == nil:
		return &pidfd{fd}, nil
	case errors.Is(err, unix.ESRCH):
		return nil, errGone
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM), errors.Is(err, unix.EINVAL): // older than Linux 5.3, or a sandbox
		p, err := m.Find(pid)
		if err != nil {
			return nil, err
		}
		return &number{m, pid, p.Started}, nil
	}
	return nil, fmt.Errorf("process %d: pidfd_open: %w", pid, err)
}

// pidfd refers to a process by a file descriptor: no other process can get its signals.
type pidfd struct{ fd int }

func (h *pidfd) Signal(s syscall.Signal) error {
	err := unix.PidfdSendSignal(h.fd, s, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return errGone
	}
	return err
}

func (h *pidfd) Wait(ctx context.Context, d time.Duration) (bool, error) {
	return await(ctx, d, func(d time.Duration) (bool, error) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}}, int(d.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			return false, nil
		}
		return n > 0, err
	})
}

func (h *pidfd) Close() error { return unix.Close(h.fd) }

// number holds a process by its number and start, for kernels without pidfd. Its start is compared just before each signal; between the
// two the number would have to be given away and come round again.
type number struct {
	m     machine
	pid   int
	start uint64
}

func (h *number) ended() (bool, error) {
	p, err := h.m.Find(h.pid)
	if errors.Is(err, errGone) {
		return true, nil
	}
	return err == nil && (p.Started != h.start || p.Ended), err
}

func (h *number) Signal(s syscall.Signal) error {
	ended, err := h.ended()
	if err != nil {
		return err
	}
	if ended {
		return errGone
	}
	return gone(unix.Kill(h.pid, s))
}

func (h *number) Wait(ctx context.Context, d time.Duration) (bool, error) {
	return await(ctx, d, func(d time.Duration) (bool, error) {
		ended, err := h.ended()
		if !ended && err == nil {
			time.Sleep(min(d, 20*time.Millisecond)) // the system does not report the end of a process that is not a child
		}
		return ended, err
	})
}

func (h *number) Close() error { return nil }

// await asks at short intervals, so that a context can end it.
func await(ctx context.Context, d time.Duration, ask func(d time.Duration) (bool, error)) (bool, error) {
	for end := time.Now().Add(d); ; {
		left := time.Until(end)
		if ended, err := ask(max(0, min(left, 100*time.Millisecond))); ended || err != nil {
			return ended, err
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if left <= 0 {
			return false, nil
		}
	}
}
