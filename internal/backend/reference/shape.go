package reference

import (
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// shapeKernels is the part of kernels whose functions are in this file.
var shapeKernels = map[*ir.Op]kernel{
	op.MatMul:         matMul,
	op.Reshape:        reshape,
	op.Transpose:      transpose,
	op.Expand:         expand,
	op.Slice:          slice,
	op.SliceBackward:  sliceBackward,
	op.Concat:         join,
	op.Pad:            pad,
	op.PadBackward:    padBackward,
	op.Gather:         gather,
	op.GatherBackward: gatherBackward,
	op.Resize:         resize,
	op.ResizeBackward: resizeBackward,
}

func matMul(n *ir.Node, in [][]float64) ([]float64, error) {
	t, a, b, s := n.Attr.(op.MatMulAttr), shapeOf(n, 0), shapeOf(n, 1), n.Out().Shape()
	depth := a[len(a)-1]
	if t.TransA {
		depth = a[len(a)-2]
	}
	out := make([]float64, s.Elements())
	each(s, func(flat int, index []int) {
		lead, row, column := index[:len(s)-2], index[len(s)-2], index[len(s)-1]
		left, right := at(a[:len(a)-2], lead)*a[len(a)-2]*a[len(a)-1], at(b[:len(b)-2], lead)*b[len(b)-2]*b[len(b)-1]
		for k := range depth {
			out[flat] += in[0][left+element(a, row, k, t.TransA)] * in[1][right+element(b, k, column, t.TransB)]
		}
	})
	return out, nil
}

// element returns the position of (row, column) in a matrix of the last two axes of s.
func element(s tensor.Shape, row, column int, transposed bool) int {
	if transposed {
		row, column = column, row
	}
	return row*s[len(s)-1] + column
}

func reshape(_ *ir.Node, in [][]float64) ([]float64, error) { return in[0], nil }

// moved fills the output with the input elements that source names (-1 for fill).
func moved(n *ir.Node, x []float64, fill float64, source func(index []int) int) ([]float64, error) {
	s := n.Out().Shape()
	out := make([]float64, s.Elements())
	each(s, func(flat int, index []int) {
		out[flat] = fill
		if from := source(index); from >= 0 {
			out[flat] = x[from]
		}
	})
	return out, nil
}

// added adds each input element to the output element that target names (-1 for none): the transpose of moved.
func added(n *ir.Node, dy []float64, target func(index []int) int) ([]float64, error) {
	out := make([]float64, n.Out().Shape().Elements())
	each(shapeOf(n, 0), func(flat int, index []int) {
		if to := target(index); to >= 0 {
			out[to] += dy[flat]
		}
	})
	return out, nil
}

func transpose(n *ir.Node, in [][]float64) ([]float64, error) {
	x, perm := shapeOf(n, 0), n.Attr.(op.TransposeAttr).Perm
	from := make([]int, len(perm))
	return moved(n, in[0], 0, func(index []int) int {
		for i, p := range perm {
			from[p] = index[i]
		}
		return at(x, from)
	})
}

func expand(n *ir.Node, in [][]float64) ([]float64, error) {
	return moved(n, in[0], 0, func(index []int) int { return at(shapeOf(n, 0), index) })
}

// taken returns the function from an index of a slice to the position in a tensor of shape s that it is taken from.
func taken(a op.SliceAttr, s tensor.Shape) func(index []int) int {
	from := make([]int, len(s))
	return func(index []int) int {
		for i := range from {
			from[i] = a.Start[i] + a.Step[i]*index[i]
		}
		return at(s, from)
	}
}

func slice(n *ir.Node, in [][]float64) ([]float64, error) {
	return moved(n, in[0], 0, taken(n.Attr.(op.SliceAttr), shapeOf(n, 0)))
}

func sliceBackward(n *ir.Node, in [][]float64) ([]float64, error) {
	a := n.Attr.(op.SliceBackwardAttr)
	return added(n, in[0], taken(a.Slice, a.In))
}

func join(n *ir.Node, in [][]float64) ([]float64, error) {
	axis, s := n.Attr.(op.ConcatAttr).Axis, n.Out().Shape()
	out, start := make([]float64, s.Elements()), 0
	for i, x := range in {
		part, to := shapeOf(n, i), make([]int, len(s))
		each(part, func(flat int, index []int) {
			copy(to, index)
			to[axis] += start
			out[at(s, to)] = x[flat]
		})
		start += part[axis]
	}
	return out, nil
}

// padded returns the function from an index of a padded tensor to the position in a tensor of shape s that it comes from, or -1.
func padded(a op.PadAttr, s tensor.Shape) func(index []int) int {
	from := make([]int, len(s))
	return func(index []int) int {
		for i := range from {
			if from[i] = a.Source(i, index[i], s[i]); from[i] < 0 {
				return -1
			}
		}
		return at(s, from)
	}
}

func pad(n *ir.Node, in [][]float64) ([]float64, error) {
	a := n.Attr.(op.PadAttr)
	return moved(n, in[0], a.Value, padded(a, shapeOf(n, 0)))
}

func padBackward(n *ir.Node, in [][]float64) ([]float64, error) {
	a := n.Attr.(op.PadBackwardAttr)
	return added(n, in[0], padded(a.Pad, a.In))
}

// gathered returns the function from an index of a gathered tensor to the position in a tensor of shape s that it comes from.
func gathered(a op.GatherAttr, s tensor.Shape) func(index []int) int {
	from := make([]int, len(s))
	return func(index []int) int {
		copy(from, index)
		from[a.Axis] = a.Index[index[a.Axis]]
		return at(s, from)
	}
}

func gather(n *ir.Node, in [][]float64) ([]float64, error) {
	return moved(n, in[0], 0, gathered(n.Attr.(op.GatherAttr), shapeOf(n, 0)))
}

func gatherBackward(n *ir.Node, in [][]float64) ([]float64, error) {
	return added(n, in[0], gathered(n.Attr.(op.GatherBackwardAttr).Gather, n.Out().Shape()))
}

// along calls f for every term of an interpolation along one axis, from a tensor of shape s to one whose axis has len(taps)
// elements.
func along(s tensor.Shape, axis int, taps ir.Taps, f func(from, to int, weight float64)) {
	y := s.Clone()
	y[axis] = len(taps)
	from := make([]int, len(s))
	each(y, func(to int, index []int) {
		copy(from, index)
		for _, t := range taps[index[axis]] {
			from[axis] = t.Index
			f(at(s, from), to, t.Weight)
		}
	})
}

func resize(n *ir.Node, in [][]float64) ([]float64, error) {
	a, s, x := n.Attr.(op.ResizeAttr), shapeOf(n, 0).Clone(), in[0]
	for axis, d := range a.Out {
		taps := a.Taps(axis, s[axis])
		y := make([]float64, len(x)/s[axis]*d)
		along(s, axis, taps, func(from, to int, w float64) { y[to] += w * x[from] })
		s[axis], x = d, y
	}
	return x, nil
}

func resizeBackward(n *ir.Node, in [][]float64) ([]float64, error) {
	a, dy := n.Attr.(op.ResizeBackwardAttr), in[0]
	s := a.Resize.Out.Clone()
	for axis, d := range a.In {
		taps := a.Resize.Taps(axis, d)
		dx := make([]float64, len(dy)/s[axis]*d)
		s[axis] = d
		along(s, axis, taps, func(from, to int, w float64) { dx[from] += w * dy[to] })
		dy = dx
	}
	return dy, nil
}
