package devmem

import (
	"unsafe"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

// staging is memory of the host for copies: pinned, which is the fastest, or ordinary memory where there is no room for that.
type staging struct {
	pinned *driver.HostMemory
	bytes  []byte
}

// newStaging takes n bytes. It must run where the context is current.
func (a *Allocator) newStaging(n int) *staging {
	if m, err := a.context.AllocHost(max(n, 1)); err == nil {
		return &staging{m, m.Bytes()}
	}
	return &staging{nil, make([]byte, max(n, 1))}
}

// freeStaging gives the memory of m back, which may be nil.
func (a *Allocator) freeStaging(m *staging) error {
	if m == nil || m.pinned == nil {
		return nil
	}
	return a.End(m.pinned.Free)
}

func (m *staging) pointer() unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(m.bytes)) }
