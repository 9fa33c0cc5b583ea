package session

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/volume"
)

// ahead is a fake with a place where one volume waits, as a device has it. Results come late.
type ahead struct {
	*fake
	place chan struct{}

	mu         sync.Mutex
	open, most int // works that were begun and neither awaited nor dropped
	dropped    int
}

type aheadWork struct {
	a      *ahead
	v      *volume.Volume
	req    cam.Request
	result *cam.Result
	leave  sync.Once
}

func newAhead(f *fake) *ahead {
	if f.classes == 0 {
		f.classes = 3
	}
	return &ahead{fake: f, place: make(chan struct{}, 1)}
}

func (a *ahead) count(by int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open += by
	a.most = max(a.most, a.open)
}

func (a *ahead) Begin(ctx context.Context, v *volume.Volume, req cam.Request) (explain.Work, error) {
	select {
	case a.place <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	a.count(1)
	return &aheadWork{a: a, v: v, req: req}, nil
}

func (w *aheadWork) left() { w.leave.Do(func() { <-w.a.place }) }

func (w *aheadWork) Compute(ctx context.Context) (err error) {
	w.left()
	if w.result, err = w.a.Explain(ctx, w.v, w.req); err != nil {
		w.a.count(-1)
	}
	return err
}

func (w *aheadWork) Result() (*cam.Result, error) {
	time.Sleep(2 * time.Millisecond)
	w.a.count(-1)
	return w.result, nil
}

func (w *aheadWork) Drop() {
	w.left()
	w.a.count(-1)
	w.a.mu.Lock()
	defer w.a.mu.Unlock()
	w.a.dropped++
}

var _ explain.Overlapping = (*ahead)(nil)

// A run that overlaps stores what one does that does not.
func TestOverlapStoresTheSame(t *testing.T) {
	for _, class := range []string{"predicted", "all"} {
		w := newWorld(t, 6)
		w.config.Model.TargetClass = class
		w.must(&fake{}, ExitOK)
		want := w.tree()
		o := newWorld(t, 6)
		o.config.Model.TargetClass = class
		a := newAhead(&fake{delay: time.Millisecond})
		if s, err := Run(t.Context(), o.opt, a); ExitCode(s, err) != ExitOK {
			t.Fatal(s, err)
		}
		got := o.tree()
		for name := range want {
			if _, ok := got[name]; !ok {
				t.Errorf("%s: %s is missing", class, name)
			}
		}
		for name := range got {
			if _, ok := want[name]; !ok {
				t.Errorf("%s: %s is too much", class, name)
			}
		}
		if a.open != 0 || a.most < 2 {
			t.Errorf("%s: %d works are open, %d were at most", class, a.open, a.most)
		}
	}
}

// A run that is stopped, or whose sample fails at one of its targets, leaves no work open, and goes on where it was.
func TestOverlapStops(t *testing.T) {
	w := newWorld(t, 6)
	w.config.Model.TargetClass = "all"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calls := 0
	a := newAhead(&fake{hook: func(_ context.Context, req cam.Request, _ *cam.Result) error {
		if calls++; calls == 8 { // the second target of the third sample
			cancel()
		}
		if req.SampleID == "case1" && req.Target.Class.Index == 1 {
			return errors.New("no")
		}
		return nil
	}})
	s, err := Run(ctx, w.opt, a)
	if code := ExitCode(s, err); code != ExitInterrupted || s.Status.Failed != 1 {
		t.Fatal(code, s, err)
	}
	if len(a.place) != 0 || a.open != 0 || a.dropped == 0 {
		t.Errorf("%d volumes wait, %d works are open, %d were dropped", len(a.place), a.open, a.dropped)
	}
	if slices.Contains(a.called()[3:5], "case0") {
		t.Errorf("calls %v", a.called())
	}
	b := newAhead(&fake{})
	if s, err := Run(t.Context(), w.opt, b); ExitCode(s, err) != ExitOK || s.Status.OK != 6 {
		t.Error(s, err)
	}
}
