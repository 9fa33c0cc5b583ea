// Package hostmem has fields in the host's memory, and attribution there by package cam: for the CPU backend, and as the fallback of other
// backends.
package hostmem

import (
	"errors"
	"fmt"
	"slices"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/parallel"
)

// Field is a slice, taken when it is first written.
type Field struct {
	n      int
	data   []float32
	lent   bool // the slice is the caller's, too: it must not be written
	fixed  bool // the field is always this slice
	closed bool
}

var _ backend.Field = (*Field)(nil)

// NewField returns a field of n values, all 0.
func NewField(n int) (*Field, error) {
	if n < 1 {
		return nil, fmt.Errorf("a field of %d values", n)
	}
	return &Field{n: n}, nil
}

// Wrap returns a field that holds data, and does not write to it.
func Wrap(data []float32) *Field { return &Field{n: len(data), data: data, lent: true} }

// View returns a field whose memory is data.
func View(data []float32) *Field { return &Field{n: len(data), data: data, fixed: true} }

// Values returns the field's values, to be read.
func (f *Field) Values() []float32 {
	if f.data == nil {
		f.data = make([]float32, f.n)
	}
	return f.data
}

// Fresh returns the field's memory, to be written as a whole.
func (f *Field) Fresh() []float32 {
	if f.lent {
		f.data, f.lent = nil, false
	}
	return f.Values()
}

// put makes data the field's values. The slice may stay the caller's.
func (f *Field) put(data []float32, lent bool) {
	if f.fixed {
		copyAll(f.data, data)
		return
	}
	f.data, f.lent = data, lent
}

// copyAll copies on all processors: a single one does not use the whole bandwidth of the memory.
func copyAll(dst, src []float32) {
	parallel.Parts(len(src), parallel.Values, func(_, from, to int) { copy(dst[from:to], src[from:to]) })
}

// Closed reports whether the field was closed.
func (f *Field) Closed() bool { return f.closed }

func (f *Field) check(n int) error {
	switch {
	case f.closed:
		return errors.New("the field is closed")
	case n != f.n:
		return fmt.Errorf("%d values for a field of %d", n, f.n)
	}
	return nil
}

// Len implements backend.Field.
func (f *Field) Len() int { return f.n }

// Write implements backend.Field.
func (f *Field) Write(src []float32) error {
	if err := f.check(len(src)); err != nil {
		return err
	}
	copyAll(f.Fresh(), src)
	return nil
}

// Read implements backend.Field.
func (f *Field) Read(dst []float32) error {
	if err := f.check(len(dst)); err != nil {
		return err
	}
	copyAll(dst, f.Values())
	return nil
}

// Take implements backend.Field.
func (f *Field) Take() ([]float32, error) {
	if err := f.check(f.n); err != nil {
		return nil, err
	}
	if f.fixed {
		return slices.Clone(f.data), nil
	}
	f.lent = true
	return f.Values(), nil
}

// Close implements backend.Field.
func (f *Field) Close() error {
	if err := f.check(f.n); err != nil {
		return err
	}
	f.closed, f.data = true, nil
	return nil
}
