// Command voxcam explains the decisions of 3D image classifiers.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/voxcam/voxcam/internal/cli"
)

func main() {
	// A crash ends by SIGABRT, exit code 134 in a shell. The runtime's own exit code for it, 2, is that of a call that was refused.
	debug.SetTraceback("crash")
	ctx, stop := cli.Interruptible(context.Background())
	code := cli.Run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
