package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/voxcam/voxcam/internal/cam"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/session"
	"github.com/voxcam/voxcam/internal/volume/npy"
)

// runFlags override the configuration; only those that were given count.
type runFlags struct {
	modelFlags
	methodFlags
	config, dataset, class, out, session, noise, log string
	max                                              int
	formats                                          []string
	verify                                           bool
}

func newRun() *cobra.Command {
	f := &runFlags{}
	cmd := &cobra.Command{
		Use:   "run --config CONFIG.toml",
		Short: "Explain a data set of volumes",
		Long: `Run explains every volume of a data set and writes heatmaps, pictures, statistics and a report into a session's folder.
The same --session again continues it: what is finished stays, what failed is tried again. Flags override the configuration.

A configuration of the original system ([DataModule], [NetModule]) is taken as it is, with --model for the ONNX file.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.modelFlags.add(cmd)
	f.methodFlags.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.config, "config", "", "configuration file")
	fl.StringVar(&f.dataset, "dataset", "val", "which split: train, val, test or all")
	fl.StringVar(&f.class, "target-class", "predicted", "class to explain: predicted, true, all, an index, or a class name")
	fl.IntVar(&f.max, "max-samples", 0, "at most so many samples of each split; 0 for all")
	fl.StringVar(&f.out, "output-dir", "CAMVis", "folder that the session's folder is made in")
	fl.StringVar(&f.session, "session", "", "name of the session; an existing one is continued (default: the time)")
	fl.StringSliceVar(&f.formats, "formats", nil, "result files: "+strings.Join(dataset.Formats, ", "))
	fl.StringVar(&f.noise, "noise", "", "take the draws from this .npy file, [n, C, D, H, W], standard normal")
	fl.StringVar(&f.log, "log-format", "text", "text (a progress bar on a terminal) or json")
	fl.BoolVar(&f.verify, "verify", false, "when continuing, compare the contents of finished files with their digests, not only sizes")
	return cmd
}

func (f *runFlags) run(cmd *cobra.Command) error {
	if f.config == "" {
		return usage(errors.New("--config is missing: the configuration file of the run"))
	}
	config, err := dataset.Load(f.config)
	if err != nil {
		return usage(err)
	}
	if err := f.override(cmd, config); err != nil {
		return usage(err)
	}
	for _, n := range config.Notices {
		fmt.Fprintln(cmd.ErrOrStderr(), "voxcam: note:", n)
	}
	summary, err := runConfig(cmd.Context(), config, f, cmd.ErrOrStderr())
	code := session.ExitCode(summary, err)
	if summary.Dir != "" {
		if perr := summary.Print(cmd.OutOrStdout()); perr != nil {
			return perr
		}
	}
	if err != nil {
		return &exitError{code: code, err: err}
	}
	if code != session.ExitOK {
		return &exitError{code: code, quiet: true, err: errors.New("not all samples are ok")}
	}
	return nil
}

// override puts the flags that were given into the configuration.
func (f *runFlags) override(cmd *cobra.Command, c *dataset.Config) error {
	given := cmd.Flags().Changed
	for _, o := range []struct {
		flag, key string
		set       func()
	}{
		{"model", "model.file", func() { c.Model.File = f.model }},
		{"target-layer", "model.target_layer", func() { c.Model.TargetLayer = f.layer }},
		{"layer-layout", "model.layer_layout", func() { c.Model.LayerLayout = f.layout }},
		{"token-grid", "model.token_grid", func() { c.Model.TokenGrid = f.grid }},
		{"target-class", "model.target_class", func() { c.Model.TargetClass = f.class }},
		{"dataset", "data.dataset", func() { c.Data.Dataset = f.dataset }},
		{"max-samples", "data.max_samples", func() { c.Data.MaxSamples = f.max }},
		{"n-samples", "explain.n_samples", func() { c.Explain.NSamples = f.samples }},
		{"noise-level", "explain.noise_level", func() { c.Explain.NoiseLevel = f.level }},
		{"seed", "explain.seed", func() { c.Explain.Seed = f.seed }},
		{"device", "explain.device", func() { c.Explain.Device = f.device }},
		{"precision", "explain.precision", func() { c.Explain.Precision = f.precision }},
		{"output-dir", "output.dir", func() { c.Output.Dir = f.out }},
		{"session", "output.session", func() { c.Output.Session = f.session }},
		{"formats", "output.formats", func() { c.Output.Formats = f.formats }},
		{"method", "explain.methods", func() { c.Explain.Methods = strings.Split(f.methods, ",") }},
	} {
		if given(o.flag) {
			o.set()
			c.FromFlag(o.key, "--"+o.flag)
		}
	}
	if given("convention") {
		conventions, err := cam.ParseConventions(f.conventions)
		if err != nil {
			return err
		}
		c.Explain.Conventions = conventions
		c.FromFlag("explain.conventions.*", "--convention")
	}
	return nil
}

// runConfig opens what a configuration names and runs the session.
func runConfig(ctx context.Context, c *dataset.Config, f *runFlags, stderr io.Writer) (s session.Summary, err error) {
	refuse := func(err error) (session.Summary, error) { return s, &session.RefusedError{Err: err} }
	if err := c.Validate(); err != nil {
		return s, err
	}
	methods, err := cam.Expand(strings.Join(c.Explain.Methods, ","))
	if err != nil {
		return refuse(err)
	}
	choices, err := cam.Choose(methods, c.Explain.Conventions)
	if err != nil {
		return refuse(err)
	}
	for _, choice := range choices {
		if err := choice.Check(cam.Parameters{Draws: c.Explain.NSamples, NoiseLevel: c.Explain.NoiseLevel}); err != nil {
			return refuse(err)
		}
	}
	opt := session.Options{Config: c, Methods: methods, Version: version(), VerifyFiles: f.verify}
	if p := c.Explain.Precision; p != "fp32" { // sessions that were made before there was a choice go on
		opt.Settings = map[string]string{"explain.precision": p}
	}
	if f.noise != "" {
		draws, err := npy.Open(f.noise)
		if err != nil {
			return refuse(err)
		}
		defer draws.Close()
		if err := enoughDraws(draws, f.noise, methods, c.Explain.Conventions, c.Explain.NSamples); err != nil {
			return refuse(err)
		}
		opt.Noise = draws
		if opt.NoiseName, err = fileDigest(f.noise); err != nil {
			return refuse(err)
		}
	}
	flags := modelFlags{model: c.Model.File, layer: c.Model.TargetLayer, layout: c.Model.LayerLayout, grid: c.Model.TokenGrid,
		deviceFlags: deviceFlags{c.Explain.Device, c.Explain.Precision}, budget: c.Explain.Memory}
	m, err := flags.openFor(ctx, c, stderr)
	if err != nil && ctx.Err() != nil {
		return s, err
	}
	if err != nil {
		return refuse(err)
	}
	defer m.Close()
	if err := m.Prepare(ctx, methods); err != nil {
		if ctx.Err() != nil {
			return s, err
		}
		return refuse(err)
	}
	printNotes(stderr, m.Info())
	terminal := false
	if file, ok := stderr.(*os.File); ok {
		terminal = term.IsTerminal(int(file.Fd()))
	}
	progress, err := session.NewProgress(stderr, f.log, terminal)
	if err != nil {
		return refuse(err)
	}
	defer progress.Close()
	opt.Observer = progress
	return session.Run(ctx, opt, m)
}

// openFor opens the model for a data set. Where the file and the configuration leave the volume's size open, it is that of the
// first volume that goes through the network: one bad volume must not stop the others.
func (f *modelFlags) openFor(ctx context.Context, c *dataset.Config, stderr io.Writer) (m *model, err error) {
	set, err := dataset.Open(c)
	if err != nil {
		return nil, err
	}
	samples, err := set.Select()
	if err != nil {
		return nil, err
	}
	var shape [4]int
	copy(shape[1:], c.Data.ImageShape)
	f.ahead = true
	if m, err = f.open(shape, stderr); err != nil || m.Info().Classes > 0 {
		return m, err
	}
	const most = 16 // volumes to try
	var first error
	for _, sample := range samples[:min(most, len(samples))] {
		p, err := set.Prepare(ctx, sample)
		if err == nil {
			err = m.Bind([4]int{p.Volume.Channels, p.Volume.Depth, p.Volume.Height, p.Volume.Width})
		}
		if err == nil {
			return m, nil
		}
		if ctx.Err() != nil {
			return nil, errors.Join(ctx.Err(), m.Close())
		}
		if first == nil {
			first = fmt.Errorf("%s leaves the volume's size open, and no volume goes through it; sample %s: %w", c.Model.File, sample.ID, err)
		}
	}
	return nil, errors.Join(first, m.Close())
}

// fileDigest is the SHA-256 of a file, in hexadecimal.
func fileDigest(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func newExitCodes() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "List the exit codes",
		Args:  exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, c := range session.ExitCodes {
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%3d  %s\n", c.Code, c.Meaning); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
