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

// idle is an engine in a state.
type idle struct {
	Engine
	state engine.State
}

func (e idle) State() engine.State        { return e.state }
func (e idle) Notes() (_, notes []string) { return nil, []string{"note"} }

// What a driver may hang in has no pulse: computing on a device, and the first volume that is brought to it. All else has one.
func TestPulse(t *testing.T) {
	for _, c := range []struct {
		name, state string
		beginning   int
		works       int
		want        bool
	}{
		{"cuda:0", engine.StateIdle, 0, 0, true},
		{"cuda:0", engine.StateIdle, 1, 0, false},
		{"cuda:0", engine.StateIdle, 1, 1, true},
		{"cuda:0", engine.StateComputing, 0, 1, false},
		{"cuda:0", engine.StateWaiting, 1, 0, true},
		{"cpu", engine.StateComputing, 0, 1, true},
		{"cpu", engine.StateIdle, 1, 0, true},
	} {
		s := &server{beginning: c.beginning, works: map[uint64]*served{}}
		for i := range c.works {
			s.works[uint64(i)] = nil
		}
		told, err := s.look(idle{state: engine.State{Name: c.name, State: c.state}})
		if err != nil || told.Pulse != c.want || len(told.Notes) != 1 {
			t.Errorf("%+v: %+v, %v", c, told, err)
		}
	}
}
