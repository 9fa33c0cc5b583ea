package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/config"
	"github.com/voxcam/voxcam/internal/fit"
	"github.com/voxcam/voxcam/internal/gpusurvey"
	"github.com/voxcam/voxcam/internal/reclaim"
	"github.com/voxcam/voxcam/internal/runner"
	"github.com/voxcam/voxcam/internal/session"
)

// checkRun is voxcam check for the run that a configuration stands for. It writes nothing.
func checkRun(cmd *cobra.Command, c *config.Config) error {
	ctx, stderr := cmd.Context(), cmd.ErrOrStderr()
	if err := c.Validate(); err != nil {
		return usage(err)
	}
	opt, err := c.Engine()
	if err != nil {
		return usage(err)
	}
	shape, err := runner.ShapeOf(ctx, c)
	if err != nil {
		if ctx.Err() != nil {
			return &exitError{code: session.ExitInterrupted, err: err}
		}
		return usage(err)
	}
	opt.Shape = shape
	return check(ctx, checkOptions{device: c.Explain.Device, bands: gpusurvey.DefaultBands(),
		run: &fit.Question{Engine: opt, Request: c.Request()}}, cmd.OutOrStdout(), stderr)
}

// clearTimeout bounds the time of a session to give memory back.
const clearTimeout = 10 * time.Second

// clearCaches asks the other sessions of the user to give back the memory of GPUs that they do not use. This program itself has none
// yet. A session that does not answer is a warning, and no reason not to run.
func clearCaches(ctx context.Context, stderr io.Writer) {
	sessions, err := reclaim.Sessions(ctx)
	freed, failed := reclaim.Trim(ctx, sessions, clearTimeout)
	err = errors.Join(err, failed)
	if err != nil {
		fmt.Fprintln(stderr, "voxcam: warning: not every session could be asked to give memory back:", err)
	}
	fmt.Fprintf(stderr, "voxcam: note: %d other sessions gave back %s that they did not use; voxcam recover asks for more\n",
		len(sessions), bytesize.Format(freed))
}
