package cuda

import (
	"fmt"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/devmem"
)

var _ backend.Resident = (*Backend)(nil)

// Vacated implements backend.Resident.
func (b *Backend) Vacated() bool { return b.memory.Vacated() }

// Vacate implements backend.Resident. It waits for running work. Weights are copied to the host the first time only, and both their copy
// and the memory for kept fields stay on the host until weights and fields are closed. Moments are lost; Moments.Save keeps them. After an
// error nothing has changed, unless Vacated says otherwise: then the driver refused some of the memory, and Trim tries that again.
func (b *Backend) Vacate(keep ...backend.Field) (freed int, err error) {
	var kept []*devmem.Allocation
	for _, f := range keep {
		own, ok := f.(*field)
		if !ok || own.backend != b || own.memory != nil && own.memory.Closed() {
			return 0, fmt.Errorf("cuda: a field that is not kept whole by this backend (%T) cannot be kept", f)
		}
		if err := own.check(own.n); err != nil {
			return 0, err
		}
		if own.memory != nil {
			kept = append(kept, own.memory)
		}
	}
	return b.memory.Vacate(kept...)
}

// Return implements backend.Resident.
func (b *Backend) Return() error { return b.memory.Return() }

// Trim implements backend.Resident. While the memory is vacated it gives back the rest that Vacate could not.
func (b *Backend) Trim(keep int) (freed int, err error) { return b.memory.Trim(keep) }

// Usage implements backend.Resident.
func (b *Backend) Usage() (backend.Usage, error) { return b.memory.Usage() }

// Held returns the device memory that the backend has from the driver: arenas, weights, scratch and fields, and spare memory for the next
// ones. The context, the kernels and the libraries come on top; see Overhead.
func (b *Backend) Held() int { return b.memory.Held() }

// Allocated returns the part of Held that something is in.
func (b *Backend) Allocated() int { return b.memory.Allocated() }

// Class implements backend.Resident.
func (b *Backend) Class(err error) backend.ErrorClass { return Class(err) }

// Class returns the class of an error of this package, those of New included, see devmem.Class.
func Class(err error) backend.ErrorClass { return devmem.Class(err) }
