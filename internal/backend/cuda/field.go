package cuda

import (
	"errors"
	"fmt"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/devmem"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/hostmem"
)

// field is a device buffer of float32 values, on the device or in pinned memory of the host. Behind the values on the device is scratch
// memory for attribution, workBytes from workAt on.
//
// Steps, noise and attribution use a field in the order of the backend's stream. Write, Read and Take have streams of their own; they come
// after all work that was enqueued for the field before, and are done when they return. So they may be called while programs run that do
// not use the field.
type field struct {
	backend *Backend
	n       int
	memory  *devmem.Allocation // on the device
	host    *driver.HostMemory // or on the host
	used    *driver.Event      // behind the latest work with it; nil in an arena
	stats   stats              // of a map that was made in it
}

const workBytes = 1 << 20

// workAt returns the offset of the memory for attribution in a field of n values.
func workAt(n int) int { return devmem.Aligned(4 * n) }

// NewField implements backend.Backend.
func (b *Backend) NewField(n int, where backend.Place) (backend.Field, error) {
	if n < 1 {
		return nil, fmt.Errorf("cuda: a field of %d values", n)
	}
	f := &field{backend: b, n: n}
	var err error
	if where == backend.OnDevice {
		if f.memory, err = b.memory.Allocate(workAt(n)+workBytes, "a field"); err != nil {
			return nil, err
		}
		err = b.context.Do(func() (err error) {
			f.used, err = b.context.NewEvent(false)
			return err
		})
		if err != nil {
			err = errors.Join(fmt.Errorf("cuda: a field: %w", err), f.memory.Close())
		}
	} else {
		err = b.context.Do(func() (err error) {
			f.host, err = b.context.AllocHost(4 * n)
			return err
		})
		if err != nil {
			err = fmt.Errorf("cuda: pinned memory of %d bytes for a field: %w", 4*n, err)
		}
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// FieldBytes implements backend.Backend.
func (b *Backend) FieldBytes(n int, where backend.Place) int {
	if where == backend.OnHost || n == 0 {
		return 0
	}
	return b.memory.Round(workAt(n) + workBytes)
}

func (f *field) Len() int { return f.n }

// values returns a host field's memory.
func (f *field) values() []float32 { return as[float32](f.host.Bytes())[:f.n] }

func (f *field) check(n int) error {
	switch {
	case f.memory == nil && f.host == nil:
		return errors.New("cuda: the field is closed")
	case n != f.n:
		return fmt.Errorf("cuda: %d values for a field of %d", n, f.n)
	}
	return nil
}

// Write implements backend.Field.
func (f *field) Write(src []float32) error {
	if err := f.check(len(src)); err != nil {
		return err
	}
	if f.host != nil {
		return hostmem.View(f.values()).Write(src)
	}
	if f.used == nil {
		return f.backend.memory.CopyToDevice(f.memory.At(), src)
	}
	return f.backend.up.ToDevice(f.memory.At(), src, f.used)
}

// Read implements backend.Field.
func (f *field) Read(dst []float32) error {
	if err := f.check(len(dst)); err != nil {
		return err
	}
	if f.host != nil {
		return hostmem.View(f.values()).Read(dst)
	}
	if f.used == nil {
		return f.backend.memory.CopyToHost(dst, f.memory.At())
	}
	return f.backend.down.ToHost(dst, f.memory.At(), f.used)
}

// use marks that work with the fields was enqueued. Where the driver refuses that, it waits for the work instead of an error: the work must
// not be done twice.
func (b *Backend) use(fields ...*field) error {
	for _, f := range fields {
		if f.used != nil && f.used.Record(b.stream) != nil {
			return b.memory.Synchronize()
		}
	}
	return nil
}

// Take implements backend.Field.
func (f *field) Take() ([]float32, error) {
	values := make([]float32, f.n)
	return values, f.Read(values)
}

// Close implements backend.Field.
func (f *field) Close() error {
	if err := f.check(f.n); err != nil {
		return err
	}
	if f.host != nil {
		host := f.host
		f.host = nil
		return f.backend.memory.End(func() error {
			if err := f.backend.memory.Synchronize(); err != nil {
				return err
			}
			return host.Free()
		})
	}
	m, used := f.memory, f.used
	f.memory, f.used = nil, nil
	if used != nil {
		return errors.Join(m.Close(), f.backend.memory.End(used.Close))
	}
	return m.Close()
}

// interleave copies a volume [C, D, H, W] to [D, H, W, C] on the device, by way of the device's memory at work.
func (b *Backend) interleave(dst driver.Ptr, volume []float32, channels int, work driver.Ptr, workBytes int, after *driver.Event) error {
	voxels := len(volume) / channels
	return b.up.Each(voxels, min(devmem.TransferBytes, workBytes)/4/channels, after, func(p *devmem.PinnedBuffer, from, to int) error {
		n := to - from
		for c := range channels {
			copy(p.Values()[c*n:], volume[c*voxels+from:c*voxels+to])
		}
		return b.up.Pass(p, func(s *driver.Stream) error {
			if err := s.CopyToDevice(work, p.Pointer(), 4*n*channels); err != nil {
				return err
			}
			return startOn(b, s, "interleave", blocksFor(n*channels), &interleaveParams{
				Src: work, Dst: dst + driver.Ptr(4*from*channels), Voxels: int32(n), Channels: divideBy(channels),
			})
		})
	})
}
