// Package plan turns a graph into a schedule with an offset for every buffer in one arena. A plan is data: a pure function
// of the graph, without a device and without a clock. Its peak is known before anything runs, and an executor allocates
// nothing else for activations.
//
// Invariants:
//
//	P1 two buffers whose lives overlap do not overlap in the arena
//	P2 a buffer lives from the step that writes it (or before the first step, for inputs) to the last step that reads it
//	   (or behind the last step, for outputs)
//	P3 a view shares the buffer of its source; an in-place step shares the buffer of its first input, which dies there
package plan

import (
	"github.com/voxcam/voxcam/internal/ir"
)

// Align is the alignment of buffers in bytes.
const Align = 64

// Plan is a static schedule.
type Plan struct {
	Graph   *ir.Graph
	Steps   []Step
	Buffers []Buffer
	Peak    int // bytes of the arena
}

// Step runs one node. Views (reshapes) have steps too, which do nothing.
type Step struct {
	Node *ir.Node
	// InPlace says that the first output is in the buffer of the first input.
	InPlace bool
}

// Buffer is a place in the arena and the values that live in it, one after the other.
type Buffer struct {
	Values      []*ir.Value
	Offset      int // bytes from the start of the arena, a multiple of Align
	Bytes       int
	First, Last int // steps; -1 is before the first, len(Steps) behind the last
}

// BufferOf maps each value that is not a constant to its buffer's index.
func (p *Plan) BufferOf() map[*ir.Value]int {
	m := map[*ir.Value]int{}
	for i, b := range p.Buffers {
		for _, v := range b.Values {
			m[v] = i
		}
	}
	return m
}
