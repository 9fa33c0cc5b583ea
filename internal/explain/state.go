package explain

import (
	"fmt"
	"sync"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/plan"
)

// State is what a model holds, for those who look on.
type State struct {
	Level   cam.Level   `json:"level,omitempty"` // "" while there are no plans
	Budget  int         `json:"budget_bytes"`    // that the plans were made for; 0: none, or the least that works
	Taken   int         `json:"taken_bytes"`     // what plans and fields take of a budget; 0 where nobody needs to know
	Arena   int         `json:"arena_bytes"`     // that are held
	Vacated bool        `json:"vacated"`         // all that is held waits in the host's memory
	Passes  []PassState `json:"passes,omitempty"`
}

// PassState is the plan of one pass through the network.
type PassState struct {
	Pass    string  `json:"pass"`
	Bytes   int     `json:"bytes"`   // of the arena
	Whole   int     `json:"whole"`   // with whole tensors
	Seconds float64 `json:"seconds"` // as the planner estimates; 0 where it was not asked
}

// seen is what others than those who compute may look at.
type seen struct {
	mu    sync.Mutex
	state State
	gone  error
}

// State says what the model holds. It waits for nothing.
func (m *Model) State() State {
	m.seen.mu.Lock()
	defer m.seen.mu.Unlock()
	return m.seen.state
}

// look notes what the model holds now.
func (m *Model) look() State {
	s := State{Vacated: m.shuttle.out}
	if n := m.net; n != nil {
		s.Level, s.Budget, s.Taken = n.level(), n.budget.Bytes, n.taken
		if n.arena != nil {
			s.Arena = n.arena.Bytes()
		}
		for _, p := range n.passes() {
			s.Passes = append(s.Passes, PassState{Pass: n.passName(p.input), Bytes: p.plan.Peak, Whole: p.whole(), Seconds: p.plan.Seconds})
		}
	}
	m.seen.mu.Lock()
	defer m.seen.mu.Unlock()
	m.seen.state = s
	return s
}

// lost is an ErrLost when the device is gone.
func (s *seen) lost() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// lose notes that the device is gone.
func (s *seen) lose(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone == nil {
		s.gone = fmt.Errorf("%w: %w", cam.ErrLost, err)
	}
	return s.gone
}

// passName is a pass as people know it.
func (n *network) passName(input bool) string {
	if input {
		return "gradient at the volume"
	}
	return "gradient at the layer " + n.target.Label
}

// whole is the size of an arena with whole tensors.
func (p *gradient) whole() int {
	if p.drafts.whole == 0 {
		p.drafts.whole = plan.Make(p.graph).Peak
	}
	return p.drafts.whole
}

// level is that of the plans; "" without any.
func (n *network) level() (level cam.Level) {
	for _, p := range n.passes() {
		switch l := n.passLevel(p); {
		case l == cam.LevelSmallest || l == cam.LevelHost:
			return l
		case level != cam.LevelStreamed:
			level = l
		}
	}
	return level
}

// passLevel is the level of a plan.
func (n *network) passLevel(p *gradient) cam.Level {
	switch {
	case n.places.volume == backend.OnHost && n.fieldBytes(n.needs, places{}) > 0:
		return cam.LevelHost
	case keepsAll(p.plan) || p.plan.Peak >= p.whole():
		return cam.LevelWhole
	case p.plan.Peak <= p.drafts.leastPeak:
		return cam.LevelSmallest
	}
	return cam.LevelStreamed
}

// keepsAll reports whether a plan streams nothing and computes nothing twice.
func keepsAll(p *plan.Plan) bool {
	for _, u := range p.Units {
		if u.RingBytes > 0 || len(u.Again) > 0 {
			return false
		}
	}
	return true
}
