package cpu

import (
	"errors"
	"fmt"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/plan"
)

// field is a slice of float32.
type field struct {
	data   []float32
	closed bool
}

// NewField implements backend.Backend.
func (b *Backend) NewField(n int, _ backend.Place) (backend.Field, error) {
	if n < 1 {
		return nil, fmt.Errorf("cpu: a field of %d values", n)
	}
	return &field{data: make([]float32, n)}, nil
}

// Wrap implements backend.Backend. The data is used where it is.
func (b *Backend) Wrap(data []float32, _ backend.Place) (backend.Field, error) {
	if len(data) == 0 {
		return nil, errors.New("cpu: a field of no values")
	}
	return &field{data: data}, nil
}

// FieldBytes implements backend.Backend. Fields are the caller's memory, which a budget does not bound.
func (b *Backend) FieldBytes(int, backend.Place) int { return 0 }

// Costs implements backend.Backend.
func (b *Backend) Costs() plan.Costs { return plan.Costs{} }

func (f *field) check(n int) error {
	switch {
	case f.closed:
		return errors.New("cpu: the field is closed")
	case n != len(f.data):
		return fmt.Errorf("cpu: %d values for a field of %d", n, len(f.data))
	}
	return nil
}

// Len implements backend.Field.
func (f *field) Len() int { return len(f.data) }

// Write implements backend.Field.
func (f *field) Write(src []float32) error {
	if err := f.check(len(src)); err != nil {
		return err
	}
	copy(f.data, src)
	return nil
}

// Read implements backend.Field.
func (f *field) Read(dst []float32) error {
	if err := f.check(len(dst)); err != nil {
		return err
	}
	copy(dst, f.data)
	return nil
}

// Close implements backend.Field.
func (f *field) Close() error {
	if f.closed {
		return errors.New("cpu: the field is closed")
	}
	f.closed, f.data = true, nil
	return nil
}
