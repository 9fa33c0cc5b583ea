package engine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/volume"
)

// pausing explains a volume in the background, which stops before a draw until go is called.
func pausing(t *testing.T, w *world, e *Engine) (stopped <-chan struct{}, goOn func(), result func() *cam.Result) {
	t.Helper()
	stop, start := make(chan struct{}), make(chan struct{})
	reached := false
	w.draw = func(ctx context.Context, _, _ string, d int) error {
		if d != 3 || reached {
			return nil
		}
		reached = true
		close(stop)
		select {
		case <-start:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	done := make(chan *cam.Result, 1)
	go func() {
		r, err := e.Explain(t.Context(), volume.New(1, 2, 2, 2), request("x", draws))
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	return stop, func() { close(start) }, func() *cam.Result { return <-done }
}

func checkExact(t *testing.T, r *cam.Result) {
	t.Helper()
	if r == nil || r.Methods[1].Map[0] != sum || r.Methods[1].Status != cam.StatusOK {
		t.Errorf("the result is %+v", r)
	}
}

func TestRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := openIn(t, w, Options{})
		stopped, goOn, result := pausing(t, w, e)
		<-stopped
		took, err := e.Order(t.Context(), policy.Order{Operation: policy.Release, For: time.Minute})
		if err != nil || took.Freed() < 40*gib || took.After.Free-took.Before.Free != took.Freed() || !strings.Contains(took.Note, "1m") {
			t.Errorf("released %+v, which are %d bytes: %v", took, took.Freed(), err)
		}
		if st := e.State(); !st.Held || time.Until(st.Until) != time.Minute || st.Budget != 0 || st.State != StateComputing || st.UUID != "GPU-1" {
			t.Errorf("the state is %+v", st)
		}
		goOn()
		r := result()
		checkExact(t, r)
		if st := e.State(); st.Usage.Reserved != w.needs || st.State != StateIdle {
			t.Errorf("the state is %+v", st)
		}
		if r.Execution.Level != cam.LevelStreamed { // the fake says how it began
			t.Errorf("the level is %s", r.Execution.Level)
		}
		time.Sleep(time.Minute)
		if st := e.State(); st.Held || st.Budget == 0 {
			t.Errorf("it does not resume: %+v", st)
		}
		if _, err := e.Order(t.Context(), policy.Order{Operation: policy.Release}); err != nil {
			t.Error(err)
		}
		again, err := e.Order(t.Context(), policy.Order{Operation: policy.Release})
		if err != nil || again.Freed() != 0 || !strings.Contains(again.Note, "nothing was given back") {
			t.Errorf("a second time: %+v: %v", again, err)
		}
		time.Sleep(24 * time.Hour)
		if st := e.State(); !st.Held {
			t.Errorf("it resumes without an order: %+v", st)
		}
		for i, want := range []string{"the budget holds again", "nothing was held back"} {
			if out, err := e.Order(t.Context(), policy.Order{Operation: policy.Resume}); err != nil || !strings.Contains(out.Note, want) || e.State().Held {
				t.Errorf("resume %d: %+v: %v", i, out, err)
			}
		}
	})
}

// A restart does not wait for the volume that is explained, and takes nothing from it.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := openIn(t, w, Options{})
		stopped, _, result := pausing(t, w, e)
		<-stopped
		out, err := e.Order(t.Context(), policy.Order{Operation: policy.Restart})
		if err != nil || out.After.Reserved != 0 || out.Freed() < 40*gib {
			t.Errorf("restarted %+v: %v", out, err)
		}
		r := result()
		checkExact(t, r)
		if !slices.ContainsFunc(r.Execution.Events, func(i cam.Event) bool { return i.Kind == cam.EventRestart }) {
			t.Errorf("no incident tells of it: %+v", r.Execution.Events)
		}
		if w.done["cuda"] != draws {
			t.Errorf("%d draws were taken", w.done["cuda"])
		}
		if got := count(w.openedDevices()); got != "cuda*2" {
			t.Errorf("opened were %s", got)
		}
		// Idle, and into a lack of memory.
		w.broken = func(string) error { w.others = w.total; return nil }
		if _, err := e.Order(t.Context(), policy.Order{Operation: policy.Restart}); !errors.Is(err, errNoRoom) {
			t.Errorf("the error is %v", err)
		}
		if _, err := e.Order(t.Context(), policy.Order{Operation: policy.Trim}); err == nil {
			t.Error("there is nothing to trim, and no error")
		}
		w.broken = func(name string) error {
			if name == "cuda" {
				return errors.New("the driver is gone")
			}
			return nil
		}
		r, err = e.Explain(t.Context(), volume.New(1, 2, 2, 2), request("x", draws))
		if err != nil || r.Execution.Level != cam.LevelCPU {
			t.Fatalf("without a driver: %+v, %v", r, err)
		}
		w.broken = nil
		w.set(0)
		time.Sleep(retry)
		r, err = e.Explain(t.Context(), volume.New(1, 2, 2, 2), request("x", draws))
		if err != nil {
			t.Fatal(err)
		}
		checkExact(t, r)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := e.Order(ctx, policy.Order{Operation: policy.Restart}); !errors.Is(err, context.Canceled) {
			t.Errorf("the error is %v", err)
		}
	})
}

// An order that comes when a volume has just been computed takes nothing from its result.
func TestRestartAfterTheLastDraw(t *testing.T) {
	w := newWorld(t)
	e := openIn(t, w, Options{})
	var ordered sync.WaitGroup
	order := sync.OnceFunc(func() {
		ordered.Go(func() {
			if _, err := e.Order(t.Context(), policy.Order{Operation: policy.Restart}); err != nil {
				t.Error(err)
			}
		})
	})
	w.draw = func(ctx context.Context, _, _ string, d int) error {
		if d == draws-1 {
			order()
			<-ctx.Done()
		}
		return nil
	}
	r, err := e.Explain(t.Context(), volume.New(1, 2, 2, 2), request("x", draws))
	if err != nil {
		t.Fatal(err)
	}
	ordered.Wait()
	checkExact(t, r)
}

// A restart is heard while others are waited for.
func TestRestartWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.set(79 * gib)
		e := openIn(t, w, Options{})
		w.later(5*time.Second, 0)
		var out policy.Outcome
		var failed error
		var ordered sync.WaitGroup
		ordered.Go(func() {
			time.Sleep(2500 * time.Millisecond)
			if st := e.State(); st.State != StateWaiting {
				t.Errorf("the state is %+v", st)
			}
			out, failed = e.Order(t.Context(), policy.Order{Operation: policy.Restart})
		})
		r, err := e.Explain(t.Context(), volume.New(1, 2, 2, 2), request("x", draws))
		ordered.Wait()
		if err != nil || failed != nil || out.Seconds > 0 || !strings.Contains(out.Note, "nothing") {
			t.Fatalf("%v, %+v, %v", err, out, failed)
		}
		checkExact(t, r)
		if got := count(w.openedDevices()); got != "cuda*2" || r.Execution.Level != cam.LevelStreamed {
			t.Errorf("opened were %s: %v", got, r.Execution)
		}
	})
}

func TestOrdersOnTheProcessor(t *testing.T) {
	w := newWorld(t)
	e := openIn(t, w, Options{Options: instance.Options{Device: "cpu"}})
	for _, o := range []policy.Operation{policy.Release, policy.Resume, policy.Trim, policy.Defragment, policy.Restart} {
		out, err := e.Order(t.Context(), policy.Order{Operation: o})
		if err != nil || out.Operation != o || out.Before.Reserved <= 0 || out.After.Reserved <= 0 || out.Note == "" && out.Freed() == 0 {
			t.Errorf("%s: %+v, %v", o, out, err)
		}
		if o == policy.Restart && !strings.Contains(out.Note, "no context") {
			t.Errorf("%s: %q", o, out.Note)
		}
		if o == policy.Release {
			r, err := e.Explain(t.Context(), volume.New(1, 2, 2, 2), request("x", draws))
			if err != nil || r.Execution.Level != cam.LevelSmallest {
				t.Errorf("released: %+v, %v", r, err)
			}
		}
	}
	if _, err := e.Order(t.Context(), policy.Order{Operation: "eat"}); err == nil {
		t.Error("an unknown operation was done")
	}
}
