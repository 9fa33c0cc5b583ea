package devmem

import (
	"unsafe"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

// Staging is memory of the host for copies: pinned, which is the fastest, or any where there is no room for that.
type Staging struct {
	pinned *driver.HostMemory
	bytes  []byte
}

// NewStaging takes n bytes. It must run where the context is current.
func (a *Allocator) NewStaging(n int) *Staging {
	if m, err := a.context.AllocHost(max(n, 1)); err == nil {
		return &Staging{m, m.Bytes()}
	}
	return &Staging{nil, make([]byte, max(n, 1))}
}

// FreeStaging gives the memory of m back, which may be nil.
func (a *Allocator) FreeStaging(m *Staging) error {
	if m == nil || m.pinned == nil {
		return nil
	}
	return a.End(m.pinned.Free)
}

func (m *Staging) pointer() unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(m.bytes)) }
