package voxcam

import (
	"context"
	"errors"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/config"
	"github.com/voxcam/voxcam/internal/durable"
	"github.com/voxcam/voxcam/internal/fit"
	"github.com/voxcam/voxcam/internal/runner"
	"github.com/voxcam/voxcam/internal/session"
)

// Config has all settings of a run over a data set: model, data, methods, memory and output. LoadConfig and NewConfig make one; Keys lists the
// settings. It is not to be used by several goroutines.
type Config struct{ config *config.Config }

// Key is a setting of a run.
type Key struct {
	Name    string // section.name, as in a configuration file: model.file
	Doc     string // its meaning, in words
	Default string // in the form of a file, without quotes; "" where there is none
}

// Keys lists the settings of a Config, section by section.
func Keys() []Key {
	var all []Key
	for _, k := range config.Keys() {
		all = append(all, Key{k.Name, k.Doc, k.Default})
	}
	return all
}

// NewConfig returns the configuration of an empty file.
func NewConfig() *Config { return &Config{config.Defaults()} }

// LoadConfig reads a configuration file, in TOML as docs/formats/config.md describes it, or one of the original system. Complaints about it
// come all at once, in a *ConfigError.
func LoadConfig(path string) (*Config, error) {
	c, err := config.Load(path)
	if err != nil {
		return nil, named(err)
	}
	return &Config{c}, nil
}

// Set sets a key, named as in a file, to a string, int, float64, bool, time.Duration, []string, []int or []float64, as the key demands. An
// error is a *cam.OptionError.
func (c *Config) Set(key string, value any) error { return c.config.Set(key, value) }

// Validate returns all that is wrong with the configuration in a *ConfigError. Run does it too.
func (c *Config) Validate() error { return named(c.config.Validate()) }

// Fit reports whether the run would fit into the memory that is free now, by the first volume that can be read.
func (c *Config) Fit(ctx context.Context) (*cam.Fit, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	o, err := c.config.Engine()
	if err != nil {
		return nil, err
	}
	if o.Shape, err = runner.ShapeOf(ctx, c.config); err != nil {
		return nil, err
	}
	return fit.Ask(ctx, fit.Question{Engine: o, Request: c.config.Request()})
}

// RunOptions are the options of a run that are not in its configuration. The zero value is silent.
type RunOptions struct {
	// Observe is called for each step, one call at a time; a slow one slows the run. Nil: none.
	Observe func(RunEvent)
	// Noise is a .npy file of draws, [n, C, D, H, W], standard normal, in place of the generator; "" is the generator.
	Noise string
	// VerifyFiles compares the contents of finished samples with their digests, not only their sizes, when a session is continued.
	VerifyFiles bool
	// Private keeps voxcam monitor and voxcam recover from reaching the session.
	Private bool
	// Worker is the command of a child process that has the device, so that its end does not end the run: {"voxcam", "worker"} if that program
	// is installed, in the same version. It is used if memory.worker is true, as by default. Nil keeps the device in this process: without
	// it memory.worker has no effect.
	Worker []string
}

// RunKind is the kind of a RunEvent.
type RunKind string

// Kinds of events, with the fields that they have.
const (
	RunStart   RunKind = "start"    // Session, Dir, Total
	RunBegin   RunKind = "begin"    // Sample and Split are being explained
	RunPass    RunKind = "pass"     // Passes of PassesTotal through the network are done for Sample
	RunSample  RunKind = "sample"   // Sample is written: Status, Reason, Predicted, Confidence, Done, Total, Seconds, Left
	RunDevice  RunKind = "incident" // Device happened to memory or device while Sample was explained
	RunNote    RunKind = "note"     // Reason
	RunWarning RunKind = "warning"  // Reason
	RunEnd     RunKind = "end"      // Session, Dir, Total, Seconds
)

// RunEvent is a step of a run. Fields that its kind does not name are zero.
type RunEvent struct {
	Kind                RunKind
	Session, Dir        string // name and folder of the session
	Sample, Split       string
	Done, Total         int // samples of this run
	Passes, PassesTotal int
	Status              cam.Status
	Reason              string
	Predicted           string  // name of the predicted class
	Confidence          float64 // its probability
	Seconds             float64 // of explaining a sample, or of the whole run
	Left                float64 // seconds that remain at the rate so far
	Device              cam.Event
}

// RunSummary counts the selected samples by their outcome, in this run or an earlier one of the same session.
type RunSummary struct {
	Session, Dir                            string    // name and folder
	Selected, OK, Degraded, Failed, Skipped int       // samples
	Resumed                                 int       // finished by an earlier run
	Pending                                 int       // not reached
	Problems                                []Problem // the samples that are not ok
	Seconds                                 float64
}

// Problem is a sample that is not ok.
type Problem struct {
	Sample, Split string // its ID, and train, val or test
	Status        cam.Status
	Reason        string // for people
}

// Run explains the samples that a configuration selects, and writes maps, heatmaps, pictures, statistics and a report into the folder of its
// session, as voxcam run does. The same session run again continues: finished samples stay, failed ones are tried again. Failures of a sample
// are in its record and in the summary. An error means that the session as a whole could not be begun (*ConfigError, *RefusedError), could not be
// stored (*OutputError), or ended with ctx, whose error it is; the summary counts the samples until then.
func Run(ctx context.Context, c *Config, o RunOptions) (RunSummary, error) {
	if c == nil {
		return RunSummary{}, &RefusedError{Err: errors.New("no configuration is given")}
	}
	opt := runner.Options{Noise: o.Noise, VerifyFiles: o.VerifyFiles, Private: o.Private, Worker: o.Worker}
	if o.Observe != nil {
		opt.Observer = session.ObserverFunc(func(e session.Notice) {
			if e.Kind != session.NoticeMemory { // once a second, for the timeline in the session's folder
				o.Observe(eventOf(e))
			}
		})
	}
	s, err := runner.Run(ctx, c.config, opt)
	summary := RunSummary{Session: s.Name, Dir: s.Dir, Selected: s.Selected, OK: s.Status.OK, Degraded: s.Status.Degraded, Failed: s.Status.Failed,
		Skipped: s.Status.Skipped, Resumed: s.Resumed, Pending: s.Pending, Seconds: s.Seconds}
	for _, p := range s.Problems {
		summary.Problems = append(summary.Problems, Problem(p))
	}
	return summary, named(err)
}

func eventOf(e session.Notice) RunEvent {
	return RunEvent{Kind: RunKind(e.Kind), Session: e.Session, Dir: e.Dir, Sample: e.Sample, Split: e.Split, Done: e.Done, Total: e.Total,
		Passes: e.Passes, PassesTotal: e.PassesTotal, Status: e.Status, Reason: e.Reason, Predicted: e.Predicted, Confidence: e.Confidence,
		Seconds: e.Seconds, Left: e.Left, Device: e.Device}
}

// ConfigError lists the faults of a configuration.
type ConfigError struct {
	Path       string // of the file; "" if there is none
	Complaints []Complaint
	err        error
}

// Complaint is one fault of a configuration.
type Complaint struct {
	Line int    // of the file; 0 where it is of none
	Key  string // "" where it is about no key
	Text string
}

func (e *ConfigError) Error() string { return e.err.Error() }
func (e *ConfigError) Unwrap() error { return e.err }

// RefusedError is the reason for which a run was not begun.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }

// OutputError is the error of results that cannot be written: a full disk, a missing permission, another person's folder.
type OutputError struct {
	Path string
	Err  error
}

func (e *OutputError) Error() string { return e.Err.Error() }
func (e *OutputError) Unwrap() error { return e.Err }

// named returns an error of a run as a type of this package, with the same text.
func named(err error) error {
	var wrong *config.Error
	var refused *session.RefusedError
	var output *durable.Error
	switch {
	case errors.As(err, &output):
		return &OutputError{output.Path, err}
	case errors.As(err, &wrong):
		e := &ConfigError{Path: wrong.Path, err: err}
		for _, c := range wrong.Complaints {
			e.Complaints = append(e.Complaints, Complaint{c.Line, c.Key, c.Text})
		}
		return e
	case errors.As(err, &refused):
		return &RefusedError{err}
	}
	return err
}
