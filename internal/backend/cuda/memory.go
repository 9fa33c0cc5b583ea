package cuda

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

// memory is a range of device addresses with pieces of physical memory behind it, side by side. Everything that the backend takes on the
// device is one of these, so that what it holds is known to the byte. The addresses stay until it is closed; the pieces are others after
// Vacate and Return. The store's mutex guards it.
type memory struct {
	backend *Backend
	at      driver.Ptr
	used    int // bytes that were asked for
	bytes   int // the same rounded up to pieces; 0 for none and once it is closed
	pieces  []physical
	mapped  int  // bytes from the first on that pieces are mapped at
	ready   bool // to be used
	aliases []*alias

	constant bool        // what is in it stays the same
	saved    *buffer     // a copy of it, for Vacate; nil until one is needed
	stale    bool        // it must be written again from there
	lost     bool        // a Vacate took what was in it; whoever fills it anew takes that back
	broken   atomic.Bool // its pieces are gone, and it can only be closed
}

// take maps so many bytes, rounded up to pieces; none for 0. Spare pieces are used first, so that the driver is asked only for what was
// never had or was trimmed.
func (b *Backend) take(bytes int, what string) (m *memory, err error) {
	m = &memory{backend: b, used: bytes, bytes: b.round(bytes)}
	if bytes == 0 {
		return m, nil
	}
	s := &b.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.vacated {
		return nil, fmt.Errorf("cuda: taking %d bytes for %s: %w", m.bytes, what, errVacated)
	}
	err = b.context.Do(func() error {
		if m.at, err = b.context.ReserveAddress(m.bytes, 0); err != nil {
			return err
		}
		return m.open()
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cuda: taking %d bytes for %s: %w", m.bytes, what, err), b.endMemory(m.dissolve))
	}
	s.live = append(s.live, m)
	return m, nil
}

// round is what a request for so many bytes takes.
func (b *Backend) round(bytes int) int { return ceilDiv(bytes, b.granularity) * b.granularity }

// open puts pieces behind the addresses, unless they are there. After an error some may be, and open or clear go on from there. It must
// run where the context is current.
func (m *memory) open() error {
	if m.ready {
		return nil
	}
	b := m.backend
	if err := m.unmap(); err != nil {
		return err
	}
	if m.pieces == nil {
		var err error
		if m.pieces, err = b.pieces(m.places()); err != nil {
			return err
		}
	}
	if err := b.mapAt(m.at, &m.mapped, m.pieces); err != nil {
		return err
	}
	m.ready = true
	b.store.allocated.Add(int64(m.bytes))
	return nil
}

// mapAt maps pieces side by side behind those that are mapped from an address on, and makes all usable.
func (b *Backend) mapAt(at driver.Ptr, mapped *int, pieces []physical) error {
	for _, p := range pieces {
		bytes := p.units * b.granularity
		if err := b.context.Map(at+driver.Ptr(*mapped), bytes, p.handle); err != nil {
			return err
		}
		*mapped += bytes
	}
	return b.context.Allow(at, *mapped)
}

// places are the units of the pieces that the memory is to be made of: large ones, but where a part is seen twice, and at the end.
func (m *memory) places() (units []int) {
	unit := m.backend.granularity
	for at := 0; at < m.bytes; {
		n := largeUnits
		if at+n*unit > m.bytes || slices.ContainsFunc(m.aliases, func(a *alias) bool { return a.from < at+n*unit && a.from+a.bytes > at }) {
			n = 1
		}
		units = append(units, n)
		at += n * unit
	}
	return units
}

// part are the pieces behind some bytes, if they are small ones.
func (m *memory) part(from, bytes int) (pieces []physical, ok bool) {
	at, unit := 0, m.backend.granularity
	for _, p := range m.pieces {
		if at >= from && at < from+bytes && p.units == 1 {
			pieces = append(pieces, p)
		}
		at += p.units * unit
	}
	return pieces, len(pieces)*unit == bytes
}

// unmap takes the pieces away from the addresses, once nothing uses them.
func (m *memory) unmap() error {
	if m.mapped == 0 {
		return nil
	}
	if err := m.backend.settle(); err != nil {
		return err
	}
	if err := m.backend.context.Unmap(m.at, m.mapped); err != nil {
		return err
	}
	m.mapped = 0
	if m.ready {
		m.ready = false
		m.backend.store.allocated.Add(-int64(m.bytes))
	}
	return nil
}

// clear makes the pieces spare ones. After an error it is to be called again. It must run where the context is current.
func (m *memory) clear() error {
	for _, a := range m.aliases {
		if err := a.unmap(); err != nil {
			return err
		}
	}
	if err := m.unmap(); err != nil {
		return err
	}
	m.backend.store.put(m.pieces...)
	m.pieces = nil
	return nil
}

// dissolve ends it altogether. After an error it is to be called again.
func (m *memory) dissolve() error {
	for _, a := range m.aliases { // of programs that must not run any more
		if err := a.dissolve(); err != nil {
			return err
		}
	}
	if err := m.clear(); err != nil {
		return err
	}
	if m.at == 0 {
		return nil
	}
	if err := m.backend.context.FreeAddress(m.at, m.bytes); err != nil {
		return err
	}
	m.at, m.bytes = 0, 0
	return nil
}

func (m *memory) close() error {
	if m == nil || m.bytes == 0 {
		return nil
	}
	b, s := m.backend, &m.backend.store
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.live, m)
	if i < 0 { // it was closed, and the driver refused
		return nil
	}
	s.live = slices.Delete(s.live, i, i+1)
	if m.ready { // and from now on is not, whatever the driver says
		s.allocated.Add(-int64(m.bytes))
		m.ready = false
	}
	err := b.endMemory(m.dissolve)
	return errors.Join(err, b.freeBuffer(m.saved))
}

// alias is a range of addresses at which a part of some memory is seen twice, one behind the other.
type alias struct {
	of          *memory
	at          driver.Ptr
	from, bytes int // the part
	mapped      int // bytes at the addresses
}

// double maps bytes [from, from+bytes) of memory, whole units of the granularity, a second and a third time. Where large pieces are
// exchanged for that, what was in the memory is lost, and after an error the memory may be too: then it is good for nothing but closing.
func (m *memory) double(from, bytes int) (a *alias, err error) {
	b := m.backend
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	a = &alias{of: m, from: from, bytes: bytes}
	m.aliases = append(m.aliases, a)
	err = b.context.Do(func() error {
		if a.at, err = b.context.ReserveAddress(2*bytes, 0); err != nil {
			return err
		}
		if _, ok := m.part(from, bytes); !ok {
			if err := m.clear(); err != nil {
				return err
			}
		}
		return m.openAll()
	})
	if err != nil {
		m.broken.Store(!m.ready)
		m.forget(a)
		return nil, errors.Join(err, b.endMemory(a.dissolve))
	}
	return a, nil
}

func (m *memory) forget(a *alias) {
	m.aliases = slices.DeleteFunc(m.aliases, func(other *alias) bool { return other == a })
}

// openAll is open, for the aliases too.
func (m *memory) openAll() error {
	if err := m.open(); err != nil {
		return err
	}
	for _, a := range m.aliases {
		if err := a.open(); err != nil {
			return err
		}
	}
	return nil
}

func (a *alias) open() error {
	if a.mapped == 2*a.bytes {
		return nil
	}
	if err := a.unmap(); err != nil {
		return err
	}
	part, ok := a.of.part(a.from, a.bytes)
	if !ok {
		return errors.New("cuda: a part of the memory cannot be seen twice")
	}
	return a.of.backend.mapAt(a.at, &a.mapped, slices.Concat(part, part))
}

func (a *alias) unmap() error {
	if a.mapped == 0 {
		return nil
	}
	b := a.of.backend
	if err := b.settle(); err != nil {
		return err
	}
	if err := b.context.Unmap(a.at, a.mapped); err != nil {
		return err
	}
	a.mapped = 0
	return nil
}

func (a *alias) dissolve() error {
	if err := a.unmap(); err != nil {
		return err
	}
	if a.at == 0 {
		return nil
	}
	if err := a.of.backend.context.FreeAddress(a.at, 2*a.bytes); err != nil {
		return err
	}
	a.at = 0
	return nil
}

func (a *alias) close() error {
	b := a.of.backend
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	a.of.forget(a)
	return b.endMemory(a.dissolve)
}

// settle waits until the device has done what was enqueued: memory is not taken away while something uses it. It must run where the
// context is current.
func (b *Backend) settle() error {
	if b.stream == nil {
		return nil
	}
	b.recording.Lock() // while a graph is recorded nobody may wait for the stream
	defer b.recording.Unlock()
	return b.stream.Synchronize()
}
