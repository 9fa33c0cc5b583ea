package op

import (
	"fmt"
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/tensor"
)

// ReduceAttr lists the axes that are reduced to size 1, in ascending order.
type ReduceAttr struct{ Axes []int }

func reduceShape(attr any, in []ir.Type) (tensor.Shape, error) {
	axes, s := attr.(ReduceAttr).Axes, in[0].Shape.Clone()
	if !slices.IsSorted(axes) {
		return nil, fmt.Errorf("axes %v are not in order", axes)
	}
	for _, a := range axes {
		if a < 0 || a >= len(s) {
			return nil, fmt.Errorf("%v has no axis %d", s, a)
		}
		s[a] = 1
	}
	return s, nil
}

func reducePermute(attr any, perm []int) any {
	var axes []int
	for _, a := range attr.(ReduceAttr).Axes {
		axes = append(axes, position(perm, a))
	}
	slices.Sort(axes)
	return ReduceAttr{Axes: axes}
}

var (
	// ReduceSum is the sum over axes.
	ReduceSum = &ir.Op{Name: "ReduceSum", MinIn: 1, MaxIn: 1, Attr: ReduceAttr{}, Inputs: []string{"x"}, Infer: one(reduceShape),
		Permute: reducePermute, Slab: reduceSlab, Accumulates: reducesDepth}
	// ReduceMean is the mean over axes.
	ReduceMean = &ir.Op{Name: "ReduceMean", MinIn: 1, MaxIn: 1, Attr: ReduceAttr{}, Inputs: []string{"x"}, Infer: one(reduceShape),
		Permute: reducePermute, Slab: reduceSlab, Accumulates: reducesDepth}
	// ReduceMax is the maximum over axes; equal maxima share the gradient.
	ReduceMax = &ir.Op{Name: "ReduceMax", MinIn: 1, MaxIn: 1, Attr: ReduceAttr{}, Inputs: []string{"x"}, Infer: one(reduceShape),
		Permute: reducePermute, Slab: reduceSlab, Accumulates: reducesDepth}
)

var reduceOps = []*ir.Op{ReduceSum, ReduceMean, ReduceMax}

func reduceSlab(n *ir.Node, _, z0, z1 int) (int, int, bool) {
	return z0, z1, !slices.Contains(n.Attr.(ReduceAttr).Axes, 1)
}

func reducesDepth(n *ir.Node) bool {
	return slices.Contains(n.Attr.(ReduceAttr).Axes, 1) && deepInput(n)
}

func init() {
	ReduceSum.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, _ []bool) []*ir.Value {
		return []*ir.Value{expand(b, dy[0], n.Inputs[0].Shape())}
	}
	ReduceMean.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, _ []bool) []*ir.Value {
		x, y := n.Inputs[0].Shape(), n.Out().Shape()
		return []*ir.Value{expand(b, Scale(b, dy[0], float64(y.Elements())/float64(x.Elements())), x)}
	}
	ReduceMax.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, _ []bool) []*ir.Value {
		is := b.Emit(BinaryOp("Equal"), nil, n.Inputs[0], n.Out())
		count := b.Emit(ReduceSum, n.Attr, is)
		return []*ir.Value{b.Emit(BinaryOp("Mul"), nil, is, b.Emit(BinaryOp("Div"), nil, dy[0], count))}
	}
}

func expand(b *ir.Builder, v *ir.Value, shape tensor.Shape) *ir.Value {
	if b.Err() != nil || v.Shape().Equal(shape) {
		return v
	}
	return b.Emit(Expand, ExpandAttr{Shape: shape.Clone()}, v)
}
