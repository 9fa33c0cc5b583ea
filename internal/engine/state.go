package engine

import (
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/network"
)

// Values of State.State.
const (
	StateStarting   = "starting"
	StateComputing  = "computing"
	StateIdle       = "idle"
	StateWaiting    = "waiting" // for other programs to give memory back
	StateRestarting = "restarting"
)

// State describes an engine at one moment.
type State struct {
	Device string        `json:"device"`         // as requested
	Name   string        `json:"name,omitempty"` // of the device that computes now, such as cuda/NVIDIA H200; empty while there is none
	UUID   string        `json:"uuid,omitempty"` // of the GPU
	Usage  backend.Usage `json:"usage"`          // of the device; of this process, if the device is the processor
	Budget int           `json:"budget_bytes"`   // now; 0: the least that works, or no bound
	Held   bool          `json:"held"`           // down to the least, by policy.Release
	Until  time.Time     `json:"until,omitzero"`
	State  string        `json:"state"`

	// Of the model, on the instance in use.
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
	o := e.instanceOptions()
	st.Held, st.Until = o.Held, o.Until
	s, now, done := e.use()
	defer done()
	if s == nil || s.gone() || now.gone() { // a process that has ended has no figures
		if st.State != StateWaiting {
			st.State = StateRestarting
		}
		return st
	}
	held := s.State()
	st.Usage, st.Budget, st.UUID = held.Usage, held.Budget, s.device.UUID
	st.Name = now.device.Name
	if now != s {
		held = now.State()
		held.Level = cam.LevelCPU
	}
	st.Level, st.Arena, st.Plans = held.Level, held.Arena, held.Passes
	return st
}

// PID returns the number of the worker process that volumes are explained in; 0 while there is none, and without worker processes.
func (e *Engine) PID() int {
	if s := e.current(); s != nil && !s.gone() {
		if p := s.process(); p != nil {
			return p.PID()
		}
	}
	return 0
}

// setState sets State.State.
func (e *Engine) setState(state string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state = state
}
