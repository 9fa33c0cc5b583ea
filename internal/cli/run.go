package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/config"
	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/monitor"
	"github.com/voxcam/voxcam/internal/result"
	"github.com/voxcam/voxcam/internal/runner"
	"github.com/voxcam/voxcam/internal/session"
	"github.com/voxcam/voxcam/internal/volume/npy"
	"github.com/voxcam/voxcam/internal/worker"
	"github.com/voxcam/voxcam/volume"
)

// runFlags are the flags of a run. Those that a key of the configuration stands for override it, where they were given.
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
	fl.Int("max-samples", d.Data.MaxSamples, "at most so many samples of each split; 0 for all")
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
	if code != session.ExitOK {
		return &exitError{code: code, quiet: true, err: errors.New("not all samples are ok")}
	}
	return nil
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

// runConfig opens the model and the data set of a configuration, and runs the session.
func runConfig(ctx context.Context, c *config.Config, f *runFlags, stderr io.Writer) (s session.Summary, err error) {
	refuse := func(err error) (session.Summary, error) {
		if ctx.Err() != nil {
			return s, err // what was stopped was not refused
		}
		return s, &session.RefusedError{Err: err}
	}
	if err := c.Validate(); err != nil {
		return s, err
	}
	opt := session.Options{Config: c, Version: version(), VerifyFiles: f.verify}
	var noise worker.Noise
	if f.noise != "" {
		draws, err := openNoise(ctx, f.noise, c.Request())
		if err != nil {
			return refuse(err)
		}
		defer draws.Close()
		opt.Noise, opt.NoiseName = draws, draws.SHA256()
		noise = worker.Noise{Path: f.noise, SHA256: draws.SHA256()}
	}
	progress, err := newProgress(f.log, stderr)
	if err != nil {
		return refuse(err)
	}
	defer progress.Close()
	seen := runner.NewLive(c.Model.File, c.Explain.Device, progress)
	defer func() { err = errors.Join(err, seen.Close()) }()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer heed(ctx, seen, progress, stop, c.Memory.UserSignals, stderr)()
	defer serve(ctx, seen, stderr)()
	m, err := openFor(ctx, c, noise, stderr)
	if err != nil {
		return refuse(err)
	}
	defer func() {
		seen.Computes(nil)
		m.Close()
	}()
	if err := m.Prepare(ctx, c.Request().Methods); err != nil {
		return refuse(err)
	}
	if f.log == "json" {
		tellNotes(progress, m.Info())
	} else {
		printNotes(stderr, m.Info())
	}
	seen.Computes(m)
	opt.Observer, opt.Figures = seen, seen.Figures
	return session.Run(ctx, opt, m)
}

// openNoise opens a file of draws that suffice for a request.
func openNoise(ctx context.Context, path string, r cam.Request) (*npy.File, error) {
	draws, err := npy.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	if err := enoughDraws(draws, path, r.Methods, r.Convention, r.NSamples); err != nil {
		return nil, errors.Join(err, draws.Close())
	}
	return draws, nil
}

// newProgress returns the progress of a run in a format, text or json, for stderr.
func newProgress(format string, stderr io.Writer) (session.Progress, error) {
	if file, drawn := terminal(stderr); drawn {
		return session.NewProgress(file, format, true)
	}
	return session.NewProgress(stderr, format, false)
}

// serve lets voxcam monitor and recover reach the session, until the function that it returns is called.
func serve(ctx context.Context, session *runner.Live, stderr io.Writer) (end func()) {
	server, err := control.Serve(ctx, session)
	if err != nil {
		fmt.Fprintln(stderr, "voxcam: warning: voxcam monitor and recover cannot reach this session:", err)
		return func() {}
	}
	server.Handle("GET /metrics", monitor.Handler(session.Look))
	return func() { server.Close() }
}

// tellNotes is printNotes for a log of events.
func tellNotes(to session.Observer, info cam.Info) {
	for _, text := range info.Warnings {
		to.Event(session.Event{Kind: session.EventWarning, Reason: text})
	}
	for _, text := range info.Notes {
		to.Event(session.Event{Kind: session.EventNote, Reason: text})
	}
}

// start opens the device and the model on it, in a worker if the configuration and the system have one.
func start(ctx context.Context, c *config.Config, o engine.Options, noise worker.Noise, stderr io.Writer) (worker.Engine, error) {
	lean()
	unusable := worker.Usable()
	if c.Memory.Worker && worker.Supported && unusable != nil {
		fmt.Fprintln(stderr, "voxcam: note: the device stays in this process:", unusable)
	}
	if c.Memory.Worker && unusable == nil {
		w, err := worker.Start(ctx, o, worker.Options{PassTimeout: c.Memory.PassTimeout, Noise: noise})
		if errors.Is(err, worker.ErrNoProcess) {
			err = fmt.Errorf("%w; --worker=false (memory.worker = false) keeps the device in this process", err)
		}
		if err != nil {
			return nil, err
		}
		return w, nil
	}
	return worker.OpenEngine(ctx, o)
}

// openFor opens the model for a data set. Where the file and the configuration leave the volume's size open, it is that of the
// first volume that goes through the network: one bad volume must not stop the others.
func openFor(ctx context.Context, c *config.Config, noise worker.Noise, stderr io.Writer) (m worker.Engine, err error) {
	o, err := c.Engine()
	if err != nil {
		return nil, err
	}
	set, samples, err := openData(c)
	if err != nil {
		return nil, err
	}
	if m, err = start(ctx, c, o, noise, stderr); err != nil {
		return nil, err
	}
	warnings, notes := m.Notes()
	printNotes(stderr, cam.Info{Warnings: warnings, Notes: notes})
	if m.Info().Classes > 0 {
		return m, nil
	}
	first := eachVolume(ctx, set, samples, func(v *volume.Volume) error {
		return m.Bind(ctx, [4]int{v.Channels, v.Depth, v.Height, v.Width})
	})
	if first == nil {
		return m, nil
	}
	if ctx.Err() == nil {
		first = fmt.Errorf("%s leaves the volume's size open, and no volume goes through it; %w", c.Model.File, first)
	}
	return nil, errors.Join(first, m.Close())
}

// openData opens the data set of a configuration, and selects the samples that are asked for.
func openData(c *config.Config) (*dataset.Set, []dataset.Sample, error) {
	set, err := dataset.Open(c.Data)
	if err != nil {
		return nil, nil, err
	}
	samples, err := set.Select()
	return set, samples, err
}

// eachVolume tries the first volumes of a data set until one will do. The error is that of the first.
func eachVolume(ctx context.Context, set *dataset.Set, samples []dataset.Sample, try func(*volume.Volume) error) (first error) {
	const most = 16 // volumes to try
	for _, sample := range samples[:min(most, len(samples))] {
		p, err := set.Prepare(ctx, sample)
		if err == nil {
			err = try(p.Volume)
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if first == nil {
			first = fmt.Errorf("sample %s: %w", sample.ID, err)
		}
	}
	return first
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
