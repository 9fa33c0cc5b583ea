// Package worker runs an engine in a child process, so that whatever happens to it, a crash of a driver, the system's out-of-memory
// killer, a call that never returns, ends no run: another child takes its place, begins the volumes again that were not done, and goes on
// from the draws that were kept.
//
//	w, err := worker.Start(ctx, engine.Options{Model: "m.onnx"}, worker.Options{PassTimeout: 5 * time.Minute})
//	...
//	defer w.Close()
//	result, err := w.Explain(ctx, v, req)
//
// Parent and child are connected by a pair of sockets for messages, and share two files of memory without names: the parent puts volumes
// and states of draws into one, the child maps and states into the other. Each manages its own, and gives back to the system what is
// free.
//
// What that costs besides an engine in the same process: the voxels of a volume that has been begun exist twice, with the caller and
// with the child, and a third time for the moment in which they are handed over; a map and its heatmap exist twice for the moment in
// which they are handed over, one method at a time; and states of draws, which outlive the child, are held by the system.
package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/volume"
)

// Options of a Worker. The zero value has no limit of time.
type Options struct {
	// PassTimeout is how long the child may show no progress while it is to do something, before it is ended and another one goes on: a
	// pass through the network, or a sign that it waits or loads. 0: for ever.
	PassTimeout time.Duration
	// Noise names the file of draws for requests with Noise: the child reads it itself.
	Noise Noise
	// Restarts is how many children a volume may cost in a row without getting on; after so many more than the first one, the processor
	// has a try, if the policy allows it. 0: 3.
	Restarts int
	// Command is run instead of this program with the argument "worker"; it calls Serve.
	Command []string

	grace    time.Duration                  // for a child that was asked to end; 0: 5 s
	pulse    time.Duration                  // from one state to the next; 0: a second
	backOff  func(deaths int) time.Duration // before another child after so many in a row; nil: backOff
	oomKills func() int                     // instead of outOfMemoryKills
}

// Noise is a .npy file of draws. Another file than that of the digest, in hexadecimal, is refused; "" takes any.
type Noise struct{ Path, SHA256 string }

// Worker is an engine in a child process. Its methods may be called by many goroutines; one volume is explained at a time.
type Worker struct {
	set   Options
	in    *arena // what this process manages
	ctx   context.Context
	close context.CancelCauseFunc
	done  chan struct{} // closed when nothing runs any more
	end   error         // of closing; once done is closed

	options engine.Options // of children, but for the budget of those on the processor

	mu        sync.Mutex
	changed   chan struct{} // closed, and another one made, whenever something below changes
	closed    bool
	child     *child  // that calls go to; nil while there is none
	refusal   error   // why there is none, after some tries
	works     []*work // that have not ended, as they were begun
	last      uint64  // number of a work
	deaths    int     // of children, since a volume was last explained
	processor bool    // children compute on the processor
	budget    string  // of those that do
	lessened  bool    // it is half of what was asked for, or less
	info      cam.Info
	told      telling
	bound     *[4]int
	prepared  [][]string
	held      *policy.Order // a release that has not been resumed
	until     time.Time     // when it resumes by itself; zero: it does not
}

var _ explain.Overlapping = (*Worker)(nil)

var errClosed = errors.New("the worker is closed")

// Start starts a child, and has it open an engine. An error of opening is the engine's, or wraps
// ErrNoProcess. ctx is of the start alone.
func Start(ctx context.Context, options engine.Options, set Options) (*Worker, error) {
	options.Supervised = true
	if set.Restarts == 0 {
		set.Restarts = 3
	}
	if set.grace == 0 {
		set.grace = 5 * time.Second
	}
	if set.pulse == 0 {
		set.pulse = time.Second
	}
	if set.backOff == nil {
		set.backOff = backOff
	}
	if set.oomKills == nil {
		set.oomKills = outOfMemoryKills
	}
	file, err := newShared("voxcam-parent")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoProcess, err)
	}
	w := &Worker{set: set, in: &arena{file: file}, done: make(chan struct{}), changed: make(chan struct{}), options: options, budget: options.Budget}
	w.ctx, w.close = context.WithCancelCause(context.Background())
	var c *child
	for tries := 1; ; tries++ {
		if c, err = w.launch(ctx, options); err == nil {
			break
		}
		if tries == starts || !errors.Is(err, errDied) {
			return nil, errors.Join(err, file.Close())
		}
	}
	w.processor = c.processor
	go func() {
		defer close(w.done)
		w.supervise(c)
		w.end = errors.Join(w.end, file.Close())
	}()
	return w, nil
}

// Close ends the child, and all work.
func (w *Worker) Close() error {
	w.close(errClosed)
	<-w.done
	return w.end
}

// change changes what the mutex guards, and wakes those who wait for it.
func (w *Worker) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.changed)
	w.changed = make(chan struct{})
}

// await waits until f, called with the mutex held, reports true, or one of the channels is closed; then it reports false.
func (w *Worker) await(f func() bool, gone, closed <-chan struct{}) bool {
	for {
		w.mu.Lock()
		done, changed := f(), w.changed
		w.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-changed:
		case <-gone:
			return false
		case <-closed:
			return false
		}
	}
}

// PID is the child's process; 0 while there is none.
func (w *Worker) PID() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.child == nil {
		return 0
	}
	return w.child.cmd.Process.Pid
}

// State returns the latest state of the engine, a second old at most unless it is busy. While there is no child it is restarting; it is not idle
// where a volume was given to it since.
func (w *Worker) State() (s engine.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if json.Unmarshal(w.told.State, &s) != nil || w.child == nil { // what is left of a child is none of its figures
		s = engine.State{Device: w.options.Device, State: engine.StateRestarting}
		s.Held, s.Until = w.held != nil, w.until
	}
	if s.State == engine.StateIdle && slices.ContainsFunc(w.works, (*work).computing) {
		s.State = engine.StateComputing
	}
	return s
}

// Notes returns warnings and notes about the device.
func (w *Worker) Notes() (warnings, notes []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.told.Warnings), slices.Clone(w.told.Notes)
}

// Info implements explain.Explainer.
func (w *Worker) Info() cam.Info {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.info
}

// do asks the child that there is, or the next one, if that one ends meanwhile, as often as a volume may cost one.
func (w *Worker) do(ctx context.Context, ask func(*child) error) error {
	var last *child
	for tries := 0; ; tries++ {
		var c *child
		var refusal error
		ok := w.await(func() bool {
			if c, refusal = w.child, w.refusal; c == last {
				c = nil
			}
			return c != nil || refusal != nil
		}, ctx.Done(), w.ctx.Done())
		switch {
		case !ok && ctx.Err() != nil:
			return context.Cause(ctx)
		case !ok:
			return errClosed
		case c == nil:
			return refusal
		}
		err := ask(c)
		if !errors.Is(err, errDied) {
			return err
		}
		if w.ctx.Err() != nil {
			return errClosed
		}
		if tries >= w.set.Restarts {
			c.bury()
			return fmt.Errorf("%d worker processes ended over this, the last one: %s", tries+1, c.story())
		}
		last = c
	}
}

// Bind prepares the engine for volumes of a shape, [C, D, H, W].
func (w *Worker) Bind(ctx context.Context, shape [4]int) error {
	var info cam.Info
	err := w.do(ctx, func(c *child) error { return c.call(ctx, callBind, shape, &info) })
	if err == nil {
		w.change(func() { w.info, w.bound = info, &shape })
	}
	return err
}

// Prepare makes the engine ready for methods, so that a budget that is too small, a *cam.BudgetError, is known before the work.
func (w *Worker) Prepare(ctx context.Context, methods []string) error {
	err := w.do(ctx, func(c *child) error { return c.call(ctx, callPrepare, methods, nil) })
	if err == nil {
		w.change(func() {
			if !slices.ContainsFunc(w.prepared, func(m []string) bool { return slices.Equal(m, methods) }) {
				w.prepared = append(w.prepared, slices.Clone(methods))
			}
		})
	}
	return err
}

// Order has the engine do something with the memory that it holds. What it was asked to release, the next child leaves, too.
func (w *Worker) Order(ctx context.Context, o policy.Order) (out policy.Outcome, err error) {
	err = w.do(ctx, func(c *child) error { return c.call(ctx, callOrder, o, &out) })
	if err == nil {
		w.change(func() {
			switch o.Operation {
			case policy.Release:
				w.held, w.until = &o, time.Time{}
				if o.For > 0 {
					w.until = time.Now().Add(o.For)
				}
			case policy.Resume:
				w.held, w.until = nil, time.Time{}
			}
		})
	}
	return out, err
}

// Explain implements explain.Explainer.
func (w *Worker) Explain(ctx context.Context, v *volume.Volume, req cam.Request) (*cam.Result, error) {
	return explain.One(ctx, w, v, req)
}

// Begin implements explain.Overlapping. The volume must be left alone until the work ends. States of unfinished draws are kept here:
// Request.Checkpoint is not asked.
func (w *Worker) Begin(ctx context.Context, v *volume.Volume, req cam.Request) (explain.Work, error) {
	if req.Noise != nil && w.set.Noise.Path == "" {
		return nil, errors.New("internal error, please report it: draws must be in a file that the worker reads")
	}
	if err := v.CheckSize(); err != nil {
		return nil, err
	}
	k := &work{worker: w, volume: v, req: req, kept: map[string]kept{}}
	w.change(func() {
		if w.closed {
			k.stage, k.err = stageFailed, errClosed
			return
		}
		w.last++
		k.id = w.last
		w.works = append(w.works, k)
	})
	if err := k.wait(ctx, stageBegun); err != nil {
		return nil, err
	}
	return k, nil
}
