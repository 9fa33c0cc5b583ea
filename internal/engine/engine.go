// Package engine explains volumes with whatever memory there is. It has a model on a device (packages explain and device), and goes on when
// that cannot: it waits for other programs to leave memory, makes the context of a GPU anew, lets the processor go on, and skips a volume only
// when nothing that the policy allows can hold it. What happened is told in each result.
//
//	e, err := engine.Open(ctx, engine.Options{Model: "m.onnx", Policy: policy.DefaultPolicy()})
//	...
//	defer e.Close()
//	result, err := e.Explain(ctx, v, req)
//
// The rungs of the ladder, for each volume:
//
//  1. Plans that the budget allows, then smaller ones, down to the smallest with volumes on the host: executor.Model does that by itself.
//  2. Waiting, up to Policy.Wait, until the device has what the smallest plan needs.
//  3. A new context, once, where the device fails again and again. One that is lost gets none: then another process can go on, which who
//     supervises this one starts.
//  4. The processor, where Policy.CPU allows it. Draws that were finished on the device count.
//  5. Fewer draws, where Policy.Fewer allows them. They take no less memory, so that this only keeps the processor from taking long.
//  6. Giving the volume up: a *cam.SkippedError, or the error itself.
//
// A volume is tried on the device again as soon as that has what was missing.
package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/volume"
)

// Options say what is opened, where, and what may be given up. As JSON they go from one process to another.
type Options struct {
	Model string `json:"model"` // ONNX file
	network.ModelOptions
	Ahead bool `json:"ahead,omitempty"` // as in executor.Options

	// Of the device, as in device.Open.
	Device    string `json:"device,omitempty"`
	Precision string `json:"precision,omitempty"`
	Threads   int    `json:"threads,omitempty"` // of the processor; 0: all

	Budget  string        `json:"budget,omitempty"` // as bytesize.ParseBudget reads it
	Policy  policy.Policy `json:"policy"`           // the zero value gives nothing up, and fails
	Shuttle string        `json:"shuttle,omitempty"`

	// LaunchBlocking waits after every step on a GPU, so that an error names the step that it is of.
	LaunchBlocking bool `json:"launch_blocking,omitempty"`
	// Supervised is for a process that another one starts again: that the device is lost, or that a new context does not help, is an error,
	// which wraps cam.ErrLost or is a *cam.TransientError, and no reason to go to the processor.
	Supervised bool `json:"supervised,omitempty"`
}

// Shuttles are the values of Options.Shuttle: when a GPU's memory is given back between volumes. Never is the first, and the default.
var Shuttles = []string{"never", "idle", "always"}

// shuttle is one of Shuttles as package explain has it.
func shuttle(name string) (executor.Shuttle, error) {
	if name == "" {
		name = Shuttles[0]
	}
	i := slices.Index(Shuttles, name)
	if i < 0 {
		return 0, fmt.Errorf("shuttle %q is not known: choose from %s", name, strings.Join(Shuttles, ", "))
	}
	return []executor.Shuttle{executor.ShuttleNever, executor.ShuttleIdle, executor.ShuttleAlways}[i], nil
}

// retry is the time after which a GPU is tried again whose needs are not known; the processor computes meanwhile.
const retry = 30 * time.Second

// model has the methods of an *executor.Model that an engine uses.
type model interface {
	explain.Overlapping
	Bind(ctx context.Context, shape [4]int) error
	Prepare(ctx context.Context, methods []string) error
	Release(ctx context.Context, meanwhile func() error) error
	Trim(keep int) (freed int, err error)
	State() network.State
	Close() error
}

// machine is an opened device.
type machine struct {
	backend.Backend
	uuid            string
	warnings, notes []string
	free            func() (int, error)
	close           func() error
}

// parts are the constructors of an engine's device and model. Tests use others.
type parts struct {
	device  func(o device.Options) (*machine, error)
	model   func(ctx context.Context, path string, b backend.Backend, o executor.Options) (model, error)
	trouble func(error) backend.Trouble // why a device did not open
}

var standard = parts{
	device: func(o device.Options) (*machine, error) {
		d, err := o.Open()
		if err != nil {
			return nil, err
		}
		return &machine{d.Backend, d.UUID(), d.Warnings, d.Notes, d.FreeMemory, d.Close}, nil
	},
	model: func(ctx context.Context, path string, b backend.Backend, o executor.Options) (model, error) {
		m, err := executor.Open(ctx, path, b, o)
		if err != nil {
			return nil, err
		}
		return m, nil
	},
	trouble: device.Trouble,
}

// Engine is a model on a device. Its methods may be called by many goroutines; one volume is explained at a time.
type Engine struct {
	parts    parts
	options  Options
	budget   bytesize.Budget
	size     int // of the budget, if it is one in bytes
	shuttle  executor.Shuttle
	governor *policy.Governor

	// Who explains a volume, or changes the seats, holds an element of turn.
	turn   chan struct{}
	opened bool             // Open has succeeded
	tried  time.Time        // when the device was last tried in vain; with the turn
	short  *cam.MemoryError // what the device lacked then, if it is known; with the turn
	lost   error            // why this process gets the device no more; with the turn
	untold []cam.Event      // of opening, for the first volume's record; with the turn

	mu              sync.Mutex
	seat            *seat          // on the device that was asked for; nil while there is none
	spare           *seat          // on the processor instead; nil while it is not needed
	gate            *gate          // nil: shut
	ahead           map[*work]bool // begun on the device, and not computed
	untaken         map[*work]bool // computed, and not taken
	orders          []*order       // that want the turn
	stop            context.CancelCauseFunc
	state           string
	info            cam.Info
	warnings, notes []string
}

var _ explain.Overlapping = (*Engine)(nil)

// Open opens the device and the model. Where the memory of a GPU is too short for its context, it waits, and leaves the GPU to later
// volumes if the policy has the processor. A GPU that does not work is an error, or with device auto a warning.
func Open(ctx context.Context, o Options) (*Engine, error) { return open(ctx, o, standard) }

func open(ctx context.Context, o Options, p parts) (*Engine, error) {
	if err := o.Policy.Check(); err != nil {
		return nil, err
	}
	budget, err := bytesize.ParseBudget(o.Budget)
	if err != nil {
		return nil, err
	}
	e := &Engine{parts: p, options: o, budget: budget, governor: policy.NewGovernor(budget, nil), turn: make(chan struct{}, 1),
		ahead: map[*work]bool{}, untaken: map[*work]bool{}, state: StateStarting}
	if e.shuttle, err = shuttle(o.Shuttle); err != nil {
		return nil, err
	}
	e.size = budget.Size()
	w := &task{engine: e}
	s, err := e.openWaiting(ctx, w)
	if err != nil {
		return nil, err
	}
	e.notes = append(e.notes, s.notes...)
	e.warnings = append(e.warnings, s.warnings...)
	for _, i := range w.incidents {
		e.warnings = append(e.warnings, i.Text)
	}
	e.untold = w.incidents
	e.info, e.opened = s.model.Info(), true
	e.options.SHA256 = e.info.SHA256
	e.openGate()
	e.enter(StateIdle)
	return e, nil
}

// openWaiting opens the device, or when that has no memory for a while, the processor.
func (e *Engine) openWaiting(ctx context.Context, w *task) (*seat, error) {
	for {
		s, err := e.place(ctx, w)
		if err == nil {
			return s, nil
		}
		if short := (*cam.MemoryError)(nil); !errors.As(err, &short) {
			return nil, err
		}
		if err := e.recover(ctx, s, w, err); err != nil {
			if skipped := (*cam.SkippedError)(nil); errors.As(err, &skipped) {
				err = skipped.Err
			}
			return nil, err
		}
	}
}

// Info implements explain.Explainer.
func (e *Engine) Info() cam.Info {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.info
}

// learn keeps what a model knows of itself by now. The turn is held.
func (e *Engine) learn(s *seat) {
	if known := e.Info(); known.Classes > 0 && known.TargetLayer != "" {
		return
	}
	info := s.model.Info()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.info = info
}

// Notes returns warnings and notes about the device, from opening and since.
func (e *Engine) Notes() (warnings, notes []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.warnings), slices.Clone(e.notes)
}

func (e *Engine) warn(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.warnings = append(e.warnings, fmt.Sprintf(format, args...))
}

// Bind prepares the model for volumes of a shape, [C, D, H, W].
func (e *Engine) Bind(ctx context.Context, shape [4]int) error {
	return e.alone(ctx, func(s *seat) error {
		if err := s.model.Bind(ctx, shape); err != nil {
			return err
		}
		e.options.Shape = shape
		return nil
	})
}

// Prepare makes the plans that methods need ready, so that a budget that is too small, a *cam.BudgetError, is known before the work.
// That memory is short at the moment is no error: the first volume deals with it.
func (e *Engine) Prepare(ctx context.Context, methods []string) error {
	return e.alone(ctx, func(s *seat) error {
		err := s.model.Prepare(ctx, methods)
		small := (*cam.BudgetError)(nil)
		if errors.As(err, &small) && e.lowers(s, small) {
			err = s.model.Prepare(ctx, methods)
		}
		switch {
		case ctx.Err() != nil:
			return err
		case errors.As(err, &small) && (e.refuses(small) || s.resident == nil && !e.isSpare(s)):
			return small
		case passing(err):
			return nil
		}
		return err
	})
}

// passing reports whether an error says that a device cannot now what it may well be able to do later, or elsewhere.
func passing(err error) bool {
	var short *cam.MemoryError
	var transient *cam.TransientError
	return errors.As(err, &short) || errors.As(err, &transient) || errors.Is(err, cam.ErrLost)
}

// alone calls f with the model in use, while no volume is explained or brought ahead.
func (e *Engine) alone(ctx context.Context, f func(*seat) error) error {
	if err := e.take(ctx); err != nil {
		return err
	}
	defer e.leave()
	e.shut()
	s := e.current()
	if s == nil {
		return nil
	}
	if err := f(s); err != nil {
		return err
	}
	e.learn(s)
	return nil
}

// Begin implements explain.Overlapping. While the device has trouble, the volume waits where the caller has it.
func (e *Engine) Begin(ctx context.Context, v *volume.Volume, req cam.Request) (explain.Work, error) {
	req, err := req.Filled()
	if err != nil {
		return nil, err
	}
	choices, err := cam.Choose(req.Methods, req.Convention)
	if err != nil {
		return nil, err
	}
	if err := v.CheckSize(); err != nil {
		return nil, err
	}
	w := newWork(e, v, req, choices)
	s, g := e.through()
	if s == nil {
		return w, v.CheckFinite()
	}
	defer g.inside.Done()
	both, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(g.context, func() { cancel(errShut) })()
	inner, err := s.model.Begin(both, v, w.request())
	switch {
	case err == nil:
		e.mu.Lock()
		defer e.mu.Unlock()
		w.inner, w.seat, w.begun = inner, s, w.draws
		e.ahead[w] = true
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case context.Cause(both) == errShut, passing(err): // Compute begins
	default:
		return nil, err
	}
	return w, nil
}

// Explain implements explain.Explainer.
func (e *Engine) Explain(ctx context.Context, v *volume.Volume, req cam.Request) (*cam.Result, error) {
	return explain.One(ctx, e, v, req)
}

// Close gives the device back. Works must have been ended.
func (e *Engine) Close() error {
	if err := e.take(context.Background()); err != nil {
		return err
	}
	defer func() { <-e.turn }()
	e.shut()
	return errors.Join(e.unseat(&e.spare), e.unseat(&e.seat))
}

// take waits for the turn.
func (e *Engine) take(ctx context.Context) error {
	select {
	case e.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// leave gives the turn to the next, and lets volumes be brought ahead again.
func (e *Engine) leave() {
	e.openGate()
	e.enter(StateIdle)
	<-e.turn
}
