package devmem

import (
	"errors"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

// libraryError is an error of a library that computes on the device with memory of its own.
type libraryError interface {
	error
	OutOfMemory() bool
	Unsupported() bool
}

// Class returns the class of an error: of several that are joined, the worst. Refusals that name something wrong in a call are taken for
// transient ones, too: after all was given back and taken again the call is another one.
func Class(err error) backend.ErrorClass {
	worst := backend.Fault
	switch e := err.(type) { //nolint:errorlint // the chain is followed here, in all its branches
	case *driver.Error:
		return classOf(e)
	case libraryError:
		return classOfLibrary(e)
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			worst = max(worst, Class(one))
		}
	default:
		if inner := errors.Unwrap(err); inner != nil {
			return Class(inner)
		}
	}
	return worst
}

func classOf(e *driver.Error) backend.ErrorClass {
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

// unusable has the codes for faults of the machine or its set-up, where trying again does not help.
var unusable = map[int]bool{
	driver.CodeInsufficientDriver: true, driver.CodeNoDevice: true, driver.CodeInvalidImage: true, driver.CodeNoBinary: true,
	driver.CodeInvalidPTX: true, driver.CodeUnsupportedPTX: true, driver.CodeNotFound: true,
}

func classOfLibrary(e libraryError) backend.ErrorClass {
	switch {
	case e.OutOfMemory():
		return backend.NoMemory
	case e.Unsupported():
		return backend.Fault
	}
	return backend.Transient
}
