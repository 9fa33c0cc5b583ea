package cuda

import (
	"errors"
	"sync"
	"unsafe"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

// ferry moves values between the host and the device while kernels run: on a stream of its own, through pieces of pinned memory that
// stay, some of which are filled or emptied by the processor while others are on their way.
type ferry struct {
	backend *Backend
	mu      sync.Mutex // of the stream, and of taking what is here
	stream  *driver.Stream
	pieces  []*piece
	free    chan *piece
}

// piece is pinned memory, with the place in the stream behind its latest use.
type piece struct {
	memory *driver.HostMemory
	event  *driver.Event
}

const (
	pieceBytes = 4 << 20
	pieceCount = 4
)

// prepare takes stream and pieces, once.
func (f *ferry) prepare() (err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.free != nil {
		return nil
	}
	c := f.backend.context
	return c.Do(func() error {
		if f.stream == nil {
			if f.stream, err = c.NewStream(); err != nil {
				return err
			}
		}
		for len(f.pieces) < pieceCount {
			p := &piece{}
			if p.memory, err = c.AllocHost(pieceBytes); err != nil {
				return err
			}
			if p.event, err = c.NewEvent(false); err != nil {
				return errors.Join(err, f.backend.end(p.memory.Free))
			}
			f.pieces = append(f.pieces, p)
		}
		f.free = make(chan *piece, pieceCount)
		for _, p := range f.pieces {
			f.free <- p
		}
		return nil
	})
}

// ends are the calls that give stream and pieces back, after all transfers.
func (f *ferry) ends() (calls []func() error) {
	for _, p := range f.pieces {
		calls = append(calls, p.event.Close, p.memory.Free)
	}
	if f.stream != nil {
		calls = append(calls, f.stream.Close)
	}
	f.pieces, f.free, f.stream = nil, nil, nil
	return calls
}

// each calls move for n values in parts of at most so many, one piece for each, several at a time and with the context current. It
// waits for all. What the stream does comes after the event, unless that is nil.
func (f *ferry) each(n, most int, after *driver.Event, move func(p *piece, from, to int) error) error {
	if err := f.backend.gate.enter(); err != nil {
		return err
	}
	defer f.backend.gate.leave()
	if err := f.prepare(); err != nil {
		return err
	}
	if after != nil {
		err := f.enqueue(func(s *driver.Stream) error { return s.Wait(after) })
		if err != nil {
			return err
		}
	}
	errs := make([]error, ceilDiv(n, most))
	var group sync.WaitGroup
	for i := range errs {
		p := <-f.free
		group.Go(func() {
			defer func() { f.free <- p }()
			errs[i] = f.backend.context.Do(func() error { return move(p, i*most, min(n, (i+1)*most)) })
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// enqueue lets one goroutine at a time use the stream.
func (f *ferry) enqueue(what func(s *driver.Stream) error) error {
	return f.backend.context.Do(func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		return what(f.stream)
	})
}

// pass enqueues work with a piece, and waits for it.
func (f *ferry) pass(p *piece, what func(s *driver.Stream) error) error {
	err := f.enqueue(func(s *driver.Stream) error { return errors.Join(what(s), p.event.Record(s)) })
	if err == nil {
		err = p.event.Synchronize()
	}
	if err != nil { // what was enqueued before is not to find the piece in use again
		return errors.Join(err, f.enqueue((*driver.Stream).Synchronize))
	}
	return nil
}

func (p *piece) values() []float32 { return as[float32](p.memory.Bytes()) }

// toDevice copies to the device.
func (f *ferry) toDevice(dst driver.Ptr, src []float32, after *driver.Event) error {
	return f.each(len(src), pieceBytes/4, after, func(p *piece, from, to int) error {
		copy(p.values(), src[from:to])
		return f.pass(p, func(s *driver.Stream) error {
			return s.CopyToDevice(dst+driver.Ptr(4*from), p.memory.Pointer(), 4*(to-from))
		})
	})
}

// toHost copies to the host.
func (f *ferry) toHost(dst []float32, src driver.Ptr, after *driver.Event) error {
	return f.each(len(dst), pieceBytes/4, after, func(p *piece, from, to int) error {
		err := f.pass(p, func(s *driver.Stream) error {
			return s.CopyToHost(p.memory.Pointer(), src+driver.Ptr(4*from), 4*(to-from))
		})
		copy(dst[from:to], p.values())
		return err
	})
}

// interleave copies a volume [C, D, H, W] to [D, H, W, C] on the device, by way of its memory at work.
func (f *ferry) interleave(dst driver.Ptr, volume []float32, channels int, work driver.Ptr, workBytes int, after *driver.Event) error {
	voxels := len(volume) / channels
	return f.each(voxels, min(pieceBytes, workBytes)/4/channels, after, func(p *piece, from, to int) error {
		n := to - from
		for c := range channels {
			copy(p.values()[c*n:], volume[c*voxels+from:c*voxels+to])
		}
		return f.pass(p, func(s *driver.Stream) error {
			if err := s.CopyToDevice(work, p.memory.Pointer(), 4*n*channels); err != nil {
				return err
			}
			return startOn(f.backend, s, "interleave", blocksFor(n*channels), &interleaveParams{
				Src: work, Dst: dst + driver.Ptr(4*from*channels), Voxels: int32(n), Channels: divideBy(channels),
			})
		})
	})
}

// copyToDevice copies and waits, on the stream of programs. The driver takes pageable memory through pinned memory of its own.
func (b *Backend) copyToDevice(dst driver.Ptr, src []float32) error {
	if len(src) == 0 {
		return nil
	}
	return b.do(func() error {
		if err := b.stream.CopyToDevice(dst, unsafe.Pointer(unsafe.SliceData(src)), 4*len(src)); err != nil {
			return err
		}
		return b.stream.Synchronize()
	})
}

func (b *Backend) copyToHost(dst []float32, src driver.Ptr) error {
	if len(dst) == 0 {
		return nil
	}
	return b.do(func() error {
		if err := b.stream.CopyToHost(unsafe.Pointer(unsafe.SliceData(dst)), src, 4*len(dst)); err != nil {
			return err
		}
		return b.stream.Synchronize()
	})
}
