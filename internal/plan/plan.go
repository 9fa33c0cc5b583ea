// Package plan turns a graph into a static schedule with an offset for every buffer in one arena. A plan is data: a pure function
// of the graph, a budget and the costs of a device, without a clock. Its peak is known before anything runs, and an executor
// allocates nothing else for activations.
//
// Vocabulary. A value with depth is an image [1, D, H, W, C]; a plane is one of its D slices, a slab some planes in a row. A
// whole step computes all of a node; a slab step computes planes [Z0, Z1) of it; an accumulating step adds planes [Z0, Z1) of its
// inputs to the result of a reduction, which has no depth, and completes it with the last plane. A ring is a buffer for fewer planes than its value
// has: plane z is in place z modulo the number of places. A sweep is a run of slab and accumulating steps that goes once along
// depth. A value that is not saved in a buffer between sweeps is rematerialised (computed again) in each sweep that
// needs it.
//
// Invariants:
//
//	P1 two buffers whose lives overlap do not overlap in the arena
//	P2 a buffer lives from the first step that writes it (from before the first step, for inputs) to the last step that reads it
//	   (or to behind the last step, for outputs)
//	P3 a view shares the buffer of its source; an in-place step writes the buffer of its first input, which is not read there
//	   afterwards
//	P4 a plane that a step reads has been written and not yet been overwritten in the ring
//	P5 External buffers belong to the caller and take nothing of the arena
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
	Peak    int     // bytes of the arena
	Seconds float64 // estimate; 0 if it was not asked for
	Units   []Unit  // the parts of the schedule; nil for a plan of whole steps
	// Granularity is that of the device; see Costs.
	Granularity int
}

// Unit is a stretch of the schedule: a node as a whole, or a sweep along depth.
type Unit struct {
	First, Steps   int         // its steps
	Sweep          bool        // false: one node as a whole
	Nodes          []*ir.Node  // in order
	Rematerialised []*ir.Node  // those of them that an earlier unit has computed already
	Saved          []*ir.Value // values for later units
	RingBytes      int
	AliveBytes     int // of the values that are saved while it runs, its own included
	Seconds        float64
}

// Mode names the part of its node that a step computes.
type Mode uint8

const (
	Whole      Mode = iota // all of it
	Slab                   // planes [Z0, Z1) of the outputs with depth
	Accumulate             // planes [Z0, Z1) of the inputs with depth; the first has Z0 = 0, the last Z1 = D
)

// Step runs a node, or a part of it. Views (reshapes) have steps too, which do nothing when In[0] = Out[0].
type Step struct {
	Node   *ir.Node
	In     []int // buffer of each input, -1 for constants and absent ones
	Out    []int // buffer of each output
	Mode   Mode
	Z0, Z1 int // for Slab and Accumulate
}

// InPlace says that the first output is in the buffer of the first input.
func (s Step) InPlace() bool { return s.In[0] >= 0 && s.In[0] == s.Out[0] }

// Buffer is a place in the arena, and the values that live in it, one after the other.
type Buffer struct {
	Values []*ir.Value
	// Planes is 0 for a buffer that holds its values as whole tensors. Otherwise the values have depth, and the buffer has places
	// for that many planes, each of PlaneBytes; if that is the depth, it holds all of the value.
	Planes      int
	Offset      int // bytes from the start of the arena, a multiple of Align
	Bytes       int
	First, Last int // steps; -1 is before the first, len(Steps) behind the last
	External    bool
	// Doubled says that offset and bytes are multiples of the plan's granularity: the backend may map the ring twice, one behind the other.
	Doubled bool
}

// PlaneBytes returns the storage of one plane of a value with depth in a buffer of planes. Planes of bits begin at whole words.
func PlaneBytes(v *ir.Value) int {
	s := v.Shape()
	return v.Type.Elem.Bytes(s[2] * s[3] * s[4])
}

// BufferOf maps each value that a caller may touch, the graph's inputs and outputs, to its buffer.
func (p *Plan) BufferOf() map[*ir.Value]int {
	m := map[*ir.Value]int{}
	for i, b := range p.Buffers {
		for _, v := range b.Values {
			if _, ok := m[v]; !ok || b.Last == len(p.Steps) || b.First < 0 {
				m[v] = i
			}
		}
	}
	return m
}
