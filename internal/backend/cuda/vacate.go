package cuda

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"unsafe"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

var _ backend.Resident = (*Backend)(nil)

var errVacated = errors.New("cuda: the memory was vacated and did not return")

// gate lets users of the memory in while it is there. While somebody waits for all to leave, others wait before it; so who is in must not
// come in again.
type gate struct {
	mu      sync.Mutex
	changed *sync.Cond
	users   int
	closing int // who wait for users to leave
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
		return errVacated
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

// do runs what uses the memory of the device, in a thread in which the context is current; it is an error while the memory is vacated.
// It must not be called within do, nor while a ferry carries something.
func (b *Backend) do(f func() error) error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	return b.context.Do(f)
}

// Vacated implements backend.Resident.
func (b *Backend) Vacated() bool {
	b.gate.mu.Lock()
	defer b.gate.mu.Unlock()
	return b.gate.closed
}

// Vacate implements backend.Resident. It waits for what is running. Weights are copied to the host the first time only, and both their
// copy and the memory for kept fields stay on the host until those are closed. Moments are lost; Moments.Save keeps them. After an error
// nothing has changed, unless Vacated says otherwise: then the driver refused some of the memory, and Trim tries that again.
func (b *Backend) Vacate(keep ...backend.Field) (freed int, err error) {
	kept := map[*memory]bool{}
	for _, f := range keep {
		own, ok := f.(*field)
		if !ok || own.backend != b || own.memory != nil && own.memory.bytes == 0 {
			return 0, fmt.Errorf("cuda: a field that is not kept whole by this backend (%T) cannot be kept", f)
		}
		if err := own.check(own.n); err != nil {
			return 0, err
		}
		if own.memory != nil {
			kept[own.memory] = true
		}
	}
	if !b.gate.close() {
		return 0, nil
	}
	s := &b.store
	s.mu.Lock()
	defer s.mu.Unlock()
	begun := false
	err = b.context.Do(func() error {
		if err := b.save(kept); err != nil {
			return err
		}
		begun, s.vacated = true, true
		for _, m := range s.live {
			m.stale = m.constant || kept[m]
			m.lost = !m.stale
		}
		left := b.clearAll()
		var refused error
		freed, refused = b.giveBack(0)
		return errors.Join(left, refused)
	})
	if !begun {
		b.gate.open()
	}
	if err != nil {
		return freed, fmt.Errorf("cuda: vacating: %w", err)
	}
	return freed, nil
}

// save copies what is to be kept to the host, and waits.
func (b *Backend) save(kept map[*memory]bool) error {
	if err := b.settle(); err != nil {
		return err
	}
	var made []*memory
	err := func() error {
		for _, m := range b.store.live {
			if !kept[m] && (!m.constant || m.saved != nil) {
				continue
			}
			if m.saved == nil {
				m.saved = b.newBuffer(m.used)
				made = append(made, m)
			}
			if err := b.stream.CopyToHost(m.saved.pointer(), m.at, m.used); err != nil {
				return err
			}
		}
		return b.stream.Synchronize()
	}()
	if err != nil {
		_ = b.stream.Synchronize() // for what may be on its way into memory that goes
		for _, m := range made {   // what is in it is not known
			_ = b.freeBuffer(m.saved) // remembered
			m.saved = nil
		}
	}
	return err
}

// clearAll makes all pieces spare ones that the driver lets go.
func (b *Backend) clearAll() error {
	var errs []error
	for _, m := range b.store.live {
		errs = append(errs, m.clear())
	}
	return errors.Join(errs...)
}

// Return implements backend.Resident.
func (b *Backend) Return() error {
	s := &b.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.vacated {
		return nil
	}
	// What has to be copied first, so that the copies are on their way while the rest is mapped.
	order := slices.Clone(s.live)
	slices.SortStableFunc(order, func(x, y *memory) int { return bit(y.stale) - bit(x.stale) })
	before := s.spare()
	var opened []*memory
	err := b.context.Do(func() error {
		err := func() error {
			for _, m := range order {
				if !m.ready {
					opened = append(opened, m)
				}
				if err := m.bringBack(); err != nil {
					return err
				}
			}
			return b.stream.Synchronize()
		}()
		if err == nil {
			return nil
		}
		errs := []error{err}
		for _, m := range opened {
			errs = append(errs, m.clear())
		}
		_, refused := b.giveBack(before)
		return errors.Join(append(errs, refused)...)
	})
	if err != nil {
		return fmt.Errorf("cuda: taking memory again: %w", err)
	}
	for _, m := range s.live {
		m.stale = false
	}
	s.vacated = false
	b.gate.open()
	return nil
}

// bringBack maps memory and enqueues the copy of what it held.
func (m *memory) bringBack() error {
	if err := m.openAll(); err != nil {
		return err
	}
	if !m.stale {
		return nil
	}
	return m.backend.stream.CopyToDevice(m.at, m.saved.pointer(), m.used)
}

// buffer is memory of the host for copies: pinned, which is the fastest, or any where there is no room for that.
type buffer struct {
	pinned *driver.HostMemory
	bytes  []byte
}

// newBuffer must run where the context is current.
func (b *Backend) newBuffer(n int) *buffer {
	if m, err := b.context.AllocHost(max(n, 1)); err == nil {
		return &buffer{m, m.Bytes()}
	}
	return &buffer{nil, make([]byte, max(n, 1))}
}

func (b *Backend) freeBuffer(m *buffer) error {
	if m == nil || m.pinned == nil {
		return nil
	}
	return b.end(m.pinned.Free)
}

func (m *buffer) pointer() unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(m.bytes)) }
