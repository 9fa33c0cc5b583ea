package worker

import (
	"encoding/json"
	"testing"

	"github.com/voxcam/voxcam/internal/engine"
)

// A child says that it is idle when it answers, and a second later at the latest what it does then: in between it may have been given work.
func TestStateBetweenTwoTellings(t *testing.T) {
	said, err := json.Marshal(engine.State{State: engine.StateIdle})
	if err != nil {
		t.Fatal(err)
	}
	k := &work{}
	w := &Worker{child: &child{}, told: telling{State: said}, works: []*work{k}}
	for _, c := range []struct {
		stage         stage
		doing, wanted bool
		want          string
	}{
		{stageQueued, true, false, engine.StateIdle}, // it is brought
		{stageBegun, false, true, engine.StateIdle},
		{stageBegun, true, true, engine.StateComputing},
		{stageComputed, true, true, engine.StateIdle}, // its result is fetched
	} {
		k.stage, k.doing, k.wanted = c.stage, c.doing, c.wanted
		if got := w.State().State; got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
	if w.child = nil; w.State().State != engine.StateRestarting {
		t.Errorf("without a child: %s", w.State().State)
	}
}
