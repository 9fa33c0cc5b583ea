package executor_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda"
	"github.com/voxcam/voxcam/internal/executor"
)

// pathRequest asks for maps of a path, whose first point gives a score and no gradient, and of an activation.
var pathRequest = cam.Request{Methods: []string{"eigencam", "integrated-gradients"}, Steps: 5, Baseline: "-0.5", SampleID: "x"}

// A path goes on where it was kept, from the score of the baseline on, to the same bits and figures, also with other methods at points.
func TestPathsAreKept(t *testing.T) {
	volumes := series(t, 1)
	both := pathRequest
	both.Methods, both.NSamples, both.NoiseLevel = []string{"integrated-gradients", "smoothgrad"}, 2, 0.1
	for _, req := range []cam.Request{pathRequest, both} {
		want := expected(t, volumes, req)
		for after := 1; after <= req.Steps; after++ { // points that were evaluated
			req.Checkpoint = newKept()
			b := newLimited(t, openCPU(t), 1<<30)
			m := openOn(t, b, executor.Options{})
			ctx, cancel := context.WithCancel(t.Context())
			total := 0
			req.Progress = func(done, of int) {
				if total = of; done == 1+after { // of which the first was the volume itself
					cancel()
				}
			}
			if _, err := m.Explain(ctx, volumes[0], req); !errors.Is(err, context.Canceled) {
				t.Fatalf("after %d points: %v", after, err)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			b.clean("cancelled")
			again := newLimited(t, openCPU(t), 1<<30)
			m = openOn(t, again, executor.Options{})
			req.Progress = nil
			r, err := m.Explain(t.Context(), volumes[0], req)
			if err != nil {
				t.Fatal(err)
			}
			if err := same(r, want[0]); err != nil {
				t.Errorf("after %d points: %v", after, err)
			}
			if made, left := again.said["noise"], total-1-after; made != left || tally(r)[cam.EventResumed] != 1 {
				t.Errorf("after %d points %d were made where %d were left; %+v", after, made, left, r.Execution.Events)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			again.clean("closed")
		}
	}
}

// Volumes on their paths that overlap give what they give one by one, wherever points and maps are made.
func TestPathsOverlap(t *testing.T) {
	volumes := series(t, 3)
	for name, b := range map[string]backend.Backend{"cuda": openCUDA(t, cuda.Options{}), "cpu": openCPU(t)} {
		for _, budget := range []cam.Budget{{}, {Smallest: true}} {
			alone := openMethods(t, b, executor.Options{})
			var want []*cam.Result
			for _, v := range volumes {
				r, err := alone.Explain(t.Context(), v, pathRequest)
				if err != nil {
					t.Fatal(err)
				}
				if figures := r.Methods[1].Parameters; figures["steps"] != 5 || figures["completeness_gap"] == nil || r.Methods[1].Status == cam.StatusFailed {
					t.Errorf("%s: %s, %v", name, r.Methods[1].Status, figures)
				}
				want = append(want, r)
			}
			got, err := overlap(t.Context(), openMethods(t, b, executor.Options{Ahead: true, Budget: budget}), volumes, pathRequest)
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range got {
				if err := same(r, want[i]); err != nil {
					t.Errorf("%s within %+v: volume %d: %v", name, budget, i, err)
				}
			}
		}
	}
}

// Whatever call fails, once, while two volumes are on their paths: the results are exact, and nothing is left behind. When the device is lost,
// another model on another one goes on.
func TestPathsAfterFailures(t *testing.T) {
	volumes, inner := series(t, 2), openCPU(t)
	reqs := []cam.Request{pathRequest, pathRequest}
	reqs[0].Steps, reqs[1].Methods, reqs[1].Steps = 2, []string{"integrated-gradients"}, 1
	want := expected(t, volumes, reqs...)
	run := func(b *limited, keep [2]*kept) ([]*cam.Result, error) {
		m := openOn(t, b, executor.Options{Ahead: true})
		for i := range reqs {
			reqs[i].Checkpoint = keep[i]
		}
		results, err := pair(t.Context(), m, volumes, reqs)
		if closed := m.Close(); closed != nil && b.Class(closed) == backend.Fault {
			t.Error(closed)
		}
		b.clean("closed")
		return results, err
	}
	for _, trouble := range []backend.ErrorClass{backend.NoMemory, backend.Transient, backend.Lost} {
		for n, calls := 1, 1; n <= calls; n++ {
			b, what, keep := newLimited(t, inner, 1<<30), "", [2]*kept{newKept(), newKept()}
			b.fail = func(call int, name string) backend.ErrorClass {
				if call != n {
					return backend.Fault
				}
				what = fmt.Sprintf("trouble %d at call %d, %s", trouble, n, name)
				return trouble
			}
			got, err := run(b, keep)
			calls = max(calls, b.calls)
			if b.lost {
				if !errors.Is(err, cam.ErrLost) && len(got) < 2 {
					t.Errorf("%s: %v", what, err)
				}
				got, err = run(newLimited(t, inner, 1<<30), keep)
			}
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			for i, r := range got {
				if err := same(r, want[i]); err != nil {
					t.Fatalf("%s: volume %d: %v; %+v", what, i, err, r.Execution)
				}
			}
		}
	}
}

// A budget that becomes less in the middle of a path is followed before the network runs there, by each level of plans, with the same results.
func TestPathsWithinBudgetsThatMove(t *testing.T) {
	volumes, inner := series(t, 1), openCPU(t)
	want := expected(t, volumes, pathRequest)
	levels, all := bands(t, inner, pathRequest)
	for _, level := range []cam.Level{cam.LevelStreamed, cam.LevelSmallest, cam.LevelHost} {
		b := newLimited(t, inner, 1<<30)
		allowed, points := 2*all, 0
		b.before = func(what string) {
			if what == "noise" { // a point is made
				if points++; points == 3 {
					allowed = last(t, levels, level).from
				}
			}
		}
		m := openOn(t, b, executor.Options{Allow: func(backend.Usage) cam.Budget { return cam.Budget{Bytes: allowed} }})
		m.AskAlways()
		r, err := m.Explain(t.Context(), volumes[0], pathRequest)
		if err != nil {
			t.Fatal(err)
		}
		if err := same(r, want[0]); err != nil {
			t.Errorf("%s: %v", level, err)
		}
		if k := tally(r); r.Execution.Level != level || k[cam.EventSmaller] != 1 || k[cam.EventResumed] != 1 || points != 7 { // one point is made again with the new plans
			t.Errorf("%s: %d points, %+v", level, points, r.Execution)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		b.clean("closed")
	}
}
