package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/config"
	"github.com/voxcam/voxcam/internal/fit"
	"github.com/voxcam/voxcam/internal/gpusurvey"
	"github.com/voxcam/voxcam/internal/printable"
	"github.com/voxcam/voxcam/internal/reclaim"
	"github.com/voxcam/voxcam/internal/result"
	"github.com/voxcam/voxcam/internal/runner"
	"github.com/voxcam/voxcam/internal/session"
)

// runFlags are the flags of a run. A flag that is given overrides its key of the configuration.
type runFlags struct {
	modelFlags
	methodFlags
	memoryFlags
	config, noise, log            string
	verify, checkOnly, clearCache bool
}

func newRun() *cobra.Command {
	f := &runFlags{}
	cmd := &cobra.Command{
		Use:   "run --config CONFIG.toml",
		Short: "Explain a data set of volumes",
		Long: `Run explains every volume of a data set and writes heatmaps, pictures, statistics and a report into a session's folder.
The same --session again continues it: what is finished stays, what failed is tried again. Flags override the configuration.

The device lives in a process of its own, a worker, whose end does not end the run. SIGUSR1 makes the session give its memory of the
GPU to others for a minute, and SIGUSR2 has it back at once; voxcam monitor shows it, and voxcam recover asks more of it.

SIGINT, SIGTERM, SIGHUP and SIGXCPU stop the run: samples that are done are kept, the report is written, and the same session continues it.
In a job of Slurm, PBS, LSF, Grid Engine, Flux or OAR so do SIGUSR1 and SIGUSR2, which announce that a job is about to be killed; --user-signals
says what they mean.

A configuration of the original system ([DataModule], [NetModule]) is taken as it is, with --model for the ONNX file.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.modelFlags.add(cmd)
	f.methodFlags.add(cmd)
	f.memoryFlags.add(cmd)
	d, fl := config.Defaults(), cmd.Flags()
	fl.StringVar(&f.config, "config", "", "configuration file")
	fl.String("dataset", d.Data.Dataset, "which split: train, val, test or all")
	fl.String("target-class", d.Model.TargetClass, "class to explain: predicted, true, all, an index, or a class name")
	fl.String("score", d.Explain.Target.Score, scoreHelp)
	fl.String("against", d.Model.Against, againstHelp)
	fl.Int("max-samples", d.Data.MaxSamples, "the most samples of each split; 0 for all")
	fl.String("output-dir", d.Output.Dir, "folder that the session's folder is made in")
	fl.String("session", d.Output.Session, "name of the session; an existing one is continued (default: the time)")
	fl.StringSlice("formats", nil, "result files: "+strings.Join(result.Names(), ", "))
	fl.StringVar(&f.noise, "noise", "", "take the draws from this .npy file, [n, C, D, H, W], standard normal")
	fl.StringVar(&f.log, "log-format", "text", "text (a progress bar on a terminal) or json")
	fl.BoolVar(&f.verify, "verify", false, "when continuing, compare the contents of finished files with their digests, not only sizes")
	fl.Bool("worker", d.Memory.Worker, "keep the device in a process of its own, so that its end does not end the run")
	fl.Duration("pass-timeout", d.Memory.PassTimeout, "how long a pass on a GPU may take before its process is ended and another goes on; 0 for no limit")
	fl.String("user-signals", d.Memory.UserSignals, "what SIGUSR1 and SIGUSR2 mean: memory (leave the GPU's, and take it again), stop, or auto: stop in jobs of batch systems")
	fl.BoolVar(&f.checkOnly, "check-only", false, "only say how the memory is, and whether the run would fit, as voxcam check does")
	fl.BoolVar(&f.clearCache, "clear-cache", false, "first have your other sessions give back what they keep unused of GPUs' memory")
	return cmd
}

func (f *runFlags) run(cmd *cobra.Command) error {
	if f.config == "" {
		return usage(errors.New("--config is missing: the configuration file of the run"))
	}
	c, err := config.Load(f.config)
	if err != nil {
		return usage(err)
	}
	if err := override(cmd.Flags(), c); err != nil {
		return usage(err)
	}
	for _, n := range c.Notices {
		fmt.Fprintln(cmd.ErrOrStderr(), "voxcam: note:", n)
	}
	if f.checkOnly {
		return checkRun(cmd, c)
	}
	if f.clearCache {
		clearCaches(cmd.Context(), cmd.ErrOrStderr())
	}
	summary, err := runConfig(cmd.Context(), c, f, cmd.ErrOrStderr())
	code := session.ExitCode(summary, err)
	if summary.Dir != "" {
		if perr := summary.Print(cmd.OutOrStdout()); perr != nil && code == session.ExitOK {
			return perr
		}
	}
	if err != nil {
		return &exitError{code: code, err: err}
	}
	return ended(code, "not all samples are ok")
}

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

// override puts the flags that were given into the configuration.
func override(fl *pflag.FlagSet, c *config.Config) error {
	for _, k := range config.Keys() {
		if flag := fl.Lookup(k.Flag); flag != nil && flag.Changed {
			v, err := flagValue(fl, flag)
			if err != nil {
				return err
			}
			c.SetFlag(k.Name, "--"+k.Flag, v)
		}
	}
	return nil
}

// flagValue returns the value of a flag as keys of the configuration take it: of its own type, or as text.
func flagValue(fl *pflag.FlagSet, flag *pflag.Flag) (any, error) {
	switch flag.Name {
	case "method":
		return strings.Split(flag.Value.String(), ","), nil
	case "convention":
		return cam.ParseConventions(flag.Value.String())
	}
	switch flag.Value.Type() {
	case "bool":
		return fl.GetBool(flag.Name)
	case "int":
		return fl.GetInt(flag.Name)
	case "uint64":
		return fl.GetUint64(flag.Name)
	case "float64":
		return fl.GetFloat64(flag.Name)
	case "duration":
		return fl.GetDuration(flag.Name)
	case "intSlice":
		return fl.GetIntSlice(flag.Name)
	case "stringSlice":
		return fl.GetStringSlice(flag.Name)
	}
	return flag.Value.String(), nil
}

// runConfig runs a configuration with the other flags.
func runConfig(ctx context.Context, c *config.Config, f *runFlags, stderr io.Writer) (session.Summary, error) {
	lean()
	progress, err := newProgress(f.log, stderr)
	if err != nil {
		return session.Summary{}, &session.RefusedError{Err: err}
	}
	defer progress.Close()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	to := &advisor{to: progress, json: f.log == "json", stderr: stderr}
	return runner.Run(ctx, c, runner.Options{Observer: to, Noise: f.noise, VerifyFiles: f.verify, SelfWorker: true,
		Live: func(l *runner.Live) (end func()) { return heed(ctx, l, to, stop, c.Memory.UserSignals, stderr) }})
}

// advisor passes events on to a progress, with flags for the options that notes mention.
type advisor struct {
	to     session.Observer
	json   bool
	stderr io.Writer
	begun  atomic.Bool // a progress is shown, and notes stand among its lines
}

// Notify implements session.Observer.
func (a *advisor) Notify(e session.Notice) {
	note := e.Kind == session.NoticeNote || e.Kind == session.NoticeWarning
	switch {
	case e.Kind == session.NoticeStart:
		a.begun.Store(true)
	case note && !a.begun.Load() && !a.json:
		printable.Fprintf(a.stderr, "voxcam: %s: %s\n", e.Kind, inFlags(e.Reason))
		return
	case note:
		e.Reason = inFlags(e.Reason)
	}
	a.to.Notify(e)
}

// newProgress returns the progress of a run in a format, text or json, for stderr.
func newProgress(format string, stderr io.Writer) (session.Progress, error) {
	if file, drawn := terminal(stderr); drawn {
		return session.NewProgress(file, format, true)
	}
	return session.NewProgress(stderr, format, false)
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
