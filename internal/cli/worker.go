package cli

import (
	"github.com/spf13/cobra"

	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/worker"
)

// newWorker returns the hidden command of the worker process, which run starts for itself.
func newWorker() *cobra.Command {
	return &cobra.Command{
		Use: "worker", Hidden: true,
		Short: "Compute for another process of this program",
		Args:  exactArgs(),
		RunE:  func(*cobra.Command, []string) error { return worker.Serve(instance.Open, nil) },
	}
}
