package devmem

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

// Allocation is a range of device addresses with pieces of physical memory behind it, side by side. Everything that the backend takes on
// the device is an allocation, so that its use of memory is known to the byte. The addresses stay until it is closed; Vacate and Return
// exchange the pieces. The allocator's mutex guards it.
type Allocation struct {
	a       *Allocator
	at      driver.Ptr
	used    int // bytes that were asked for
	bytes   int // the same rounded up to pieces; 0 for none and once it is closed
	pieces  []physical
	mapped  int  // bytes from the first on that pieces are mapped at
	ready   bool // to be used
	aliases []*Alias

	constant bool        // its contents stay the same
	saved    *staging    // a copy of the contents, for Vacate; nil until one is needed
	stale    bool        // the contents must be copied back from saved
	lost     bool        // a Vacate discarded the contents
	broken   atomic.Bool // its pieces are gone, and it can only be closed
}

// Allocate maps bytes of memory, rounded up to pieces; none for 0. Spare pieces are used first, so that the driver is asked only for the
// rest. An error names the purpose of the memory.
func (a *Allocator) Allocate(bytes int, what string) (m *Allocation, err error) {
	m = &Allocation{a: a, used: bytes, bytes: a.Round(bytes)}
	if bytes == 0 {
		return m, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.vacated {
		return nil, fmt.Errorf("cuda: taking %d bytes for %s: %w", m.bytes, what, ErrVacated)
	}
	err = a.context.Do(func() error {
		if m.at, err = a.context.ReserveAddress(m.bytes, 0); err != nil {
			return err
		}
		return m.open()
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cuda: taking %d bytes for %s: %w", m.bytes, what, err), a.endMemory(m.dissolve))
	}
	a.live = append(a.live, m)
	return m, nil
}

// Round returns the bytes that an allocation takes.
func (a *Allocator) Round(bytes int) int {
	return (bytes + a.granularity - 1) / a.granularity * a.granularity
}

// View returns an allocation that owns nothing: an address in another one. It is closed.
func View(at driver.Ptr) *Allocation { return &Allocation{at: at} }

// At returns the address of the first byte.
func (m *Allocation) At() driver.Ptr { return m.at }

// Closed reports whether there is nothing in it, because it was closed or never had a byte.
func (m *Allocation) Closed() bool { return m.bytes == 0 }

// Broken reports whether its memory is gone, so that it can only be closed.
func (m *Allocation) Broken() bool { return m.broken.Load() }

// MarkConstant says that the contents stay the same from now on: Vacate keeps them, and copies them to the host once.
func (m *Allocation) MarkConstant() { m.constant = true }

// Lost reports whether a Vacate discarded the contents.
func (m *Allocation) Lost() bool { return m.lost }

// Refilled takes Lost back, after the contents were written anew.
func (m *Allocation) Refilled() { m.lost = false }

// open puts pieces behind the addresses, unless they are there. After an error some may be, and open or clear go on from there. It must
// run where the context is current.
func (m *Allocation) open() error {
	if m.ready {
		return nil
	}
	if err := m.unmap(); err != nil {
		return err
	}
	if m.pieces == nil {
		var err error
		if m.pieces, err = m.a.pieces(m.places()); err != nil {
			return err
		}
	}
	if err := m.a.mapAt(m.at, &m.mapped, m.pieces); err != nil {
		return err
	}
	m.ready = true
	m.a.allocated.Add(int64(m.bytes))
	return nil
}

// mapAt maps pieces side by side behind those that are mapped from an address on, and makes all usable.
func (a *Allocator) mapAt(at driver.Ptr, mapped *int, pieces []physical) error {
	for _, p := range pieces {
		bytes := p.units * a.granularity
		if err := a.context.Map(at+driver.Ptr(*mapped), bytes, p.handle); err != nil {
			return err
		}
		*mapped += bytes
	}
	return a.context.Allow(at, *mapped)
}

// places returns the sizes, in units, of the pieces to make the allocation from: large ones, except under an alias and at the end.
func (m *Allocation) places() (units []int) {
	unit := m.a.granularity
	for at := 0; at < m.bytes; {
		n := largeUnits
		if at+n*unit > m.bytes || slices.ContainsFunc(m.aliases, func(a *Alias) bool { return a.from < at+n*unit && a.from+a.bytes > at }) {
			n = 1
		}
		units = append(units, n)
		at += n * unit
	}
	return units
}

// part returns the pieces behind bytes [from, from+bytes), if they are small ones.
func (m *Allocation) part(from, bytes int) (pieces []physical, ok bool) {
	at, unit := 0, m.a.granularity
	for _, p := range m.pieces {
		if at >= from && at < from+bytes && p.units == 1 {
			pieces = append(pieces, p)
		}
		at += p.units * unit
	}
	return pieces, len(pieces)*unit == bytes
}

// unmap takes the pieces away from the addresses, once nothing uses them.
func (m *Allocation) unmap() error {
	if m.mapped == 0 {
		return nil
	}
	if err := m.a.Synchronize(); err != nil {
		return err
	}
	if err := m.a.context.Unmap(m.at, m.mapped); err != nil {
		return err
	}
	m.mapped = 0
	if m.ready {
		m.ready = false
		m.a.allocated.Add(-int64(m.bytes))
	}
	return nil
}

// clear makes the pieces spare ones. After an error it is to be called again. It must run where the context is current.
func (m *Allocation) clear() error {
	for _, a := range m.aliases {
		if err := a.unmap(); err != nil {
			return err
		}
	}
	if err := m.unmap(); err != nil {
		return err
	}
	m.a.put(m.pieces...)
	m.pieces = nil
	return nil
}

// dissolve gives pieces and addresses back. After an error it is to be called again.
func (m *Allocation) dissolve() error {
	for _, a := range m.aliases { // their programs must not run any more
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
	if err := m.a.context.FreeAddress(m.at, m.bytes); err != nil {
		return err
	}
	m.at, m.bytes = 0, 0
	return nil
}

// Close makes the memory spare. A second call does nothing.
func (m *Allocation) Close() error {
	if m == nil || m.bytes == 0 {
		return nil
	}
	a := m.a
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.Index(a.live, m)
	if i < 0 { // closed before, and the driver refused
		return nil
	}
	a.live = slices.Delete(a.live, i, i+1)
	if m.ready { // no longer, even if the driver refuses
		a.allocated.Add(-int64(m.bytes))
		m.ready = false
	}
	err := a.endMemory(m.dissolve)
	return errors.Join(err, a.freeStaging(m.saved))
}

// Alias is a range of addresses at which a part of an allocation is seen twice, one behind the other.
type Alias struct {
	of          *Allocation
	at          driver.Ptr
	from, bytes int // the part
	mapped      int // bytes at the addresses
}

// At returns the address of the first byte.
func (a *Alias) At() driver.Ptr { return a.at }

// Double maps bytes [from, from+bytes) of the memory, whole units of the granularity, a second and a third time. Where large pieces are
// exchanged for that, the contents are lost; after an error the memory may be, too, and can then only be closed.
func (m *Allocation) Double(from, bytes int) (a *Alias, err error) {
	d := m.a
	d.mu.Lock()
	defer d.mu.Unlock()
	a = &Alias{of: m, from: from, bytes: bytes}
	m.aliases = append(m.aliases, a)
	err = d.context.Do(func() error {
		if a.at, err = d.context.ReserveAddress(2*bytes, 0); err != nil {
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
		m.removeAlias(a)
		return nil, errors.Join(err, d.endMemory(a.dissolve))
	}
	return a, nil
}

func (m *Allocation) removeAlias(a *Alias) {
	m.aliases = slices.DeleteFunc(m.aliases, func(other *Alias) bool { return other == a })
}

// openAll is open, for the aliases too.
func (m *Allocation) openAll() error {
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

func (a *Alias) open() error {
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
	return a.of.a.mapAt(a.at, &a.mapped, slices.Concat(part, part))
}

func (a *Alias) unmap() error {
	if a.mapped == 0 {
		return nil
	}
	d := a.of.a
	if err := d.Synchronize(); err != nil {
		return err
	}
	if err := d.context.Unmap(a.at, a.mapped); err != nil {
		return err
	}
	a.mapped = 0
	return nil
}

func (a *Alias) dissolve() error {
	if err := a.unmap(); err != nil {
		return err
	}
	if a.at == 0 {
		return nil
	}
	if err := a.of.a.context.FreeAddress(a.at, 2*a.bytes); err != nil {
		return err
	}
	a.at = 0
	return nil
}

// Close takes the second addresses away.
func (a *Alias) Close() error {
	d := a.of.a
	d.mu.Lock()
	defer d.mu.Unlock()
	a.of.removeAlias(a)
	return d.endMemory(a.dissolve)
}
