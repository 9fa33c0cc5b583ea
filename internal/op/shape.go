package op

import (
	"fmt"
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/tensor"
)

// ReshapeAttr is the new shape, without placeholders.
type ReshapeAttr struct{ Shape tensor.Shape }

// Reshape gives the same elements, in the same order, another shape.
var Reshape = &ir.Op{Name: "Reshape", MinIn: 1, MaxIn: 1, Attr: ReshapeAttr{}, Inputs: []string{"x"}, View: true,
	Infer: one(func(attr any, in []ir.Type) (tensor.Shape, error) {
		s := attr.(ReshapeAttr).Shape
		if s.Elements() != in[0].Shape.Elements() {
			return nil, fmt.Errorf("%v cannot become %v", in[0].Shape, s)
		}
		return s.Clone(), nil
	}),
	Slab: func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		x, y := n.Inputs[0].Shape(), n.Out().Shape()
		return z0, z1, len(x) == len(y) && x[0] == y[0] && x[1] == y[1]
	}}

// TransposeAttr orders the axes: axis i of the output is axis Perm[i] of the input.
type TransposeAttr struct{ Perm []int }

// Transpose reorders axes.
var Transpose = &ir.Op{Name: "Transpose", MinIn: 1, MaxIn: 1, Attr: TransposeAttr{}, Inputs: []string{"x"},
	Infer: one(func(attr any, in []ir.Type) (tensor.Shape, error) {
		perm, seen := attr.(TransposeAttr).Perm, map[int]bool{}
		for _, p := range perm {
			if p < 0 || p >= len(perm) || seen[p] {
				return nil, fmt.Errorf("%v is not a permutation", perm)
			}
			seen[p] = true
		}
		if len(perm) != len(in[0].Shape) {
			return nil, fmt.Errorf("permutation %v does not fit %v", perm, in[0].Shape)
		}
		return in[0].Shape.Permute(perm), nil
	}),
	Slab: func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		p := n.Attr.(TransposeAttr).Perm
		return z0, z1, p[0] == 0 && p[1] == 1
	}}

// Inverse returns the permutation that undoes perm.
func Inverse(perm []int) []int {
	out := make([]int, len(perm))
	for i, p := range perm {
		out[p] = i
	}
	return out
}

// ExpandAttr is the shape after broadcasting.
type ExpandAttr struct{ Shape tensor.Shape }

// Expand repeats axes of size 1.
var Expand = &ir.Op{Name: "Expand", MinIn: 1, MaxIn: 1, Attr: ExpandAttr{}, Inputs: []string{"x"},
	Infer: one(func(attr any, in []ir.Type) (tensor.Shape, error) {
		want := attr.(ExpandAttr).Shape
		s, err := tensor.Broadcast(in[0].Shape, want)
		if err == nil && !s.Equal(want) {
			err = fmt.Errorf("%v cannot expand to %v", in[0].Shape, want)
		}
		return s, err
	}),
	Permute:      func(attr any, perm []int) any { return ExpandAttr{Shape: Permuted(attr.(ExpandAttr).Shape, perm)} },
	AcrossPlanes: true, Slab: samePlanes,
	Separable: func(n *ir.Node) ir.Separable {
		x, y := n.Inputs[0].Shape(), n.Out().Shape()
		from := append(tensor.Shape(slices.Repeat([]int{1}, len(y)-len(x))), x...)
		return separable(from, len(y), func(axis int) ir.Taps {
			return ir.Copies(y[axis], func(i int) int { return i % from[axis] })
		})
	}}

// SliceAttr takes Count elements along every axis, from Start on in steps of Step (negative steps go back).
type SliceAttr struct{ Start, Step, Count []int }

// Slice takes a regular part of a tensor.
var Slice = &ir.Op{Name: "Slice", MinIn: 1, MaxIn: 1, Attr: SliceAttr{}, Inputs: []string{"x"},
	Infer: one(func(attr any, in []ir.Type) (tensor.Shape, error) {
		a, s := attr.(SliceAttr), in[0].Shape
		return tensor.Shape(a.Count).Clone(), a.check(s)
	}),
	Permute: func(attr any, perm []int) any {
		a := attr.(SliceAttr)
		return SliceAttr{Start: Permuted(a.Start, perm), Step: Permuted(a.Step, perm), Count: Permuted(a.Count, perm)}
	},
	AcrossPlanes: true,
	Slab: func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		a := n.Attr.(SliceAttr)
		return a.Start[1] + z0, a.Start[1] + z1, a.Step[1] == 1
	},
	Separable: func(n *ir.Node) ir.Separable {
		x := n.Inputs[0].Shape()
		return separable(x, len(x), n.Attr.(SliceAttr).taps)
	}}

func (a SliceAttr) taps(axis int) ir.Taps {
	return ir.Copies(a.Count[axis], func(i int) int { return a.Start[axis] + i*a.Step[axis] })
}

func (a SliceAttr) check(s tensor.Shape) error {
	if len(a.Start) != len(s) || len(a.Step) != len(s) || len(a.Count) != len(s) {
		return fmt.Errorf("slice %+v does not fit %v", a, s)
	}
	for i, d := range s {
		if last := a.Start[i] + (a.Count[i]-1)*a.Step[i]; a.Start[i] < 0 || a.Start[i] >= d || last < 0 || last >= d || a.Step[i] == 0 {
			return fmt.Errorf("slice %+v reaches outside %v along axis %d", a, s, i)
		}
	}
	return nil
}

// SliceBackwardAttr adds the shape that the slice was taken from.
type SliceBackwardAttr struct {
	Slice SliceAttr
	In    tensor.Shape
}

// SliceBackward puts dy back in the place of the slice, with zeros elsewhere.
var SliceBackward = &ir.Op{Name: "SliceBackward", MinIn: 1, MaxIn: 1, Attr: SliceBackwardAttr{}, Inputs: []string{"dy"}, NoGrad: "a gradient already",
	Infer: one(func(attr any, in []ir.Type) (tensor.Shape, error) {
		a := attr.(SliceBackwardAttr)
		if !in[0].Shape.Equal(a.Slice.Count) {
			return nil, fmt.Errorf("%v is not the slice %v", in[0].Shape, a.Slice.Count)
		}
		return a.In.Clone(), a.Slice.check(a.In)
	}),
	AcrossPlanes: true,
	Slab: func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		a := n.Attr.(SliceBackwardAttr).Slice
		lo, hi := clampPlanes(z0-a.Start[1], z1-a.Start[1], a.Count[1])
		return lo, hi, a.Step[1] == 1
	},
	Separable: func(n *ir.Node) ir.Separable {
		a := n.Attr.(SliceBackwardAttr)
		return separable(a.Slice.Count, len(a.In), func(axis int) ir.Taps { return a.Slice.taps(axis).Transposed(a.In[axis]) })
	}}

// ConcatAttr is the axis that grows.
type ConcatAttr struct{ Axis int }

// Concat joins tensors along an axis.
var Concat = &ir.Op{Name: "Concat", MinIn: 1, MaxIn: -1, Attr: ConcatAttr{}, Inputs: []string{"x"},
	Infer: one(func(attr any, in []ir.Type) (tensor.Shape, error) {
		axis, out := attr.(ConcatAttr).Axis, in[0].Shape.Clone()
		if axis < 0 || axis >= len(out) {
			return nil, fmt.Errorf("%v has no axis %d", out, axis)
		}
		for _, t := range in[1:] {
			if len(t.Shape) != len(out) {
				return nil, fmt.Errorf("%v and %v do not join", in[0].Shape, t.Shape)
			}
			for i, d := range t.Shape {
				if i != axis && d != out[i] {
					return nil, fmt.Errorf("%v and %v do not join along axis %d", in[0].Shape, t.Shape, axis)
				}
			}
			out[axis] += t.Shape[axis]
		}
		return out, nil
	}),
	Permute: func(attr any, perm []int) any { return ConcatAttr{Axis: position(perm, attr.(ConcatAttr).Axis)} },
	Slab:    func(n *ir.Node, _, z0, z1 int) (int, int, bool) { return z0, z1, n.Attr.(ConcatAttr).Axis != 1 }}

// PadAttr adds elements in front of and behind every axis; negative numbers remove them.
type PadAttr struct {
	Before, After []int
	Mode          string // PadConstant, PadReflect, PadEdge, PadWrap
	Value         float64
}

// Modes of padding, named as in ONNX.
const (
	PadConstant = "constant"
	PadReflect  = "reflect"
	PadEdge     = "edge"
	PadWrap     = "wrap"
)

// Source returns the index in an axis of size n that padded element i takes its value from, or -1 for the constant.
func (a PadAttr) Source(axis, i, n int) int {
	p := i - a.Before[axis]
	if p >= 0 && p < n {
		return p
	}
	switch a.Mode {
	case PadReflect:
		if n == 1 {
			return 0
		}
		p = ((p % (2*n - 2)) + 2*n - 2) % (2*n - 2)
		return min(p, 2*n-2-p)
	case PadEdge:
		return min(max(p, 0), n-1)
	case PadWrap:
		return ((p % n) + n) % n
	}
	return -1
}

// taps returns the taps of an axis of n elements.
func (a PadAttr) taps(axis, n int) ir.Taps {
	return ir.Copies(n+a.Before[axis]+a.After[axis], func(i int) int { return a.Source(axis, i, n) })
}

func (a PadAttr) shape(s tensor.Shape) (tensor.Shape, error) {
	if len(a.Before) != len(s) || len(a.After) != len(s) {
		return nil, fmt.Errorf("padding %v, %v does not fit %v", a.Before, a.After, s)
	}
	out := s.Clone()
	for i := range out {
		out[i] += a.Before[i] + a.After[i]
	}
	return out, out.Check()
}

// Pad surrounds a tensor.
var Pad = &ir.Op{Name: "Pad", MinIn: 1, MaxIn: 1, Attr: PadAttr{}, Inputs: []string{"x"},
	Infer: one(func(attr any, in []ir.Type) (tensor.Shape, error) { return attr.(PadAttr).shape(in[0].Shape) }),
	Permute: func(attr any, perm []int) any {
		a := attr.(PadAttr)
		a.Before, a.After = Permuted(a.Before, perm), Permuted(a.After, perm)
		return a
	},
	AcrossPlanes: true,
	Slab: func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		a := n.Attr.(PadAttr)
		lo, hi := clampPlanes(z0-a.Before[1], z1-a.Before[1], n.Inputs[0].Shape()[1])
		return lo, hi, a.Mode == PadConstant || a.Before[1] == 0 && a.After[1] == 0
	},
	Separable: func(n *ir.Node) ir.Separable {
		a, x := n.Attr.(PadAttr), n.Inputs[0].Shape()
		s := separable(x, len(x), func(axis int) ir.Taps { return a.taps(axis, x[axis]) })
		s.Fill = a.Value
		return s
	}}

// PadBackwardAttr adds the shape before padding.
type PadBackwardAttr struct {
	Pad PadAttr
	In  tensor.Shape
}

// PadBackward sums dy into the elements that it was copied from.
var PadBackward = &ir.Op{Name: "PadBackward", MinIn: 1, MaxIn: 1, Attr: PadBackwardAttr{}, Inputs: []string{"dy"}, NoGrad: "a gradient already",
	Infer: one(func(attr any, in []ir.Type) (tensor.Shape, error) {
		a := attr.(PadBackwardAttr)
		s, err := a.Pad.shape(a.In)
		if err == nil && !s.Equal(in[0].Shape) {
			err = fmt.Errorf("%v is not padded %v", in[0].Shape, a.In)
		}
		return a.In.Clone(), err
	}),
	AcrossPlanes: true,
	Slab: func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		a := n.Attr.(PadBackwardAttr).Pad
		lo, hi := clampPlanes(z0+a.Before[1], z1+a.Before[1], n.Inputs[0].Shape()[1])
		return lo, hi, a.Mode == PadConstant || a.Before[1] == 0 && a.After[1] == 0
	},
	Separable: func(n *ir.Node) ir.Separable {
		a := n.Attr.(PadBackwardAttr)
		return separable(n.Inputs[0].Shape(), len(a.In), func(axis int) ir.Taps { return a.Pad.taps(axis, a.In[axis]).Transposed(a.In[axis]) })
	}}

// GatherAttr takes the listed indices along an axis.
type GatherAttr struct {
	Axis  int
	Index []int
}

// Gather takes elements along an axis; the axis becomes as long as the list.
var Gather = &ir.Op{Name: "Gather", MinIn: 1, MaxIn: 1, Attr: GatherAttr{}, Inputs: []string{"x"},
	Infer: one(func(attr any, in []ir.Type) (tensor.Shape, error) {
		a, s := attr.(GatherAttr), in[0].Shape.Clone()
		if a.Axis < 0 || a.Axis >= len(s) {
			return nil, fmt.Errorf("%v has no axis %d", s, a.Axis)
		}
		for _, i := range a.Index {
			if i < 0 || i >= s[a.Axis] {
				return nil, fmt.Errorf("index %d is outside axis %d of %v", i, a.Axis, s)
			}
		}
		s[a.Axis] = len(a.Index)
		return s, nil
	}),
	Permute: func(attr any, perm []int) any {
		a := attr.(GatherAttr)
		a.Axis = position(perm, a.Axis)
		return a
	},
	AcrossPlanes: true,
	Slab:         func(n *ir.Node, _, z0, z1 int) (int, int, bool) { return z0, z1, n.Attr.(GatherAttr).Axis != 1 },
	Separable: func(n *ir.Node) ir.Separable {
		x := n.Inputs[0].Shape()
		return separable(x, len(x), func(axis int) ir.Taps { return n.Attr.(GatherAttr).taps(axis, x[axis]) })
	}}

// taps returns the taps of an axis of n elements.
func (a GatherAttr) taps(axis, n int) ir.Taps {
	if axis != a.Axis {
		return ir.Unchanged(n)
	}
	return ir.Copies(len(a.Index), func(i int) int { return a.Index[i] })
}

// GatherBackwardAttr adds the size of the axis that was gathered from.
type GatherBackwardAttr struct {
	Gather GatherAttr
	Size   int
}

// GatherBackward adds dy to the elements that it was taken from.
var GatherBackward = &ir.Op{Name: "GatherBackward", MinIn: 1, MaxIn: 1, Attr: GatherBackwardAttr{}, Inputs: []string{"dy"}, NoGrad: "a gradient already",
	Infer: one(func(attr any, in []ir.Type) (tensor.Shape, error) {
		a, s := attr.(GatherBackwardAttr), in[0].Shape.Clone()
		if a.Gather.Axis < 0 || a.Gather.Axis >= len(s) || s[a.Gather.Axis] != len(a.Gather.Index) {
			return nil, fmt.Errorf("%v was not gathered along axis %d", s, a.Gather.Axis)
		}
		s[a.Gather.Axis] = a.Size
		return s, nil
	}),
	AcrossPlanes: true,
	Slab: func(n *ir.Node, _, z0, z1 int) (int, int, bool) {
		return z0, z1, n.Attr.(GatherBackwardAttr).Gather.Axis != 1
	},
	Separable: func(n *ir.Node) ir.Separable {
		a, x := n.Attr.(GatherBackwardAttr), n.Out().Shape()
		return separable(n.Inputs[0].Shape(), len(x), func(axis int) ir.Taps { return a.Gather.taps(axis, x[axis]).Transposed(x[axis]) })
	}}

var shapeOps = []*ir.Op{Reshape, Transpose, Expand, Slice, SliceBackward, Concat, Pad, PadBackward, Gather, GatherBackward}

// separable returns an operation from an input of the given shape to an output with that number of axes, and the taps of each.
func separable(from tensor.Shape, axes int, taps func(axis int) ir.Taps) ir.Separable {
	s := ir.Separable{From: from, Taps: make([]ir.Taps, axes)}
	for axis := range s.Taps {
		s.Taps[axis] = taps(axis)
	}
	return s
}

func init() {
	Reshape.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, _ []bool) []*ir.Value {
		return []*ir.Value{reshape(b, dy[0], n.Inputs[0].Shape())}
	}
	Transpose.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, _ []bool) []*ir.Value {
		return []*ir.Value{b.Emit(Transpose, TransposeAttr{Perm: Inverse(n.Attr.(TransposeAttr).Perm)}, dy[0])}
	}
	Expand.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, _ []bool) []*ir.Value {
		return []*ir.Value{SumTo(b, dy[0], n.Inputs[0].Shape())}
	}
	Slice.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, _ []bool) []*ir.Value {
		a := SliceBackwardAttr{Slice: n.Attr.(SliceAttr), In: n.Inputs[0].Shape().Clone()}
		return []*ir.Value{b.Emit(SliceBackward, a, dy[0])}
	}
	Concat.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, want []bool) []*ir.Value {
		out := make([]*ir.Value, len(n.Inputs))
		axis, at := n.Attr.(ConcatAttr).Axis, 0
		for i, x := range n.Inputs {
			s := x.Shape()
			if want[i] {
				a := SliceAttr{Start: make([]int, len(s)), Step: make([]int, len(s)), Count: s.Clone()}
				for j := range a.Step {
					a.Step[j] = 1
				}
				a.Start[axis] = at
				out[i] = b.Emit(Slice, a, dy[0])
			}
			at += s[axis]
		}
		return out
	}
	Pad.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, _ []bool) []*ir.Value {
		a := PadBackwardAttr{Pad: n.Attr.(PadAttr), In: n.Inputs[0].Shape().Clone()}
		return []*ir.Value{b.Emit(PadBackward, a, dy[0])}
	}
	Gather.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, _ []bool) []*ir.Value {
		g := n.Attr.(GatherAttr)
		return []*ir.Value{b.Emit(GatherBackward, GatherBackwardAttr{Gather: g, Size: n.Inputs[0].Shape()[g.Axis]}, dy[0])}
	}
}
