package reclaim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"
)

// How a process ended.
const (
	EndedBefore = "had ended before"
	EndedTerm   = "ended by SIGTERM"
	EndedKill   = "ended by SIGKILL"
	NotEnded    = "did not end"
	NotTouched  = "was not touched"
)

// errChanged says that a number does not belong to the judged process any more.
var errChanged = errors.New("the number belongs to another process now")

var errStays = errors.New("it is still there")

// last bounds the time in which a process must end after SIGKILL: the driver first takes back its memory on the GPU.
const last = 30 * time.Second

// end ends a process: SIGTERM, and SIGKILL if it still runs after the grace period. It takes a handle before it compares the process with
// the judged one, so that no other process gets the signals.
func (r *rules) end(ctx context.Context, c Candidate, grace time.Duration) (how string, err error) {
	hold, err := r.system.Hold(c.PID)
	if errors.Is(err, fs.ErrNotExist) {
		return EndedBefore, nil
	}
	if err != nil {
		return NotTouched, err
	}
	defer hold.Close()
	for _, try := range []struct {
		signal syscall.Signal
		wait   time.Duration
		how    string
	}{{syscall.SIGTERM, grace, EndedTerm}, {syscall.SIGKILL, last, EndedKill}} {
		err := r.same(c)
		if err == nil {
			err = hold.Signal(try.signal)
		}
		if errors.Is(err, fs.ErrNotExist) {
			if how == "" {
				how = EndedBefore
			}
			return how, nil
		}
		if err != nil {
			if how == "" {
				return NotTouched, err
			}
			return NotEnded, err
		}
		how = try.how
		ended, err := hold.Wait(ctx, try.wait)
		if err != nil {
			return NotEnded, err
		}
		if ended {
			return how, nil
		}
	}
	return NotEnded, fmt.Errorf("%w %v after SIGKILL: the driver may be waiting for the GPU", errStays, last)
}

// same reports whether a number still belongs to the judged process, with the same rights.
func (r *rules) same(c Candidate) error {
	now, err := r.system.Find(c.PID)
	switch {
	case err != nil:
		return err
	case now.Started != c.Process.Started || now.UID != c.Process.UID || now.Euid != c.Process.Euid:
		return errChanged
	case now.Ended:
		return errGone
	}
	return nil
}
