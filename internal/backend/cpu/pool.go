package cpu

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// scratch is the memory that a part of a step may use besides its operands.
type scratch struct {
	f32 []float32 // the worker's own
	f64 []float64 // the same memory as f32
	// shared is common to all parts of all phases of a step.
	shared []float64
}

// part computes one of the independent parts of a step. What a part computes does not depend on the worker that runs it, nor on
// how many there are: results are the same bits for any number of threads.
type part func(i int, s scratch)

// pool is a fixed set of goroutines that share the parts of a step. The goroutine that calls run works, too.
type pool struct {
	mu      sync.Mutex // one job at a time
	wake    []chan struct{}
	working sync.WaitGroup // workers of the present job
	alive   sync.WaitGroup

	ctx     context.Context
	parts   int64
	next    atomic.Int64
	do      part
	scratch []scratch
	fault   atomic.Pointer[error]
}

// newPool starts threads-1 goroutines; close ends them.
func newPool(threads int) *pool {
	p := &pool{wake: make([]chan struct{}, threads-1)}
	for i := range p.wake {
		p.wake[i] = make(chan struct{}, 1)
		p.alive.Go(func() {
			for range p.wake[i] {
				p.work(i + 1)
				p.working.Done()
			}
		})
	}
	return p
}

func (p *pool) size() int { return len(p.wake) + 1 }

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.wake {
		close(w)
	}
	p.wake = nil
	p.alive.Wait()
}

// run calls do for every part and returns when all are done, or the context is cancelled: then parts that did not start are left
// out. A panic in a part is returned as an error. s has one element a worker.
func (p *pool) run(ctx context.Context, parts int, do part, s []scratch) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ctx, p.parts, p.do, p.scratch = ctx, int64(parts), do, s
	p.next.Store(0)
	helpers := min(len(p.wake), parts-1)
	for i := range helpers {
		p.working.Add(1)
		p.wake[i] <- struct{}{}
	}
	p.work(0)
	p.working.Wait()
	p.ctx, p.do, p.scratch = nil, nil, nil
	if fault := p.fault.Swap(nil); fault != nil {
		return *fault
	}
	return ctx.Err()
}

func (p *pool) work(worker int) {
	defer func() {
		if r := recover(); r != nil {
			err := fmt.Errorf("internal error, please report it (VOXCAM_DEBUG=1 in the environment shows where it happened): %v", r)
			if os.Getenv("VOXCAM_DEBUG") != "" {
				err = fmt.Errorf("internal error, please report it: %v\n%s", r, debug.Stack())
			}
			p.fault.CompareAndSwap(nil, &err)
		}
	}()
	for p.fault.Load() == nil && p.ctx.Err() == nil {
		i := p.next.Add(1) - 1
		if i >= p.parts {
			return
		}
		p.do(int(i), p.scratch[worker])
	}
}
