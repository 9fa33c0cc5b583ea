// Command voxcam explains the decisions of 3D image classifiers.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/voxcam/voxcam/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
