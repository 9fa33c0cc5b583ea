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

	ops     [][]byte  // operands: the inputs, and the output last
	plane   [][]byte  // memory for operands that point at planes
	partial []float64 // part of shared for the plane at hand, of a step that gathers
	job     *job      // the step that runs
}

// in is input i of a float32 operation, nil if it is absent.
func (s *scratch) in(i int) []float32 {
	if i >= len(s.ops)-1 {
		return nil
	}
	return as[float32](s.ops[i])
}

// out is the output.
func (s *scratch) out() []float32 { return as[float32](s.ops[len(s.ops)-1]) }

// result is the memory of the output.
func (s *scratch) result() []byte { return s.ops[len(s.ops)-1] }

// point makes the operands those of plane z.
func (s *scratch) point(inst *instance, z int) {
	s.ops = s.plane[:len(inst.places)]
	for i := range inst.places {
		at, b := &inst.places[i], inst.ops[i]
		if at.planes > 0 {
			b = b[z%at.planes*at.planeBytes:][:at.planeBytes]
		}
		s.ops[i] = b
	}
}

// part computes one of the independent parts of a step. What a part computes does not depend on the worker that runs it, nor on
// how many there are: results are the same bits for any number of threads.
type part func(i int, s *scratch)

// pool is a fixed set of goroutines that share the parts of a step. The goroutine that calls run works, too.
type pool struct {
	mu      sync.Mutex // one job at a time
	wake    []chan struct{}
	working sync.WaitGroup // workers of the present job
	alive   sync.WaitGroup

	ctx     context.Context
	first   int
	parts   int64
	ops     [][]byte
	next    atomic.Int64
	do      part
	scratch []scratch
	fault   atomic.Pointer[error]
}

// newPool starts threads-1 goroutines; close ends them.
func newPool(threads int) *pool {
	p := &pool{wake: make([]chan struct{}, threads-1)}
	for i := range p.wake {
		wake := make(chan struct{}, 1)
		p.wake[i] = wake
		p.alive.Go(func() {
			for range wake { // not p.wake[i]: close may come before the first round
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

// run calls do for parts [first, first+parts), with operands ops (nil where do finds them itself), and returns when all are done, or the context is cancelled: then parts that did not start are left
// out. A panic in a part is returned as an error. s has one element a worker.
func (p *pool) run(ctx context.Context, first, parts int, do part, ops [][]byte, s []scratch) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ctx, p.first, p.parts, p.do, p.ops, p.scratch = ctx, first, int64(parts), do, ops, s
	p.next.Store(0)
	helpers := min(len(p.wake), parts-1)
	for i := range helpers {
		p.working.Add(1)
		p.wake[i] <- struct{}{}
	}
	p.work(0)
	p.working.Wait()
	p.ctx, p.do, p.ops, p.scratch = nil, nil, nil, nil
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
	s := &p.scratch[worker]
	s.ops = p.ops
	for p.fault.Load() == nil && p.ctx.Err() == nil {
		i := p.next.Add(1) - 1
		if i >= p.parts {
			return
		}
		p.do(p.first+int(i), s)
	}
}
