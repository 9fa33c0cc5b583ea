package executor_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/internal/network"
)

// band is a range of budgets, in bytes, in which plans on a limited device have one level.
type band struct {
	level    cam.Level
	from, to int // of the budgets that were tried, the first and the last
}

// levelRefused is the level of a budget that is too small for any plan.
const levelRefused cam.Level = "refused"

// takes returns the bytes that the request takes on a limited device without a bound.
func takes(t testing.TB, inner backend.Backend, req cam.Request) int {
	t.Helper()
	b := newLimited(t, inner, 1<<30)
	m := openOn(t, b, executor.Options{})
	if _, err := m.Explain(context.Background(), series(t, 1)[0], req); err != nil {
		t.Fatal(err)
	}
	taken := m.State().Taken
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	return taken
}

// bands returns the levels of plans for the request from little memory up, and what it takes without a bound. Sizes of weights depend on
// the kernels, and those of plans on the model: tests choose capacities by the bands, never as numbers.
func bands(t testing.TB, inner backend.Backend, req cam.Request) (all []band, takesAll int) {
	t.Helper()
	takesAll = takes(t, inner, req)
	step := takesAll / 200
	for budget := takesAll / 3; budget <= takesAll+step; budget += step {
		level := levelWithin(t, inner, req, budget)
		if last := len(all) - 1; last >= 0 && all[last].level == level {
			all[last].to = budget
		} else {
			all = append(all, band{level, budget, budget})
		}
	}
	if len(all) < 3 || all[0].level != levelRefused || all[1].level != cam.LevelHost || all[len(all)-1].level != cam.LevelWhole {
		t.Fatalf("the levels of budgets up to %d bytes: %+v", takesAll, all)
	}
	return all, takesAll
}

// levelWithin is the level of the plans for the request within a budget.
func levelWithin(t testing.TB, inner backend.Backend, req cam.Request, budget int) (level cam.Level) {
	t.Helper()
	opt := executor.Options{Budget: cam.Budget{Bytes: budget}}
	choices, err := cam.Choose(req.Methods, req.Convention)
	if err != nil {
		t.Fatal(err)
	}
	binding := network.Binding{Backend: newLimited(t, inner, 1<<30), Budget: opt.Budget, Ahead: opt.Ahead}
	passes, err := network.Plans(context.Background(), methodsCase+"/model.torchscript.onnx", opt.ModelOptions, binding, choices)
	if err != nil {
		t.Fatal(err)
	}
	levels := map[cam.Level]bool{}
	for _, p := range passes {
		if tooSmall := (*cam.BudgetError)(nil); errors.As(p.Err, &tooSmall) {
			return levelRefused
		}
		levels[p.Level] = true
	}
	for _, l := range []cam.Level{cam.LevelHost, cam.LevelSmallest, cam.LevelStreamed} {
		if levels[l] {
			return l
		}
	}
	return cam.LevelWhole
}

// last is the last band of a level.
func last(t testing.TB, all []band, level cam.Level) band {
	t.Helper()
	for _, b := range slices.Backward(all) {
		if b.level == level {
			return b
		}
	}
	t.Fatalf("no budget gives %s: %+v", level, all)
	return band{}
}
