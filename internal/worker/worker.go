// Package worker holds an instance in a child process, so that nothing that happens there ends a run, be it a crash of a driver, the system's
// out-of-memory killer, or a call that never returns: package engine starts another child, which goes on from the points that were kept.
//
//	w, err := worker.Start(ctx, instance.Options{Model: "m.onnx"}, worker.Options{PassTimeout: 5 * time.Minute})
//	...
//	defer w.Close()
//
// Parent and child are connected by a pair of sockets for messages, and share two files of memory without names: the parent puts volumes
// and states of unfinished points into one, the child maps and states into the other. Each manages its own, and gives free
// memory back to the system.
//
// Besides an instance in the same process that costs memory: the voxels of a volume that has been begun exist twice, with the caller and
// with the child, and a third time for the moment in which they are handed over; a map and its heatmap exist twice for the moment in
// which they are handed over, one method at a time; and states of unfinished points are held by the system.
package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/volume"
)

// Options of a Worker. The zero value has no limit of time.
type Options struct {
	// PassTimeout is the longest time without progress while the child has a call to answer, after which it is ended. Progress is a pass
	// through the network, or a sign that it loads. 0: no limit.
	PassTimeout time.Duration
	// Noise names the file of draws for requests with Noise: the child reads it itself.
	Noise Noise
	// Command is run instead of this program with the argument "worker"; it calls Serve.
	Command []string

	Grace    time.Duration // for a child that was asked to end, and twice that for a call that was cancelled; 0: 5 s
	Pulse    time.Duration // from one state to the next; 0: a second
	OOMKills func() int    // returns the number of processes that the system has killed for want of memory, -1 for unknown; nil: the system's count
}

// Noise is a .npy file of draws. Another file than that of the digest, in hexadecimal, is refused; "" takes any.
type Noise struct{ Path, SHA256 string }

// ErrNoProcess says that the system refuses a process, or its shared memory or connection.
var ErrNoProcess = errors.New("the worker process cannot be started")

// DiedError says that a worker process has ended. Another one can go on.
type DiedError struct {
	Reason      string // of its end
	Killed      bool   // by another process than this one
	OutOfMemory bool   // the system has killed it for want of memory, as far as is known
}

// Error implements error.
func (e *DiedError) Error() string { return "the worker process has ended: " + e.Reason }

// errClosed says that the worker was closed.
var errClosed = errors.New("the worker is closed")

// Worker is an instance in a child process. Errors that are a *DiedError say that the process has ended; then only Close is left.
type Worker struct {
	set     Options
	child   *child
	in      *sharedMemory // managed by this process
	device  instance.DeviceInfo
	rescued sync.Once // states have been rescued after the end of the process
	closed  sync.Once

	mu    sync.Mutex
	works map[uint64]*work // works that have not ended; nil once closed
	last  uint64           // number of a work
	info  cam.Info
	state instance.Snapshot
}

var _ instance.Instance = (*Worker)(nil)

// Start starts a child, which opens an instance. An error of opening is the instance's, or a *DiedError, or wraps ErrNoProcess. ctx is
// for the start alone.
func Start(ctx context.Context, o instance.Options, set Options) (_ *Worker, err error) {
	if set.Grace == 0 {
		set.Grace = 5 * time.Second
	}
	if set.Pulse == 0 {
		set.Pulse = time.Second
	}
	if set.OOMKills == nil {
		set.OOMKills = outOfMemoryKills
	}
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	in, err := newShared("voxcam-parent")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoProcess, err)
	}
	w := &Worker{set: set, in: &sharedMemory{file: in}, works: map[uint64]*work{}}
	if w.child, err = spawn(&w.set, in, w.handle); err != nil {
		return nil, errors.Join(err, in.Close())
	}
	defer context.AfterFunc(ctx, func() { w.child.kill("it is not wanted any more") })()
	var answer opened
	err = w.call(ctx, callOpen, opening{Options: text, Noise: set.Noise, Pulse: int64(set.Pulse)}, &answer)
	if err == nil {
		err = w.updateState(answer.State)
	}
	if err != nil {
		w.child.kill("it could not go on")
		err = errors.Join(err, w.Close())
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	w.device = answer.Device
	w.updateInfo(answer.Info)
	return w, nil
}

// updateState keeps the state that the child sent.
func (w *Worker) updateState(t stateMessage) error {
	var s instance.Snapshot
	if err := json.Unmarshal(t.State, &s); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = s
	return nil
}

// Gone returns a channel that is closed when the process has ended, or closed its connection.
func (w *Worker) Gone() <-chan struct{} { return w.child.gone }

// End ends the process at once, for a reason. It returns the error of all later calls.
func (w *Worker) End(reason string) *DiedError {
	w.child.kill(reason)
	return w.Died()
}

// Died waits for the end of a process that is gone, and describes it. The states of unfinished points that it kept go to the checkpoints of the
// callers.
func (w *Worker) Died() *DiedError {
	w.child.reap()
	w.rescueAll()
	kills, killed := w.set.OOMKills(), w.child.killed()
	return &DiedError{Reason: w.child.exitReason(), Killed: killed, OutOfMemory: killed && (kills < 0 || kills != w.child.kills)}
}

// rescueAll copies the states of all works from the memory of the process, which has ended.
func (w *Worker) rescueAll() {
	w.rescued.Do(func() {
		w.mu.Lock()
		works := slices.Collect(maps.Values(w.works))
		w.mu.Unlock()
		for _, k := range works {
			k.rescueStates()
		}
	})
}

// Interrupt makes all calls return at once, with an error. After that the worker can only be closed.
func (w *Worker) Interrupt() { w.child.interrupt() }

// Close ends the process. What it has kept of unfinished points, the checkpoints of the callers keep from then on. Closing again does nothing.
func (w *Worker) Close() (err error) {
	w.closed.Do(func() {
		err = w.child.close(w.set.Grace)
		w.rescueAll()
		w.mu.Lock()
		w.works = nil
		w.mu.Unlock()
		err = errors.Join(err, w.child.out.Close(), w.in.file.Close())
	})
	return err
}

// PID returns the number of the process.
func (w *Worker) PID() int { return w.child.cmd.Process.Pid }

// call asks the child. If the child ends before it answers, the error is a *DiedError.
func (w *Worker) call(ctx context.Context, kind kind, in, out any) error {
	err := w.child.call(ctx, kind, in, out)
	if errors.Is(err, errDied) {
		return w.Died()
	}
	return err
}

// handle handles a message of the child that is no answer.
func (w *Worker) handle(f frame) error {
	switch f.kind {
	case tellState:
		return decoded(f, func(t stateMessage) error {
			if t.Pulse {
				w.child.progressed()
			}
			return w.updateState(t)
		})
	case tellTaken:
		return decoded(f, func(id uint64) error { return w.withWork(id, (*work).freeVoxels) })
	case tellProgress:
		return decoded(f, func(p progress) error {
			return w.withWork(p.Work, func(k *work) error { return k.queue(event{done: p.Done, total: p.Total}) })
		})
	case tellEvent:
		return decoded(f, func(h happened) error {
			return w.withWork(h.Work, func(k *work) error { return k.queue(event{incident: &h.Event}) })
		})
	case tellCheckpoint:
		return decoded(f, func(c checkpoint) error { return w.withWork(c.Work, func(k *work) error { return k.noteState(c) }) })
	}
	return errors.New("a message of the wrong kind")
}

func decoded[T any](f frame, note func(T) error) error {
	v, err := unpack[T](f.body)
	if err != nil {
		return err
	}
	return note(v)
}

// withWork calls note with the work of that number, unless it has ended.
func (w *Worker) withWork(id uint64, note func(*work) error) error {
	w.mu.Lock()
	k := w.works[id]
	w.mu.Unlock()
	if k == nil {
		return nil
	}
	return note(k)
}

// Device implements instance.Instance.
func (w *Worker) Device() instance.DeviceInfo { return w.device }

// State implements instance.Instance.
func (w *Worker) State() instance.Snapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

// Info implements explain.Explainer.
func (w *Worker) Info() cam.Info {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.info
}

// updateInfo keeps the description of the model.
func (w *Worker) updateInfo(i cam.Info) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.info = i
}

// Bind implements instance.Instance.
func (w *Worker) Bind(ctx context.Context, shape [4]int) error {
	var info cam.Info
	err := w.call(ctx, callBind, shape, &info)
	if err == nil {
		w.updateInfo(info)
	}
	return err
}

// Prepare implements instance.Instance.
func (w *Worker) Prepare(ctx context.Context, methods []string) error {
	return w.call(ctx, callPrepare, methods, nil)
}

// Order implements instance.Instance.
func (w *Worker) Order(ctx context.Context, o policy.Order) (out policy.Outcome, err error) {
	return out, w.call(ctx, callOrder, o, &out)
}

// Usage implements instance.Instance.
func (w *Worker) Usage(ctx context.Context) (u backend.Usage, err error) {
	return u, w.call(ctx, callUsage, nil, &u)
}

// UseLeast implements instance.Instance.
func (w *Worker) UseLeast(ctx context.Context, bytes int) (changes bool, err error) {
	return changes, w.call(ctx, callUseLeast, bytes, &changes)
}

// Explain implements explain.Explainer.
func (w *Worker) Explain(ctx context.Context, v *volume.Volume, req cam.Request) (*cam.Result, error) {
	return explain.One(ctx, w, v, req)
}
