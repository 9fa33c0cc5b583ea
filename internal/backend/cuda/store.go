package cuda

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

// store is the physical memory that the backend has of the driver. It comes in pieces of the granularity, each of which is as good as any
// other, so that memory of any size can be made of any that are spare: there is no fragmentation, whatever was taken and closed before.
type store struct {
	mu      sync.Mutex
	spare   []driver.Physical // that nothing is in
	live    []*memory
	vacated bool

	reserved  atomic.Int64 // bytes of all pieces
	allocated atomic.Int64 // bytes of live memory that is not vacated

	ends sync.Mutex // of what follows
	left []ending   // that the driver refused

	overhead int       // of the process, when it was measured last
	measured time.Time // that, if ever
}

// ending is a call that ends something.
type ending struct {
	call     func() error
	outlives bool // what it ends is not gone with the context
}

// pieces are n pieces: spare ones, and from the driver those that are missing. Where it refuses them, what it gave before is spare, so
// that something smaller can be made of it. It must run where the context is current.
func (b *Backend) pieces(n int) ([]driver.Physical, error) {
	s := &b.store
	for len(s.spare) < n {
		h, err := b.context.CreatePhysical(b.granularity)
		if err != nil {
			return nil, err
		}
		s.spare = append(s.spare, h)
		s.reserved.Add(int64(b.granularity))
	}
	rest := len(s.spare) - n
	taken := append([]driver.Physical(nil), s.spare[rest:]...)
	s.spare = s.spare[:rest]
	return taken, nil
}

// giveBack releases spare pieces to the driver until so many are left. Those that it refuses to take stay spare. It must run where the
// context is current.
func (b *Backend) giveBack(keep int) (freed int, err error) {
	s := &b.store
	var kept []driver.Physical
	for len(s.spare)+len(kept) > keep && len(s.spare) > 0 {
		h := s.spare[len(s.spare)-1]
		s.spare = s.spare[:len(s.spare)-1]
		if refused := b.context.Release(h); refused != nil {
			kept = append(kept, h)
			if err == nil { // it is the same for all
				err = refused
			}
			continue
		}
		freed += b.granularity
		s.reserved.Add(-int64(b.granularity))
	}
	s.spare = append(s.spare, kept...)
	return freed, err
}

// end makes calls that end something, where the context is current. What the driver refuses is remembered, and tried again by Trim and
// Close: it stays without a leak.
func (b *Backend) end(calls ...func() error) error {
	var errs []error
	for _, call := range calls {
		errs = append(errs, b.finish(ending{call: call}))
	}
	return errors.Join(errs...)
}

// endMemory is end for what may stay longer than the context: physical memory and addresses.
func (b *Backend) endMemory(call func() error) error { return b.finish(ending{call, true}) }

func (b *Backend) finish(e ending) error {
	err := b.context.Do(e.call)
	if err != nil {
		b.store.ends.Lock()
		defer b.store.ends.Unlock()
		b.store.left = append(b.store.left, e)
	}
	return err
}

// endLeft tries again what the driver refused to end. The store's mutex is held.
func (b *Backend) endLeft() error {
	b.store.ends.Lock()
	left := b.store.left
	b.store.left = nil
	b.store.ends.Unlock()
	var errs []error
	for _, e := range left {
		errs = append(errs, b.finish(e))
	}
	return errors.Join(errs...)
}

// empty gives everything back, whoever still has it.
func (b *Backend) empty() error {
	s := &b.store
	for _, m := range s.live {
		_ = b.endMemory(m.dissolve) // tried again below
		_ = b.freeBuffer(m.saved)
	}
	s.live = nil
	var err error
	for range endTries {
		err = b.endLeft()
		err = errors.Join(err, b.context.Do(func() error {
			_, err := b.giveBack(0)
			return err
		}))
		if err == nil {
			break
		}
	}
	return err
}

// endTries is how often Close tries what the driver refuses.
const endTries = 3

// Trim implements backend.Resident. While the memory is vacated it gives back what could not be then.
func (b *Backend) Trim(keep int) (freed int, err error) {
	s := &b.store
	s.mu.Lock()
	defer s.mu.Unlock()
	err = b.endLeft()
	again := b.context.Do(func() error {
		var errs []error
		if s.vacated {
			errs = append(errs, b.clearAll())
		}
		freed, err = b.giveBack(max(keep, 0) / b.granularity)
		return errors.Join(append(errs, err)...)
	})
	if err = errors.Join(err, again); err != nil {
		return freed, fmt.Errorf("cuda: giving memory back: %w", err)
	}
	return freed, nil
}

// Held is the device memory that the backend has of the driver: arenas, weights, scratch and fields, and what it keeps for the next
// ones. The context, the kernels and the libraries come on top; see Overhead.
func (b *Backend) Held() int { return int(b.store.reserved.Load()) }

// Allocated is the part of Held that something is in.
func (b *Backend) Allocated() int { return int(b.store.allocated.Load()) }

// Usage implements backend.Resident.
func (b *Backend) Usage() (backend.Usage, error) {
	s := &b.store
	s.mu.Lock()
	defer s.mu.Unlock()
	u := backend.Usage{Allocated: b.Allocated(), Reserved: b.Held(), Overhead: b.knownOverhead()}
	err := b.context.Do(func() (err error) {
		u.Free, u.Total, err = b.context.MemInfo()
		return err
	})
	if err != nil {
		return backend.Usage{}, fmt.Errorf("cuda: how much memory is free: %w", err)
	}
	u.Largest = len(s.spare)*b.granularity + u.Free/b.granularity*b.granularity // side by side, in whole pieces
	return u, nil
}

// overheadAge is how old the figure of Usage may be: NVML takes milliseconds.
const overheadAge = 5 * time.Second

// knownOverhead is Overhead, or 0 where it is not known. The store's mutex is held.
func (b *Backend) knownOverhead() int {
	s := &b.store
	if s.measured.IsZero() || time.Since(s.measured) > overheadAge {
		s.overhead, _ = b.Overhead() // 0 for an error
		s.measured = time.Now()
	}
	return s.overhead
}
