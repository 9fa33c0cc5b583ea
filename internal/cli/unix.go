//go:build unix

package cli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/session"
)

// stopping are the signals that end a command in good order.
var stopping = []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGXCPU}

// requests has the order that each signal stands for when it does not stop the run.
var requests = map[os.Signal]policy.Order{
	syscall.SIGUSR1: {Operation: policy.Release, For: yieldFor},
	syscall.SIGUSR2: {Operation: policy.Resume},
}

// listen carries out the orders that signals stand for, one after the other, until the function that it returns is called; with a stop that
// is not nil they end the run. Until then a broken pipe is an error of the write to it, and ends no run.
func listen(ctx context.Context, to orders, observer session.Observer, stop context.CancelCauseFunc) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	asked, broken := make(chan os.Signal, 8), make(chan os.Signal, 1)
	for s := range requests {
		signal.Notify(asked, s)
	}
	signal.Notify(broken, syscall.SIGPIPE)
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			select {
			case s := <-asked:
				if stop != nil {
					stopOn(s, observer, stop)
				} else {
					obey(ctx, to, observer, requests[s], s)
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		signal.Stop(asked)
		signal.Stop(broken)
		cancel()
		tasks.Wait()
	}
}

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
