package array

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

// NumberKind is the kind of number that an element is.
type NumberKind uint8

const (
	Uint NumberKind = iota
	Int
	Float
	Bool // one byte; anything but zero is one
)

// Element is the storage of a number, and the line by which a stored number becomes a voxel.
type Element struct {
	Kind NumberKind
	Size int  // bytes: 1, 2, 4, 8; floats 2, 4, 8
	Big  bool // most significant byte first

	// Slope and Inter turn a stored number s into the voxel Slope*s + Inter, in double precision. A Slope of 0 means none.
	Slope, Inter float64
}

// chunkBytes is the number of bytes that are read at a time: large enough for the disk, small enough for the cache.
const chunkBytes = 64 << 10

// mostRatio bounds the bytes of deflate's output that one of its input stands for (RFC 1951: 258 bytes take two bits, besides a header).
const mostRatio = 1032

// Read decodes n elements from r. have is the number of stored bytes behind r, compressed or not. No memory is taken for more elements
// than those bytes can hold.
func (e Element) Read(r io.Reader, n int, have int64) ([]float32, error) {
	if int64(n)*int64(e.Size)/mostRatio > have {
		return nil, fmt.Errorf("%d bytes cannot hold %d values, however compressed: %w", have, n, io.ErrUnexpectedEOF)
	}
	out := make([]float32, n)
	buf := make([]byte, chunkBytes)
	for at := 0; at < n; {
		k := min(n-at, chunkBytes/e.Size)
		src := buf[:k*e.Size]
		if _, err := io.ReadFull(r, src); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil, fmt.Errorf("the data end within the first %d of %d values: %w", at+k, n, io.ErrUnexpectedEOF)
			}
			return nil, err
		}
		e.Decode(out[at:at+k], src)
		at += k
	}
	return out, nil
}

// Decode converts len(dst) elements of src, which it may overwrite.
func (e Element) Decode(dst []float32, src []byte) {
	if e.Big && e.Size > 1 {
		for i := 0; i+e.Size <= len(src); i += e.Size {
			slices.Reverse(src[i : i+e.Size])
		}
	}
	if e.Slope == 0 {
		switch {
		case e.Kind == Float && e.Size == 4:
			for i := range dst {
				dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
			}
			return
		case e.Kind == Uint && e.Size == 1:
			for i := range dst {
				dst[i] = float32(src[i])
			}
			return
		}
	}
	var wide [512]float64
	for len(dst) > 0 {
		n := min(len(wide), len(dst))
		e.decode64(wide[:n], src)
		if e.Slope != 0 {
			for i, x := range wide[:n] {
				wide[i] = e.Slope*x + e.Inter
			}
		}
		for i, x := range wide[:n] {
			dst[i] = float32(x)
		}
		dst, src = dst[n:], src[n*e.Size:]
	}
}

// decode64 converts little-endian elements to float64. An unknown combination cannot come from a file: readers choose
// elements from tables.
func (e Element) decode64(dst []float64, src []byte) {
	le := binary.LittleEndian
	switch [2]int{int(e.Kind), e.Size} {
	case [2]int{int(Bool), 1}:
		for i := range dst {
			dst[i] = float64(min(src[i], 1))
		}
	case [2]int{int(Uint), 1}:
		for i := range dst {
			dst[i] = float64(src[i])
		}
	case [2]int{int(Uint), 2}:
		for i := range dst {
			dst[i] = float64(le.Uint16(src[2*i:]))
		}
	case [2]int{int(Uint), 4}:
		for i := range dst {
			dst[i] = float64(le.Uint32(src[4*i:]))
		}
	case [2]int{int(Uint), 8}:
		for i := range dst {
			dst[i] = float64(le.Uint64(src[8*i:]))
		}
	case [2]int{int(Int), 1}:
		for i := range dst {
			dst[i] = float64(int8(src[i]))
		}
	case [2]int{int(Int), 2}:
		for i := range dst {
			dst[i] = float64(int16(le.Uint16(src[2*i:])))
		}
	case [2]int{int(Int), 4}:
		for i := range dst {
			dst[i] = float64(int32(le.Uint32(src[4*i:])))
		}
	case [2]int{int(Int), 8}:
		for i := range dst {
			dst[i] = float64(int64(le.Uint64(src[8*i:])))
		}
	case [2]int{int(Float), 2}:
		for i := range dst {
			dst[i] = half(le.Uint16(src[2*i:]))
		}
	case [2]int{int(Float), 4}:
		for i := range dst {
			dst[i] = float64(math.Float32frombits(le.Uint32(src[4*i:])))
		}
	case [2]int{int(Float), 8}:
		for i := range dst {
			dst[i] = math.Float64frombits(le.Uint64(src[8*i:]))
		}
	default:
		panic(fmt.Sprintf("array: element kind %d of %d bytes", e.Kind, e.Size))
	}
}

// half converts an IEEE 754 binary16 number.
func half(u uint16) float64 {
	exponent, fraction := int(u>>10&31), float64(u&1023)
	var x float64
	switch exponent {
	case 0:
		x = math.Ldexp(fraction, -24)
	case 31:
		x = math.Inf(1)
		if fraction != 0 {
			x = math.NaN()
		}
	default:
		x = math.Ldexp(1024+fraction, exponent-25)
	}
	if u>>15 != 0 {
		x = -x
	}
	return x
}

// Drain reads the rest of a compressed stream, which makes its decoder check the sum at the end. More than allowed bytes
// are an error: they are no part of the array that the header describes.
func Drain(r io.Reader, allowed int64) error {
	n, err := io.Copy(io.Discard, io.LimitReader(r, allowed+1))
	if err != nil {
		return fmt.Errorf("after the last voxel: %w", err)
	}
	if n > allowed {
		return fmt.Errorf("the stream goes on for more than %d bytes after the last voxel that its header describes", allowed)
	}
	return nil
}
