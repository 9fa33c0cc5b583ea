package devmem

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/cudnn"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

func TestClass(t *testing.T) {
	code := func(code int) error { return &driver.Error{Call: "cuCall", Code: code} }
	errOther := errors.New("closed")
	library := func(status int32) error { return &cudnn.Error{Status: status} }
	for _, c := range []struct {
		err  error
		want backend.ErrorClass
	}{
		{nil, backend.Fault},
		{errOther, backend.Fault},
		{ErrVacated, backend.Fault},
		{context.Canceled, backend.Fault},
		{&driver.NoDriverError{Cause: errors.New("none")}, backend.Fault},
		{code(driver.CodeNoDevice), backend.Fault},
		{code(driver.CodeUnsupportedPTX), backend.Fault},
		{library(3000), backend.Fault},
		{code(driver.CodeOutOfMemory), backend.NoMemory},
		{library(4003), backend.NoMemory},
		{library(4004), backend.NoMemory},
		{code(1), backend.Transient},
		{code(999), backend.Transient},
		{code(901), backend.Transient},
		{library(5000), backend.Transient},
		{code(46), backend.Lost},
		{code(201), backend.Lost},
		{code(700), backend.Lost},
		{code(709), backend.Lost},
		{code(719), backend.Lost},
		{fmt.Errorf("a: %w", fmt.Errorf("b: %w", code(2))), backend.NoMemory},
		{fmt.Errorf("a: %w, %w", errOther, code(719)), backend.Lost},
		{errors.Join(code(2), errOther), backend.NoMemory},
		{errors.Join(code(2), fmt.Errorf("closing: %w", errors.Join(code(2), code(999)))), backend.Transient},
	} {
		if got := Class(c.err); got != c.want {
			t.Errorf("%v is of class %d and not %d", c.err, got, c.want)
		}
	}
}
