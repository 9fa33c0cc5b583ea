package cli

import (
	"github.com/spf13/cobra"

	"github.com/voxcam/voxcam/internal/worker"
)

// newWorker is what run starts for itself, to compute in a process of its own.
func newWorker() *cobra.Command {
	return &cobra.Command{
		Use: "worker", Hidden: true,
		Short: "Compute for another process of this program",
		Args:  exactArgs(),
		RunE:  func(*cobra.Command, []string) error { return worker.Serve(worker.OpenEngine) },
	}
}
