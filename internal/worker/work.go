package worker

import (
	"context"
	"errors"
	"iter"
	"sync"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/volume"
)

// States is a cam.Checkpoint that lists what it keeps. Begin gives the child of such a one what an earlier process has left. Of other
// checkpoints nothing is known before the child asks, so that it begins with the first point.
type States interface {
	cam.Checkpoint
	// All returns the states that are kept: by key, with the number of their points.
	All() iter.Seq2[string, SavedState]
}

// SavedState is a state of unfinished points.
type SavedState struct {
	Values []float32
	Points int
}

// work implements explain.Work with a volume that the child has.
type work struct {
	worker *Worker
	id     uint64
	req    cam.Request
	news   chan struct{} // has an element while there are events

	mu     sync.Mutex
	events []event               // that the caller was not told of
	kept   map[string]checkpoint // states in the child's memory
	voxels *region               // of this process's memory, while the child reads them
	given  []region              // states in this process's memory, for the child
	ended  bool
}

// event is a progress or an event for the caller who waits for a work.
type event struct {
	done, total int
	incident    *cam.Event
}

// Begin implements explain.Overlapping. States of unfinished points that the child leaves behind are given to Request.Checkpoint when it ends.
func (w *Worker) Begin(ctx context.Context, v *volume.Volume, req cam.Request) (explain.Work, error) {
	if req.Noise != nil && w.set.Noise.Path == "" {
		return nil, errors.New("internal error, please report it: draws must be in a file that the worker reads")
	}
	if err := v.CheckSize(); err != nil {
		return nil, err
	}
	k := &work{worker: w, req: req, news: make(chan struct{}, 1), kept: map[string]checkpoint{}}
	w.mu.Lock()
	if w.works == nil {
		w.mu.Unlock()
		return nil, errClosed
	}
	w.last++
	k.id = w.last
	w.works[k.id] = k
	w.mu.Unlock()
	b := beginning{Work: k.id, Shape: [4]int{v.Channels, v.Depth, v.Height, v.Width}, Geometry: v.Geometry, Axes: v.Axes,
		Request: travelling(req), Noise: req.Noise != nil}
	err := k.give(v, &b)
	if err == nil {
		err = k.call(ctx, callBegin, b, nil)
	}
	if taken := k.taken(); err == nil {
		err = taken
	}
	if err != nil {
		k.Drop()
		return nil, err
	}
	return k, nil
}

// give puts a volume and the states that are kept of it where the child finds them.
func (k *work) give(v *volume.Volume, b *beginning) (err error) {
	in := k.worker.in
	if b.Voxels, err = in.put(v.Data); err != nil {
		return err
	}
	k.voxels = &b.Voxels
	states, listed := k.req.Checkpoint.(States)
	if !listed {
		return nil
	}
	for key, s := range states.All() {
		at, err := in.put(s.Values)
		if err != nil {
			return err
		}
		k.given = append(k.given, at)
		b.Kept = append(b.Kept, checkpoint{Key: key, Draws: s.Points, State: at})
	}
	return nil
}

// taken takes the memory of the voxels back.
func (k *work) taken() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.voxels == nil {
		return nil
	}
	at := *k.voxels
	k.voxels = nil
	return k.worker.in.release(at)
}

// keep notes where the child keeps a state.
func (k *work) keep(c checkpoint) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept[c.Key] = c
	return nil
}

// queue notes an event for the caller.
func (k *work) queue(e event) error {
	k.mu.Lock()
	k.events = append(k.events, e)
	k.mu.Unlock()
	select {
	case k.news <- struct{}{}:
	default:
	}
	return nil
}

// deliver tells the caller of events.
func (k *work) deliver() {
	k.mu.Lock()
	events := k.events
	k.events = nil
	k.mu.Unlock()
	for _, e := range events {
		switch {
		case e.incident == nil && k.req.Progress != nil:
			k.req.Progress(e.done, e.total)
		case e.incident != nil && k.req.OnEvent != nil:
			k.req.OnEvent(*e.incident)
		}
	}
}

// call asks the child something about the work, and tells the caller meanwhile what happens. After an error the caller's checkpoint has what
// the child kept of unfinished points, unless the child may still be at it.
func (k *work) call(ctx context.Context, kind kind, in, out any) error {
	answered := make(chan error, 1)
	go func() { answered <- k.worker.call(ctx, kind, in, out) }()
	for {
		select {
		case <-k.news:
			k.deliver()
		case err := <-answered:
			k.deliver()
			if err != nil && !k.worker.child.abandoned.Load() {
				k.rescue()
			}
			return err
		}
	}
}

// rescue copies states from the memory of the child, which writes none there now. One that cannot be read is lost.
func (k *work) rescue() {
	k.mu.Lock()
	kept := k.kept
	k.kept = map[string]checkpoint{}
	k.mu.Unlock()
	if k.req.Checkpoint == nil {
		return
	}
	for key, c := range kept {
		if values, err := get(k.worker.child.out, c.State, int(c.State.Length/4)); err == nil {
			_ = k.req.Checkpoint.Keep(key, values, c.Draws) // otherwise it is lost
		}
	}
}

// Compute implements explain.Work.
func (k *work) Compute(ctx context.Context) error {
	var info cam.Info
	err := k.call(ctx, callCompute, k.id, &info)
	if err == nil {
		k.worker.learn(info)
	}
	return err
}

// Result implements explain.Work.
func (k *work) Result() (*cam.Result, error) {
	r, err := k.fetch(context.Background())
	if err == nil {
		k.Drop()
	}
	return r, err
}

// Drop implements explain.Work: nothing is left of it here, nor with the child.
func (k *work) Drop() {
	w := k.worker
	k.mu.Lock()
	ended := k.ended
	k.ended = true
	k.mu.Unlock()
	if ended {
		return
	}
	w.mu.Lock()
	delete(w.works, k.id)
	w.mu.Unlock()
	_ = k.taken() // an error is that of a system that gives no memory back
	for _, at := range k.given {
		_ = w.in.release(at)
	}
	w.child.say(sayEnd, 0, k.id)
}

// fetch brings the result here.
func (k *work) fetch(ctx context.Context) (*cam.Result, error) {
	c, r := k.worker.child, &cam.Result{}
	if err := k.call(ctx, callResult, k.id, r); err != nil {
		return nil, err
	}
	for i := range r.Methods {
		m := &r.Methods[i]
		if m.Status == cam.StatusFailed {
			continue
		}
		var at outputs
		if err := k.call(ctx, callMaps, wanted{k.id, i}, &at); err != nil {
			return nil, err
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
				return nil, k.worker.End("its memory cannot be read: " + err.Error())
			}
			*part.to = values
		}
	}
	return r, nil
}
