package cuda

import (
	"errors"
	"fmt"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

// memory is a range of device addresses with physical memory behind it. Everything that the backend takes on the device is one of
// these, so that what it holds is known to the byte.
type memory struct {
	backend  *Backend
	at       driver.Ptr
	bytes    int // a multiple of the granularity
	piece    int // bytes of each of physical
	physical []driver.Physical
}

// take maps so many bytes, rounded up to the granularity; none for 0.
func (b *Backend) take(bytes int, what string) (m *memory, err error) {
	return b.takePieces(bytes, b.round(bytes), what)
}

// takePieces maps so many bytes, rounded up to the granularity, in pieces of a size, each of which can be mapped again elsewhere. Large
// pieces take less time.
func (b *Backend) takePieces(bytes, piece int, what string) (m *memory, err error) {
	m = &memory{backend: b, bytes: b.round(bytes), piece: piece}
	if bytes == 0 {
		return m, nil
	}
	err = b.context.Do(func() error {
		if m.at, err = b.context.ReserveAddress(m.bytes, 0); err != nil {
			return err
		}
		for at := 0; at < m.bytes; at += piece {
			h, err := b.context.CreatePhysical(piece)
			if err == nil {
				if err = b.context.Map(m.at+driver.Ptr(at), piece, h); err != nil {
					err = errors.Join(err, b.context.Release(h))
				}
			}
			if err != nil {
				return errors.Join(err, m.unmap(), b.context.FreeAddress(m.at, m.bytes))
			}
			m.physical = append(m.physical, h)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cuda: taking %d bytes for %s: %w", m.bytes, what, err)
	}
	b.held.Add(int64(m.bytes))
	return m, nil
}

// round is what a request for so many bytes takes.
func (b *Backend) round(bytes int) int { return ceilDiv(bytes, b.granularity) * b.granularity }

// unmap gives the physical memory back.
func (m *memory) unmap() error {
	var errs []error
	for i, h := range m.physical {
		errs = append(errs, m.backend.context.Unmap(m.at+driver.Ptr(i*m.piece), m.piece), m.backend.context.Release(h))
	}
	m.physical = nil
	return errors.Join(errs...)
}

// alias is a range of addresses at which a part of some memory is seen twice, one behind the other.
type alias struct {
	of     *memory
	at     driver.Ptr
	bytes  int // of the part
	mapped int // bytes at the addresses
}

// double maps bytes [from, from+bytes) of memory in pieces of the granularity a second and a third time. It must run where the context is current.
func (m *memory) double(from, bytes int) (a *alias, err error) {
	c := m.backend.context
	a = &alias{of: m, bytes: bytes}
	if a.at, err = c.ReserveAddress(2*bytes, 0); err != nil {
		return nil, err
	}
	for ; a.mapped < 2*bytes; a.mapped += m.piece {
		if err := c.Map(a.at+driver.Ptr(a.mapped), m.piece, m.physical[(from+a.mapped%bytes)/m.piece]); err != nil {
			return nil, errors.Join(err, a.close())
		}
	}
	return a, nil
}

func (a *alias) close() error {
	c := a.of.backend.context
	var errs []error
	for at := 0; at < a.mapped; at += a.of.piece {
		errs = append(errs, c.Unmap(a.at+driver.Ptr(at), a.of.piece))
	}
	return errors.Join(append(errs, c.FreeAddress(a.at, 2*a.bytes))...)
}

func (m *memory) close() error {
	if m == nil || m.bytes == 0 {
		return nil
	}
	bytes := m.bytes
	m.bytes = 0
	err := m.backend.context.Do(func() error {
		return errors.Join(m.unmap(), m.backend.context.FreeAddress(m.at, bytes))
	})
	m.backend.held.Add(-int64(bytes))
	return err
}

// Held is the device memory that the backend has taken: arenas, weights, scratch and fields. The context, the kernels and the
// libraries come on top; see Overhead.
func (b *Backend) Held() int { return int(b.held.Load()) }
