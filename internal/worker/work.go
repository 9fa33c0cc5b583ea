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

// States is a cam.Checkpoint that lists its states. Begin hands them to the child, which goes on from them. With another checkpoint the child
// begins with the first point.
type States interface {
	cam.Checkpoint
	// All returns the kept states by key, with the number of their points.
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

	abandoned bool // the child may still be at the latest call

	mu     sync.Mutex
	events []event               // not yet delivered to the caller
	kept   map[string]checkpoint // states in the child's memory
	voxels *region               // in this process's memory, while the child reads them
	given  []region              // states in this process's memory, for the child
	ended  bool
}

// event is a progress or an event, for the caller of a work.
type event struct {
	done, total int
	incident    *cam.Event
}

// Begin implements explain.Overlapping. When the child ends, its states of unfinished points go to Request.Checkpoint.
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
		Request: sendable(req), Noise: req.Noise != nil}
	err := k.sendVolume(v, &b)
	if err == nil {
		err = k.call(ctx, callBegin, b, nil)
	}
	if taken := k.freeVoxels(); err == nil {
		err = taken
	}
	if err != nil {
		k.Drop()
		return nil, err
	}
	return k, nil
}

// sendVolume puts a volume and its kept states into shared memory for the child.
func (k *work) sendVolume(v *volume.Volume, b *beginning) (err error) {
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

// freeVoxels frees the shared memory of the voxels.
func (k *work) freeVoxels() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.voxels == nil {
		return nil
	}
	at := *k.voxels
	k.voxels = nil
	return k.worker.in.release(at)
}

// noteState notes the place of a state in the child's memory.
func (k *work) noteState(c checkpoint) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept[c.Key] = c
	return nil
}

// queue keeps an event for the caller.
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

// deliver hands the events to the caller.
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

// call asks the child about the work. Until the answer comes, it delivers events to the caller. After an error the caller's checkpoint has what
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
			if abandoned := (abandonedError{}); errors.As(err, &abandoned) {
				k.abandoned = true
			} else if err != nil {
				k.rescueStates()
			}
			return err
		}
	}
}

// rescueStates copies states from the memory of the child, which writes none there now, to the caller's checkpoint. States that cannot be read
// are lost.
func (k *work) rescueStates() {
	k.mu.Lock()
	kept := k.kept
	k.kept = map[string]checkpoint{}
	k.mu.Unlock()
	if k.req.Checkpoint == nil {
		return
	}
	for key, c := range kept {
		if values, err := get(k.worker.child.out, c.State, int(c.State.Length/4)); err == nil {
			_ = k.req.Checkpoint.Keep(key, values, c.Draws) // otherwise the state is lost
		}
	}
}

// Compute implements explain.Work.
func (k *work) Compute(ctx context.Context) error {
	if k.abandoned {
		return k.worker.End("it did not stop when it was asked to")
	}
	var info cam.Info
	err := k.call(ctx, callCompute, k.id, &info)
	if err == nil {
		k.worker.updateInfo(info)
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

// Drop implements explain.Work. It forgets the work here and in the child.
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
	_ = k.freeVoxels() // an error means that the system takes no memory back
	for _, at := range k.given {
		_ = w.in.release(at)
	}
	w.child.notify(sayEnd, 0, k.id)
}

// fetch copies the result from the child.
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
