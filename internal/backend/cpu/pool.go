package cpu

import (
	"context"
	"fmt"
	"os"
	"runtime"
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
	partial []float64 // part of shared for the plane at hand, of a step that accumulates
	job     *job      // the step that runs
}

// in returns input i of a float32 operation, nil if it is absent.
func (s *scratch) in(i int) []float32 {
	if i >= len(s.ops)-1 {
		return nil
	}
	return as[float32](s.ops[i])
}

// out returns the output.
func (s *scratch) out() []float32 { return as[float32](s.ops[len(s.ops)-1]) }

// result returns the memory of the output.
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

// part computes one of the independent parts of a step. Its result does not depend on the worker that runs it, nor on the number of
// workers: results are the same bits for any number of threads.
type part func(i int, s *scratch)

// pool is a fixed set of goroutines that share the parts of a step. The goroutine that calls run works, too. Streamed plans have
// thousands of short steps, so workers that have nothing to do look for the next step for a while before they sleep: waking one
// takes longer than many a step.
type pool struct {
	mu      sync.Mutex // one job at a time
	job     atomic.Uint64
	pending atomic.Int64 // workers that have not finished the job
	workers []worker
	caller  sleeper
	spins   int
	alive   sync.WaitGroup

	// The job, written before its number is.
	ctx     context.Context
	first   int
	parts   int64
	ops     [][]byte
	next    atomic.Int64
	do      part
	scratch []scratch
	fault   atomic.Pointer[error]
}

// A job's number is in the upper bits, the number of workers that take part in the lower ones.
const (
	helperBits = 16
	closing    = 1<<helperBits - 1 // as the number of workers: all of them end
)

type worker struct {
	sleeper
	_ [64]byte // workers do not share a line of the cache
}

// sleeper lets one goroutine wait for a condition that other goroutines make true.
type sleeper struct {
	asleep atomic.Bool
	wake   chan struct{}
}

// wait returns when done returns true. The goroutine that makes it true must call rouse afterwards.
func (s *sleeper) wait(spins int, done func() bool) {
	for range spins {
		if done() {
			return
		}
	}
	for !done() {
		s.asleep.Store(true)
		if done() && s.asleep.CompareAndSwap(true, false) {
			return
		}
		<-s.wake // also when rouse came between
	}
}

func (s *sleeper) rouse() {
	if s.asleep.CompareAndSwap(true, false) {
		s.wake <- struct{}{}
	}
}

// spinning is the number of times that a worker looks for work before it sleeps: some tens of microseconds.
const spinning = 20000

// newPool starts threads-1 goroutines; close ends them.
func newPool(threads int) *pool {
	p := &pool{workers: make([]worker, min(threads, closing)-1), caller: sleeper{wake: make(chan struct{}, 1)}}
	if threads <= runtime.GOMAXPROCS(0) { // else they would take the processors from each other
		p.spins = spinning
	}
	for i := range p.workers {
		p.workers[i].wake = make(chan struct{}, 1)
		p.alive.Go(func() { p.serve(i) })
	}
	return p
}

// serve takes part in jobs until the pool is closed.
func (p *pool) serve(i int) {
	seen, now := uint64(0), uint64(0)
	fresh := func() bool {
		now = p.job.Load()
		return now != seen
	}
	for {
		p.workers[i].wait(p.spins, fresh)
		seen = now
		switch helpers := int(seen % (1 << helperBits)); {
		case helpers == closing:
			return
		case i < helpers:
			p.work(i + 1)
			if p.pending.Add(-1) == 0 {
				p.caller.rouse()
			}
		}
	}
}

// start gives workers a new job number.
func (p *pool) start(helpers int) {
	p.job.Store((p.job.Load()>>helperBits+1)<<helperBits | uint64(helpers))
	for i := range min(helpers, len(p.workers)) {
		p.workers[i].rouse()
	}
}

func (p *pool) size() int { return len(p.workers) + 1 }

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.start(closing)
	p.alive.Wait()
	p.workers = nil
}

// run calls do for parts [first, first+parts), with operands ops (nil where do finds them itself), and returns when all are done, or
// the context is cancelled: then parts that did not start are left out. A panic in a part is returned as an error. s has one element
// a worker.
func (p *pool) run(ctx context.Context, first, parts int, do part, ops [][]byte, s []scratch) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ctx, p.first, p.parts, p.do, p.ops, p.scratch = ctx, first, int64(parts), do, ops, s
	p.next.Store(0)
	helpers := max(0, min(len(p.workers), parts-1))
	if helpers > 0 {
		p.pending.Store(int64(helpers))
		p.start(helpers)
	}
	p.work(0)
	if helpers > 0 {
		p.caller.wait(p.spins, p.idle)
	}
	p.ctx, p.do, p.ops, p.scratch = nil, nil, nil, nil
	if fault := p.fault.Swap(nil); fault != nil {
		return *fault
	}
	return ctx.Err()
}

func (p *pool) idle() bool { return p.pending.Load() == 0 }

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
