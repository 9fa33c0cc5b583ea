//go:build !unix

package cli

import (
	"context"
	"os"
)

var resized []os.Signal

// canWait: on this system only a read waits, and the context cannot end it.
const canWait = false

// readable does not wait.
func readable(ctx context.Context, _ *os.File) error { return ctx.Err() }
