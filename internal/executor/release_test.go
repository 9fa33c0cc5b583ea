package executor_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/internal/explain"
)

// empty checks that nothing is on the device.
func (b *limited) empty(what string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.allocated != 0 || b.reserved != 0 {
		b.t.Errorf("%s: %d bytes are allocated and %d reserved", what, b.allocated, b.reserved)
	}
}

// What is asked for between two draws is given back before the next one, and computing goes on from there when that is done. It is the same
// where nothing is computed, and no different for a volume that waits.
func TestRelease(t *testing.T) {
	volumes, req := series(t, 2), troubleRequest
	want := expected(t, volumes, req)
	for _, ahead := range []bool{false, true} {
		b := newLimited(t, openCPU(t), 1<<30)
		m := openOn(t, b, executor.Options{Ahead: ahead})
		var asked sync.WaitGroup
		noises, meanwhile := 0, 0
		ask := make(chan struct{})
		b.before = func(what string) {
			if what != "noise" {
				return
			}
			switch noises++; noises {
			case 2: // somebody asks, and is heard before the next draw
				asked.Go(func() {
					close(ask)
					err := m.Release(t.Context(), func() error {
						meanwhile++
						b.empty("released between draws")
						if s := m.State(); s.Level != "" || s.Arena != 0 {
							t.Errorf("the state of a model that was released: %+v", s)
						}
						return errors.New("told back")
					})
					if err == nil || err.Error() != "told back" {
						t.Errorf("released: %v", err)
					}
				})
				<-ask
				time.Sleep(time.Millisecond) // most likely it waits by then
			}
		}
		w, err := m.Begin(t.Context(), volumes[0], req)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Compute(t.Context()); err != nil {
			t.Fatal(err)
		}
		asked.Wait()
		next, err := m.Begin(t.Context(), volumes[1], req)
		if err != nil {
			t.Fatal(err)
		}
		r, err := w.Result()
		if err != nil {
			t.Fatal(err)
		}
		if err := same(r, want[0]); err != nil {
			t.Error(err)
		}
		first := tally(r)[cam.EventReleased] // or with the next volume, if it was heard late
		if meanwhile != 1 {
			t.Errorf("released %d times: %+v", meanwhile, r.Execution)
		}
		if err := m.Release(t.Context(), func() error { b.empty("released while nothing was computed"); return nil }); err != nil {
			t.Error(err)
		}
		if err := next.Compute(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r, err = next.Result(); err != nil {
			t.Fatal(err)
		}
		if err := same(r, want[1]); err != nil {
			t.Error(err)
		}
		if n := first + tally(r)[cam.EventReleased]; n != 2 {
			t.Errorf("what was released before a volume is not told with it: %+v", r.Execution)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.Release(ctx, nil); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		b.clean("closed")
	}
}

// Volumes that overlap are explained exactly while others ask for memory, trim, and look on all the time.
func TestReleasesWhileVolumesOverlap(t *testing.T) {
	volumes, req := series(t, 4), briefRequests()[0]
	want := expected(t, volumes, req)
	b := newLimited(t, openCPU(t), 1<<30)
	m := openOn(t, b, executor.Options{Ahead: true, Shuttle: executor.ShuttleIdle})
	m.IdleFor(time.Microsecond)
	ctx, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	others.Go(func() {
		for ctx.Err() == nil {
			if err := m.Release(ctx, nil); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
	others.Go(func() {
		for ctx.Err() == nil {
			_ = m.State()
			_, _ = m.Usage()
			if _, err := m.Trim(0); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Millisecond)
		}
	})
	got, err := overlap(t.Context(), m, volumes, req)
	stop()
	others.Wait()
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range got {
		if err := same(r, want[i]); err != nil {
			t.Errorf("volume %d: %v", i, err)
		}
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	b.clean("closed")
}

// A model that shuttles leaves the device after each volume, with what waits there for its turn, and comes back for the next one. Where it
// cannot come back it takes less.
func TestShuttleAlways(t *testing.T) {
	volumes, reqs := series(t, 2), briefRequests()
	want, inner := expected(t, volumes, reqs...), openCPU(t)
	all := takes(t, inner, reqs[0])
	for _, ahead := range []bool{false, true} {
		b := newLimited(t, inner, 1<<30)
		m := openOn(t, b, executor.Options{Ahead: ahead, Shuttle: executor.ShuttleAlways})
		for round := range 3 {
			got, err := pair(t.Context(), m, volumes, reqs)
			if err != nil {
				t.Fatal(err)
			}
			b.empty("between volumes")
			if s := m.State(); !s.Vacated {
				t.Errorf("the state between volumes: %+v", s)
			}
			for i, r := range got {
				if err := same(r, want[i]); err != nil {
					t.Errorf("round %d, volume %d: %v", round, i, err)
				}
				if x := r.Execution; x.ShuttleOut <= 0 || (x.ShuttleIn > 0) != (round+i > 0) {
					t.Errorf("round %d, volume %d: %+v", round, i, x)
				}
			}
			if b.said["load"] != 2 {
				t.Errorf("programs were loaded %d times", b.said["load"])
			}
		}
		b.capacity = all * 3 / 4 // others have come in the meantime
		got, err := pair(t.Context(), m, volumes, reqs)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range got {
			if err := same(r, want[i]); err != nil {
				t.Errorf("with others there, volume %d: %v", i, err)
			}
		}
		if k := tally(got[0]); k[cam.EventRefused] == 0 || k[cam.EventSmaller] == 0 {
			t.Errorf("with others there: %+v", got[0].Execution)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		b.clean("closed")
	}
}

// A volume that waits on the device while it is left is there when it is its turn.
func TestShuttleKeepsWhatWaits(t *testing.T) {
	volumes, req := series(t, 2), briefRequests()[1]
	want := expected(t, volumes, req)
	b := newLimited(t, openCPU(t), 1<<30)
	m := openOn(t, b, executor.Options{Ahead: true, Shuttle: executor.ShuttleAlways})
	if err := m.Prepare(t.Context(), req.Methods); err != nil {
		t.Fatal(err)
	}
	first, err := m.Begin(t.Context(), volumes[0], req)
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan explain.Work)
	b.before = func(what string) {
		if what == "layer map" { // the first volume has left its place
			b.before = nil
			go func() {
				w, err := m.Begin(t.Context(), volumes[1], req)
				if err != nil {
					t.Error(err)
				}
				second <- w
			}()
			waitFor(t, func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.said["upload"] == 2 })
		}
	}
	if err := first.Compute(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := <-second
	if err := next.Compute(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, w := range []explain.Work{first, next} {
		r, err := w.Result()
		if err != nil {
			t.Fatal(err)
		}
		if err := same(r, want[i]); err != nil {
			t.Errorf("volume %d: %v", i, err)
		}
	}
	if b.said["upload"] != 2 || b.said["vacate"] != 2 {
		t.Errorf("calls: %v", b.said)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	b.clean("closed")
}

// waitFor waits for what somebody else does.
func waitFor(t testing.TB, done func() bool) {
	t.Helper()
	for range 5000 {
		if done() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("waited in vain")
}

// The device is left when nothing has been asked for a while, and not before; closing ends the waiting.
func TestShuttleIdle(t *testing.T) {
	volumes, req := series(t, 1), briefRequests()[1]
	want := expected(t, volumes, req)
	b := newLimited(t, openCPU(t), 1<<30)
	m := openOn(t, b, executor.Options{Shuttle: executor.ShuttleIdle})
	m.IdleFor(20 * time.Millisecond)
	for round := range 2 {
		r, err := m.Explain(t.Context(), volumes[0], req)
		if err != nil {
			t.Fatal(err)
		}
		if err := same(r, want[0]); err != nil {
			t.Error(err)
		}
		if x := r.Execution; round > 0 && (x.ShuttleIn <= 0 || x.ShuttleOut <= 0) {
			t.Errorf("after a rest: %+v", x)
		}
		waitFor(t, func() bool { return m.State().Vacated })
		b.empty("at rest")
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	b.clean("closed")

	m = openOn(t, b, executor.Options{Shuttle: executor.ShuttleIdle})
	m.IdleFor(time.Hour)
	if _, err := m.Explain(t.Context(), volumes[0], req); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	b.clean("closed before the time came")
}
