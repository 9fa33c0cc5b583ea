// Package devmem manages the memory of a GPU: it takes physical memory from the driver in pieces that never fragment, maps them at
// addresses, moves values between host and device, and can give all of it up for a while (Vacate) without changing an address.
//
// Memory that the driver refuses to take back is remembered, and tried again by Trim and Close, so that nothing leaks.
package devmem

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

// Allocator has the physical memory that a backend took from the driver. It comes in pieces of the granularity. Any spare pieces serve for an
// allocation of any size, so that memory never fragments. Because calls of the driver take time, some pieces are large: largeUnits units in
// one, exchanged for small pieces where those are needed.
type Allocator struct {
	context     *driver.Context
	stream      *driver.Stream // the stream that programs run on; nil until Open, and from Close on
	granularity int
	options     Options
	gate        gate
	recording   sync.Mutex // held while a graph is recorded: the stream must not be waited for then

	mu      sync.Mutex // guards the pieces, live allocations, vacated and the measured overhead
	small   []physical // spare pieces
	large   []physical
	live    []*Allocation
	vacated bool

	reserved  atomic.Int64 // bytes of all pieces
	allocated atomic.Int64 // bytes of live allocations that are not vacated

	ends sync.Mutex // guards left
	left []ending   // calls that the driver refused

	overhead int       // of the process, when it was measured last
	measured time.Time // time of that; zero if never
}

// Options are the services that an allocator needs from its backend.
type Options struct {
	// Overhead measures the device memory of this process that the allocator does not hold.
	Overhead func() (int, error)
	// Reopen makes another context of the same device, to end allocations of a context that could not give them back.
	Reopen func() (*driver.Context, error)
}

// New makes an allocator without memory. Open must be called before anything else but Close.
func New(context *driver.Context, o Options) *Allocator {
	a := &Allocator{context: context, options: o}
	a.gate.changed = sync.NewCond(&a.gate.mu)
	return a
}

// Open takes the stream that programs run on. It must run where the context is current.
func (a *Allocator) Open() (err error) {
	if a.stream, err = a.context.NewStream(); err != nil {
		return err
	}
	a.granularity, err = a.context.Granularity()
	return err
}

// Close makes the calls of ends and gives everything back, the stream and the context with it. Calls that the driver refuses are tried again.
func (a *Allocator) Close(ends ...func() error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = a.End(ends...) // remembered, and tried again now
	err := a.empty()
	if a.stream != nil {
		_ = a.End(a.stream.Close)
		a.stream = nil
		err = a.empty()
	}
	closed := a.context.Close()
	if closed != nil {
		closed = a.context.Close()
	}
	switch {
	case Class(err) == backend.Lost:
		a.forget()
	case err != nil:
		err = a.emptyAnew(err)
	}
	return errors.Join(err, closed)
}

// emptyAnew gives physical memory and addresses back in a new context, where the old one refused to; the rest is gone with that.
func (a *Allocator) emptyAnew(cause error) error {
	a.left = slices.DeleteFunc(a.left, func(e ending) bool { return !e.outlives })
	if len(a.left) == 0 && a.Held() == 0 {
		return nil
	}
	c, err := a.options.Reopen()
	if err != nil {
		return errors.Join(cause, err)
	}
	a.context = c
	return errors.Join(a.empty(), c.Close())
}

// Stream returns the stream that programs run on, nil once the allocator is closed.
func (a *Allocator) Stream() *driver.Stream { return a.stream }

// Granularity returns the bytes that allocations are multiples of.
func (a *Allocator) Granularity() int { return a.granularity }

// Do runs f, which uses the memory of the device, in a thread with the context current. It is an error while the memory is vacated. It must
// not be called within Do, nor while a transfer queue has work.
func (a *Allocator) Do(f func() error) error {
	if err := a.gate.enter(); err != nil {
		return err
	}
	defer a.gate.leave()
	return a.context.Do(f)
}

// Record runs f, which records a graph. Until it returns, no other goroutine may wait for the stream.
func (a *Allocator) Record(f func() error) error {
	a.recording.Lock()
	defer a.recording.Unlock()
	return f()
}

// Synchronize waits until the device has done all enqueued work: memory is not taken away while something uses it. It must run with the context
// current.
func (a *Allocator) Synchronize() error {
	if a.stream == nil {
		return nil
	}
	a.recording.Lock()
	defer a.recording.Unlock()
	return a.stream.Synchronize()
}

// ending is a call that frees or closes something.
type ending struct {
	call     func() error
	outlives bool // its object stays when the context is gone
}

// End makes calls that free or close something, where the context is current. Calls that the driver refuses are remembered, and tried
// again by Trim and Close, so that nothing leaks.
func (a *Allocator) End(calls ...func() error) error {
	var errs []error
	for _, call := range calls {
		errs = append(errs, a.finish(ending{call: call}))
	}
	return errors.Join(errs...)
}

// endMemory is End for physical memory and addresses, which can outlive the context.
func (a *Allocator) endMemory(call func() error) error { return a.finish(ending{call, true}) }

func (a *Allocator) finish(e ending) error {
	err := a.context.Do(e.call)
	if err != nil {
		a.ends.Lock()
		defer a.ends.Unlock()
		a.left = append(a.left, e)
	}
	return err
}

// endLeft makes the remembered calls again. The caller holds the mutex.
func (a *Allocator) endLeft() error {
	a.ends.Lock()
	left := a.left
	a.left = nil
	a.ends.Unlock()
	var errs []error
	for _, e := range left {
		errs = append(errs, a.finish(e))
	}
	return errors.Join(errs...)
}

// empty gives everything back, also allocations that were not closed.
func (a *Allocator) empty() error {
	for _, m := range a.live {
		_ = a.endMemory(m.dissolve) // tried again below
		_ = a.freeStaging(m.saved)
	}
	a.live = nil
	var err error
	for range endTries {
		err = a.endLeft()
		err = errors.Join(err, a.context.Do(func() error {
			_, err := a.giveBack(0)
			return err
		}))
		if err == nil {
			break
		}
	}
	return err
}

// forget drops all that went with a lost context.
func (a *Allocator) forget() {
	a.left, a.small, a.large = nil, nil, nil
	a.reserved.Store(0)
	a.allocated.Store(0)
}

// endTries is the number of times that Close makes a refused call.
const endTries = 3

// Trim gives spare memory back to the driver until keep bytes are left, and returns the freed bytes. While the memory is vacated it gives
// back the rest that Vacate could not.
func (a *Allocator) Trim(keep int) (freed int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	left := a.endLeft()
	err = a.context.Do(func() error {
		var stayed, refused error
		if a.vacated {
			stayed = a.clearAll()
		}
		freed, refused = a.giveBack(max(keep, 0) / a.granularity)
		return errors.Join(stayed, refused)
	})
	if err = errors.Join(left, err); err != nil {
		return freed, fmt.Errorf("cuda: giving memory back: %w", err)
	}
	return freed, nil
}

// Held returns the bytes taken from the driver: allocations, and spare memory for the next ones.
func (a *Allocator) Held() int { return int(a.reserved.Load()) }

// Allocated returns the bytes of allocations.
func (a *Allocator) Allocated() int { return int(a.allocated.Load()) }

// Usage returns the free memory of the device, the part that the allocator holds, and the other memory of the process.
func (a *Allocator) Usage() (backend.Usage, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	u := backend.Usage{Allocated: a.Allocated(), Reserved: a.Held(), Overhead: a.knownOverhead()}
	err := a.context.Do(func() (err error) {
		u.Free, u.Total, err = a.context.MemInfo()
		return err
	})
	if err != nil {
		return backend.Usage{}, fmt.Errorf("cuda: how much memory is free: %w", err)
	}
	u.Largest = a.spare()*a.granularity + u.Free/a.granularity*a.granularity // side by side, in whole pieces
	return u, nil
}

// overheadAge is the age up to which Usage reports an earlier measurement: NVML is slow.
const overheadAge = 5 * time.Second

// knownOverhead returns the overhead, or 0 where it is not known. The caller holds the mutex.
func (a *Allocator) knownOverhead() int {
	if a.measured.IsZero() || time.Since(a.measured) > overheadAge {
		a.overhead, _ = a.options.Overhead() // 0 for an error
		a.measured = time.Now()
	}
	return a.overhead
}
