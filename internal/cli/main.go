package cli

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/worker"
)

// Main is the whole program: it runs the command that the arguments of the process name, and exits.
func Main() {
	// A crash ends by SIGABRT, exit code 134 in a shell. The runtime's own exit code for it, 2, is that of a call that was refused.
	debug.SetTraceback("crash")
	ctx, stop := Interruptible(context.Background())
	code := Run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// newWorker returns the hidden command of the worker process, which run starts for itself.
func newWorker() *cobra.Command {
	return &cobra.Command{
		Use: "worker", Hidden: true,
		Short: "Compute for another process of this program",
		Args:  exactArgs(),
		RunE:  func(*cobra.Command, []string) error { return worker.Serve(instance.Open, nil) },
	}
}
