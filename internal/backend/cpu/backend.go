// Package cpu runs plans on the processor, in float32, with the kernels of package kernel and plain loops for rare operations.
//
// Loading a plan takes its arena, packs the weights (once for all programs of a backend) and compiles every step to closures
// over their operands. Running allocates nothing. Steps are cut into parts that do not depend on the number of threads, and sums
// are taken in a fixed order, so that results are the same bits with one thread or many.
//
// A backend owns its threads: close it when done.
package cpu

import (
	"fmt"
	"os"
	"runtime"
	"sync"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cpu/kernel"
	"github.com/voxcam/voxcam/internal/backend/hostmem"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Kernels is the environment variable that names the set of kernels where the options name none: "avx512", "avx2" or "go".
const Kernels = "VOXCAM_CPU_KERNELS"

// Options chooses how a backend computes. The zero value takes the best kernels for this machine, or those that the variable Kernels names.
type Options struct {
	Threads int    // 0 for as many as the Go runtime uses
	Kernels string // name of a set of kernels ("go", "avx2", "avx512"); "" for that of the variable Kernels, or the best
}

// Backend is the processor. It may be used by many goroutines; their steps take turns.
type Backend struct {
	hostmem.Attribution
	set     *kernel.Set
	pool    *pool
	precise int // multiplications of a convolution or product up to which sums are float64

	mu      sync.Mutex
	weights map[weightKey]*weight
}

var _ backend.Backend = (*Backend)(nil)

// New starts a backend.
func New(o Options) (*Backend, error) {
	if o.Threads == 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	if o.Threads < 1 {
		return nil, fmt.Errorf("cpu: %d threads", o.Threads)
	}
	set, err := choose(o.Kernels)
	if err != nil {
		return nil, err
	}
	return &Backend{set: set, pool: newPool(o.Threads), precise: preciseLimit, weights: map[weightKey]*weight{}}, nil
}

// choose returns the kernels of that name, or without one those of the variable Kernels, or the best.
func choose(name string) (*kernel.Set, error) {
	from := "cpu"
	if name == "" {
		name, from = os.Getenv(Kernels), "cpu: "+Kernels
	}
	if name == "" {
		return kernel.Best(), nil
	}
	set, err := kernel.Named(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return set, nil
}

// Name says which kernels are in use.
func (b *Backend) Name() string { return "cpu/" + b.set.Name() }

// Costs implements backend.Backend.
func (b *Backend) Costs() plan.Costs { return plan.Costs{} }

// NewField implements backend.Backend.
func (b *Backend) NewField(n int, _ backend.Place) (backend.Field, error) {
	f, err := hostmem.NewField(n)
	if err != nil {
		return nil, fmt.Errorf("cpu: %w", err)
	}
	return f, nil
}

// FieldBytes implements backend.Backend. Fields are the caller's memory, which a budget does not bound.
func (b *Backend) FieldBytes(int, backend.Place) int { return 0 }

// Threads returns the number of threads that compute.
func (b *Backend) Threads() int { return b.pool.size() }

// Close ends the threads. Programs must not run any more.
func (b *Backend) Close() error {
	b.pool.close()
	return nil
}

// weightKey names a constant and a form of it: form is comparable, and its type tells the forms apart.
type weightKey struct {
	data *tensor.Const
	form any
}

// weight is a constant as kernels want it, and the number of programs that use it.
type weight struct {
	once  sync.Once
	value any
	err   error
	users int
}

// prepare returns a constant in the form that make gives it. That form is made once and kept while a program uses it.
func (b *Backend) prepare(p *Program, key weightKey, make func() (any, error)) (any, error) {
	b.mu.Lock()
	w := b.weights[key]
	if w == nil {
		w = &weight{}
		b.weights[key] = w
	}
	if !p.weights[key] {
		p.weights[key] = true
		w.users++
	}
	b.mu.Unlock()
	w.once.Do(func() {
		w.value, w.err = make()
		key.data.Forget() // its pages in the file are not needed any more
	})
	return w.value, w.err
}

// release gives back the weights of a program.
func (b *Backend) release(p *Program) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key := range p.weights {
		if w := b.weights[key]; w.users > 1 {
			w.users--
		} else {
			delete(b.weights, key)
		}
	}
	clear(p.weights)
}
