// Package op is the table of operations. A row has the facts of an operation: its name, the shapes it gives, its gradient, how it
// behaves under a reordering of axes and on slabs, its moves of elements, and its cost; the backends hold the kernels. To add an operation,
// add its row to a file here and to the list in that file, and go through the places that docs/architecture.md names under "To add
// something": a test fails for each that is forgotten, and names it.
//
// Images are channels-last, [N, D, H, W, C]. A convolution of one or two dimensions is one of three with sizes of 1.
package op

import (
	"fmt"
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/tensor"
)

// All lists the operations: those of the lists beside their rows. (Gradient rules that name other operations are set in init
// functions below their rows, since Go does not let package variables refer to each other in a circle.)
var All = slices.Concat(unaryOps, binaryOps, compareOps, maskOps, selectOps, convOps, poolOps, normOps, matMulOps, reduceOps, shapeOps, resizeOps)

// Named returns the operation of that name.
func Named(name string) (*ir.Op, bool) {
	op, ok := byName[name]
	return op, ok
}

var byName = map[string]*ir.Op{}

func init() {
	for _, o := range All {
		if byName[o.Name] != nil {
			panic("op: two operations are called " + o.Name)
		}
		byName[o.Name] = o
	}
}

// one wraps a shape rule with a single float32 output.
func one(rule func(attr any, in []ir.Type) (tensor.Shape, error)) func(any, []ir.Type) ([]ir.Type, error) {
	return func(attr any, in []ir.Type) ([]ir.Type, error) {
		s, err := rule(attr, in)
		if err != nil {
			return nil, err
		}
		return []ir.Type{{Shape: s}}, nil
	}
}

// like is the shape rule of an operation whose output looks like input i.
func like(i int) func(any, []ir.Type) ([]ir.Type, error) {
	return one(func(_ any, in []ir.Type) (tensor.Shape, error) { return in[i].Shape.Clone(), nil })
}

func samePermute(attr any, _ []int) any { return attr }

// position returns the new place of axis under perm.
func position(perm []int, axis int) int {
	for i, p := range perm {
		if p == axis {
			return i
		}
	}
	return -1
}

// Permuted returns s in another order: element i of the result is element perm[i] of s.
func Permuted(s, perm []int) []int {
	out := make([]int, len(perm))
	for i, p := range perm {
		out[i] = s[p]
	}
	return out
}

// SumTo emits the sum of v over the axes that were broadcast from shape: the gradient of a broadcast.
func SumTo(b *ir.Builder, v *ir.Value, shape tensor.Shape) *ir.Value {
	if v == nil || b.Err() != nil || v.Shape().Equal(shape) {
		return v
	}
	lead := len(v.Shape()) - len(shape)
	var axes []int
	for i, d := range v.Shape() {
		if i < lead || shape[i-lead] == 1 && d != 1 {
			axes = append(axes, i)
		}
	}
	if len(axes) > 0 {
		v = b.Emit(ReduceSum, ReduceAttr{Axes: axes}, v)
	}
	return reshape(b, v, shape)
}

func reshape(b *ir.Builder, v *ir.Value, shape tensor.Shape) *ir.Value {
	if b.Err() != nil || v.Shape().Equal(shape) {
		return v
	}
	return b.Emit(Reshape, ReshapeAttr{Shape: shape.Clone()}, v)
}

func wantRank(name string, t ir.Type, rank int) error {
	if len(t.Shape) != rank {
		return fmt.Errorf("%s of rank %d expected, not %v", name, rank, t.Shape)
	}
	return nil
}
