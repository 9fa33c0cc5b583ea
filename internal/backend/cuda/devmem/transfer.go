package devmem

import (
	"errors"
	"sync"
	"unsafe"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

// TransferQueue moves values between the host and the device while kernels run: on a stream of its own, through a few pinned staging
// buffers: the processor fills or empties some of them while the others are on their way.
type TransferQueue struct {
	a       *Allocator
	mu      sync.Mutex // guards the stream, and taking stream and buffers
	stream  *driver.Stream
	buffers []*PinnedBuffer
	free    chan *PinnedBuffer
}

// PinnedBuffer is staging memory of a transfer queue.
type PinnedBuffer struct {
	memory *driver.HostMemory
	event  *driver.Event // behind its latest use in the stream
}

// A transfer queue has TransferBuffers staging buffers of TransferBytes.
const (
	TransferBytes   = 4 << 20
	TransferBuffers = 4
)

// NewTransferQueue makes a queue. It takes stream and buffers when something is first moved.
func (a *Allocator) NewTransferQueue() *TransferQueue { return &TransferQueue{a: a} }

// prepare takes stream and buffers, once.
func (q *TransferQueue) prepare() (err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.free != nil {
		return nil
	}
	c := q.a.context
	return c.Do(func() error {
		if q.stream == nil {
			if q.stream, err = c.NewStream(); err != nil {
				return err
			}
		}
		for len(q.buffers) < TransferBuffers {
			p := &PinnedBuffer{}
			if p.memory, err = c.AllocHost(TransferBytes); err != nil {
				return err
			}
			if p.event, err = c.NewEvent(false); err != nil {
				return errors.Join(err, q.a.End(p.memory.Free))
			}
			q.buffers = append(q.buffers, p)
		}
		q.free = make(chan *PinnedBuffer, TransferBuffers)
		for _, p := range q.buffers {
			q.free <- p
		}
		return nil
	})
}

// Ends returns the calls that give stream and buffers back, after all transfers.
func (q *TransferQueue) Ends() (calls []func() error) {
	for _, p := range q.buffers {
		calls = append(calls, p.event.Close, p.memory.Free)
	}
	if q.stream != nil {
		calls = append(calls, q.stream.Close)
	}
	q.buffers, q.free, q.stream = nil, nil, nil
	return calls
}

// Each calls move for n values in parts of at most most, one staging buffer for each, several at a time and with the context current. It
// waits for all. The stream waits for the event first, unless it is nil.
func (q *TransferQueue) Each(n, most int, after *driver.Event, move func(p *PinnedBuffer, from, to int) error) error {
	if err := q.a.gate.enter(); err != nil {
		return err
	}
	defer q.a.gate.leave()
	if err := q.prepare(); err != nil {
		return err
	}
	if after != nil {
		err := q.enqueue(func(s *driver.Stream) error { return s.Wait(after) })
		if err != nil {
			return err
		}
	}
	errs := make([]error, (n+most-1)/most)
	var group sync.WaitGroup
	for i := range errs {
		p := <-q.free
		group.Go(func() {
			defer func() { q.free <- p }()
			errs[i] = q.a.context.Do(func() error { return move(p, i*most, min(n, (i+1)*most)) })
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// enqueue lets one goroutine at a time use the stream.
func (q *TransferQueue) enqueue(what func(s *driver.Stream) error) error {
	return q.a.context.Do(func() error {
		q.mu.Lock()
		defer q.mu.Unlock()
		return what(q.stream)
	})
}

// Pass enqueues work with a staging buffer, and waits for it.
func (q *TransferQueue) Pass(p *PinnedBuffer, what func(s *driver.Stream) error) error {
	err := q.enqueue(func(s *driver.Stream) error { return errors.Join(what(s), p.event.Record(s)) })
	if err == nil {
		err = p.event.Synchronize()
	}
	if err != nil { // earlier work must not find the buffer in use again
		return errors.Join(err, q.enqueue((*driver.Stream).Synchronize))
	}
	return nil
}

// Pointer returns the address of its memory.
func (p *PinnedBuffer) Pointer() unsafe.Pointer { return p.memory.Pointer() }

// Values returns its memory as float32 values.
func (p *PinnedBuffer) Values() []float32 {
	return unsafe.Slice((*float32)(p.memory.Pointer()), len(p.memory.Bytes())/4)
}

// ToDevice copies to the device, after the event.
func (q *TransferQueue) ToDevice(dst driver.Ptr, src []float32, after *driver.Event) error {
	return q.Each(len(src), TransferBytes/4, after, func(p *PinnedBuffer, from, to int) error {
		copy(p.Values(), src[from:to])
		return q.Pass(p, func(s *driver.Stream) error {
			return s.CopyToDevice(dst+driver.Ptr(4*from), p.Pointer(), 4*(to-from))
		})
	})
}

// ToHost copies to the host, after the event.
func (q *TransferQueue) ToHost(dst []float32, src driver.Ptr, after *driver.Event) error {
	return q.Each(len(dst), TransferBytes/4, after, func(p *PinnedBuffer, from, to int) error {
		err := q.Pass(p, func(s *driver.Stream) error {
			return s.CopyToHost(p.Pointer(), src+driver.Ptr(4*from), 4*(to-from))
		})
		copy(dst[from:to], p.Values())
		return err
	})
}

// CopyToDevice copies and waits, on the stream of programs. The driver takes pageable memory through pinned memory of its own.
func (a *Allocator) CopyToDevice(dst driver.Ptr, src []float32) error {
	if len(src) == 0 {
		return nil
	}
	return a.Do(func() error {
		if err := a.stream.CopyToDevice(dst, unsafe.Pointer(unsafe.SliceData(src)), 4*len(src)); err != nil {
			return err
		}
		return a.stream.Synchronize()
	})
}

// CopyToHost copies and waits, on the stream of programs.
func (a *Allocator) CopyToHost(dst []float32, src driver.Ptr) error {
	if len(dst) == 0 {
		return nil
	}
	return a.Do(func() error {
		if err := a.stream.CopyToHost(unsafe.Pointer(unsafe.SliceData(dst)), src, 4*len(dst)); err != nil {
			return err
		}
		return a.stream.Synchronize()
	})
}
