package volume

import "fmt"

// MalformedError says that a file breaks the rules of its own format: it is truncated, damaged or of another format than its name says.
type MalformedError struct {
	Format string // as in the format table: npy, mat, nifti
	Err    error
}

func (e *MalformedError) Error() string { return "damaged " + e.Format + " file: " + e.Err.Error() }
func (e *MalformedError) Unwrap() error { return e.Err }

// Malformed returns a MalformedError whose reason is formatted as by fmt.Errorf.
func Malformed(format, reason string, args ...any) error {
	return &MalformedError{Format: format, Err: fmt.Errorf(reason, args...)}
}

// UnsupportedError says that a file may be in order but holds something that is not read here. The reason says how to proceed.
type UnsupportedError struct {
	Format string
	Err    error
}

func (e *UnsupportedError) Error() string {
	return "unsupported " + e.Format + " file: " + e.Err.Error()
}
func (e *UnsupportedError) Unwrap() error { return e.Err }

// Unsupported returns an UnsupportedError whose reason is formatted as by fmt.Errorf.
func Unsupported(format, reason string, args ...any) error {
	return &UnsupportedError{Format: format, Err: fmt.Errorf(reason, args...)}
}
