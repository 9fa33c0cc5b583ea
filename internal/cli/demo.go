package cli

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/voxcam/voxcam/internal/config"
	"github.com/voxcam/voxcam/internal/demo"
	"github.com/voxcam/voxcam/internal/durable"
	"github.com/voxcam/voxcam/internal/printable"
	"github.com/voxcam/voxcam/internal/session"
)

func newDemo() *cobra.Command {
	var out string
	var volumes int
	var seed uint64
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Write a small OCT data set with a trained model, and explain it",
		Long: `Demo draws retinal OCT phantoms of four grades of macular degeneration with known lesions, writes them as a data set with
labels, a model trained on such phantoms and a configuration, and runs the main job on it: the same as voxcam run.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			stderr := cmd.ErrOrStderr()
			set, err := demo.WriteDataset(cmd.Context(), out, volumes, seed)
			if _, output := errors.AsType[*durable.Error](err); output {
				return err
			}
			if err != nil {
				return usage(err)
			}
			fmt.Fprintf(stderr, "wrote %s, labels, lesion masks, model and configuration to %s\n", printable.Count(len(set.Cases), "volume"), out)
			c, err := config.Load(set.Config)
			if err != nil {
				return err
			}
			c.Output.Session = "demo"
			summary, err := runConfig(cmd.Context(), c, &runFlags{log: "text"}, stderr)
			code := session.ExitCode(summary, err)
			if err != nil {
				return &exitError{code: code, err: err}
			}
			if err := summary.Print(cmd.OutOrStdout()); err != nil {
				return err
			}
			if code != session.ExitOK && code != session.ExitDegraded {
				return ended(code, "not all samples are ok")
			}
			fmt.Fprintf(cmd.OutOrStdout(), "look at: %s\n", filepath.Join(summary.Dir, "visualizations"))
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "voxcam-demo", "folder for the data set and the results")
	cmd.Flags().IntVar(&volumes, "volumes", 24, "how many volumes")
	cmd.Flags().Uint64Var(&seed, "seed", 1, "seed of the phantoms")
	return cmd
}
