//go:build unix

package cli

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/voxcam/voxcam/internal/memory"
)

// orders are what signals ask of a session.
var orders = map[os.Signal]memory.Order{
	syscall.SIGUSR1: {Operation: memory.Release, For: yieldFor},
	syscall.SIGUSR2: {Operation: memory.Resume},
}

// listen carries out what signals ask of the session, one after the other, until the function that it returns is called.
func (l *running) listen(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	asked := make(chan os.Signal, 8)
	for s := range orders {
		signal.Notify(asked, s)
	}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			select {
			case s := <-asked:
				l.obey(ctx, orders[s], s)
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		signal.Stop(asked)
		cancel()
		tasks.Wait()
	}
}
