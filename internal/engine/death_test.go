package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/volume"
)

// The wait before another child doubles from the second one that ended on, to a limit that no number of them exceeds.
func TestBackOff(t *testing.T) {
	for deaths, want := range map[int]time.Duration{
		0: 0, 1: 0, 2: 200 * time.Millisecond, 3: 400 * time.Millisecond, 6: 3200 * time.Millisecond, 7: 5 * time.Second, 1 << 40: 5 * time.Second,
	} {
		if got := backOff(deaths); got != want {
			t.Errorf("after %d: %v, want %v", deaths, got, want)
		}
	}
}

// Half a budget is left after one kill for want of memory, and then the least.
func TestHalved(t *testing.T) {
	for text, want := range map[string]string{"64MiB": fmt.Sprint(32 << 20), "min": "min", "nonsense": "min", "1B": "min"} {
		if got := halved(text); got != want {
			t.Errorf("half of %s is %s", text, got)
		}
	}
	if got := halved("auto"); got == "min" || got == "auto" {
		t.Errorf("half of auto is %s", got)
	}
}

// Processes that end over one volume each make none wait: the pause grows while nothing is explained.
func TestBackOffEnds(t *testing.T) {
	w := newWorld(t)
	w.processes = true
	var deaths []int
	o := Options{}
	inProcess(&o)
	o.BackOff = func(n int) time.Duration { deaths = append(deaths, n); return 0 }
	e := openIn(t, w, o)
	for range 3 {
		w.draw = at(3, 1, "cuda", cam.ErrLost)
		if _, err := e.Explain(t.Context(), volume.New(1, 2, 2, 2), request("x", draws)); err != nil {
			t.Fatal(err)
		}
	}
	if want := []int{0, 1, 1, 1}; !slices.Equal(deaths, want) {
		t.Errorf("the pauses were those after %v deaths instead of %v", deaths, want)
	}
}

// A volume that is cancelled while a process ends over it leaves no suspicion.
func TestCancelledInDeath(t *testing.T) {
	w := newWorld(t)
	w.processes = true
	o := Options{}
	inProcess(&o)
	e := openIn(t, w, o)
	ctx, cancel := context.WithCancel(t.Context())
	w.draw = func(_ context.Context, _, sample string, d int) error {
		if sample == "x" && d == 3 {
			cancel()
			return w.kill()
		}
		return nil
	}
	if _, err := e.Explain(ctx, volume.New(1, 2, 2, 2), request("x", draws)); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	r, err := e.Explain(t.Context(), volume.New(1, 2, 2, 2), request("y", draws))
	if err != nil {
		t.Fatal(err)
	}
	checkExact(t, r)
	if len(e.suspects) > 0 || e.gate == nil {
		t.Errorf("%d volumes are suspected, the gate is %v", len(e.suspects), e.gate)
	}
}

// Where the processor's process ends between two volumes, an order goes to what is there, and takes nothing from the device.
func TestOrderWithoutTheProcessor(t *testing.T) {
	w := newWorld(t)
	w.processes = true
	w.set(79 * gib)
	o := Options{Policy: policy.DefaultPolicy()}
	o.Policy.Wait = time.Millisecond
	inProcess(&o)
	e := openIn(t, w, o)
	if _, err := e.Explain(t.Context(), volume.New(1, 2, 2, 2), request("x", draws)); err != nil {
		t.Fatal(err)
	}
	device := e.primaryNow()
	if !e.onProcessor() {
		t.Fatal("the processor has not taken the device's place")
	}
	_ = w.kill()
	out, err := e.Order(t.Context(), policy.Order{Operation: policy.Release})
	if err != nil || out.Before.Total != w.total || e.primaryNow() != device || !device.State().Held || e.onProcessor() {
		t.Errorf("released %+v: %v", out, err)
	}
}

// What is ordered while an instance is opened holds for it.
func TestHeldWhileOpening(t *testing.T) {
	w := newWorld(t)
	w.set(79 * gib)
	o := Options{Policy: policy.DefaultPolicy()}
	o.Device, o.Policy.Wait = "cuda", time.Millisecond
	var e *Engine
	e, err := open(t.Context(), o, func(ctx context.Context, o instance.Options) (instance.Instance, error) {
		x, err := w.start(ctx, o)
		if o.Device == processor {
			if _, err := e.Order(ctx, policy.Order{Operation: policy.Release, For: time.Hour}); err != nil {
				t.Error(err)
			}
		}
		return x, err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	r, err := e.Explain(t.Context(), volume.New(1, 2, 2, 2), request("x", draws))
	if err != nil || r.Execution.Level != cam.LevelCPU {
		t.Fatalf("%+v, %v", r, err)
	}
	if s := e.current().State(); !s.Held || s.Until.IsZero() {
		t.Errorf("the processor is held: %v until %v", s.Held, s.Until)
	}
}

// A closed engine opens nothing for an order.
func TestOrderClosed(t *testing.T) {
	w := newWorld(t)
	e := openIn(t, w, Options{})
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for _, o := range []policy.Operation{policy.Release, policy.Restart} {
		if _, err := e.Order(t.Context(), policy.Order{Operation: o}); !errors.Is(err, errClosed) {
			t.Errorf("%s: %v", o, err)
		}
	}
	if got := count(w.openedDevices()); got != "cuda" {
		t.Errorf("opened were %s", got)
	}
}

// A GPU that had no memory when the engine was opened is tried again, and the processor stays where it has none yet.
func TestNoRoomForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.set(w.total)
		e := openIn(t, w, Options{Options: instance.Options{Device: "auto"}})
		for i, level := range []cam.Level{cam.LevelCPU, cam.LevelCPU, cam.LevelStreamed} {
			if i == 2 {
				w.set(0)
			}
			r, err := e.Explain(t.Context(), volume.New(1, 2, 2, 2), request("x", draws))
			if err != nil {
				t.Fatal(err)
			}
			checkExact(t, r)
			if r.Execution.Level != level {
				t.Errorf("volume %d: level %s", i, r.Execution.Level)
			}
			time.Sleep(retry)
		}
	})
}

// With device auto a GPU that stops working is not forgotten: the processor takes its place, and says so.
func TestAutoComesBack(t *testing.T) {
	for _, processes := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.processes = processes
			o := Options{Options: instance.Options{Device: "auto"}}
			if processes {
				inProcess(&o)
			}
			e := openIn(t, w, o)
			w.failForGood()
			for i, level := range []cam.Level{cam.LevelCPU, cam.LevelStreamed} {
				if i == 1 {
					w.broken = nil
				}
				r, err := e.Explain(t.Context(), volume.New(1, 2, 2, 2), request("x", draws))
				if err != nil {
					t.Fatal(err)
				}
				checkExact(t, r)
				if r.Execution.Level != level || (level == cam.LevelCPU) != slices.Contains(kinds(r.Execution.Events), cam.EventCPU) {
					t.Errorf("volume %d: level %s, %v", i, r.Execution.Level, r.Execution.Events)
				}
				time.Sleep(retry)
			}
			if st := e.State(); st.Device != "auto" {
				t.Errorf("the device that was asked for is %q", st.Device)
			}
		})
	}
}

// A result that has come over when the process ends leaves no suspicion.
func TestResultInDeath(t *testing.T) {
	w := newWorld(t)
	w.processes = true
	o := Options{}
	inProcess(&o)
	e := openIn(t, w, o)
	suspects := func() int {
		e.mu.Lock()
		defer e.mu.Unlock()
		return len(e.suspects)
	}
	var next sync.WaitGroup
	w.result = func(string) error {
		w.result = nil
		_ = w.kill()
		next.Go(func() {
			r, err := e.Explain(t.Context(), volume.New(1, 2, 2, 2), request("y", draws))
			if err != nil {
				t.Error(err)
			}
			checkExact(t, r)
		})
		for suspects() == 0 { // until it waits for this result
			time.Sleep(time.Millisecond)
		}
		return nil
	}
	r, err := e.Explain(t.Context(), volume.New(1, 2, 2, 2), request("x", draws))
	if err != nil {
		t.Fatal(err)
	}
	checkExact(t, r)
	next.Wait()
	if suspects() > 0 || e.gate == nil {
		t.Errorf("%d volumes are suspected, the gate is %v", suspects(), e.gate)
	}
}

// While another process is started, the state says so.
func TestStateWithoutProcess(t *testing.T) {
	w := newWorld(t)
	w.processes = true
	var e *Engine
	o := Options{}
	inProcess(&o)
	o.BackOff = func(deaths int) time.Duration {
		if deaths > 0 && e.State().State != StateRestarting {
			t.Errorf("the state is %+v", e.State())
		}
		return 0
	}
	e = openIn(t, w, o)
	w.draw = at(3, 1, "cuda", cam.ErrLost)
	if _, err := e.Explain(t.Context(), volume.New(1, 2, 2, 2), request("x", draws)); err != nil {
		t.Fatal(err)
	}
	if st := e.State().State; st != StateIdle {
		t.Errorf("the state is %s", st)
	}
}
