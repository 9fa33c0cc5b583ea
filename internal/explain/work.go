package explain

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/voxcam/voxcam/internal/cam"
	"github.com/voxcam/voxcam/internal/volume"
)

// work implements Work.
type work struct {
	model   *Model
	e       explanation
	choices []cam.Choice
	waits   *network  // in whose field ahead the volume waits; nil while the caller has it
	leave   sync.Once // the place where it waits
}

// Begin implements Overlapping. On a backend without memory for it, the volume waits where the caller has it.
func (m *Model) Begin(ctx context.Context, v *volume.Volume, req Request) (Work, error) {
	choices, err := cam.Choose(req.Methods, req.Convention)
	if err != nil {
		return nil, err
	}
	if err := v.CheckFinite(); err != nil {
		return nil, err
	}
	w := &work{model: m, choices: choices}
	w.e = explanation{req: req, volume: v, result: &Result{}, entered: w.left}
	w.e.low, w.e.high = extent(v.Data)
	select {
	case m.begun <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if n := m.net; n != nil && n.shape == shapeOf(v) && n.fields.ahead != nil {
		if err := n.backend.Upload(n.fields.ahead, v.Data, v.Channels); err != nil {
			w.left()
			return nil, err
		}
		w.waits = n
	}
	return w, nil
}

func shapeOf(v *volume.Volume) [4]int { return [4]int{v.Channels, v.Depth, v.Height, v.Width} }

func extent(x []float32) (low, high float32) {
	low, high = x[0], x[0]
	for _, v := range x {
		if v < low {
			low = v
		}
		if v > high {
			high = v
		}
	}
	return low, high
}

// left lets the next volume wait.
func (w *work) left() { w.leave.Do(func() { <-w.model.begun }) }

// Drop implements Work.
func (w *work) Drop() { w.left() }

// Compute implements Work.
func (w *work) Compute(ctx context.Context) (err error) {
	m, e := w.model, &w.e
	m.mu.Lock()
	defer m.mu.Unlock()
	defer w.left()
	defer func() {
		if err != nil {
			e.back.Wait()
		}
	}()
	if err := m.bind(shapeOf(e.volume)); err != nil {
		return err
	}
	if c := e.req.Class; c.Kind != ClassPredicted && (c.Index < 0 || c.Index >= m.net.classCount) {
		return fmt.Errorf("class %d is out of range: %s has classes 0 to %d", c.Index, m.file.Path, m.net.classCount-1)
	}
	e.net, e.result.TargetLayer = m.net, m.net.target.Label
	waited := m.net.fields.ahead
	if err := e.prepare(ctx, w.choices); err != nil {
		return err
	}
	f := &m.net.fields
	if w.waits == m.net && waited != nil && f.ahead == waited {
		err = m.net.backend.Copy(f.volume, waited)
	} else {
		err = e.upload()
	}
	if err != nil {
		return err
	}
	return e.run(ctx)
}

// Result implements Work.
func (w *work) Result() (*Result, error) {
	w.e.back.Wait()
	for i, err := range w.e.back.failed {
		if err != nil {
			m := &w.e.result.Methods[i]
			m.Status, m.Reason = StatusFailed, err.Error()
		}
	}
	for i := range w.e.result.Methods {
		if m := &w.e.result.Methods[i]; m.Status == StatusFailed {
			m.Map, m.Heatmap = nil, nil
		}
	}
	return w.e.result, nil
}

// returns is what comes back to the host while the device goes on.
type returns struct {
	sync.WaitGroup
	mu     sync.Mutex
	failed map[int]error // of methods
}

// take brings what a slide holds to the result of method i.
func (e *explanation) take(i int, s *slide, to *[]float32) (err error) {
	if e.stay {
		return nil
	}
	if !s.later {
		*to, err = s.field.Take()
		return err
	}
	field := s.field
	s.leaves.Add(1)
	e.back.Go(func() {
		defer s.leaves.Done()
		values, err := field.Take()
		if err == nil {
			*to = values
			return
		}
		e.back.mu.Lock()
		defer e.back.mu.Unlock()
		if e.back.failed == nil {
			e.back.failed = map[int]error{}
		}
		e.back.failed[i] = errors.Join(e.back.failed[i], err)
	})
	return nil
}
