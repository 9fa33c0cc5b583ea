//go:build !unix

package cli

import (
	"context"
	"os"

	"github.com/voxcam/voxcam/internal/session"
)

// stopping are the signals that end a command in good order.
var stopping = []os.Signal{os.Interrupt}

// listen does nothing where there are no such signals.
func listen(context.Context, orders, session.Observer, context.CancelCauseFunc) (end func()) {
	return func() {}
}

var resized []os.Signal

// canWait: on this system only a read waits, and the context cannot end it.
const canWait = false

// readable does not wait.
func readable(ctx context.Context, _ *os.File) error { return ctx.Err() }
