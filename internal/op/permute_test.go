package op_test

import (
	"context"
	"math"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/reference"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// permute reorders the axes of values: axis i of the result is axis perm[i] of x.
func permute(x []float64, s tensor.Shape, perm []int) []float64 {
	strides := s.Strides()
	out := make([]float64, 0, len(x))
	var walk func(axis, at int)
	walk = func(axis, at int) {
		if axis == len(perm) {
			out = append(out, x[at])
			return
		}
		for range s[perm[axis]] {
			walk(axis+1, at)
			at += strides[perm[axis]]
		}
	}
	walk(0, 0)
	return out
}

// perms are reorderings of that many axes: none, all turned round, one that is not its own inverse.
func perms(rank int) [][]int {
	same := make([]int, rank)
	for i := range same {
		same[i] = i
	}
	turned := slices.Clone(same)
	slices.Reverse(turned)
	if rank < 2 {
		return [][]int{same}
	}
	return [][]int{same, turned, append(slices.Clone(same[1:]), 0), append([]int{rank - 1}, same[:rank-1]...)}
}

// A rule for reordered axes gives the operation that computes the reordered output from the reordered inputs, on all cases of the
// backends' suite.
func TestPermute(t *testing.T) {
	tried := map[*ir.Op]bool{}
	for _, c := range backendtest.Cases() {
		s, err := c.Sample(5)
		if err != nil {
			t.Error(err)
			continue
		}
		values, err := reference.Eval(context.Background(), s.Graph, s.Data)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, n := range s.Graph.Nodes {
			rank := len(n.Out().Shape())
			if n.Op.Permute == nil {
				continue
			}
			for _, perm := range perms(rank) {
				checkPermuted(t, c.Name, n, values, perm)
			}
			tried[n.Op] = tried[n.Op] || rank > 2
		}
	}
	for _, o := range op.All {
		if o.Permute != nil && !tried[o] {
			t.Errorf("no case of %s can be reordered", o.Name)
		}
	}
}

func checkPermuted(t *testing.T, name string, n *ir.Node, values map[*ir.Value][]float64, perm []int) {
	t.Helper()
	g := &ir.Graph{}
	b := ir.NewBuilder(g)
	var inputs []*ir.Value
	var in [][]float64
	for _, v := range n.Inputs {
		x := values[v]
		if v.Const != nil {
			x = reference.Const(v.Const)
		}
		shape := v.Shape().Clone()
		for len(shape) < len(perm) { // which broadcasts
			shape = append(tensor.Shape{1}, shape...)
		}
		inputs = append(inputs, g.Input("", ir.Type{Shape: shape.Permute(perm), Elem: v.Type.Elem}))
		in = append(in, permute(x, shape, perm))
	}
	y := b.Emit(n.Op, n.Op.Permute(n.Attr, perm), inputs...)
	if err := b.Err(); err != nil {
		t.Errorf("%s, axes %v: %v", name, perm, err)
		return
	}
	got, err := reference.Node(y.Def, in)
	if err != nil {
		t.Errorf("%s, axes %v: %v", name, perm, err)
		return
	}
	want := permute(values[n.Out()], n.Out().Shape(), perm)
	if !y.Shape().Equal(n.Out().Shape().Permute(perm)) {
		t.Errorf("%s, axes %v: %v", name, perm, y.Shape())
		return
	}
	for i := range want {
		if d := math.Abs(got[i] - want[i]); d > 1e-12*(1+math.Abs(want[i])) {
			t.Errorf("%s, axes %v: value %d is %v, not %v", name, perm, i, got[i], want[i])
			return
		}
	}
}

// Inverse undoes a permutation.
func TestInverse(t *testing.T) {
	for _, perm := range append(perms(5), []int{2, 0, 3, 1}) {
		for i, p := range op.Inverse(perm) {
			if perm[p] != i {
				t.Errorf("%v: axis %d comes from %d", perm, i, p)
			}
		}
	}
}
