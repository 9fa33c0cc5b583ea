// Package cuda runs plans on an NVIDIA GPU, through the driver and without cgo. Kernels are those of package kernel, compiled ahead
// of time; dense convolutions can go to cuDNN. Memory of the device is managed by package devmem.
//
// Loading a plan takes its arena, packs and uploads the weights (once for all programs of a backend), and compiles every node to an
// action that launches kernels. Running takes no device memory. Repeated runs are CUDA graphs. Sums are taken in a fixed order
// that does not depend on the plan.
package cuda

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/devmem"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/kernel"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/plan"
)

// Options chooses how a backend computes. The zero value is strict float32 on the first GPU.
type Options struct {
	Device    int    // ordinal among the GPUs that CUDA_VISIBLE_DEVICES leaves
	Driver    string // path of libcuda.so.1; "" looks for it
	NVML      string // path of libnvidia-ml.so.1; "" looks for it
	Libraries string // a folder in which to look for cuDNN first; "" for the usual places
	Precision Precision
	Kernels   string // a folder of compiled kernels, instead of those in the program; "" for these
	Cudnn     bool   // let cuDNN compute the convolutions on tensor cores that it is faster at

	// LaunchBlocking waits for each step, so that an error names the one that failed. It takes longer, and uses no graphs.
	LaunchBlocking bool
	// Fault makes calls of the driver fail, for tests; see driver.ParseFaults. Intercept is called after it.
	Fault     string
	Intercept driver.Intercept
}

// intercept returns a function for the driver to call before each of its calls; nil for none.
func (o Options) intercept() (driver.Intercept, error) {
	if o.Fault == "" {
		return o.Intercept, nil
	}
	fault, err := driver.ParseFaults(o.Fault)
	if err != nil || o.Intercept == nil {
		return fault, err
	}
	return func(call string) int {
		if code := fault(call); code != 0 {
			return code
		}
		return o.Intercept(call)
	}, nil
}

// Precision is the arithmetic of products in convolutions and matrix products. Values in memory are float32 in all of them.
type Precision uint8

const (
	Float32  Precision = iota // strict float32
	TF32                      // factors with 10 bits of mantissa, on tensor cores
	BFloat16                  // factors with 7 bits of mantissa, on tensor cores
	Float64                   // sums in float64, of float32 values: for networks that rounding decides in, several times slower
)

// Backend is a GPU. It may be used by many goroutines; their steps take turns.
type Backend struct {
	options  Options
	driver   *driver.Driver
	device   driver.DeviceInfo
	context  *driver.Context
	stream   *driver.Stream // the allocator's, that programs run on
	memory   *devmem.Allocator
	up, down *devmem.TransferQueue
	kernels  *kernels
	builders map[*ir.Op]builder
	tuner    *tuner // nil in strict float32
	precise  int    // multiplications of a convolution or product up to which sums are float64

	meter     meter
	mu        sync.Mutex // guards constants: programs are loaded and closed one by one
	constants *devmem.ConstantPool
	closing   sync.Mutex // guards closed
	closed    bool
}

var _ backend.Backend = (*Backend)(nil)

// New opens a GPU. Where there is no driver the error wraps *driver.NoDriverError.
func New(o Options) (b *Backend, err error) {
	b = &Backend{options: o, precise: preciseLimit, builders: makeBuilders()}
	if o.Precision == Float64 {
		b.precise = math.MaxInt
	}
	intercept, err := o.intercept()
	if err != nil {
		return nil, fmt.Errorf("cuda: %w", err)
	}
	if b.driver, err = driver.OpenIntercepted(o.Driver, intercept); err != nil {
		return nil, fmt.Errorf("cuda: %w", explained(err))
	}
	devices, err := b.driver.Devices()
	if err != nil {
		return nil, fmt.Errorf("cuda: %w", explained(err))
	}
	if o.Device < 0 || o.Device >= len(devices) {
		return nil, fmt.Errorf("cuda: there is no GPU %d: the driver shows %d, counted from 0 (CUDA_VISIBLE_DEVICES chooses which)", o.Device, len(devices))
	}
	b.device = devices[o.Device]
	version, err := b.driver.Version()
	if err == nil {
		err = supported(version, b.device)
	}
	if err != nil {
		return nil, fmt.Errorf("cuda: %w", err)
	}
	if b.context, err = b.driver.Context(o.Device); err != nil {
		return nil, fmt.Errorf("cuda: %s: %w", b.device.Name, err)
	}
	b.memory = devmem.New(b.context, devmem.Options{Overhead: b.Overhead, Reopen: func() (*driver.Context, error) { return b.driver.Context(o.Device) }})
	b.up, b.down, b.constants = b.memory.NewTransferQueue(), b.memory.NewTransferQueue(), b.memory.NewConstantPool()
	err = b.context.Do(func() (err error) {
		// Half of a context's memory is for stacks, which hardly any kernel has; for a kernel of cuDNN with a stack, the driver takes memory
		// when it is launched. Where the driver does not shrink stacks, computing has less memory.
		_ = b.context.SetStack(0)
		if err := b.memory.Open(); err != nil {
			return err
		}
		b.stream = b.memory.Stream()
		if b.kernels, err = b.loadKernels(); err != nil {
			return err
		}
		if b.onTensorCores() && b.device.Major >= 8 {
			b.tuner = b.newTuner()
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cuda: %s: %w", b.device.Name, explained(err)), b.Close())
	}
	return b, nil
}

// Name implements backend.Backend.
func (b *Backend) Name() string { return "cuda/" + b.device.Name }

// UUID returns the GPU's identity, like GPU-... or MIG-...
func (b *Backend) UUID() string { return b.device.UUID }

// Close gives the GPU back. Programs, arenas and fields should have been closed, and must not be used any more. It repeats calls that the
// driver refuses; another backend can be opened after it. Where the context was lost, all its memory is free, too, but this process gets
// no other context: the error says so. A second call does nothing.
func (b *Backend) Close() error {
	b.closing.Lock()
	defer b.closing.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	tuned := b.context.Do(b.tuner.close)
	if tuned != nil {
		tuned = b.context.Do(b.tuner.close)
	}
	err := b.memory.Close(slices.Concat(b.up.Ends(), b.down.Ends(), b.kernels.ends())...)
	return errors.Join(tuned, err, b.meter.close())
}

// do runs code that uses the memory of the device, see devmem.Allocator.Do.
func (b *Backend) do(f func() error) error { return b.memory.Do(f) }

// onTensorCores reports whether the precision is one of those that tensor cores compute in.
func (b *Backend) onTensorCores() bool {
	return b.options.Precision == TF32 || b.options.Precision == BFloat16
}

// Costs implements backend.Backend.
func (b *Backend) Costs() plan.Costs {
	flops := map[Precision]float64{Float32: 4e13, TF32: 2e14, BFloat16: 2e14, Float64: 3e12}[b.options.Precision]
	return plan.Costs{FlopsPerSecond: flops, BytesPerSecond: 3e12, StepSeconds: 1e-5,
		SlabBytes: []int{64 << 20, 32 << 20, 16 << 20, 4 << 20, 1 << 20}, Granularity: b.memory.Granularity()}
}

// preciseLimit is the number of multiplications up to which sums are float64: layers behind a global mean decide much and cost
// nothing (docs/decisions/011).
const preciseLimit = 1 << 18

// kernels are the loaded modules.
type kernels struct {
	context   *driver.Context
	stack     int // bytes that each thread has for certain
	modules   []*driver.Module
	functions map[string]*driver.Function
}

func (b *Backend) loadKernels() (*kernels, error) {
	var compiled []kernel.Module
	var err error
	if dir := b.options.Kernels; dir != "" {
		compiled, err = kernel.Open(dir, b.device.Major, b.device.Minor)
	} else {
		compiled, err = kernel.Modules(b.device.Major, b.device.Minor)
	}
	if err != nil {
		return nil, err
	}
	k := &kernels{context: b.context, functions: map[string]*driver.Function{}}
	for _, c := range compiled {
		m, err := b.context.LoadModule(c.Image)
		if err != nil {
			return nil, errors.Join(err, b.memory.End(k.ends()...))
		}
		k.modules = append(k.modules, m)
	}
	return k, nil
}

// function finds a kernel by name, and has the driver take memory for its stacks now: at its first launch a graph may be recorded,
// and a refusal would come too late. It must run with the context current.
func (k *kernels) function(name string) (*driver.Function, error) {
	if f := k.functions[name]; f != nil {
		return f, nil
	}
	for _, m := range k.modules {
		f, err := m.Function(name)
		switch {
		case driver.IsNotFound(err): // it may be in another module
			continue
		case err != nil:
			return nil, fmt.Errorf("cuda: looking for kernel %s: %w", name, err)
		}
		if f.Stack() > k.stack {
			if err := k.context.SetStack(f.Stack()); err != nil {
				return nil, fmt.Errorf("cuda: taking memory for stacks of %d bytes for kernel %s: %w", f.Stack(), name, err)
			}
			k.stack = f.Stack()
		}
		k.functions[name] = f
		return f, nil
	}
	return nil, fmt.Errorf("cuda: there is no kernel %s for this GPU", name)
}

// ends returns the calls that give them back.
func (k *kernels) ends() (calls []func() error) {
	if k == nil {
		return nil
	}
	for _, m := range k.modules {
		calls = append(calls, m.Unload)
	}
	return calls
}

// compiled compiles a plan without loading it.
func (b *Backend) compiled(p *plan.Plan) (w *devmem.Constants, instances []*instance, err error) {
	w = (*devmem.ConstantPool)(nil).Constants()
	err = b.context.Do(func() error {
		c := &compiler{backend: b, plan: p, weights: w}
		steps, plain, err := c.steps(context.Background())
		if err == nil {
			_, instances, err = c.fuse(context.Background(), steps, plain)
		}
		return err
	})
	return w, instances, err
}

// WeightBytes implements backend.Backend. The weights that one program is the first to need are a block, whichever comes first.
func (b *Backend) WeightBytes(graphs ...*ir.Graph) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := (*devmem.ConstantPool)(nil).Constants()
	for _, g := range graphs {
		w, _, err := b.compiled(plan.Make(g))
		if err != nil {
			return 0, err
		}
		all.AddAll(w)
	}
	return b.memory.Round(all.Bytes()) + (len(graphs)-1)*b.memory.Granularity(), nil
}

// ArenaBytes implements backend.Backend. Programs that share an arena also share the working memory of their steps.
func (b *Backend) ArenaBytes(p *plan.Plan) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, instances, err := b.compiled(p)
	if err != nil {
		return 0, err
	}
	return b.memory.Round(scratchAt(p) + arrange(instances) + stagingBytes(p)), nil
}

// ScratchBytes implements backend.Backend: it is in the arena.
func (b *Backend) ScratchBytes(*plan.Plan) (int, error) { return 0, nil }

// scratchAt returns the offset of scratch memory in an arena that has room for it.
func scratchAt(p *plan.Plan) int { return devmem.Aligned(p.Peak) }

// FreeMemory returns the bytes that are free on the device, with those that the backend holds already.
func (b *Backend) FreeMemory() (bytes int, err error) {
	err = b.context.Do(func() error {
		free, _, err := b.context.MemInfo()
		bytes = free + b.Held()
		return err
	})
	return bytes, err
}
