package npy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"

	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/volume"
)

// Stack is an open .npy file that is read slice by slice along its first axis, so that a stack of noise draws
// [n, C, D, H, W] never lies in memory whole. Slices of a file that was changed since it was opened are an error. Its methods may be called
// from several goroutines.
type Stack struct {
	path   string
	closer io.Closer
	r      io.ReaderAt
	h      *header
	sha256 string
}

// Open opens a .npy file and checks its header against its size. Arrays in Fortran order are refused: their slices are
// scattered over the whole file. ctx stops it: the file is read once.
func Open(ctx context.Context, path string) (*Stack, error) {
	f, _, err := input.Open(path)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	hashed, err := input.Hash(ctx, f, sum)
	if err == nil {
		var file *Stack
		if file, err = NewStack(io.NewSectionReader(hashed, 0, hashed.Size())); err == nil {
			file.path, file.closer, file.sha256 = path, f, hex.EncodeToString(sum.Sum(nil))
			return file, nil
		}
	}
	f.Close()
	return nil, fmt.Errorf("%s: %w", path, err)
}

// SHA256 is the digest, in hexadecimal, of a file that Open opened.
func (f *Stack) SHA256() string { return f.sha256 }

// NewStack is Open for content that lies elsewhere.
func NewStack(r *io.SectionReader) (*Stack, error) {
	h, err := readHeader(io.NewSectionReader(r, 0, r.Size()), array.Options{MaxVoxels: 1 << 48})
	if err != nil {
		return nil, err
	}
	if len(h.shape) == 0 {
		return nil, volume.Unsupported(format, "it holds a single number, not a stack of arrays")
	}
	if h.fortran && len(h.shape) > 1 {
		return nil, volume.Unsupported(format, "it is in Fortran order; save it with np.save(path, np.ascontiguousarray(a))")
	}
	if err := h.checkSize(r.Size()); err != nil {
		return nil, err
	}
	return &Stack{path: "array", r: r, h: h}, nil
}

// Shape is the shape of the whole array.
func (f *Stack) Shape() []int { return slices.Clone(f.h.shape) }

// Len is the number of slices, the size of the first axis.
func (f *Stack) Len() int { return f.h.shape[0] }

// Draw reads slice i in row-major order. dst must have exactly its number of elements.
func (f *Stack) Draw(i int, dst []float32) error {
	n := f.h.count / f.h.shape[0]
	if i < 0 || i >= f.h.shape[0] {
		return fmt.Errorf("%s: slice %d asked for, it has %d", f.path, i, f.h.shape[0])
	}
	if len(dst) != n {
		return fmt.Errorf("%s: a slice of shape %s has %d values, %d are needed", f.path, array.FormatShape(f.h.shape[1:]), n, len(dst))
	}
	const chunk = 1 << 15
	size := f.h.element.Size
	buf := make([]byte, min(n, chunk)*size)
	at := f.h.start + int64(i)*int64(n)*int64(size)
	for len(dst) > 0 {
		k := min(len(dst), chunk)
		if _, err := f.r.ReadAt(buf[:k*size], at); err != nil {
			return fmt.Errorf("%s: slice %d: %w", f.path, i, noEOF(err))
		}
		f.h.element.Decode(dst[:k], buf[:k*size])
		dst, at = dst[k:], at+int64(k*size)
	}
	return nil
}

// Close closes the file.
func (f *Stack) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}
