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
	physical driver.Physical
}

// take maps so many bytes, rounded up to the granularity; none for 0.
func (b *Backend) take(bytes int, what string) (m *memory, err error) {
	m = &memory{backend: b, bytes: b.round(bytes)}
	if bytes == 0 {
		return m, nil
	}
	err = b.context.Do(func() error {
		if m.at, err = b.context.ReserveAddress(m.bytes, 0); err != nil {
			return err
		}
		if m.physical, err = b.context.CreatePhysical(m.bytes); err != nil {
			return errors.Join(err, b.context.FreeAddress(m.at, m.bytes))
		}
		if err = b.context.Map(m.at, m.bytes, m.physical); err != nil {
			return errors.Join(err, b.context.Release(m.physical), b.context.FreeAddress(m.at, m.bytes))
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

func (m *memory) close() error {
	if m == nil || m.bytes == 0 {
		return nil
	}
	bytes := m.bytes
	m.bytes = 0
	err := m.backend.context.Do(func() error {
		return errors.Join(m.backend.context.Unmap(m.at, bytes), m.backend.context.Release(m.physical), m.backend.context.FreeAddress(m.at, bytes))
	})
	m.backend.held.Add(-int64(bytes))
	return err
}

// Held is the device memory that the backend has taken: arenas, weights, scratch and fields. The context, the kernels and the
// libraries come on top; see Overhead.
func (b *Backend) Held() int { return int(b.held.Load()) }
