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
