package network

import (
	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/plan"
)

// State describes a network's plans and memory, for status displays.
type State struct {
	Level   cam.Level   `json:"level,omitempty"` // "" while there are no plans
	Budget  int         `json:"budget_bytes"`    // budget of the plans; 0: none, or the smallest plans
	Taken   int         `json:"taken_bytes"`     // of a budget, for plans and buffers; 0 where budgets are not followed
	Arena   int         `json:"arena_bytes"`     // of the plans that are held
	Vacated bool        `json:"vacated"`         // everything is in the host's memory until it is needed again
	Passes  []PassState `json:"passes,omitempty"`
}

// PassState is the plan of one pass through the network.
type PassState struct {
	Pass    string  `json:"pass"`
	Bytes   int     `json:"bytes"`   // of the arena
	Whole   int     `json:"whole"`   // with whole tensors
	Seconds float64 `json:"seconds"` // as the planner estimates; 0 where it was not asked
}

// State returns the network's plans and memory now.
func (n *Network) State() State {
	s := State{Level: n.Level(), Budget: n.Budget.Bytes, Taken: n.Taken}
	if n.Arena != nil {
		s.Arena = n.Arena.Bytes()
	}
	for _, p := range n.Passes() {
		s.Passes = append(s.Passes, PassState{Pass: n.passName(p.Input), Bytes: p.plan.Peak, Whole: p.whole(), Seconds: p.plan.Seconds})
	}
	return s
}

// passName returns the name of a program for people.
func (n *Network) passName(input bool) string {
	switch {
	case input:
		return "gradient at the volume"
	case n.activationOnly():
		return "activation of the layer " + n.Target.Label
	}
	return "gradient at the layer " + n.Target.Label
}

// whole returns the bytes of an arena with whole tensors.
func (p *Gradient) whole() int {
	if p.candidates.whole == 0 {
		p.candidates.whole = plan.Make(p.graph).Peak
	}
	return p.candidates.whole
}

// Level returns the level of the plans; "" without any.
func (n *Network) Level() (level cam.Level) {
	for _, p := range n.Passes() {
		switch l := n.passLevel(p); {
		case l == cam.LevelSmallest || l == cam.LevelHost:
			return l
		case level != cam.LevelStreamed:
			level = l
		}
	}
	return level
}

// passLevel returns the level of a plan.
func (n *Network) passLevel(p *Gradient) cam.Level {
	switch {
	case n.Placement.volume == backend.OnHost && n.bufferBytes(n.needs, placement{}) > 0:
		return cam.LevelHost
	case keepsAll(p.plan) || p.plan.Peak >= p.whole():
		return cam.LevelWhole
	case p.plan.Peak <= p.candidates.leastPeak:
		return cam.LevelSmallest
	}
	return cam.LevelStreamed
}

// keepsAll reports whether a plan streams nothing and rematerialises nothing.
func keepsAll(p *plan.Plan) bool {
	for _, u := range p.Units {
		if u.RingBytes > 0 || len(u.Rematerialised) > 0 {
			return false
		}
	}
	return true
}

// growth is the factor between an allowed budget and that of the plans from which larger plans are made: making and loading them takes time.
const growth = 1.25

// Exceeds reports whether plans and buffers take more than the allowed budget.
func (n *Network) Exceeds(allowed cam.Budget) bool {
	return allowed.Bytes > 0 && n.Taken > allowed.Bytes || allowed.Smallest && !n.Budget.Smallest && n.Taken > 0
}

// Outgrown reports whether the allowed budget is so much larger than that of the plans that others are worth it.
func (n *Network) Outgrown(allowed cam.Budget) bool {
	made := n.Taken
	if n.Budget.Bytes > 0 {
		made = n.Budget.Bytes
	}
	switch {
	case n.Taken == 0 || !n.Budget.Bounded() || allowed.Smallest || allowed.Arena > 0 || n.Full():
		return false
	case !allowed.Bounded():
		return true
	}
	return float64(allowed.Bytes) >= growth*float64(made)
}

// Full reports whether more memory would change nothing: tensors are whole, and all buffers on the device.
func (n *Network) Full() bool {
	return n.Level() == cam.LevelWhole && (n.Placement == placement{} || !n.ahead && n.Placement == cheaper[0])
}
