package executor_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/executor"
)

// A budget that becomes less between two draws is followed before the next one; one that grows is followed between volumes, when it has
// grown enough. What is computed is the same.
func TestBudgetMoves(t *testing.T) {
	volumes, req := series(t, 4), troubleRequest
	want, inner := expected(t, volumes, req), openCPU(t)
	levels, all := bands(t, inner, req)
	b := newLimited(t, inner, 1<<30)
	allowed, draws, least := 2*all, 0, 0
	m := openOn(t, b, executor.Options{Allow: func(u backend.Usage) cam.Budget {
		if u.Total != 1<<30 {
			t.Errorf("asked of %+v", u)
		}
		return cam.Budget{Bytes: allowed}
	}})
	m.AskAlways()
	b.before = func(what string) {
		switch what {
		case "noise":
			if draws++; draws == 2 {
				allowed = last(t, levels, cam.LevelStreamed).from // for the third draw and what follows
			}
			if draws > 2 && b.reserved > allowed {
				t.Errorf("draw %d: %d bytes are held of %d", draws, b.reserved, allowed)
			}
		case "layer map":
			least = b.reserved
		}
	}
	explainOne := func(i int) *cam.Result {
		t.Helper()
		r, err := m.Explain(t.Context(), volumes[i], req)
		if err != nil {
			t.Fatal(err)
		}
		if err := same(r, want[i]); err != nil {
			t.Errorf("volume %d: %v", i, err)
		}
		return r
	}
	r := explainOne(0)
	if k := tally(r); k[cam.EventSmaller] != 1 || k[cam.EventResumed] == 0 || k[cam.EventRefused] != 0 || b.said["load"] != 4 {
		t.Errorf("a budget of less: %+v, %v", r.Execution, b.said)
	}
	level, budget := r.Execution.Level, r.Execution.Budget
	if level == cam.LevelWhole || budget != allowed || least == 0 {
		t.Errorf("level %s, a budget of %d", level, budget)
	}
	allowed = budget * 6 / 5 // not enough to plan again
	r = explainOne(1)
	if r.Execution.Level != level || r.Execution.Budget != budget || len(r.Execution.Events) > 0 || b.said["load"] != 4 {
		t.Errorf("a little more: %+v, %v", r.Execution, b.said)
	}
	allowed = 3 * all
	r = explainOne(2)
	if k := tally(r); r.Execution.Level != cam.LevelWhole || k[cam.EventLarger] != 1 || b.said["load"] != 6 {
		t.Errorf("much more: %+v, %v", r.Execution, b.said)
	}
	allowed = 10 * all // nothing is to be had from that
	r = explainOne(3)
	if len(r.Execution.Events) > 0 || b.said["load"] != 6 || b.said["arena"] != 3 {
		t.Errorf("more than all: %+v, %v", r.Execution, b.said)
	}
	allowed = 1000
	var short *cam.MemoryError
	if _, err := m.Explain(t.Context(), volumes[0], req); !errors.As(err, &short) || short.Needs <= 1000 || short.Free != 1000 {
		t.Errorf("less than any plan takes: %v", err)
	}
	b.clean("after a budget of 1000 bytes")
	allowed = short.Needs
	explainOne(0)
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	b.clean("closed")
}

// What a model was forced to give up it takes again for the next volume, as soon as the device has it; a fixed budget that is too small for
// any plan is refused before the work.
func TestForcedDownAndUpAgain(t *testing.T) {
	volumes, req := series(t, 3), briefRequests()[0]
	want, inner := expected(t, volumes, req), openCPU(t)
	levels, all := bands(t, inner, req)
	little := last(t, levels, cam.LevelHost).to
	for name, opt := range map[string]executor.Options{"unbounded": {}, "fixed": {Budget: cam.Budget{Bytes: 2 * all}}} {
		b := newLimited(t, inner, little)
		m := openOn(t, b, opt)
		m.AskAlways()
		for i, capacity := range []int{little, little, 4 * all} {
			b.capacity = capacity
			r, err := m.Explain(t.Context(), volumes[i], req)
			if err != nil {
				t.Fatal(err)
			}
			if err := same(r, want[i]); err != nil {
				t.Errorf("%s: volume %d: %v", name, i, err)
			}
			k := tally(r)
			good := []bool{
				k[cam.EventRefused] > 0 && k[cam.EventSmaller] > 0 && r.Execution.Level != cam.LevelWhole,
				len(r.Execution.Events) == 0 && r.Execution.Level != cam.LevelWhole,
				k[cam.EventLarger] == 1 && k[cam.EventRefused] == 0 && r.Execution.Level == cam.LevelWhole,
			}
			if !good[i] {
				t.Errorf("%s: volume %d: %+v", name, i, r.Execution)
			}
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		b.clean("closed")
	}
	b := newLimited(t, inner, 1<<30)
	m := openOn(t, b, executor.Options{Budget: cam.Budget{Bytes: 1000}})
	var small *cam.BudgetError
	if err := m.Prepare(t.Context(), req.Methods); !errors.As(err, &small) {
		t.Errorf("prepared within 1000 bytes: %v", err)
	}
	if _, err := m.Explain(t.Context(), volumes[0], req); !errors.As(err, &small) || b.said["arena"] > 0 {
		t.Errorf("explained within 1000 bytes: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// A volume more that is like the one before asks the device for nothing but its passes, and the driver now and then at most.
func TestSteadyState(t *testing.T) {
	v, req := series(t, 1)[0], briefRequests()[0]
	b := newLimited(t, openCPU(t), 1<<30)
	asked := 0
	m := openOn(t, b, executor.Options{Ahead: true, Allow: func(backend.Usage) cam.Budget { asked++; return cam.Budget{Bytes: 1 << 29} }})
	explainOne := func() map[string]int {
		t.Helper()
		b.said = map[string]int{}
		if _, err := m.Explain(t.Context(), v, req); err != nil {
			t.Fatal(err)
		}
		return b.said
	}
	explainOne()
	asked = 0
	start := time.Now()
	said := explainOne()
	for _, what := range []string{"field", "arena", "load", "trim", "close field", "close program"} {
		if said[what] > 0 {
			t.Errorf("%d calls of %s", said[what], what)
		}
	}
	if most := 2 + int(time.Since(start)/(20*time.Millisecond)); said["usage"] > most {
		t.Errorf("the device was asked %d times in %v", said["usage"], time.Since(start))
	}
	if want := 1 + 1 + 1 + req.NSamples; asked < want { // before the volume, its layer, its input and its draws
		t.Errorf("what is allowed was asked %d times, not %d", asked, want)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// Whatever others leave, and whatever fails: a volume is explained exactly, or there is not enough memory, or too much failed, or the
// device was lost; nothing is ever wrong, and nothing is left.
func TestMovingDevice(t *testing.T) {
	inner := openCPU(t)
	volumes, reqs := series(t, 2), briefRequests()
	reqs[1].Methods = []string{"smoothgrad", "gradcam"}
	want := expected(t, volumes, reqs...)
	levels, all := bands(t, inner, reqs[0])
	least := levels[1].from
	rapid.Check(t, func(r *rapid.T) {
		var mu sync.Mutex
		bytes := rapid.Custom(func(r *rapid.T) int {
			if rapid.IntRange(0, 39).Draw(r, "") == 39 {
				return rapid.IntRange(least/2, levels[0].to).Draw(r, "") // nothing fits
			}
			return rapid.IntRange(least, all*3/2).Draw(r, "")
		})
		capacities := rapid.SliceOfN(bytes, 1, 12).Draw(r, "what others leave")
		allowances := rapid.SliceOfN(bytes, 1, 6).Draw(r, "what is allowed")
		follows := rapid.Bool().Draw(r, "allow")
		every := rapid.IntRange(5, 40).Draw(r, "calls between changes")
		troubles := rapid.SampledFrom([]backend.ErrorClass{backend.NoMemory, backend.Transient, backend.NoMemory, backend.Transient, backend.Transient, backend.Lost})
		failures := rapid.MapOfN(rapid.IntRange(1, 150), troubles, 0, 5).Draw(r, "failures")
		opt := executor.Options{
			Ahead: rapid.Bool().Draw(r, "ahead"), Shuttle: rapid.SampledFrom([]executor.Shuttle{executor.ShuttleNever, executor.ShuttleAlways}).Draw(r, "shuttle"),
		}
		b := newLimited(t, inner, capacities[0])
		calls := 0
		opt.Allow = func(backend.Usage) cam.Budget {
			mu.Lock()
			defer mu.Unlock()
			return cam.Budget{Bytes: allowances[calls/every%len(allowances)]}
		}
		if !follows {
			opt.Allow = nil
		}
		b.fail = func(call int, _ string) backend.ErrorClass {
			mu.Lock()
			defer mu.Unlock()
			calls = call
			b.capacity = capacities[call/every%len(capacities)]
			return failures[call]
		}
		m := openOn(t, b, opt)
		m.AskAlways()
		keep := []*kept{newKept(), newKept()}
		both := []cam.Request{reqs[0], reqs[1]}
		both[0].Checkpoint, both[1].Checkpoint = keep[0], keep[1]
		got, err := pair(t.Context(), m, volumes, both)
		if closed := m.Close(); closed != nil && b.Class(closed) == backend.Fault {
			r.Errorf("closing: %v", closed)
		}
		for i, one := range got {
			if one == nil {
				continue
			}
			if err := same(one, want[i]); err != nil {
				r.Errorf("volume %d: %v: %+v", i, err, one.Execution)
			}
		}
		var short *cam.MemoryError
		var transient *cam.TransientError
		if err != nil && !errors.As(err, &short) && !errors.As(err, &transient) && !errors.Is(err, cam.ErrLost) {
			r.Errorf("ended by %v", err)
		}
		b.clean("closed")
		if t.Failed() {
			r.Fatal("see above")
		}
	})
}
