package ir

import (
	"slices"

	"github.com/voxcam/voxcam/internal/tensor"
)

// Tap is one term of a sum: Weight times the element at Index of an axis.
type Tap struct {
	Index  int
	Weight float64
}

// Taps are, for each position of the output along one axis, the terms that it is the sum of; no terms are an empty position.
type Taps [][]Tap

// Separable is an operation that moves elements along each axis by itself, as slices, padding and resizing do: an element of the output is
// the sum over all combinations of its axes' taps, with the product of their weights.
type Separable struct {
	From tensor.Shape // the input's, of the output's rank
	Taps []Taps       // of each axis of the output
	Fill float64      // for elements that have an empty position
}

// Copies returns the taps of n positions that are copies; source gives where from, and a negative number for an empty position.
func Copies(n int, source func(i int) int) Taps {
	t := make(Taps, n)
	for i := range t {
		if from := source(i); from >= 0 {
			t[i] = []Tap{{Index: from, Weight: 1}}
		}
	}
	return t
}

// Unchanged returns the taps of an axis of n positions that stays as it is.
func Unchanged(n int) Taps { return Copies(n, func(i int) int { return i }) }

// Transposed returns the same relation seen from the input, with an axis of n positions: the taps of the gradient.
func (t Taps) Transposed(n int) Taps {
	out := make(Taps, n)
	for to, terms := range t {
		for _, tap := range terms {
			out[tap.Index] = append(out[tap.Index], Tap{Index: to, Weight: tap.Weight})
		}
	}
	return out
}

// AreCopies reports whether every position is a copy of one position, or empty.
func (t Taps) AreCopies() bool {
	return !slices.ContainsFunc(t, func(terms []Tap) bool { return len(terms) > 1 || len(terms) == 1 && terms[0].Weight != 1 })
}

// AreIdentity reports whether an axis of n positions stays as it is.
func (t Taps) AreIdentity(n int) bool {
	if len(t) != n || !t.AreCopies() {
		return false
	}
	for i, terms := range t {
		if len(terms) != 1 || terms[0].Index != i {
			return false
		}
	}
	return true
}
