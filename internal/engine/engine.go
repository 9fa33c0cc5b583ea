// Package engine explains volumes with whatever memory there is. It drives an instance, a model on a device in this process or in a worker
// process, and goes on when that cannot: it waits for other programs to leave memory, opens the device anew, starts another process, falls
// back on the processor, and skips a volume only when nothing that the policy allows has enough memory. Each result has the events.
//
//	e, err := engine.Open(ctx, engine.Options{Options: instance.Options{Model: "m.onnx"}, Policy: policy.DefaultPolicy()})
//	...
//	defer e.Close()
//	result, err := e.Explain(ctx, v, req)
//
// The order of the actions for a volume is the ladder of package policy; the engine classifies errors and carries the actions out. Volumes go
// to the device again as soon as that has the missing memory.
package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/worker"
	"github.com/voxcam/voxcam/volume"
)

// Options are those of the instance, with the policy and the use of worker processes.
type Options struct {
	instance.Options
	Policy policy.Policy // the zero value gives nothing up, and fails
	// Worker runs instances in processes of their own; nil: in this process.
	Worker *worker.Options
	// Restarts is the number of worker processes that may end over a volume in a row without progress, after the first one. 0: 3.
	Restarts int

	// BackOff returns the pause before another process, by the number that ended since a volume was explained; nil: up to 5 s.
	BackOff func(deaths int) time.Duration
}

// retry is the time after which a GPU is tried again if the missing memory is not known; until then the processor computes.
const retry = 30 * time.Second

// start opens an instance.
type start func(ctx context.Context, o instance.Options) (instance.Instance, error)

// starter returns the start of the options.
func (o Options) starter() start {
	if o.Worker == nil {
		return instance.Open
	}
	return func(ctx context.Context, opened instance.Options) (instance.Instance, error) {
		w, err := worker.Start(ctx, opened, *o.Worker)
		if err != nil {
			return nil, err
		}
		return w, nil
	}
}

// Engine is a model on a device. Its methods may be called by many goroutines; one volume is explained at a time.
type Engine struct {
	start   start
	options Options // Shape is guarded by mu

	// life ends when the engine is closed, with the cause errClosed.
	life context.Context
	end  context.CancelCauseFunc

	// turn has an element while a caller explains a volume, or changes the instances. It guards the fields up to mu.
	turn      chan struct{}
	opened    bool             // Open has succeeded
	host      bool             // the requested device is the processor: it was opened, and not in the place of a device without memory
	tried     time.Time        // when the device was last tried in vain
	short     *cam.MemoryError // the lack of memory then, if it is known
	lost      error            // the reason why this process cannot open the device any more
	pending   []cam.Event      // of opening, for the first volume's record
	deaths    int              // of worker processes, since a volume was last explained
	failures  int              // of starting one, in a row
	processor string           // budget of instances on the processor
	reduced   bool             // it is half of the requested budget, or less

	// mu guards the fields below.
	mu              sync.Mutex
	primary         *openInstance  // on the device that was asked for; nil while there is none
	fallback        *openInstance  // on the processor instead; nil while it is not needed
	changed         chan struct{}  // closed, and another one made, when primary or fallback changes
	gate            *gate          // nil: shut
	ahead           map[*work]bool // begun on the device, and not computed
	unfetched       map[*work]bool // computed, and not fetched
	suspects        map[*task]bool // a process ended over one of them: they are explained alone
	orders          []*order       // that want the turn
	held            bool           // computing is held down to the least that works
	until           time.Time      // while held; zero: until it is resumed
	stop            context.CancelCauseFunc
	state           string
	info            cam.Info
	warnings, notes []string
}

var _ explain.Overlapping = (*Engine)(nil)

// errClosed says that the engine is closed.
var errClosed = errors.New("the engine is closed")

// Open opens the device and the model. If the memory of a GPU is too short for its context, it waits, and then falls back on
// the processor, if the policy allows that; later volumes try the GPU again. A GPU that does not work is an error, or with device auto a warning.
func Open(ctx context.Context, o Options) (*Engine, error) { return open(ctx, o, o.starter()) }

func open(ctx context.Context, o Options, start start) (*Engine, error) {
	if err := o.Policy.Check(); err != nil {
		return nil, err
	}
	if o.Restarts == 0 {
		o.Restarts = 3
	}
	if o.BackOff == nil {
		o.BackOff = backOff
	}
	e := &Engine{start: start, options: o, processor: o.Budget, turn: make(chan struct{}, 1), changed: make(chan struct{}),
		ahead: map[*work]bool{}, unfetched: map[*work]bool{}, suspects: map[*task]bool{}, state: StateStarting}
	e.life, e.end = context.WithCancelCause(context.Background())
	w := &task{engine: e}
	s, err := e.openWaiting(ctx, w)
	if err != nil {
		return nil, err
	}
	e.notes = append(e.notes, s.device.Notes...)
	e.warnings = append(e.warnings, s.device.Warnings...)
	for _, i := range w.incidents {
		e.warnings = append(e.warnings, i.Text)
	}
	e.pending = w.incidents
	e.info, e.host, e.opened = s.Info(), s.device.Processor && !e.isFallback(s), true
	e.options.SHA256 = e.info.SHA256
	e.openGate()
	e.setState(StateIdle)
	return e, nil
}

// openWaiting opens the device or, if that has no memory for a while, the processor.
func (e *Engine) openWaiting(ctx context.Context, w *task) (*openInstance, error) {
	for {
		s, err := e.instanceFor(ctx, w)
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

// updateInfo keeps the model's description, until it is complete. The turn is held.
func (e *Engine) updateInfo(s *openInstance) {
	if known := e.Info(); known.Classes > 0 && known.TargetLayer != "" {
		return
	}
	info := s.Info()
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
	return e.exclusively(ctx, func(s *openInstance) error {
		if err := s.Bind(ctx, shape); err != nil {
			return err
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		e.options.Shape = shape
		return nil
	})
}

// Prepare makes the plans that methods need ready, so that a budget that is too small, a *cam.BudgetError, is known before the work.
// Short memory at the moment is no error: the first volume deals with it.
func (e *Engine) Prepare(ctx context.Context, methods []string) error {
	return e.exclusively(ctx, func(s *openInstance) error {
		err := s.Prepare(ctx, methods)
		small, died := (*cam.BudgetError)(nil), (*worker.DiedError)(nil)
		if errors.As(err, &small) && e.usesLeast(ctx, s, small) {
			err = s.Prepare(ctx, methods)
		}
		switch {
		case ctx.Err() != nil || errors.As(err, &died):
			return err
		case errors.As(err, &small) && (s.refuses(small) || s.device.Processor && !e.isFallback(s)):
			return small
		case passing(err):
			return nil
		}
		return err
	})
}

// passing reports whether an error may be gone later, or elsewhere: memory, a transient failure, a lost device, a process that ended.
func passing(err error) bool {
	var short *cam.MemoryError
	var transient *cam.TransientError
	var died *worker.DiedError
	return errors.As(err, &short) || errors.As(err, &transient) || errors.Is(err, cam.ErrLost) || errors.As(err, &died)
}

// exclusively calls f with the instance in use, while no volume is explained or brought ahead. If its process ends, f is called again with the
// next one.
func (e *Engine) exclusively(ctx context.Context, f func(*openInstance) error) error {
	if err := e.takeTurn(ctx); err != nil {
		return err
	}
	defer e.endTurn()
	e.shutGate()
	for tries := 0; ; tries++ {
		s := e.current()
		if s == nil {
			return nil
		}
		err := f(s)
		died := (*worker.DiedError)(nil)
		switch {
		case e.life.Err() != nil:
			return errClosed
		case err == nil:
			e.updateInfo(s)
			return nil
		case !errors.As(err, &died):
			return err
		}
		if tries >= e.options.Restarts {
			return overCall(tries+1, died)
		}
		if _, err := e.instanceFor(ctx, &task{engine: e, decided: true}); err != nil {
			return err
		}
	}
}

// Begin implements explain.Overlapping. While the device fails, the volume stays with the caller.
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
	if e.life.Err() != nil {
		return nil, errClosed
	}
	w := newWork(e, v, req, choices)
	s, g := e.enterGate()
	if s == nil {
		return w, v.CheckFinite()
	}
	defer g.inside.Done()
	both, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(g.context, func() { cancel(errShut) })()
	var inner explain.Work
	err = e.runFor(s, w, func() (err error) {
		inner, err = s.Begin(both, v, w.request())
		return err
	})
	switch {
	case err == nil:
		e.mu.Lock()
		defer e.mu.Unlock()
		w.inner, w.on, w.begun = inner, s, w.draws
		e.ahead[w] = true
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case context.Cause(both) == errShut, passing(err): // Compute begins
	default:
		return nil, e.explained(err)
	}
	return w, nil
}

// Explain implements explain.Explainer.
func (e *Engine) Explain(ctx context.Context, v *volume.Volume, req cam.Request) (*cam.Result, error) {
	return explain.One(ctx, e, v, req)
}

// Close gives the device back. Calls of others end with an error.
func (e *Engine) Close() error {
	e.end(errClosed)
	e.turn <- struct{}{}
	defer func() { <-e.turn }()
	e.shutGate()
	return errors.Join(e.closeInstance(&e.fallback), e.closeInstance(&e.primary))
}

// takeTurn waits for the turn.
func (e *Engine) takeTurn(ctx context.Context) error {
	select {
	case e.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-e.life.Done():
		return errClosed
	}
	if e.life.Err() != nil {
		<-e.turn
		return errClosed
	}
	return nil
}

// endTurn gives the turn to the next, and lets volumes be brought ahead again.
func (e *Engine) endTurn() {
	e.openGate()
	e.setState(StateIdle)
	<-e.turn
}
