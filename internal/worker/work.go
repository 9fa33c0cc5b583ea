package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/volume"
)

// stage is the progress of a work.
type stage int

const (
	stageQueued   stage = iota // no child has it
	stageBegun                 // a child has it
	stageComputed              // a child has its result
	stageFetched               // its result is here
	stageFailed                // err says why
	stageEnded                 // its user is done with it
)

// work implements explain.Work. The worker's mutex guards what changes.
type work struct {
	worker *Worker
	id     uint64
	volume *volume.Volume
	req    cam.Request

	stage  stage
	child  *child                  // that has it, or is being given it
	cancel context.CancelCauseFunc // of what the child does for it now; nil for nothing
	doing  bool                    // the child does something for it, or ended over that
	wanted bool                    // it is to be computed
	voxels *region                 // that the child is reading; nil for none
	result *cam.Result
	err    error
	events []event // that nobody has been told of

	kept      map[string]kept // states of draws: in the worker's memory or, if ours, in the child's
	incidents []cam.Event
	before    int    // of incidents: those before the child that has it
	suspect   bool   // a child ended over it, or over another one at the same time
	deaths    int    // of children over it alone in a row, without a draw more
	draws     int    // that were kept when the last one ended
	story     string // of the last one
}

// event is a progress or an event for the caller who waits for a work.
type event struct {
	done, total int
	incident    *cam.Event
}

// wait waits until a work has come to a stage; what happens meanwhile is told. A work that fails ends. When ctx ends, what the child does
// for it ends first.
func (k *work) wait(ctx context.Context, until stage) error {
	w := k.worker
	stop := ctx.Done()
	for {
		w.mu.Lock()
		events, now, err, changed := k.events, k.stage, k.err, w.changed
		k.events = nil
		w.mu.Unlock()
		for _, e := range events {
			switch {
			case e.incident == nil && k.req.Progress != nil:
				k.req.Progress(e.done, e.total)
			case e.incident != nil && k.req.OnEvent != nil:
				k.req.OnEvent(*e.incident)
			}
		}
		switch {
		case now == stageFailed:
			k.finish()
			return err
		case now == stageEnded:
			return errors.New("internal error, please report it: the work has ended")
		case now >= until:
			return nil
		case len(events) > 0:
			continue
		}
		select {
		case <-changed:
		case <-stop:
			stop = nil
			w.change(func() {
				switch cause := context.Cause(ctx); {
				case k.cancel != nil:
					k.cancel(cause)
				case k.stage < until:
					k.stage, k.err = stageFailed, cause
				}
			})
		}
	}
}

// computing reports whether a child was told to compute it, and has not answered.
func (k *work) computing() bool { return k.stage == stageBegun && k.doing && k.wanted }

// finish ends a work: nothing is left of it here, nor with the child.
func (k *work) finish() {
	w := k.worker
	var c *child
	w.change(func() {
		w.works = slices.DeleteFunc(w.works, func(other *work) bool { return other == k })
		k.stage, k.events = stageEnded, nil
		k.forget()
		if k.cancel == nil { // otherwise who waits for the child tells it
			c = k.child
		}
	})
	if c != nil {
		c.say(sayEnd, 0, k.id)
	}
}

// forget takes back the memory of states that is this process's. The mutex is held.
func (k *work) forget() {
	for key, s := range k.kept {
		if !s.ours {
			k.worker.in.release(s.state)
		}
		delete(k.kept, key)
	}
}

// Compute implements explain.Work.
func (k *work) Compute(ctx context.Context) error {
	k.worker.change(func() { k.wanted = true })
	return k.wait(ctx, stageComputed)
}

// Result implements explain.Work. A result that is lost with its child is computed again.
func (k *work) Result() (*cam.Result, error) {
	w := k.worker
	if !k.wanted {
		return nil, errors.New("internal error, please report it: the result of a volume that was not explained")
	}
	for {
		if err := k.wait(context.Background(), stageComputed); err != nil {
			return nil, err
		}
		w.mu.Lock()
		c, r := k.child, k.result
		before := slices.Clone(k.incidents[:k.before])
		w.mu.Unlock()
		if r != nil {
			r.Execution.Events = append(before, r.Execution.Events...)
			k.finish()
			return r, nil
		}
		switch err := w.run(c, k, c.fetch); {
		case errors.Is(err, errDied):
			w.await(func() bool { return k.child != c || k.stage >= stageFetched }, nil, nil)
		case err != nil:
			k.finish()
			return nil, err
		}
	}
}

// Drop implements explain.Work.
func (k *work) Drop() { k.finish() }

// tell notes an incident. The mutex is held.
func (k *work) tell(kind cam.EventKind, format string, args ...any) {
	k.hear(cam.Event{Time: time.Now(), Kind: kind, Text: fmt.Sprintf(format, args...)})
}

func (k *work) hear(i cam.Event) {
	k.incidents = append(k.incidents, i)
	k.events = append(k.events, event{incident: &i})
}

// begin gives the child a work.
func (c *child) begin(ctx context.Context, k *work) error {
	v, in := k.volume, k.worker.in
	voxels, err := in.put(v.Data)
	if err != nil {
		return err
	}
	k.worker.change(func() { k.voxels = &voxels })
	defer k.worker.change(k.taken)
	b := beginning{Work: k.id, Shape: [4]int{v.Channels, v.Depth, v.Height, v.Width}, Voxels: voxels, Geometry: v.Geometry, Axes: v.Axes,
		Request: travelling(k.req), Noise: k.req.Noise != nil}
	k.worker.mu.Lock()
	for key, s := range k.kept {
		b.Kept = append(b.Kept, checkpoint{Key: key, Draws: s.draws, State: s.state})
	}
	k.worker.mu.Unlock()
	return c.call(ctx, callBegin, b, nil)
}

// taken takes back the memory that the voxels were in. The mutex is held.
func (k *work) taken() {
	if k.voxels != nil {
		k.worker.in.release(*k.voxels)
		k.voxels = nil
	}
}

// fetch brings the result of a work here.
func (c *child) fetch(ctx context.Context, k *work) error {
	r := &cam.Result{}
	if err := c.call(ctx, callResult, k.id, r); err != nil {
		return err
	}
	for i := range r.Methods {
		m := &r.Methods[i]
		if m.Status == cam.StatusFailed {
			continue
		}
		var at maps
		if err := c.call(ctx, callMaps, wanted{k.id, i}, &at); err != nil {
			return err
		}
		for _, part := range []struct {
			to     *[]float32
			region region
			count  int
		}{{&m.Map, at.Map, at.Values}, {&m.Heatmap, at.Heatmap, at.Voxels}} {
			if part.count < 0 {
				continue
			}
			values, err := get(c.out, part.region, part.count)
			if err != nil {
				c.kill("its memory cannot be read: " + err.Error())
				return errDied
			}
			*part.to = values
		}
	}
	k.worker.change(func() { k.result = r })
	return nil
}
