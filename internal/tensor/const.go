package tensor

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Elem is the storage type of constant data, as files know it.
type Elem uint8

const (
	F32 Elem = iota
	F16
	BF16
	F64
	I64
	I32
	I16
	I8
	U64
	U32
	U16
	U8
	Bool
)

var elems = [...]struct {
	name  string
	bytes int
	at    func(b []byte, i int) float64
}{
	F32: {"float32", 4, func(b []byte, i int) float64 {
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])))
	}},
	F16: {"float16", 2, func(b []byte, i int) float64 { return float64(HalfToFloat(binary.LittleEndian.Uint16(b[2*i:]))) }},
	BF16: {"bfloat16", 2, func(b []byte, i int) float64 {
		return float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(b[2*i:])) << 16))
	}},
	F64: {"float64", 8, func(b []byte, i int) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:])) }},
	I64: {"int64", 8, func(b []byte, i int) float64 { return float64(int64(binary.LittleEndian.Uint64(b[8*i:]))) }},
	I32: {"int32", 4, func(b []byte, i int) float64 { return float64(int32(binary.LittleEndian.Uint32(b[4*i:]))) }},
	I16: {"int16", 2, func(b []byte, i int) float64 { return float64(int16(binary.LittleEndian.Uint16(b[2*i:]))) }},
	I8:  {"int8", 1, func(b []byte, i int) float64 { return float64(int8(b[i])) }},
	U64: {"uint64", 8, func(b []byte, i int) float64 { return float64(binary.LittleEndian.Uint64(b[8*i:])) }},
	U32: {"uint32", 4, func(b []byte, i int) float64 { return float64(binary.LittleEndian.Uint32(b[4*i:])) }},
	U16: {"uint16", 2, func(b []byte, i int) float64 { return float64(binary.LittleEndian.Uint16(b[2*i:])) }},
	U8:  {"uint8", 1, func(b []byte, i int) float64 { return float64(b[i]) }},
	Bool: {"bool", 1, func(b []byte, i int) float64 {
		if b[i] != 0 {
			return 1
		}
		return 0
	}},
}

func (e Elem) String() string { return elems[e].name }

// Bytes is the size of one element.
func (e Elem) Bytes() int { return elems[e].bytes }

// Integer reports whether values of the type are whole numbers (bool included).
func (e Elem) Integer() bool { return e >= I64 }

// Const is constant data: bytes that are decoded on use, in memory or in a file, or float32 values.
type Const struct {
	elem   Elem
	raw    []byte // little endian, elem.Bytes() each; nil when far or floats is set
	far    *far
	floats []float32
	rows   []float32 // factor for each of len(rows) equal parts, nil for none
}

// far is raw data in a file. They are read when they are used, and kept until they are forgotten.
type far struct {
	bytes int
	read  func([]byte)
	held  atomic.Pointer[[]byte]
	mu    sync.Mutex // guards reading
}

func (f *far) get() []byte {
	if b := f.held.Load(); b != nil {
		return *b
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if b := f.held.Load(); b != nil {
		return *b
	}
	b := make([]byte, f.bytes)
	f.read(b)
	f.held.Store(&b)
	return b
}

// Far makes a constant of n elements stored little endian in a file, from where read fills a slice of their bytes when they are used. If it
// cannot, it leaves zeros and must remember the error: users of the constant ask for it before they use a result.
func Far(elem Elem, n int, read func([]byte)) *Const {
	return &Const{elem: elem, far: &far{bytes: n * elem.Bytes(), read: read}}
}

// Forget gives back the memory of data that are in a file, until they are read again. It does nothing to others.
func (c *Const) Forget() {
	if c.far != nil {
		c.far.held.Store(nil)
	}
}

// bytes are the raw data; nil where values are set instead.
func (c *Const) bytes() []byte {
	if c.far != nil {
		return c.far.get()
	}
	return c.raw
}

// ScaleRows returns the constant whose len(factors) equal parts are multiplied by the factors, without storage of its own.
func (c *Const) ScaleRows(factors []float32) *Const {
	if c.rows != nil {
		c = Floats(c.Float32s())
	}
	return &Const{elem: c.elem, raw: c.raw, far: c.far, floats: c.floats, rows: factors}
}

// Floats makes a constant of values, which it keeps.
func Floats(values []float32) *Const { return &Const{elem: F32, floats: values} }

// Raw makes a constant of n elements stored little endian in b, which it keeps. It is an error when the sizes disagree.
func Raw(elem Elem, b []byte, n int) (*Const, error) {
	if n < 0 || n > MaxElements || len(b) != n*elem.Bytes() {
		return nil, fmt.Errorf("%d elements of %v take %d bytes, not %d", n, elem, n*elem.Bytes(), len(b))
	}
	return &Const{elem: elem, raw: b}, nil
}

// Elem is the storage type.
func (c *Const) Elem() Elem { return c.elem }

// Len is the number of elements.
func (c *Const) Len() int {
	switch {
	case c.far != nil:
		return c.far.bytes / c.elem.Bytes()
	case c.raw != nil:
		return len(c.raw) / c.elem.Bytes()
	}
	return len(c.floats)
}

// At returns element i.
func (c *Const) At(i int) float64 {
	if c.rows != nil {
		return float64(float32(c.stored(i)) * c.rows[i*len(c.rows)/c.Len()])
	}
	return c.stored(i)
}

func (c *Const) stored(i int) float64 {
	if b := c.bytes(); b != nil {
		return elems[c.elem].at(b, i)
	}
	return float64(c.floats[i])
}

// Int returns element i of an integer constant exactly.
func (c *Const) Int(i int) int64 {
	if b := c.bytes(); c.elem == I64 && b != nil {
		return int64(binary.LittleEndian.Uint64(b[8*i:]))
	}
	return int64(c.At(i))
}

// Float32s returns all elements. The slice may refer to the constant's own storage and must not be written to.
func (c *Const) Float32s() []float32 {
	n, raw := c.Len(), c.bytes()
	if raw == nil && c.rows == nil {
		return c.floats
	}
	if n == 0 {
		return nil
	}
	if p := unsafe.Pointer(unsafe.SliceData(raw)); c.rows == nil && c.elem == F32 && littleEndian && uintptr(p)%4 == 0 {
		return unsafe.Slice((*float32)(p), n)
	}
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(c.At(i))
	}
	return out
}

// Stored returns the bytes of a float32 constant as they are stored, little endian; ok is false where elements must be decoded.
func (c *Const) Stored() (b []byte, ok bool) {
	if c.elem != F32 || c.rows != nil {
		return nil, false
	}
	b = c.bytes()
	return b, b != nil
}

// Splat reports whether all elements are equal, and their value.
func (c *Const) Splat() (float64, bool) {
	if c.Len() == 0 {
		return 0, false
	}
	v := c.At(0)
	for i := 1; i < c.Len(); i++ {
		if c.At(i) != v {
			return 0, false
		}
	}
	return v, true
}

var littleEndian = func() bool {
	one := uint16(1)
	return *(*byte)(unsafe.Pointer(&one)) == 1
}()

// HalfToFloat converts IEEE 754 binary16 to float32, subnormals and infinities included.
func HalfToFloat(h uint16) float32 {
	sign, exponent, fraction := uint32(h>>15)<<31, uint32(h>>10&31), uint32(h&1023)
	switch exponent {
	case 0:
		v := float32(fraction) / (1 << 24)
		if sign != 0 {
			v = -v
		}
		return v
	case 31:
		return math.Float32frombits(sign | 0x7f800000 | fraction<<13)
	}
	return math.Float32frombits(sign | (exponent+112)<<23 | fraction<<13)
}
