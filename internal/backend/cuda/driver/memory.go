package driver

import "unsafe"

// Ptr is an address in the memory of the device.
type Ptr uint64

// Physical is memory of the device without an address. One can be mapped at several addresses.
type Physical uint64

// place is CUmemLocation.
type place struct{ kind, device int32 }

const (
	placeDevice        = 1 // CU_MEM_LOCATION_TYPE_DEVICE
	allocationPinned   = 1 // CU_MEM_ALLOCATION_TYPE_PINNED
	accessReadWrite    = 3 // CU_MEM_ACCESS_FLAGS_PROT_READWRITE
	hostAllocPortable  = 1 // CU_MEMHOSTALLOC_PORTABLE
	granularityMinimum = 0 // CU_MEM_ALLOC_GRANULARITY_MINIMUM
)

// allocation is CUmemAllocationProp.
type allocation struct {
	kind    int32
	handles int32
	place   place
	windows uintptr
	flags   [8]uint8
}

// access is CUmemAccessDesc.
type access struct {
	place place
	flags int32
}

func (c *Context) allocation() *allocation {
	return &allocation{kind: allocationPinned, place: place{placeDevice, c.device}}
}

// Granularity returns the bytes that sizes and addresses of reserved, physical and mapped memory are multiples of.
func (c *Context) Granularity() (int, error) {
	var n uint64
	err := c.d.memGetAllocationGranularity.call(uintptr(unsafe.Pointer(&n)), uintptr(unsafe.Pointer(c.allocation())), granularityMinimum)
	return int(n), err
}

// ReserveAddress takes a range of addresses with nothing behind it. Align is a power of two, or 0 for the granularity.
func (c *Context) ReserveAddress(bytes, align int) (Ptr, error) {
	var p Ptr
	err := c.d.memAddressReserve.call(uintptr(unsafe.Pointer(&p)), uintptr(bytes), uintptr(align), 0, 0)
	return p, err
}

// FreeAddress gives back a range of ReserveAddress with nothing mapped in it.
func (c *Context) FreeAddress(p Ptr, bytes int) error {
	return c.d.memAddressFree.call(uintptr(p), uintptr(bytes))
}

// CreatePhysical takes memory of the device. Few large pieces are much faster than many small ones.
func (c *Context) CreatePhysical(bytes int) (Physical, error) {
	var h Physical
	err := c.d.memCreate.call(uintptr(unsafe.Pointer(&h)), uintptr(bytes), uintptr(unsafe.Pointer(c.allocation())), 0)
	return h, err
}

// Map puts a whole piece of memory at an address within a reserved range. It can be used after Allow.
func (c *Context) Map(at Ptr, bytes int, h Physical) error {
	return c.d.memMap.call(uintptr(at), uintptr(bytes), 0, uintptr(h), 0)
}

// Allow makes a range for reading and writing in which pieces are mapped without a gap: one call for all of them, as it takes longer than
// the calls of Map. Kernels that use the same memory through two addresses see each other's writes in the order of the stream, but not
// within one kernel.
func (c *Context) Allow(at Ptr, bytes int) error {
	a := &access{place{placeDevice, c.device}, accessReadWrite}
	return c.d.memSetAccess.call(uintptr(at), uintptr(bytes), uintptr(unsafe.Pointer(a)), 1)
}

// Unmap takes memory away from addresses: a range that was mapped without a gap by whole calls of Map. Nothing may be using it any more;
// the call does not wait.
func (c *Context) Unmap(at Ptr, bytes int) error {
	return c.d.memUnmap.call(uintptr(at), uintptr(bytes))
}

// Release gives memory back, once it is also unmapped everywhere.
func (c *Context) Release(h Physical) error { return c.d.memRelease.call(uintptr(h)) }

// HostMemory is pinned memory of the host: the device copies from and to it while the program goes on.
type HostMemory struct {
	d     *Driver
	at    unsafe.Pointer
	bytes int
}

// AllocHost takes pinned memory of the host, for all contexts.
func (c *Context) AllocHost(bytes int) (*HostMemory, error) {
	m := &HostMemory{d: c.d, bytes: bytes}
	if err := c.d.memHostAlloc.call(uintptr(unsafe.Pointer(&m.at)), uintptr(bytes), hostAllocPortable); err != nil {
		return nil, err
	}
	return m, nil
}

// Bytes returns the memory. It is invalid after Free.
func (m *HostMemory) Bytes() []byte { return unsafe.Slice((*byte)(m.at), m.bytes) }

// Pointer returns its address.
func (m *HostMemory) Pointer() unsafe.Pointer { return m.at }

// Free gives the memory back. A call after one that succeeded does nothing.
func (m *HostMemory) Free() error {
	if m.at == nil {
		return nil
	}
	if err := m.d.memFreeHost.call(uintptr(m.at)); err != nil {
		return err
	}
	m.at, m.bytes = nil, 0
	return nil
}
