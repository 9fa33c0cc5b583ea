package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/sysmem"
)

// starts is the number of failed starts in a row after which callers get the error.
const starts = 3

// backOff returns the pause before another child is started, by the number that ended since a volume was explained.
func backOff(deaths int) time.Duration {
	if deaths <= 1 {
		return 0
	}
	return min(200*time.Millisecond<<min(deaths-2, 10), 5*time.Second)
}

// supervise has one child after the other do what there is to do, until the worker is closed.
func (w *Worker) supervise(c *child) {
	for c != nil {
		w.attend(c)
		if w.ctx.Err() != nil {
			break
		}
		w.mourn(c)
		c = w.next()
	}
	w.change(func() {
		w.closed, w.child = true, nil
		for _, k := range w.works {
			if k.stage < stageFetched {
				k.stage, k.err = stageFailed, errClosed
			}
		}
	})
}

// attend gives a child work until it is gone or the worker is closed, when it is asked to end.
func (w *Worker) attend(c *child) {
	var tasks sync.WaitGroup
	tasks.Go(func() {
		w.examine(c)
		tasks.Go(func() {
			for k := w.pick(c, w.toBegin); k != nil; k = w.pick(c, w.toBegin) {
				w.settle(k, stageBegun, w.run(c, k, c.begin))
			}
		})
		for k := w.pick(c, w.toCompute); k != nil; k = w.pick(c, w.toCompute) {
			w.settle(k, stageComputed, w.run(c, k, w.compute(c)))
		}
	})
	select {
	case <-c.gone:
	case <-w.ctx.Done():
		w.end = errors.Join(w.end, c.close(w.set.grace), c.out.Close())
	}
	tasks.Wait()
}

// examine has a child do the works that earlier ones may have ended over, and those before them, one after the other and nothing else, so
// that the next time it is clear over which. It stops at one that is not to be computed yet.
func (w *Worker) examine(c *child) {
	for {
		var k *work
		wanted, suspects := false, false
		w.mu.Lock()
		for _, other := range w.works {
			if other.stage == stageQueued {
				if k == nil {
					k, wanted = other, other.wanted
				}
				suspects = suspects || other.suspect
			}
		}
		w.mu.Unlock()
		switch {
		case !suspects || w.ctx.Err() != nil || c.isGone():
			return
		case !wanted:
			w.settle(k, stageBegun, w.run(c, k, c.begin))
			return
		}
		w.settle(k, stageFetched, w.once(c, k))
	}
}

// pick waits for a work that choose, called with the mutex held, has for a child; nil when there will be none.
func (w *Worker) pick(c *child, choose func() *work) (k *work) {
	w.await(func() bool {
		k = choose()
		return k != nil
	}, c.gone, w.ctx.Done())
	if w.ctx.Err() != nil {
		return nil
	}
	if c.isGone() {
		return nil
	}
	return k
}

// toBegin is the first work that no child has.
func (w *Worker) toBegin() *work {
	for _, k := range w.works {
		if k.stage == stageQueued {
			return k
		}
	}
	return nil
}

// toCompute is the first work that is not computed, if a child has it and somebody wants it.
func (w *Worker) toCompute() *work {
	for _, k := range w.works {
		switch {
		case k.stage == stageBegun && k.wanted:
			return k
		case k.stage < stageComputed:
			return nil
		}
	}
	return nil
}

// run has a child do something for a work, which is doing it until it is done; if the child ends over it, mourn sees that.
func (w *Worker) run(c *child, k *work, do func(context.Context, *work) error) error {
	ctx, cancel := context.WithCancelCause(w.ctx)
	defer cancel(nil)
	var err error
	w.change(func() {
		if k.stage >= stageFailed {
			err = errEnded
		} else {
			k.child, k.cancel, k.doing = c, cancel, true
		}
	})
	if err != nil {
		return err
	}
	if err = do(ctx, k); errors.Is(err, errDied) {
		<-c.gone
	}
	ended := false
	w.change(func() {
		k.cancel = nil
		k.doing = errors.Is(err, errDied)
		ended = k.stage == stageEnded
	})
	if ended {
		c.say(sayEnd, 0, k.id)
	}
	return err
}

// errEnded says that nobody wants the result of a work any more.
var errEnded = errors.New("the work has ended")

// settle brings a work to a stage, or fails it. If its child has ended, it is left to mourn.
func (w *Worker) settle(k *work, to stage, err error) {
	w.change(func() {
		switch {
		case k.stage >= stageFailed || errors.Is(err, errDied):
		case err != nil:
			k.stage, k.err = stageFailed, err
		default:
			k.stage = to
		}
	})
}

// compute explains a work that the child has.
func (w *Worker) compute(c *child) func(context.Context, *work) error {
	return func(ctx context.Context, k *work) error {
		var info cam.Info
		err := c.call(ctx, callCompute, k.id, &info)
		if err == nil {
			w.change(func() { w.info, w.deaths = info, 0 })
		}
		return err
	}
}

// hear notes what a child tells.
func (w *Worker) hear(c *child, f frame) {
	err := errors.New("a message of the wrong kind")
	switch f.kind {
	case tellState:
		err = heard(f, func(t telling) {
			if t.Pulse {
				c.progressed()
			}
			w.change(func() {
				if w.child == c {
					w.told = t
				}
			})
		})
	case tellTaken:
		err = heard(f, func(id uint64) { w.about(c, id, (*work).taken) })
	case tellProgress:
		err = heard(f, func(p progress) {
			w.about(c, p.Work, func(k *work) { k.events = append(k.events, event{done: p.Done, total: p.Total}) })
		})
	case tellEvent:
		err = heard(f, func(h happened) { w.about(c, h.Work, func(k *work) { k.hear(h.Event) }) })
	case tellCheckpoint:
		err = heard(f, func(p checkpoint) {
			w.about(c, p.Work, func(k *work) {
				if old, found := k.kept[p.Key]; found && !old.ours {
					w.in.release(old.state)
				}
				k.kept[p.Key] = kept{draws: p.Draws, state: p.State, ours: true}
			})
		})
	}
	if err != nil {
		c.kill("it sent " + err.Error())
	}
}

func heard[T any](f frame, note func(T)) error {
	v, err := unpack[T](f.body)
	if err == nil {
		note(v)
	}
	return err
}

// about notes something of a work that a child has.
func (w *Worker) about(c *child, id uint64, note func(*work)) {
	w.change(func() {
		for _, k := range w.works {
			if k.id == id && k.child == c {
				note(k)
			}
		}
	})
}

// mourn puts what a child had back into the queue when that has ended, with the states of draws that it kept.
func (w *Worker) mourn(c *child) {
	c.bury()
	story := c.story()
	w.mu.Lock()
	works := append([]*work(nil), w.works...)
	w.mu.Unlock()
	for _, k := range works {
		w.rescue(c, k)
	}
	less := w.lessMemory(c)
	w.change(func() {
		w.child = nil
		w.deaths++
		suspects := 0
		for _, k := range w.works {
			if k.child == c && k.doing {
				suspects++
			}
		}
		for _, k := range w.works {
			if k.child != c || k.stage >= stageFetched {
				continue
			}
			if k.doing || k.stage == stageComputed {
				k.tell(cam.EventRestart, "the worker process was started again: %s%s", story, less)
			}
			if k.doing {
				k.suspect = true
				k.blame(story, suspects == 1)
			}
			k.stage, k.child, k.doing, k.before = stageQueued, nil, false, len(k.incidents)
		}
	})
	c.out.Close() // nothing can be done about it
}

// blame notes that a child ended over a work, and counts it if it was over no other one. Draws that were kept since the last time show that
// it gets on.
func (k *work) blame(story string, alone bool) {
	draws := 0
	for _, s := range k.kept {
		draws += s.draws
	}
	if draws > k.draws {
		k.deaths = 0
	}
	if alone {
		k.deaths++
	}
	k.draws, k.story = draws, story
}

// rescue copies states of draws from the memory of a child that has ended to that of this process. One that cannot be copied is lost.
func (w *Worker) rescue(c *child, k *work) {
	w.mu.Lock()
	states := map[string]kept{}
	if k.child == c && k.stage < stageFetched {
		for key, s := range k.kept {
			if s.ours {
				states[key] = s
			}
		}
	}
	w.mu.Unlock()
	for key, s := range states {
		state, err := w.in.copy(c.out, s.state)
		w.change(func() {
			switch {
			case err != nil:
				delete(k.kept, key)
			case k.stage == stageEnded: // meanwhile
				w.in.release(state)
			default:
				k.kept[key] = kept{draws: s.draws, state: state}
			}
		})
	}
}

// lessMemory gives the next child on the processor half the budget, if one was killed for want of memory, and then the least; it says so.
func (w *Worker) lessMemory(c *child) string {
	kills := w.set.oomKills()
	if !c.processor || !c.killed() || kills >= 0 && kills == c.kills {
		return ""
	}
	budget := "min"
	w.change(func() {
		if !w.lessened {
			budget = halved(w.budget)
		}
		w.budget, w.lessened = budget, true
	})
	return "; the system was short of memory, the next one on the processor computes within a budget of " + budget
}

// halved is half a budget, as bytesize.ParseBudget reads it.
func halved(text string) string {
	b, err := bytesize.ParseBudget(text)
	if err != nil || b.Min() {
		return "min"
	}
	n, err := b.Bytes(sysmem.Free)
	if err != nil || n < 2 {
		return "min"
	}
	return fmt.Sprint(n / 2)
}

// next starts another child; nil when the worker is closed. A volume that children end over goes to the processor meanwhile, and so
// does every one, as it comes, while none can be started.
func (w *Worker) next() *child {
	for failures := 0; ; {
		if k, next := w.exhausted(); k != nil {
			w.withoutDevice(k, next)
		}
		w.mu.Lock()
		pause := time.NewTimer(w.set.backOff(w.deaths))
		options := w.options
		w.mu.Unlock()
		select {
		case <-pause.C:
		case <-w.ctx.Done():
			pause.Stop()
			return nil
		}
		c, err := w.launch(w.ctx, options)
		if err == nil {
			return c
		}
		changed := (*input.ChangedError)(nil)
		if !errors.As(err, &changed) {
			failures++
			w.change(func() { w.deaths++ })
			if failures < starts && w.ctx.Err() == nil {
				continue
			}
		}
		var first *work
		w.change(func() { w.refusal = err })
		if !w.await(func() bool {
			for _, k := range w.works {
				if k.stage == stageQueued {
					first = k
					return true
				}
			}
			return false
		}, nil, w.ctx.Done()) {
			return nil
		}
		if changed != nil { // nothing else can explain it
			w.settle(first, stageFailed, err)
			continue
		}
		w.change(func() { first.deaths, first.story = w.set.Restarts+1, err.Error() })
		failures = starts - 1 // each volume has one try
	}
}

// exhausted returns the first work that has cost too many children, and what is to be done.
func (w *Worker) exhausted() (*work, policy.Action) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.works {
		if k.stage != stageQueued {
			continue
		}
		if next := w.after(k, w.processor, false, 0); next != policy.NewProcess {
			return k, next
		}
	}
	return nil, policy.NewProcess
}

// after returns what is done after children ended over a work: on the processor or not, the last one killed by the system or not, that number
// of tries on the processor in the device's place. The mutex is held.
func (w *Worker) after(k *work, processor, killed bool, tries int) policy.Action {
	return w.options.Policy.Next(policy.Situation{
		Failure: policy.Died, Processor: processor, Killed: killed, Deaths: k.deaths, Restarts: w.set.Restarts, Tries: tries,
	})
}

// launch starts a child and brings it to where the last one was. The error wraps errDied if it ended, and else is what the engine says.
func (w *Worker) launch(ctx context.Context, options engine.Options) (*child, error) {
	w.mu.Lock()
	if w.processor || options.Device == onProcessor {
		options.Budget = w.budget
	}
	if w.info.SHA256 != "" {
		options.SHA256 = w.info.SHA256
	}
	bound, prepared, held := w.bound, w.prepared, w.held
	if held != nil && !w.until.IsZero() {
		again := *held
		if again.For = time.Until(w.until); again.For <= 0 {
			w.held, held = nil, nil
		} else {
			held = &again
		}
	}
	w.mu.Unlock()
	c, err := spawn(options, &w.set, w.in.file, w.hear)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { c.kill("it is not wanted any more") })()
	o, err := c.open(ctx, &w.set)
	if err == nil && held != nil {
		err = c.replay(ctx, callOrder, *held)
	}
	if err == nil && bound != nil {
		err = c.replay(ctx, callBind, *bound)
	}
	for _, methods := range prepared {
		if err == nil {
			err = c.replay(ctx, callPrepare, methods)
		}
	}
	if err != nil {
		if !errors.Is(err, errDied) {
			c.kill("it could not go on")
		}
		c.bury()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		} else if errors.Is(err, errDied) {
			err = fmt.Errorf("%w while it opened the model: %s", errDied, c.story())
		}
		return nil, errors.Join(err, c.out.Close())
	}
	var s engine.State
	if err := json.Unmarshal(o.Told.State, &s); err != nil {
		c.kill("it sent " + err.Error())
	}
	c.processor = strings.HasPrefix(s.Name, onProcessor)
	w.change(func() {
		w.child, w.refusal, w.told = c, nil, o.Told
		if w.info.Classes == 0 || o.Info.Classes > 0 {
			w.info = o.Info
		}
	})
	return c, nil
}

// onProcessor is the device, and how the names of what computes there begin.
const onProcessor = "cpu"

// replay asks a new child what an earlier one has done. What it refuses now, it will say when it matters.
func (c *child) replay(ctx context.Context, kind kind, in any) error {
	if err := c.call(ctx, kind, in, nil); errors.Is(err, errDied) || ctx.Err() != nil {
		return err
	}
	return nil
}

// withoutDevice explains a work on the processor, in a child of its own, if next is policy.Processor; otherwise it fails the work.
func (w *Worker) withoutDevice(k *work, next policy.Action) {
	options := w.options
	options.Device, options.Precision = onProcessor, ""
	if next != policy.Processor {
		why := ", and the policy does not allow the processor; the last one: %s"
		w.mu.Lock()
		if w.processor {
			why = ", the last one: %s"
		}
		w.mu.Unlock()
		w.fail(k, "%d worker processes ended over this volume"+why, k.deaths, k.story)
		return
	}
	w.change(func() {
		k.tell(cam.EventCPU, "goes on on the processor, in a process of its own, after %d ended: %s", k.deaths, k.story)
		k.before = len(k.incidents)
	})
	for tries := 0; ; tries++ {
		c, err := w.launch(w.ctx, options)
		if err != nil {
			w.fail(k, "%d worker processes ended over this volume, the last one: %s; and on the processor: %w", k.deaths, k.story, err)
			return
		}
		if err = w.once(c, k); !errors.Is(err, errDied) {
			w.change(func() {
				w.child = nil
				if k.result != nil {
					k.result.Execution.Level = cam.LevelCPU
				}
			})
			c.close(w.set.grace) // an error is nothing to the volume
			c.out.Close()
			if err != nil {
				err = fmt.Errorf("on the processor, after %d worker processes ended over this volume: %w", k.deaths, err)
			}
			w.settle(k, stageFetched, err)
			return
		}
		w.mourn(c)
		w.mu.Lock()
		gotOn := w.after(k, w.processor, false, 0) == policy.NewProcess // which the device's children do
		again := w.after(k, true, c.killed(), tries+1) == policy.NewProcess
		w.mu.Unlock()
		switch {
		case gotOn:
			return
		case !again:
			w.fail(k, "%d worker processes ended over this volume, the last one on the processor: %s", k.deaths, k.story)
			return
		}
	}
}

// once brings a work from its beginning to its result on a child.
func (w *Worker) once(c *child, k *work) error {
	for _, do := range []func(context.Context, *work) error{c.begin, w.compute(c), c.fetch} {
		if err := w.run(c, k, do); err != nil {
			return err
		}
	}
	return nil
}

func (w *Worker) fail(k *work, format string, args ...any) {
	w.settle(k, stageFailed, fmt.Errorf(format, args...))
}
