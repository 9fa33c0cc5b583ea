package driver

import (
	"errors"
	"math"
	"unsafe"
)

// Stream is a queue of work for the device, which runs in order while the program goes on. An error of the work itself
// shows in a later call. One goroutine uses a stream at a time.
type Stream struct {
	d      *Driver
	handle uintptr

	// Of the kernel being launched; here so that a launch does not allocate.
	params unsafe.Pointer
	args   [11]uintptr
}

// Flags of streams and events.
const (
	streamNonBlocking  = 1
	eventDefault       = 0
	eventDisableTiming = 2
)

// NewStream makes a stream that waits for no other.
func (c *Context) NewStream() (*Stream, error) {
	s := &Stream{d: c.d}
	if err := c.d.streamCreate.call(uintptr(unsafe.Pointer(&s.handle)), streamNonBlocking); err != nil {
		return nil, err
	}
	return s, nil
}

// Handle returns the CUstream, for NVIDIA's other libraries.
func (s *Stream) Handle() uintptr { return s.handle }

// Synchronize waits until all work of the stream is done.
func (s *Stream) Synchronize() error { return s.d.streamSynchronize.call(s.handle) }

// Wait makes later work of the stream wait for what the event has recorded, without stopping the program.
func (s *Stream) Wait(e *Event) error { return s.d.streamWaitEvent.call(s.handle, e.handle, 0) }

// Close ends the stream after its work.
func (s *Stream) Close() error { return s.d.streamDestroy.call(s.handle) }

// CopyToDevice copies from the host. The host's memory is pinned (HostMemory) or stays as it is until the stream is synchronised;
// memory that is not pinned is copied while the program waits.
func (s *Stream) CopyToDevice(dst Ptr, src unsafe.Pointer, bytes int) error {
	return s.d.memcpyHtoDAsync.call(uintptr(dst), uintptr(src), uintptr(bytes), s.handle)
}

// CopyToHost copies to the host, with the same rule for its memory. The bytes are there when the stream is synchronised.
func (s *Stream) CopyToHost(dst unsafe.Pointer, src Ptr, bytes int) error {
	return s.d.memcpyDtoHAsync.call(uintptr(dst), uintptr(src), uintptr(bytes), s.handle)
}

// Copy copies within the device.
func (s *Stream) Copy(dst, src Ptr, bytes int) error {
	return s.d.memcpyDtoDAsync.call(uintptr(dst), uintptr(src), uintptr(bytes), s.handle)
}

// Fill8 sets n bytes.
func (s *Stream) Fill8(dst Ptr, value uint8, n int) error {
	return s.d.memsetD8Async.call(uintptr(dst), uintptr(value), uintptr(n), s.handle)
}

// Fill32 sets n words of 32 bits. The address is a multiple of 4.
func (s *Stream) Fill32(dst Ptr, value uint32, n int) error {
	return s.d.memsetD32Async.call(uintptr(dst), uintptr(value), uintptr(n), s.handle)
}

// Event is a place in a stream that can be waited for.
type Event struct {
	d      *Driver
	handle uintptr
}

// NewEvent makes an event. Only those with timing can be given to Elapsed; those without cost less.
func (c *Context) NewEvent(timing bool) (*Event, error) {
	flags := uintptr(eventDisableTiming)
	if timing {
		flags = eventDefault
	}
	e := &Event{d: c.d}
	if err := c.d.eventCreate.call(uintptr(unsafe.Pointer(&e.handle)), flags); err != nil {
		return nil, err
	}
	return e, nil
}

// Record marks where the stream is now. It replaces an earlier mark.
func (e *Event) Record(s *Stream) error { return e.d.eventRecord.call(e.handle, s.handle) }

// Synchronize waits until the stream has come to the mark.
func (e *Event) Synchronize() error { return e.d.eventSynchronize.call(e.handle) }

// Query reports whether the stream has reached the event.
func (e *Event) Query() (done bool, err error) {
	err = e.d.eventQuery.call(e.handle)
	if refused, ok := errors.AsType[*Error](err); ok && refused.Code == CodeNotReady {
		return false, nil
	}
	return err == nil, err
}

// Elapsed returns the time between two events that have passed, in seconds.
func (e *Event) Elapsed(from *Event) (seconds float64, err error) {
	var milliseconds float32
	if err := e.d.eventElapsedTime.call(uintptr(unsafe.Pointer(&milliseconds)), from.handle, e.handle); err != nil {
		return math.NaN(), err
	}
	return float64(milliseconds) / 1e3, nil
}

// Close gives the event back.
func (e *Event) Close() error { return e.d.eventDestroy.call(e.handle) }
