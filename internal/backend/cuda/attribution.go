package cuda

import (
	"errors"
	"fmt"
	"math"
	"unsafe"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/devmem"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/hostmem"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/noise"
)

// attributionThreads is the size of the blocks of all kernels of attribution.cu.
const attributionThreads = 256

// stats is Stats of attribution.cu.
type stats struct {
	Peak          uint64
	Bad           uint32
	Low, High     uint32
	UpLow, UpHigh uint32
	_             uint32
}

// float is the number that is kept as an integer of the same order.
func float(u uint32) float32 {
	if u>>31 == 1 {
		return math.Float32frombits(u &^ (1 << 31))
	}
	return math.Float32frombits(^u)
}

// onDevice are the fields as fields on the device, or false if one of them is elsewhere.
func (b *Backend) onDevice(fields ...backend.Field) ([]*field, bool) {
	own := make([]*field, len(fields))
	for i, f := range fields {
		d, ok := f.(*field)
		if !ok || d.memory == nil || d.backend != b {
			return nil, false
		}
		own[i] = d
	}
	return own, true
}

// toHost is a field's values on the host.
func (b *Backend) toHost(f backend.Field) (*hostmem.Field, error) {
	switch f := f.(type) {
	case *hostmem.Field:
		return f, nil
	case *field:
		if err := f.check(f.n); err != nil {
			return nil, err
		}
		if f.host != nil {
			return hostmem.View(f.values()), nil
		}
		values, err := f.Take()
		return hostmem.Wrap(values), err
	}
	return nil, fmt.Errorf("cuda: a field of another backend (%T)", f)
}

// onHost computes a field on the host from the values of other fields: if the device has no room for all of them, or no kernel.
func (b *Backend) onHost(dst backend.Field, with []backend.Field, compute func(dst *hostmem.Field, with []*hostmem.Field) error) error {
	var values []*hostmem.Field
	for _, f := range with {
		v, err := b.toHost(f)
		if err != nil {
			return err
		}
		values = append(values, v)
	}
	if own, ok := dst.(*field); ok && own.memory != nil {
		made, err := hostmem.NewField(own.n)
		if err != nil {
			return err
		}
		if err := compute(made, values); err != nil {
			return err
		}
		return own.Write(made.Values())
	}
	made, err := b.toHost(dst)
	if err != nil {
		return err
	}
	return compute(made, values)
}

// lookup finds a kernel.
func (b *Backend) lookup(name string) (*driver.Function, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kernels.function(name)
}

// start enqueues a kernel of attribution.cu with enough blocks for n threads.
func start[P any](b *Backend, name string, n int, params *P) error {
	return startBlocks(b, name, blocksFor(n), params)
}

func blocksFor(n int) [3]uint32 { return [3]uint32{uint32(ceilDiv(n, attributionThreads)), 1, 1} }

func startBlocks[P any](b *Backend, name string, grid [3]uint32, params *P) error {
	return startOn(b, b.stream, name, grid, params)
}

func startOn[P any](b *Backend, s *driver.Stream, name string, grid [3]uint32, params *P) error {
	f, err := b.lookup(name)
	if err != nil {
		return err
	}
	if err := s.Launch(f, grid, [3]uint32{attributionThreads, 1, 1}, 0, unsafe.Pointer(params), int(unsafe.Sizeof(*params))); err != nil {
		return fmt.Errorf("cuda: %s: %w", name, err)
	}
	if b.options.LaunchBlocking {
		if err := s.Synchronize(); err != nil {
			return fmt.Errorf("cuda: %s: %w", name, err)
		}
	}
	return nil
}

// work is the field's memory for attribution, behind its statistics.
func (f *field) work() (at driver.Ptr, bytes int) {
	at = f.memory.At() + driver.Ptr(workAt(f.n)+devmem.Align)
	return at, workBytes - devmem.Align
}

// statsAt is the place of the statistics of the values that are made in a field.
func (f *field) statsAt() driver.Ptr { return f.memory.At() + driver.Ptr(workAt(f.n)) }

type clearParams struct{ Stats driver.Ptr }

// clearStats begins statistics anew; readStats waits for them and returns them.
func (f *field) clearStats() error {
	return startBlocks(f.backend, "attribution_clear", [3]uint32{1, 1, 1}, &clearParams{f.statsAt()})
}

func (f *field) readStats() error {
	s := f.backend.stream
	if err := s.CopyToHost(unsafe.Pointer(&f.stats), f.statsAt(), int(unsafe.Sizeof(f.stats))); err != nil {
		return err
	}
	return s.Synchronize()
}

// Field implements backend.Program.
func (p *Program) Field(v *ir.Value) (backend.Field, error) {
	i, err := p.float32s(v, v.Shape().Elements())
	if err != nil {
		return nil, err
	}
	if e := p.external[i]; e != nil {
		if e.field == nil {
			return nil, fmt.Errorf("cuda: the external storage of %v (%q) is not bound", v, v.Name)
		}
		return e.field, nil
	}
	n := v.Shape().Elements()
	if v.Def == nil { // to be written
		p.arena.touch(p.plan.Buffers[i].Offset + 4*n)
	}
	return &field{backend: p.backend, n: n, memory: devmem.View(p.address[i])}, nil
}

type interleaveParams struct {
	Src, Dst driver.Ptr
	Voxels   int32
	Channels Divide
}

// Upload implements backend.Attribution. On the device, channels are interleaved piece by piece.
func (b *Backend) Upload(dst backend.Field, volume []float32, channels int) error {
	own, ok := b.onDevice(dst)
	switch {
	case !ok:
		return b.onHost(dst, nil, func(dst *hostmem.Field, _ []*hostmem.Field) error {
			return hostmem.Attribution{}.Upload(dst, volume, channels)
		})
	case channels == 1:
		return dst.Write(volume)
	}
	d := own[0]
	if err := d.check(len(volume)); err != nil {
		return err
	}
	work, bytes := d.work()
	if channels > bytes/4 {
		return fmt.Errorf("cuda: a volume of %d channels", channels)
	}
	return b.interleave(d.memory.At(), volume, channels, work, bytes, d.used)
}

// Copy implements backend.Attribution.
func (b *Backend) Copy(dst, src backend.Field) error {
	own, ok := b.onDevice(dst, src)
	if !ok {
		return b.copyWithHost(dst, src)
	}
	if err := own[0].check(src.Len()); err != nil {
		return err
	}
	return b.do(func() error {
		return errors.Join(b.stream.Copy(own[0].memory.At(), own[1].memory.At(), 4*src.Len()), b.use(own...))
	})
}

// copyWithHost copies to or from a field in pinned memory in one go, and waits.
func (b *Backend) copyWithHost(dst, src backend.Field) error {
	to, ok := dst.(*field)
	from, also := src.(*field)
	if !ok || !also || to.memory == nil && from.memory == nil {
		return b.onHost(dst, []backend.Field{src}, func(dst *hostmem.Field, with []*hostmem.Field) error {
			return hostmem.Attribution{}.Copy(dst, with[0])
		})
	}
	if err := errors.Join(to.check(from.n), from.check(from.n)); err != nil {
		return err
	}
	return b.do(func() (err error) {
		if to.memory != nil {
			err = b.stream.CopyToDevice(to.memory.At(), from.host.Pointer(), 4*from.n)
		} else {
			err = b.stream.CopyToHost(to.host.Pointer(), from.memory.At(), 4*from.n)
		}
		return errors.Join(err, b.stream.Synchronize())
	})
}

type perturbParams struct {
	Dst, X             driver.Ptr
	Voxels             int64
	Channels           int32
	Baseline, Fraction float32
	Sigma              float32
	Key                [2]uint32
	Draw               uint32
	Sample             [2]uint32
	_                  uint32
}

// Perturb implements backend.Attribution.
func (b *Backend) Perturb(dst, x backend.Field, channels int, perturbation cam.Perturbation, z noise.Stream) error {
	own, ok := b.onDevice(dst, x)
	if !ok {
		return b.onHost(dst, []backend.Field{x}, func(dst *hostmem.Field, with []*hostmem.Field) error {
			return hostmem.Attribution{}.Perturb(dst, with[0], channels, perturbation, z)
		})
	}
	if err := own[0].check(x.Len()); err != nil {
		return err
	}
	key, counter := z.Counter(0)
	p := perturbParams{
		Dst: own[0].memory.At(), X: own[1].memory.At(), Voxels: int64(x.Len() / channels), Channels: int32(channels),
		Baseline: perturbation.Baseline, Fraction: perturbation.Fraction, Sigma: perturbation.Sigma,
		Key: key, Draw: counter[1], Sample: [2]uint32{counter[2], counter[3]},
	}
	return b.do(func() error {
		return errors.Join(start(b, "perturb", ceilDiv(x.Len()/channels, 4), &p), b.use(own...))
	})
}
