package runner

import (
	"context"
	"errors"
	"fmt"

	"github.com/voxcam/voxcam/internal/config"
	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/monitor"
	"github.com/voxcam/voxcam/internal/option"
	"github.com/voxcam/voxcam/internal/session"
	"github.com/voxcam/voxcam/internal/worker"
	"github.com/voxcam/voxcam/volume"
)

// Options of a run are no keys of its configuration. The zero value keeps the device in this process and is silent.
type Options struct {
	// Observer is called for each step; notes and warnings about device and model are events, too. Nil: none.
	Observer session.Observer
	// Noise is a .npy file of draws, [n, C, D, H, W], standard normal; "" is the generator.
	Noise string
	// VerifyFiles compares the contents of finished samples with their digests, not only their sizes, when a session is continued.
	VerifyFiles bool
	// Private keeps the commands monitor and recover from reaching the session.
	Private bool
	// Live is called with the session before its device is opened. The function that it returns, nil or not, is called at the end.
	Live func(*Live) (end func())

	// Where the configuration wants a worker process: this program is one when it is started with the argument worker (SelfWorker), or Worker
	// is the command that starts one. Without either, the device stays in this process.
	SelfWorker bool
	Worker     []string
}

// preparation holds a run's options and configuration until the session starts.
type preparation struct {
	Options
	config *config.Config
	live   *Live
}

// Run explains the samples that a configuration selects, in its session. Failures of a sample are in its record and in the summary. Errors are
// those of session.Run; a run that cannot begin has a *session.RefusedError or a *config.Error.
func Run(ctx context.Context, c *config.Config, o Options) (s session.Summary, err error) {
	if o.Observer == nil {
		o.Observer = session.ObserverFunc(func(session.Notice) {})
	}
	refuse := func(err error) (session.Summary, error) {
		if ctx.Err() != nil {
			return s, err // a run that was stopped was not refused
		}
		return s, &session.RefusedError{Err: err}
	}
	if err := c.Validate(); err != nil {
		return s, err
	}
	opt := session.Options{Config: c, Version: Version(), VerifyFiles: o.VerifyFiles}
	var noise worker.Noise
	if o.Noise != "" {
		draws, err := OpenNoise(ctx, o.Noise, c.Request())
		if err != nil {
			return refuse(err)
		}
		defer draws.Close()
		opt.Noise, opt.NoiseName = draws, draws.SHA256()
		noise = worker.Noise{Path: o.Noise, SHA256: draws.SHA256()}
	}
	j := &preparation{o, c, NewLive(c.Model.File, c.Explain.Device, o.Observer)}
	defer func() { err = errors.Join(err, j.live.Close()) }()
	defer j.show(ctx)()
	m, err := j.open(ctx, noise)
	if err != nil {
		return refuse(err)
	}
	defer func() {
		j.live.SetEngine(nil)
		m.Close()
	}()
	if err := m.Prepare(ctx, c.Request().Methods); err != nil {
		return refuse(err)
	}
	j.notify(m.Info().Warnings, m.Info().Notes)
	j.live.SetEngine(m)
	opt.Observer, opt.Figures = j.live, j.live.Figures
	return session.Run(ctx, opt, m)
}

// notify sends notes and warnings to the observer.
func (j *preparation) notify(warnings, notes []string) {
	for _, text := range warnings {
		j.Observer.Notify(session.Notice{Kind: session.NoticeWarning, Reason: text})
	}
	for _, text := range notes {
		j.Observer.Notify(session.Notice{Kind: session.NoticeNote, Reason: text})
	}
}

// show lets other programs reach the session, until the function that it returns is called.
func (j *preparation) show(ctx context.Context) (end func()) {
	over := func() {}
	if j.Live != nil {
		if f := j.Live(j.live); f != nil {
			over = f
		}
	}
	if j.Private {
		return over
	}
	server, err := control.Serve(ctx, j.live)
	if err != nil {
		j.notify([]string{fmt.Sprintf("monitor and recover cannot reach this session: %v", err)}, nil)
		return over
	}
	server.Handle("GET /metrics", monitor.Handler(j.live.Look))
	return func() {
		server.Close()
		over()
	}
}

// open opens the model for the data set. Where the file and the configuration leave the volume's size open, it is that of the first volume
// that goes through the network: one bad volume must not stop the others.
func (j *preparation) open(ctx context.Context, noise worker.Noise) (*engine.Engine, error) {
	o, err := j.config.Engine()
	if err != nil {
		return nil, err
	}
	data, err := openData(j.config)
	if err != nil {
		return nil, err
	}
	m, err := j.start(ctx, o, noise)
	if err != nil {
		return nil, err
	}
	j.notify(m.Notes())
	if m.Info().Classes > 0 {
		return m, nil
	}
	first := data.each(ctx, func(v *volume.Volume) error {
		return m.Bind(ctx, [4]int{v.Channels, v.Depth, v.Height, v.Width})
	})
	if first == nil {
		return m, nil
	}
	if ctx.Err() == nil {
		first = fmt.Errorf("%s leaves the volume's size open, and no volume goes through it; %w", j.config.Model.File, first)
	}
	return nil, errors.Join(first, m.Close())
}

// start opens the device and the model on it, in a worker if the configuration, the program and the system have one.
func (j *preparation) start(ctx context.Context, o engine.Options, noise worker.Noise) (*engine.Engine, error) {
	if j.config.Memory.Worker && (j.SelfWorker || len(j.Worker) > 0) {
		unusable := worker.Usable()
		switch {
		case unusable == nil:
			o.Worker = &worker.Options{PassTimeout: j.config.Memory.PassTimeout, Noise: noise, Command: j.Worker}
		case worker.Supported:
			j.notify(nil, []string{fmt.Sprintf("the device stays in this process: %v", unusable)})
		}
	}
	e, err := engine.Open(ctx, o)
	if errors.Is(err, worker.ErrNoProcess) {
		err = fmt.Errorf("%w; %s=false (memory.worker = false) keeps the device in this process", err, option.Mention("worker"))
	}
	return e, err
}
