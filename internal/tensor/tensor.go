// Package tensor has the types that every layer of the program agrees on: shapes, element types and constant data.
package tensor

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Shape is the size of each axis, outermost first. A scalar has no axes.
type Shape []int

// Elements is the number of elements, 1 for a scalar.
func (s Shape) Elements() int {
	n := 1
	for _, d := range s {
		n *= d
	}
	return n
}

// Equal reports whether two shapes have the same axes.
func (s Shape) Equal(t Shape) bool { return slices.Equal(s, t) }

// Clone returns a copy that shares nothing with s.
func (s Shape) Clone() Shape { return slices.Clone(s) }

// Strides returns the row-major distance, in elements, between neighbours along each axis.
func (s Shape) Strides() []int {
	strides := make([]int, len(s))
	n := 1
	for i := len(s) - 1; i >= 0; i-- {
		strides[i] = n
		n *= s[i]
	}
	return strides
}

// Permute returns the shape whose axis i is axis perm[i] of s.
func (s Shape) Permute(perm []int) Shape {
	out := make(Shape, len(perm))
	for i, p := range perm {
		out[i] = s[p]
	}
	return out
}

func (s Shape) String() string {
	parts := make([]string, len(s))
	for i, d := range s {
		parts[i] = strconv.Itoa(d)
	}
	return "[" + strings.Join(parts, ",") + "]"
}

// MaxElements bounds a tensor: sizes multiply to at most this, so that byte counts never overflow.
const MaxElements = math.MaxInt / 64

// Check reports the first axis that is not positive, or a product that cannot be addressed.
func (s Shape) Check() error {
	n := 1
	for i, d := range s {
		if d <= 0 {
			return fmt.Errorf("axis %d of shape %v has size %d", i, s, d)
		}
		if n > MaxElements/d {
			return fmt.Errorf("shape %v has too many elements", s)
		}
		n *= d
	}
	return nil
}

// Broadcast returns the shape of an elementwise operation on a and b by the rules of NumPy: axes are aligned at the
// innermost one, and an axis of size 1 stretches.
func Broadcast(a, b Shape) (Shape, error) {
	out := make(Shape, max(len(a), len(b)))
	for i := range out {
		x, y := axisFromEnd(a, len(out)-i), axisFromEnd(b, len(out)-i)
		switch {
		case x == y || y == 1:
			out[i] = x
		case x == 1:
			out[i] = y
		default:
			return nil, fmt.Errorf("shapes %v and %v do not broadcast", a, b)
		}
	}
	return out, nil
}

func axisFromEnd(s Shape, i int) int {
	if i > len(s) {
		return 1
	}
	return s[len(s)-i]
}

// Type is the element type of a value inside the engine.
type Type uint8

const (
	Float32 Type = iota // activations and gradients
	Bit                 // one bit an element, packed least significant first; the sign of an activation
	Uint8               // position in a pooling window of at most 256 taps
	Uint16              // position in a larger pooling window
)

var typeNames = [...]string{Float32: "f32", Bit: "bit", Uint8: "u8", Uint16: "u16"}

func (t Type) String() string { return typeNames[t] }

// ParseType is the inverse of Type.String.
func ParseType(s string) (Type, error) {
	i := slices.Index(typeNames[:], s)
	if i < 0 {
		return 0, fmt.Errorf("unknown element type %q", s)
	}
	return Type(i), nil
}

// Bytes is the storage of n elements. Bits are padded to whole 64-bit words.
func (t Type) Bytes(n int) int {
	switch t {
	case Bit:
		return (n + 63) / 64 * 8
	case Uint8:
		return n
	case Uint16:
		return 2 * n
	}
	return 4 * n
}
