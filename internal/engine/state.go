package engine

import (
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/network"
)

// What an engine does, in State.State.
const (
	StateStarting   = "starting"
	StateComputing  = "computing"
	StateIdle       = "idle"
	StateWaiting    = "waiting" // for other programs to leave memory
	StateRestarting = "restarting"
)

// State describes an engine at one moment.
type State struct {
	Device string        `json:"device"`         // as it was asked for
	Name   string        `json:"name,omitempty"` // of what computes now, such as cuda/NVIDIA H200; empty while there is nothing
	UUID   string        `json:"uuid,omitempty"` // of the GPU
	Usage  backend.Usage `json:"usage"`          // of the device; of this process, where the processor was asked for
	Budget int           `json:"budget_bytes"`   // now; 0: the least that works, or no bound
	Held   bool          `json:"held"`           // down to the least, by policy.Release
	Until  time.Time     `json:"until,omitzero"`
	State  string        `json:"state"`

	// Of the model, where it is explained now.
	Level cam.Level           `json:"level,omitempty"`
	Arena int                 `json:"arena_bytes"`
	Plans []network.PassState `json:"plans"`
}

// State returns the state of the engine. It may be called at any time, and waits for no volume.
func (e *Engine) State() State {
	e.mu.Lock()
	st := State{Device: e.options.Device, State: e.state}
	e.mu.Unlock()
	if st.Device == "" {
		st.Device = "auto"
	}
	st.Until, st.Held = e.governor.Held()
	s, now, done := e.use()
	defer done()
	if s == nil {
		return st
	}
	st.Name = now.Name()
	m := now.model.State()
	st.Level, st.Arena, st.Plans = m.Level, m.Arena, m.Passes
	if now != s {
		st.Level = cam.LevelCPU
	}
	st.UUID = s.uuid
	if u, err := s.usage(); err == nil { // of a context that is lost nothing is known
		st.Usage = u
	}
	st.Budget = e.allow(s, st.Usage).Bytes
	return st
}

// enter notes what the engine does.
func (e *Engine) enter(state string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state = state
}
