package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/monitor"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/runner"
	"github.com/voxcam/voxcam/internal/session"
	"github.com/voxcam/voxcam/internal/volume/npy"
	"github.com/voxcam/voxcam/internal/worker"
	"github.com/voxcam/voxcam/volume"
)

// runFlags override the configuration; only those that were given count.
type runFlags struct {
	modelFlags
	methodFlags
	memoryFlags
	config, dataset, class, out, session, noise, log string
	userSignals                                      string
	max                                              int
	formats                                          []string
	verify, worker, checkOnly, clearCache            bool
	passTimeout                                      time.Duration
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
	fl.BoolVar(&f.worker, "worker", true, "keep the device in a process of its own, so that its end does not end the run")
	fl.DurationVar(&f.passTimeout, "pass-timeout", 5*time.Minute, "how long a pass on a GPU may take before its process is ended and another goes on; 0 for no limit")
	fl.StringVar(&f.userSignals, "user-signals", dataset.UserSignalsAuto, "what SIGUSR1 and SIGUSR2 mean: memory (leave the GPU's, and take it again), stop, or auto: stop in jobs of batch systems")
	fl.BoolVar(&f.checkOnly, "check-only", false, "only say how the memory is, and whether the run would fit, as voxcam check does")
	fl.BoolVar(&f.clearCache, "clear-cache", false, "first have your other sessions give back what they keep unused of GPUs' memory")
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
	if f.checkOnly {
		return checkRun(cmd, config)
	}
	if f.clearCache {
		clearCaches(cmd.Context(), cmd.ErrOrStderr())
	}
	summary, err := runConfig(cmd.Context(), config, f, cmd.ErrOrStderr())
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
func (f *runFlags) override(cmd *cobra.Command, c *dataset.Config) error {
	given := cmd.Flags().Changed
	for _, o := range []struct {
		flag, key string
		set       func()
	}{
		{"model", "model.file", func() { c.Model.File = f.model }},
		{"target-layer", "model.target_layer", func() { c.Model.TargetLayer = f.layer }},
		{"input-axes", "model.input_axes", func() { c.Model.InputAxes = f.inputAxes }},
		{"layer-layout", "model.layer_layout", func() { c.Model.LayerLayout = f.layout }},
		{"token-grid", "model.token_grid", func() { c.Model.TokenGrid = f.grid }},
		{"prefix-tokens", "model.prefix_tokens", func() { c.Model.PrefixTokens = f.prefix }},
		{"target-class", "model.target_class", func() { c.Model.TargetClass = f.class }},
		{"dataset", "data.dataset", func() { c.Data.Dataset = f.dataset }},
		{"max-samples", "data.max_samples", func() { c.Data.MaxSamples = f.max }},
		{"n-samples", "explain.n_samples", func() { c.Explain.NSamples = f.samples }},
		{"noise-level", "explain.noise_level", func() { c.Explain.NoiseLevel = f.level }},
		{"seed", "explain.seed", func() { c.Explain.Seed = f.seed }},
		{"device", "explain.device", func() { c.Explain.Device = f.device }},
		{"precision", "explain.precision", func() { c.Explain.Precision = f.precision }},
		{"threads", "explain.threads", func() { c.Explain.Threads = f.threads }},
		{"policy", "memory.policy", func() { c.Memory.Policy = f.policy.String() }},
		{"wait", "memory.wait", func() { c.Memory.Wait = f.wait }},
		{"cpu-fallback", "memory.cpu_fallback", func() { c.Memory.CPU = &f.cpu }},
		{"fewer-samples", "memory.fewer_samples", func() { c.Memory.Fewer = &f.fewer }},
		{"shuttle", "memory.shuttle", func() { c.Memory.Shuttle = string(f.shuttle) }},
		{"launch-blocking", "memory.launch_blocking", func() { c.Memory.LaunchBlocking = f.blocking }},
		{"pass-timeout", "memory.pass_timeout", func() { c.Memory.PassTimeout = f.passTimeout }},
		{"user-signals", "memory.user_signals", func() { c.Memory.UserSignals = f.userSignals }},
		{"worker", "memory.worker", func() { c.Memory.Worker = f.worker }},
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
	methods, err := c.Methods()
	if err != nil {
		return refuse(err)
	}
	opt := session.Options{Config: c, Methods: methods, Version: version(), VerifyFiles: f.verify}
	if p := c.Explain.Precision; p != "fp32" { // sessions that were made before there was a choice go on
		opt.Settings = map[string]string{"explain.precision": p}
	}
	var noise worker.Noise
	if f.noise != "" {
		draws, err := npy.Open(ctx, f.noise)
		if err != nil {
			return refuse(err)
		}
		defer draws.Close()
		if err := enoughDraws(draws, f.noise, methods, c.Explain.Conventions, c.Explain.NSamples); err != nil {
			return refuse(err)
		}
		opt.Noise, opt.NoiseName = draws, draws.SHA256()
		noise = worker.Noise{Path: f.noise, SHA256: draws.SHA256()}
	}
	out := stderr
	file, drawn := terminal(stderr)
	if drawn {
		out = file
	}
	progress, err := session.NewProgress(out, f.log, drawn)
	if err != nil {
		return refuse(err)
	}
	defer progress.Close()
	policy, err := policyOf(&c.Memory)
	if err != nil {
		return refuse(err)
	}
	seen := runner.NewLive(c.Model.File, c.Explain.Device, progress)
	defer func() { err = errors.Join(err, seen.Close()) }()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	stops, system := userSignalsStop(c.Memory.UserSignals, os.Getenv)
	if system != "" {
		fmt.Fprintf(stderr, "voxcam: note: in this job of %s, SIGUSR1 and SIGUSR2 stop the run, which can be continued (--user-signals)\n", system)
	}
	if stops {
		defer listen(ctx, seen, progress, stop)()
	} else {
		defer listen(ctx, seen, progress, nil)()
	}
	if server, err := control.Serve(ctx, seen); err != nil {
		fmt.Fprintln(stderr, "voxcam: warning: voxcam monitor and recover cannot reach this session:", err)
	} else {
		server.Handle("GET /metrics", monitor.Handler(seen.Look))
		defer server.Close()
	}
	m, err := openFor(ctx, c, policy, noise, stderr)
	if err != nil && ctx.Err() != nil {
		return s, err
	}
	if err != nil {
		return refuse(err)
	}
	defer func() {
		seen.Computes(nil)
		m.Close()
	}()
	if err := m.Prepare(ctx, methods); err != nil {
		if ctx.Err() != nil {
			return s, err
		}
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

// tellNotes is printNotes for a log of events.
func tellNotes(to session.Observer, info cam.Info) {
	for _, text := range info.Warnings {
		to.Event(session.Event{Kind: session.EventWarning, Reason: text})
	}
	for _, text := range info.Notes {
		to.Event(session.Event{Kind: session.EventNote, Reason: text})
	}
}

// policyOf is the policy that a configuration names, with what it says besides.
func policyOf(m *dataset.Memory) (policy.Policy, error) {
	p, err := policy.ParsePolicy(m.Policy)
	if err != nil {
		return p, err
	}
	p.Wait = m.Wait
	for to, from := range map[*bool]*bool{&p.CPU: m.CPU, &p.Fewer: m.Fewer, &p.Skip: m.Skip} {
		if from != nil {
			*to = *from
		}
	}
	return p, nil
}

// modelOf are the flags that a configuration stands for.
func modelOf(c *dataset.Config) modelFlags {
	return modelFlags{model: c.Model.File, inputAxes: c.Model.InputAxes, prefix: c.Model.PrefixTokens, layer: c.Model.TargetLayer, layout: c.Model.LayerLayout, grid: c.Model.TokenGrid,
		deviceFlags: deviceFlags{c.Explain.Device, c.Explain.Precision}, budget: c.Explain.Memory, ahead: true}
}

// start opens the device and the model on it, in a worker if the configuration and the system have one.
func start(ctx context.Context, c *dataset.Config, o engine.Options, noise worker.Noise, stderr io.Writer) (worker.Engine, error) {
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
func openFor(ctx context.Context, c *dataset.Config, policy policy.Policy, noise worker.Noise, stderr io.Writer) (m worker.Engine, err error) {
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
	flags := modelOf(c)
	o, err := flags.engine(shape)
	if err != nil {
		return nil, err
	}
	o.Policy, o.Shuttle, o.LaunchBlocking, o.Threads = policy, c.Memory.Shuttle, c.Memory.LaunchBlocking, c.Explain.Threads
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
