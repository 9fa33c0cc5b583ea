package driver

import (
	"runtime"
	"unsafe"
)

// Context holds a process's memory, kernels and streams on a device. They live until they are closed, not until the context is.
type Context struct {
	d      *Driver
	device int32
	handle uintptr
}

// Close gives the context back. Everything in it is invalid afterwards.
func (c *Context) Close() error { return c.d.devicePrimaryCtxRelease.call(uintptr(c.device)) }

// Ordinal returns the number of the device.
func (c *Context) Ordinal() int { return int(c.device) }

// Do runs f in a thread in which the context is current. Calls may be nested, also with other contexts.
func (c *Context) Do(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before uintptr
	if err := c.d.ctxGetCurrent.call(uintptr(unsafe.Pointer(&before))); err != nil {
		return err
	}
	// Also if it is current already: a new context can have the handle of a closed one.
	if err := c.d.ctxSetCurrent.call(c.handle); err != nil {
		return err
	}
	if before != 0 && before != c.handle { // a thread without a context may keep this one
		defer func() { _ = c.d.ctxSetCurrent.call(before) }() // if it fails, that context is closed and not needed
	}
	return f()
}

// MemInfo returns the free and the total memory of the device, in bytes.
func (c *Context) MemInfo() (free, total int, err error) {
	var sizes [2]uint64
	err = c.d.memGetInfo.call(uintptr(unsafe.Pointer(&sizes[0])), uintptr(unsafe.Pointer(&sizes[1])))
	return int(sizes[0]), int(sizes[1]), err
}

// limitStack is a number of CUlimit.
const limitStack = 0

// SetStack sets how much stack threads have, in bytes. The driver holds memory for as many threads as the device can run, 264 MiB on an
// H200 for the 1024 bytes of a new context; a kernel that needs more at its launch makes it take more.
func (c *Context) SetStack(bytes int) error { return c.d.ctxSetLimit.call(limitStack, uintptr(bytes)) }

// Synchronize waits for all work in the context.
func (c *Context) Synchronize() error { return c.d.ctxSynchronize.call() }
