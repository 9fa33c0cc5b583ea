package reference

import (
	"math"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// windowKernels is the part of kernels whose functions are in this file.
var windowKernels = map[*ir.Op]kernel{
	op.Conv:             conv,
	op.ConvBackwardData: convBackwardData,
	op.MaxPool:          maxPool,
	op.MaxPoolIndex:     maxPoolIndex,
	op.MaxPoolBackward:  maxPoolBackward,
	op.AvgPool:          avgPool,
	op.AvgPoolBackward:  avgPoolBackward,
}

// pair is one output voxel of a window operation, one tap of its window, and the input voxel there; all include the sample.
type pair struct {
	out, tap, in int
	start        [3]int // the beginning of the output voxel's window
}

// pairs calls f for every output voxel and every tap of its window that lies inside the input. x and y are
// [N, D, H, W, C]; positions count voxels, not channels.
func pairs(x, y tensor.Shape, kernel, stride, dilation, before [3]int, f func(pair)) {
	voxels := tensor.Shape(y[:4])
	window := tensor.Shape(kernel[:])
	each(voxels, func(out int, o []int) {
		var start [3]int
		for i := range 3 {
			start[i] = o[1+i]*stride[i] - before[i]
		}
		each(window, func(tap int, k []int) {
			position := []int{o[0], 0, 0, 0}
			for i := range 3 {
				p := start[i] + k[i]*dilation[i]
				if p < 0 || p >= x[1+i] {
					return
				}
				position[1+i] = p
			}
			f(pair{out: out, tap: tap, in: at(tensor.Shape{x[0], x[1], x[2], x[3]}, position), start: start})
		})
	})
}

// convTerms calls f for every product that a convolution from x to y consists of.
func convTerms(a op.ConvAttr, x, w, y tensor.Shape, f func(x, w, y int)) {
	perIn, perOut := w[1], w[0]/a.Groups
	kernel := [3]int{w[2], w[3], w[4]}
	taps := w[2] * w[3] * w[4]
	pairs(x, y, kernel, a.Stride, a.Dilation, a.Before, func(p pair) {
		for co := range w[0] {
			group := co / perOut
			for ci := range perIn {
				f(p.in*x[4]+group*perIn+ci, (co*perIn+ci)*taps+p.tap, p.out*y[4]+co)
			}
		}
	})
}

// biased returns n zeros or, with a bias for the last axis, repetitions of it.
func biased(n int, in [][]float64) []float64 {
	out := make([]float64, n)
	if len(in) > 2 && in[2] != nil {
		for i := range out {
			out[i] = in[2][i%len(in[2])]
		}
	}
	return out
}

func conv(n *ir.Node, in [][]float64) ([]float64, error) {
	s := n.Out().Shape()
	out := biased(s.Elements(), in)
	convTerms(n.Attr.(op.ConvAttr), shapeOf(n, 0), shapeOf(n, 1), s, func(x, w, y int) { out[y] += in[0][x] * in[1][w] })
	return out, nil
}

func convBackwardData(n *ir.Node, in [][]float64) ([]float64, error) {
	s := n.Out().Shape()
	out := biased(s.Elements(), in)
	a := n.Attr.(op.ConvBackwardDataAttr).Conv
	convTerms(a, s, shapeOf(n, 1), shapeOf(n, 0), func(x, w, y int) { out[x] += in[0][y] * in[1][w] })
	return out, nil
}

// maxima returns the maximum of each window and the tap of the first one. A window without voxels has -Inf at tap 0.
func maxima(n *ir.Node, x []float64) (values, taps []float64) {
	a, s := n.Attr.(op.PoolAttr), n.Out().Shape()
	c := s[4]
	values, taps = make([]float64, s.Elements()), make([]float64, s.Elements())
	for i := range values {
		values[i] = math.Inf(-1)
	}
	pairs(shapeOf(n, 0), s, a.Kernel, a.Stride, a.Dilation, a.Before, func(p pair) {
		for i := range c {
			if v := x[p.in*c+i]; v > values[p.out*c+i] || math.IsNaN(v) {
				values[p.out*c+i], taps[p.out*c+i] = v, float64(p.tap)
			}
		}
	})
	return values, taps
}

func maxPool(n *ir.Node, in [][]float64) ([]float64, error) {
	values, _ := maxima(n, in[0])
	return values, nil
}

func maxPoolIndex(n *ir.Node, in [][]float64) ([]float64, error) {
	_, taps := maxima(n, in[0])
	return taps, nil
}

func maxPoolBackward(n *ir.Node, in [][]float64) ([]float64, error) {
	a, s := n.Attr.(op.PoolBackwardAttr).Pool, n.Out().Shape()
	out, c := make([]float64, s.Elements()), s[4]
	pairs(s, shapeOf(n, 0), a.Kernel, a.Stride, a.Dilation, a.Before, func(p pair) {
		for i := range c {
			if in[1][p.out*c+i] == float64(p.tap) {
				out[p.in*c+i] += in[0][p.out*c+i]
			}
		}
	})
	return out, nil
}

// avgTerms calls f for every input element that an average consists of, with its weight.
func avgTerms(a op.PoolAttr, x, y tensor.Shape, f func(x, y int, weight float64)) {
	c := y[4]
	pairs(x, y, a.Kernel, a.Stride, a.Dilation, a.Before, func(p pair) {
		count := 1
		for i := range 3 {
			count *= a.Divisor(i, p.start[i], x[1+i])
		}
		for i := range c {
			f(p.in*c+i, p.out*c+i, 1/float64(count))
		}
	})
}

func avgPool(n *ir.Node, in [][]float64) ([]float64, error) {
	s := n.Out().Shape()
	out := make([]float64, s.Elements())
	avgTerms(n.Attr.(op.PoolAttr), shapeOf(n, 0), s, func(x, y int, w float64) { out[y] += w * in[0][x] })
	return out, nil
}

func avgPoolBackward(n *ir.Node, in [][]float64) ([]float64, error) {
	s := n.Out().Shape()
	out := make([]float64, s.Elements())
	avgTerms(n.Attr.(op.PoolBackwardAttr).Pool, s, shapeOf(n, 0), func(x, y int, w float64) { out[x] += w * in[0][y] })
	return out, nil
}
