// Package executor has a model on a device in this process. It goes on by itself after everything that another plan, or another try on the
// same device, can mend.
//
// A volume is computed in attempts (compute.go). An error that ends one is handled in one place (recover.go), and the next attempt does
// the rest. Before each volume and each pass the budget is asked for (allow.go, admission.go), and memory is given back on request
// (release.go); between volumes all memory of the device can be given back (shuttle.go).
package executor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/network"
)

// Options say how a model is to be opened.
type Options struct {
	network.ModelOptions
	// Budget bounds the memory that computing takes.
	Budget cam.Budget
	// Allow returns the budget of the next pass, from the use of the device's memory. It is called before each volume and each pass
	// through the network; with an empty Usage on a backend that is not backend.Resident. Nil: always Budget.
	Allow func(backend.Usage) cam.Budget
	// Shuttle chooses the moments between volumes at which the device's memory is given back, by backend.Resident.Vacate.
	Shuttle Shuttle
	// Ahead takes memory on a device for a volume besides the one that is explained, and for maps that are on their way back, as far
	// as plans do not suffer: for callers of Begin.
	Ahead bool
}

// Check returns all that is wrong with options, each an *OptionError, joined.
func (o Options) Check() error {
	return errors.Join(o.ModelOptions.Check(), network.CheckBudget(o.Budget))
}

// Shuttle is the moment at which a model leaves the device between volumes: it gives the memory back, and brings the weights to the host.
type Shuttle uint8

const (
	ShuttleNever  Shuttle = iota
	ShuttleIdle           // when no volume has been begun for a while
	ShuttleAlways         // after each volume
)

// Model is an opened model on a backend. It implements explain.Overlapping. Its methods may be called by many goroutines, one at a time
// computes.
type Model struct {
	file     *network.ModelFile
	opt      Options
	backend  backend.Backend
	resident backend.Resident // the backend, if it is one; else nil

	// begun and turn are locks, held by an element in the channel; begun is taken before turn. begun guards the buffer in which the next volume
	// waits. turn guards computing and all else that lies on the device: net may be used while it is held. mu guards net, its device buffers
	// and their placement, aheadUsed and vacated against the goroutine that brings the next volume.
	begun, turn chan struct{}
	closed      bool // guarded by both
	mu          sync.Mutex
	net         *network.Network
	aheadUsed   bool // a volume is in net.Buffers.Ahead
	vacated     bool // the contents of the device are on the host

	state atomic.Pointer[network.State] // published for State; nil before the first
	lost  atomic.Pointer[error]         // the reason why the device is gone; nil while it is there

	allowance allowance
	change    *change       // nil unless plans changed and their memory is not there yet
	releases  chan *release // requests that come while a volume is computed
	pending   cam.Execution // events, and the time of leaving the device, from between volumes for the next one
	idle      *time.Timer   // to the moment to leave the device; nil unless that is ShuttleIdle
	idleFor   time.Duration // without any work, until then
}

// change describes the plans before a change of plans.
type change struct {
	level cam.Level // "" if there were none, or once the change was recorded
	taken int
}

// release is a request to give the device's memory back.
type release struct {
	meanwhile func() error
	done      chan error
}

// takeTurn waits for the turn to compute; endTurn ends it.
func (m *Model) takeTurn(ctx context.Context) error {
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if m.closed {
		m.endTurn()
		return cam.ErrClosed
	}
	return nil
}

func (m *Model) endTurn() { <-m.turn }

// exclusive waits until the model is not used, and keeps it so until the returned function is called.
func (m *Model) exclusive() (leave func(), err error) {
	m.begun <- struct{}{}
	m.turn <- struct{}{}
	leave = func() {
		<-m.turn
		<-m.begun
	}
	if m.closed {
		leave()
		return nil, cam.ErrClosed
	}
	return leave, nil
}

// bind makes m.net fit the shape.
func (m *Model) bind(ctx context.Context, shape [4]int) error {
	if m.net != nil && m.net.Shape == shape {
		return nil
	}
	net, err := m.file.Bind(ctx, network.Binding{
		Shape: shape, Backend: m.backend, Budget: m.opt.Budget, Ahead: m.opt.Ahead, Follows: m.follows(),
	})
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.net != nil {
		if err := m.net.Close(); err != nil {
			return err
		}
	}
	m.net = net
	m.publishState()
	return nil
}

// intact returns err, or, if weights were read that are not the model's any more, an *input.ChangedError in its place.
func (m *Model) intact(err error) error {
	if changed := m.file.Err(); changed != nil {
		return changed
	}
	return err
}

// follows reports whether plans may be made anew for other budgets.
func (m *Model) follows() bool { return m.resident != nil || m.opt.Allow != nil }

// replan forgets the plans, and gives back memory that other plans have no use for. mu must be held.
func (m *Model) replan(to cam.Budget) error {
	m.change = &change{m.net.Level(), m.net.Taken}
	m.allowance.stale()
	return m.net.Replan(to)
}

// giveBack gives back all that lies on the device.
func (m *Model) giveBack() (err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.net == nil {
		return nil
	}
	err = m.net.Close()
	if m.resident != nil && m.gone() == nil && m.class(err) != backend.Lost {
		_, trimmed := m.resident.Trim(0)
		if trimmed != nil && m.class(trimmed) != backend.Lost {
			_, trimmed = m.resident.Trim(0) // a second call returns what the first could not
		}
		m.allowance.stale()
		err = errors.Join(err, trimmed)
	}
	m.publishState()
	return err
}

// publishState publishes the model's plans and memory now. mu must be held.
func (m *Model) publishState() network.State {
	s := network.State{}
	if m.net != nil {
		s = m.net.State()
	}
	s.Vacated = m.vacated
	m.state.Store(&s)
	return s
}

// State returns the model's plans and memory. It waits for nothing.
func (m *Model) State() network.State {
	if s := m.state.Load(); s != nil {
		return *s
	}
	return network.State{}
}

// gone returns an error that wraps cam.ErrLost once the device is gone.
func (m *Model) gone() error {
	if err := m.lost.Load(); err != nil {
		return *err
	}
	return nil
}

// markLost notes that the device is gone.
func (m *Model) markLost(err error) error {
	err = fmt.Errorf("%w: %w", cam.ErrLost, err)
	m.lost.CompareAndSwap(nil, &err)
	return m.gone()
}

// class returns the class of an error.
func (m *Model) class(err error) backend.ErrorClass {
	switch {
	case errors.Is(err, cam.ErrLost):
		return backend.Lost
	case m.resident == nil:
		return backend.Fault
	}
	return m.resident.Class(err)
}

// Usage returns the use of the device's memory; false where it is not known.
func (m *Model) Usage() (backend.Usage, bool) {
	if m.resident == nil || m.gone() != nil {
		return backend.Usage{}, false
	}
	u, err := m.resident.Usage()
	return u, err == nil
}

// Trim gives unused memory back, but for keep bytes. It may be called at any time.
func (m *Model) Trim(keep int) (freed int, err error) {
	if err := m.gone(); err != nil || m.resident == nil {
		return 0, err
	}
	m.allowance.stale()
	freed, err = m.resident.Trim(keep)
	if m.class(err) == backend.Lost {
		err = m.markLost(err)
	}
	return freed, err
}
