//go:build !unix

package cli

import (
	"context"
	"os"
)

// stopping are the signals that end a command in good order.
var stopping = []os.Signal{os.Interrupt}

// listen does nothing where there are no such signals.
func (l *running) listen(context.Context, context.CancelCauseFunc) (end func()) { return func() {} }
