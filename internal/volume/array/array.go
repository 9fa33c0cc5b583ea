// Package array has the common parts of the readers of volume formats: an n-dimensional array as a file stores it, before its axes have
// names, and bounded decoding of its elements.
//
// Every reader has the signature of Reader. It trusts no number of a header before it has been compared with the bytes that
// exist, and with the memory that may be taken: sizes are multiplied with an overflow check, no memory is taken for more voxels than the bytes
// of the file can hold, and decompression stops at what the header announced.
package array

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/volume"
)

// DefaultMaxVoxels is the largest array that is decoded when Options says nothing: 8 GiB of float32.
const DefaultMaxVoxels = 1 << 31

// Array is a decoded array: element (i, j, ...) is Data[i*Strides[0] + j*Strides[1] + ...].
type Array struct {
	Shape   []int // sizes in the order in which the format presents its axes
	Strides []int // distance in Data between neighbours along each axis; every order of axes, never negative
	Data    []float32

	// Geometry places an index along the first three axes in space; nil if the format has none.
	Geometry *volume.Geometry
}

// Options choose the array, and bound its size.
type Options struct {
	Variable  string // name of the array in files that hold several
	MaxVoxels int    // refuse larger arrays; 0 is DefaultMaxVoxels

	// Allow is called with a number of bytes before that memory is taken; it refuses by an error. Nil allows all.
	Allow func(bytes int) error
}

// voxelBytes has the bytes that reading takes for a voxel: in the order of the file, and once more in that of a volume.
const voxelBytes = 4 + 4

// Reader decodes one format.
type Reader func(r *io.SectionReader, opt Options) (*Array, error)

// Count multiplies the sizes of a header. Sizes must be positive, and the product at most what o allows.
func (o Options) Count(shape []int) (int, error) {
	limit := o.MaxVoxels
	if limit <= 0 {
		limit = DefaultMaxVoxels
	}
	n := 1
	for axis, size := range shape {
		if size <= 0 {
			return 0, fmt.Errorf("axis %d of shape %s has size %d", axis, FormatShape(shape), size)
		}
		if size > limit/n {
			return 0, fmt.Errorf("shape %s has more than %d voxels, the most that is read", FormatShape(shape), limit)
		}
		n *= size
	}
	if o.Allow != nil {
		if err := o.Allow(voxelBytes * min(n, math.MaxInt/voxelBytes)); err != nil {
			return 0, fmt.Errorf("an array of shape %s: %w", FormatShape(shape), err)
		}
	}
	return n, nil
}

// FormatShape prints a shape as 2x3x4.
func FormatShape(shape []int) string {
	if len(shape) == 0 {
		return "scalar"
	}
	s := make([]string, len(shape))
	for i, n := range shape {
		s[i] = fmt.Sprint(n)
	}
	return strings.Join(s, "x")
}

// RowMajor returns the strides of an array whose last axis is the fastest (C order).
func RowMajor(shape []int) []int {
	strides := make([]int, len(shape))
	n := 1
	for i := len(shape) - 1; i >= 0; i-- {
		strides[i] = n
		n *= shape[i]
	}
	return strides
}

// ColumnMajor returns the strides of an array whose first axis is the fastest (Fortran order).
func ColumnMajor(shape []int) []int {
	strides := make([]int, len(shape))
	n := 1
	for i, size := range shape {
		strides[i] = n
		n *= size
	}
	return strides
}

// Values returns the elements in row-major order: Data itself if it is in that order, a copy otherwise.
func (a *Array) Values() []float32 { return Gather(a.Data, a.Shape, a.Strides) }

// Gather returns the strided view of src in row-major order: a part of src if the view is one, a copy otherwise.
func Gather(src []float32, shape, strides []int) []float32 {
	n, ordered := 1, true
	for i := len(shape) - 1; i >= 0; i-- {
		ordered = ordered && (shape[i] == 1 || strides[i] == n)
		n *= shape[i]
	}
	if ordered {
		return src[:n:n]
	}
	dst := make([]float32, n)
	Copy(dst, src, shape, strides)
	return dst
}

// tile is the side of the squares in which Copy turns axes around: 16 float32 are one cache line, read once and used whole.
const tile = 16

// Copy writes the strided view of src to dst in row-major order. dst holds the product of shape.
func Copy[T any](dst, src []T, shape, strides []int) {
	if len(shape) == 0 {
		dst[0] = src[0]
		return
	}
	last := len(shape) - 1
	// fast is the axis along which src is dense: reading along it and writing along last, in tiles, wastes no cache line.
	fast := last
	for i, s := range strides {
		if shape[i] > 1 && (s < strides[fast] || shape[fast] == 1) {
			fast = i
		}
	}
	to := RowMajor(shape)
	index := make([]int, len(shape))
	for {
		d, s := 0, 0
		for i, x := range index {
			d += x * to[i]
			s += x * strides[i]
		}
		switch {
		case fast != last:
			copyTiled(dst[d:], src[s:], shape[fast], shape[last], to[fast], strides[fast], strides[last])
		case strides[last] == 1 || shape[last] == 1:
			copy(dst[d:d+shape[last]], src[s:])
		default:
			for i := range shape[last] {
				dst[d+i] = src[s+i*strides[last]]
			}
		}
		axis := last - 1
		for ; axis >= 0; axis-- {
			if axis == fast {
				continue
			}
			if index[axis]++; index[axis] < shape[axis] {
				break
			}
			index[axis] = 0
		}
		if axis < 0 {
			return
		}
	}
}

// copyTiled copies a plane of rows x cols: dst has row stride to and dense columns, src has strides rowStep and colStep.
func copyTiled[T any](dst, src []T, rows, cols, to, rowStep, colStep int) {
	for r0 := 0; r0 < rows; r0 += tile {
		r1 := min(r0+tile, rows)
		for c0 := 0; c0 < cols; c0 += tile {
			c1 := min(c0+tile, cols)
			for r := r0; r < r1; r++ {
				row := dst[r*to+c0 : r*to+c1]
				s := r*rowStep + c0*colStep
				for i := range row {
					row[i] = src[s]
					s += colStep
				}
			}
		}
	}
}

// ColumnMajorBlocks hands the elements of a row-major array to yield in column-major order (first axis fastest), in blocks
// of some planes, so that a writer of such a format needs no second copy of the array. The block is reused.
func ColumnMajorBlocks[T any](data []T, shape []int, yield func([]T) error) error {
	rank := len(shape)
	if rank == 0 {
		return yield(data)
	}
	reversed, strides := make([]int, rank), make([]int, rank)
	forward := RowMajor(shape)
	for i := range shape {
		reversed[rank-1-i], strides[rank-1-i] = shape[i], forward[i]
	}
	plane := 1
	for _, n := range reversed[1:] {
		plane *= n
	}
	if plane == 0 {
		return nil
	}
	const blockElements = 1 << 16
	block := min(reversed[0], max(tile, blockElements/plane))
	buf := make([]T, block*plane)
	for at := 0; at < shape[rank-1]; at += block {
		n := min(block, shape[rank-1]-at)
		reversed[0] = n
		Copy(buf[:n*plane], data[at*strides[0]:], reversed, strides)
		if err := yield(buf[:n*plane]); err != nil {
			return err
		}
	}
	return nil
}

// AppendFloat32 appends the little-endian bytes of values.
func AppendFloat32(b []byte, values []float32) []byte {
	at := len(b)
	b = slices.Grow(b, 4*len(values))[:at+4*len(values)]
	to := b[at:]
	for i, x := range values {
		binary.LittleEndian.PutUint32(to[4*i:], math.Float32bits(x))
	}
	return b
}
