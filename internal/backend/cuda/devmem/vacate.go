package devmem

import (
	"errors"
	"fmt"
	"sync"
)

// ErrVacated says that memory was used while it was vacated.
var ErrVacated = errors.New("cuda: the memory was vacated and did not return")

// gate lets users of the memory in while it is on the device. While close waits for all users to leave, new ones wait in enter; so a user
// must not enter twice.
type gate struct {
	mu      sync.Mutex
	changed *sync.Cond
	users   int
	closing int // calls of close that wait for users to leave
	closed  bool
}

// enter must be followed by leave, unless it gives an error.
func (g *gate) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.closing > 0 && !g.closed {
		g.changed.Wait()
	}
	if g.closed {
		return ErrVacated
	}
	g.users++
	return nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.users--; g.users == 0 {
		g.changed.Broadcast()
	}
}

// close waits until all have left; false says that it was closed already.
func (g *gate) close() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closing++
	for g.users > 0 && !g.closed {
		g.changed.Wait()
	}
	g.closing--
	first := !g.closed
	g.closed = true
	g.changed.Broadcast()
	return first
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = false
}

// Vacated reports whether Vacate gave the memory up, and Return did not bring it back.
func (a *Allocator) Vacated() bool {
	a.gate.mu.Lock()
	defer a.gate.mu.Unlock()
	return a.gate.closed
}

// Vacate gives all memory to the driver, and returns the freed bytes. It waits for running work. The contents of keep and of constant
// allocations are copied to the host, those of constant ones the first time only; the copies stay there until the allocations are closed.
// All other contents are lost. After an error nothing has changed, unless Vacated says otherwise: then the driver refused some of the
// memory, and Trim tries that again.
func (a *Allocator) Vacate(keep ...*Allocation) (freed int, err error) {
	kept := map[*Allocation]bool{}
	for _, m := range keep {
		kept[m] = true
	}
	if !a.gate.close() {
		return 0, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	begun := false
	err = a.context.Do(func() error {
		if err := a.save(kept); err != nil {
			return err
		}
		begun, a.vacated = true, true
		for _, m := range a.live {
			m.stale = m.constant || kept[m]
			m.lost = !m.stale
		}
		left := a.clearAll()
		var refused error
		freed, refused = a.giveBack(0)
		return errors.Join(left, refused)
	})
	if !begun {
		a.gate.open()
	}
	if err != nil {
		return freed, fmt.Errorf("cuda: vacating: %w", err)
	}
	return freed, nil
}

// save copies the contents to keep to the host, and waits.
func (a *Allocator) save(kept map[*Allocation]bool) error {
	if err := a.Synchronize(); err != nil {
		return err
	}
	var made []*Allocation
	err := func() error {
		for _, m := range a.live {
			if !kept[m] && (!m.constant || m.saved != nil) {
				continue
			}
			if m.saved == nil {
				m.saved = a.newStaging(m.used)
				made = append(made, m)
			}
			if err := a.stream.CopyToHost(m.saved.pointer(), m.at, m.used); err != nil {
				return err
			}
		}
		return a.stream.Synchronize()
	}()
	if err != nil {
		_ = a.stream.Synchronize() // a copy may be on its way into memory that goes
		for _, m := range made {   // their contents are not known
			_ = a.freeStaging(m.saved) // remembered
			m.saved = nil
		}
	}
	return err
}

// clearAll makes all pieces spare ones that the driver lets go.
func (a *Allocator) clearAll() error {
	var errs []error
	for _, m := range a.live {
		errs = append(errs, m.clear())
	}
	return errors.Join(errs...)
}

// Return takes memory again for all allocations, at their addresses, and copies the kept contents back. After an error no memory is taken,
// and it can be called again.
func (a *Allocator) Return() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.vacated {
		return nil
	}
	// Allocations with contents to copy come first, so that the copies are on their way while the rest is mapped.
	var order []*Allocation
	for _, stale := range []bool{true, false} {
		for _, m := range a.live {
			if m.stale == stale {
				order = append(order, m)
			}
		}
	}
	before := a.spare()
	var opened []*Allocation
	err := a.context.Do(func() error {
		err := func() error {
			for _, m := range order {
				if !m.ready {
					opened = append(opened, m)
				}
				if err := m.bringBack(); err != nil {
					return err
				}
			}
			return a.stream.Synchronize()
		}()
		if err == nil {
			return nil
		}
		errs := []error{err}
		for _, m := range opened {
			errs = append(errs, m.clear())
		}
		_, refused := a.giveBack(before)
		return errors.Join(append(errs, refused)...)
	})
	if err != nil {
		return fmt.Errorf("cuda: taking memory again: %w", err)
	}
	for _, m := range a.live {
		m.stale = false
	}
	a.vacated = false
	a.gate.open()
	return nil
}

// bringBack maps memory and enqueues the copy of its contents.
func (m *Allocation) bringBack() error {
	if err := m.openAll(); err != nil {
		return err
	}
	if !m.stale {
		return nil
	}
	return m.a.stream.CopyToDevice(m.at, m.saved.pointer(), m.used)
}
