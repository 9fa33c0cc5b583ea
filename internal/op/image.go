package op

import (
	"slices"

	"github.com/voxcam/voxcam/internal/tensor"
)

// Images: how axes in the order of a file, channels first and one to three axes of space, become those of the operations on
// images, [N, D, H, W, C].

// MaxChannels is the most channels that parameters are listed for, one number each.
const MaxChannels = 1 << 24

// ChannelsLast returns the permutation that moves axis 1 of a tensor of the given rank to the end: [N, C, D, H, W] to [N, D, H, W, C].
func ChannelsLast(rank int) []int {
	perm := []int{0}
	for a := 2; a < rank; a++ {
		perm = append(perm, a)
	}
	return append(perm, 1)
}

// Widened returns a shape with axes of 1 inserted at position at, until its rank is 5.
func Widened(s tensor.Shape, at int) tensor.Shape {
	return slices.Insert(s.Clone(), at, slices.Repeat([]int{1}, 5-len(s))...)
}

// DHW spreads values along one to three axes of space over depth, height and width; the first axes get missing.
func DHW(values []int, missing int) [3]int {
	out := [3]int{missing, missing, missing}
	for i, v := range values {
		out[3-len(values)+i] = v
	}
	return out
}
