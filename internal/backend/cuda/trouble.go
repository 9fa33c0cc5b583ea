package cuda

import (
	"errors"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/cudnn"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

// Trouble implements backend.Resident.
func (b *Backend) Trouble(err error) backend.Trouble { return Trouble(err) }

// Trouble says what an error of this package means, those of New included: of several that are joined, the worst. Refusals that name
// something wrong in a call are taken for passing ones, too: after all was given back and taken again the call is another one.
func Trouble(err error) backend.Trouble {
	worst := backend.Fault
	switch e := err.(type) { //nolint:errorlint // the chain is followed here, in all its branches
	case *driver.Error:
		return troubleOf(e)
	case *cudnn.Error:
		return troubleOfCudnn(e)
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			worst = max(worst, Trouble(one))
		}
	default:
		if inner := errors.Unwrap(err); inner != nil {
			return Trouble(inner)
		}
	}
	return worst
}

func troubleOf(e *driver.Error) backend.Trouble {
	switch {
	case e.Code == driver.CodeOutOfMemory:
		return backend.NoMemory
	case e.Sticky() || e.Gone():
		return backend.Lost
	case unusable[e.Code]:
		return backend.Fault
	}
	return backend.Transient
}

// unusable are codes that say what is wrong with the machine or its set-up: nothing that is tried again helps.
var unusable = map[int]bool{
	driver.CodeInsufficientDriver: true, driver.CodeNoDevice: true, driver.CodeInvalidImage: true, driver.CodeNoBinary: true,
	driver.CodeInvalidPTX: true, driver.CodeUnsupportedPTX: true, driver.CodeNotFound: true,
}

// Statuses of cuDNN (cudnnStatus_t) for memory of the host and of the device that it did not get.
const (
	cudnnHostAllocation   = 4003
	cudnnDeviceAllocation = 4004
)

func troubleOfCudnn(e *cudnn.Error) backend.Trouble {
	switch {
	case e.Status == cudnnHostAllocation || e.Status == cudnnDeviceAllocation:
		return backend.NoMemory
	case e.Unsupported():
		return backend.Fault
	}
	return backend.Transient
}
