//go:build unix

package cli

import (
	"context"
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// resized comes when the terminal's size changes.
var resized = []os.Signal{syscall.SIGWINCH}

// canWait reports that readable waits with a context, so that waiting for a key can be stopped.
const canWait = true

// readable waits until something can be read from a file, or the context ends.
func readable(ctx context.Context, file *os.File) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(file.Fd()), Events: unix.POLLIN}}, 100)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		case n > 0:
			return nil
		}
	}
}
