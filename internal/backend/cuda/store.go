package cuda

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

// store is the physical memory that the backend has of the driver. It comes in pieces of the granularity, each of which is as good as any
// other, so that memory of any size can be made of any that are spare: there is no fragmentation, whatever was taken and closed before.
// Because calls of the driver take their time, largeUnits of them may be one large piece, which lies where so many small ones would, and is
// exchanged for them where they are needed.
type store struct {
	mu      sync.Mutex
	small   []physical // that nothing is in
	large   []physical
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

// physical is a piece of physical memory of the driver, of one unit of the granularity or of largeUnits.
type physical struct {
	handle driver.Physical
	units  int
}

const largeUnits = 16

// spare is how many units nothing is in.
func (s *store) spare() int { return len(s.small) + largeUnits*len(s.large) }

// put makes pieces spare.
func (s *store) put(pieces ...physical) {
	for _, p := range pieces {
		list := s.list(p.units)
		*list = append(*list, p)
	}
}

func (s *store) list(units int) *[]physical {
	if units == 1 {
		return &s.small
	}
	return &s.large
}

// pop takes n spare pieces of so many units.
func (s *store) pop(n, units int) []physical {
	list := s.list(units)
	rest := len(*list) - n
	taken := slices.Clone((*list)[rest:])
	*list = (*list)[:rest]
	return taken
}

// create asks the driver for n more spare pieces of so many units.
func (b *Backend) create(n, units int) error {
	for range n {
		h, err := b.context.CreatePhysical(units * b.granularity)
		if err != nil {
			return err
		}
		b.store.put(physical{h, units})
		b.store.reserved.Add(int64(units * b.granularity))
	}
	return nil
}

// exchange makes small pieces of a large spare one, by way of the driver. What another program takes meanwhile is lost.
func (b *Backend) exchange() error {
	p := b.store.pop(1, largeUnits)[0]
	if err := b.context.Release(p.handle); err != nil {
		b.store.put(p)
		return err
	}
	b.store.reserved.Add(-int64(largeUnits * b.granularity))
	return b.create(largeUnits, 1)
}

// pieces are pieces for places that follow one another, of so many units each: spare ones, and from the driver what is missing and no
// more. A place for a large one may get small ones. Where the driver refuses, what it gave before is spare, so that something smaller can
// be made of it. It must run where the context is current.
func (b *Backend) pieces(places []int) (taken []physical, err error) {
	s := &b.store
	small, large := 0, 0
	for _, units := range places {
		if units == 1 {
			small++
		} else {
			large++
		}
	}
	for len(s.small) < small && len(s.large) > large {
		if err := b.exchange(); err != nil {
			return nil, err
		}
	}
	// Places for large pieces that there are none for take what small ones are left, and then new ones.
	if lacking := large - len(s.large); lacking > 0 {
		missing := small + lacking*largeUnits - len(s.small)
		if b.create(min(lacking, missing/largeUnits), largeUnits) != nil { // then there may be room for small ones
			lacking = large - len(s.large)
		} else {
			lacking -= min(lacking, max(missing, 0)/largeUnits)
		}
		small += lacking * largeUnits
	}
	if err := b.create(small-len(s.small), 1); err != nil {
		return nil, err
	}
	for _, units := range places {
		switch {
		case units == 1:
			taken = append(taken, s.pop(1, 1)...)
		case len(s.large) > 0:
			taken = append(taken, s.pop(1, largeUnits)...)
		default:
			taken = append(taken, s.pop(largeUnits, 1)...)
		}
	}
	return taken, nil
}

// giveBack releases spare pieces to the driver until so many units are left, small ones first. Those that it refuses to take stay spare.
// It must run where the context is current.
func (b *Backend) giveBack(keep int) (freed int, err error) {
	s := &b.store
	before := s.reserved.Load()
	var refused []physical
	release := func(units int) {
		p := s.pop(1, units)[0]
		if e := b.context.Release(p.handle); e != nil {
			refused = append(refused, p)
			err = e // it is the same for all
			return
		}
		s.reserved.Add(-int64(units * b.granularity))
	}
	for s.spare() > keep && len(s.small) > 0 {
		release(1)
	}
	for s.spare() > keep && len(s.large) > 0 {
		release(largeUnits)
	}
	if missing := keep - s.spare(); missing > 0 && s.reserved.Load() < before { // of a large one that was kept in part
		_ = b.create(missing, 1) // or somebody else has it now
	}
	s.put(refused...)
	return int(before - s.reserved.Load()), err
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

// forget drops what the driver took back with a context that was lost.
func (s *store) forget() {
	s.left, s.small, s.large = nil, nil, nil
	s.reserved.Store(0)
	s.allocated.Store(0)
}

// endTries is how often Close tries what the driver refuses.
const endTries = 3

// Trim implements backend.Resident. While the memory is vacated it gives back what could not be then.
func (b *Backend) Trim(keep int) (freed int, err error) {
	s := &b.store
	s.mu.Lock()
	defer s.mu.Unlock()
	left := b.endLeft()
	err = b.context.Do(func() error {
		var stayed, refused error
		if s.vacated {
			stayed = b.clearAll()
		}
		freed, refused = b.giveBack(max(keep, 0) / b.granularity)
		return errors.Join(stayed, refused)
	})
	if err = errors.Join(left, err); err != nil {
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
	u.Largest = s.spare()*b.granularity + u.Free/b.granularity*b.granularity // side by side, in whole pieces
	return u, nil
}

// overheadAge is how old the figure of Usage may be: NVML takes its time.
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
