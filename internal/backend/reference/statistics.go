package reference

import (
	"math"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// statisticsKernels is the part of kernels whose functions are in this file.
var statisticsKernels = map[*ir.Op]kernel{
	op.GroupNorm:          groupNorm,
	op.GroupNormBackward:  groupNormBackward,
	op.LayerNorm:          layerNorm,
	op.LayerNormBackward:  layerNormBackward,
	op.Softmax:            softmax,
	op.SoftmaxBackward:    softmaxBackward,
	op.LogSoftmax:         logSoftmax,
	op.LogSoftmaxBackward: logSoftmaxBackward,
	op.ReduceSum:          reduceSum,
	op.ReduceMean:         reduceMean,
	op.ReduceMax:          reduceMax,
}

// members lists, for each set that key numbers (from 0 to sets-1), the elements that belong to it.
func members(s tensor.Shape, sets int, key func(index []int) int) [][]int {
	lists := make([][]int, sets)
	each(s, func(flat int, index []int) {
		k := key(index)
		lists[k] = append(lists[k], flat)
	})
	return lists
}

// groups returns the sets that group norm takes its statistics of.
func groups(n *ir.Node, x tensor.Shape) [][]int {
	count, channels := n.Attr.(op.GroupNormAttr).Groups, x[len(x)-1]
	return members(x, x[0]*count, func(index []int) int {
		return index[0]*count + index[len(index)-1]/(channels/count)
	})
}

// rows returns the sets that layer norm takes its statistics of.
func rows(n *ir.Node, x tensor.Shape) [][]int {
	lead := x[:len(x)-n.Attr.(op.LayerNormAttr).Axes]
	return members(x, lead.Elements(), func(index []int) int { return at(lead, index[:len(lead)]) })
}

// lines returns the sets that softmax makes sum to one.
func lines(n *ir.Node, x tensor.Shape) [][]int {
	return reduced(x, []int{n.Attr.(op.SoftmaxAttr).Axis})
}

// reduced returns the sets that are joined when axes are reduced.
func reduced(x tensor.Shape, axes []int) [][]int {
	y := x.Clone()
	for _, a := range axes {
		y[a] = 1
	}
	return members(x, y.Elements(), func(index []int) int { return at(y, index) })
}

func sum(x []float64, set []int) (total float64) {
	for _, i := range set {
		total += x[i]
	}
	return total
}

// standardised returns (x - mean) / sqrt(variance + eps) in each set, and the factor that x was divided by.
func standardised(x []float64, sets [][]int, eps float64) (hat, scale []float64) {
	hat, scale = make([]float64, len(x)), make([]float64, len(x))
	for _, set := range sets {
		mean := sum(x, set) / float64(len(set))
		variance := 0.0
		for _, i := range set {
			variance += (x[i] - mean) * (x[i] - mean)
		}
		deviation := math.Sqrt(variance/float64(len(set)) + eps)
		for _, i := range set {
			hat[i], scale[i] = (x[i]-mean)/deviation, deviation
		}
	}
	return hat, scale
}

// norm standardises, then scales and shifts; the parameters repeat along the leading axes.
func norm(in [][]float64, sets [][]int, eps float64) []float64 {
	out, _ := standardised(in[0], sets, eps)
	for i := range out {
		if len(in) > 1 && in[1] != nil {
			out[i] *= in[1][i%len(in[1])]
		}
		if len(in) > 2 && in[2] != nil {
			out[i] += in[2][i%len(in[2])]
		}
	}
	return out
}

// normBackward returns (g - mean(g) - hat*mean(g*hat)) / deviation with g = dy*gamma.
func normBackward(in [][]float64, sets [][]int, eps float64) []float64 {
	hat, scale := standardised(in[1], sets, eps)
	g, out := make([]float64, len(hat)), make([]float64, len(hat))
	for i := range g {
		g[i] = in[0][i]
		if len(in) > 2 && in[2] != nil {
			g[i] *= in[2][i%len(in[2])]
		}
	}
	for _, set := range sets {
		var mean, along float64
		for _, i := range set {
			mean += g[i] / float64(len(set))
			along += g[i] * hat[i] / float64(len(set))
		}
		for _, i := range set {
			out[i] = (g[i] - mean - hat[i]*along) / scale[i]
		}
	}
	return out
}

func groupNorm(n *ir.Node, in [][]float64) ([]float64, error) {
	return norm(in, groups(n, shapeOf(n, 0)), n.Attr.(op.GroupNormAttr).Eps), nil
}

func groupNormBackward(n *ir.Node, in [][]float64) ([]float64, error) {
	return normBackward(in, groups(n, shapeOf(n, 0)), n.Attr.(op.GroupNormAttr).Eps), nil
}

func layerNorm(n *ir.Node, in [][]float64) ([]float64, error) {
	return norm(in, rows(n, shapeOf(n, 0)), n.Attr.(op.LayerNormAttr).Eps), nil
}

func layerNormBackward(n *ir.Node, in [][]float64) ([]float64, error) {
	return normBackward(in, rows(n, shapeOf(n, 0)), n.Attr.(op.LayerNormAttr).Eps), nil
}

// logs returns log(sum(exp(x))) of a set, shifted by the maximum so that nothing overflows.
func logs(x []float64, set []int) float64 {
	top := largest(x, set)
	total := 0.0
	for _, i := range set {
		total += math.Exp(x[i] - top)
	}
	return top + math.Log(total)
}

func largest(x []float64, set []int) float64 {
	top := math.Inf(-1)
	for _, i := range set {
		top = math.Max(top, x[i])
	}
	return top
}

func logSoftmax(n *ir.Node, in [][]float64) ([]float64, error) {
	out := make([]float64, len(in[0]))
	for _, set := range lines(n, shapeOf(n, 0)) {
		total := logs(in[0], set)
		for _, i := range set {
			out[i] = in[0][i] - total
		}
	}
	return out, nil
}

func softmax(n *ir.Node, in [][]float64) ([]float64, error) {
	out, err := logSoftmax(n, in)
	for i := range out {
		out[i] = math.Exp(out[i])
	}
	return out, err
}

func softmaxBackward(n *ir.Node, in [][]float64) ([]float64, error) {
	dy, y, out := in[0], in[1], make([]float64, len(in[0]))
	for _, set := range lines(n, shapeOf(n, 0)) {
		along := 0.0
		for _, i := range set {
			along += dy[i] * y[i]
		}
		for _, i := range set {
			out[i] = y[i] * (dy[i] - along)
		}
	}
	return out, nil
}

func logSoftmaxBackward(n *ir.Node, in [][]float64) ([]float64, error) {
	dy, y, out := in[0], in[1], make([]float64, len(in[0]))
	for _, set := range lines(n, shapeOf(n, 0)) {
		total := sum(dy, set)
		for _, i := range set {
			out[i] = dy[i] - math.Exp(y[i])*total
		}
	}
	return out, nil
}

// reduce applies f to the elements that each output element stands for.
func reduce(n *ir.Node, x []float64, f func(set []int) float64) ([]float64, error) {
	sets := reduced(shapeOf(n, 0), n.Attr.(op.ReduceAttr).Axes)
	out := make([]float64, len(sets))
	for i, set := range sets {
		out[i] = f(set)
	}
	return out, nil
}

func reduceSum(n *ir.Node, in [][]float64) ([]float64, error) {
	return reduce(n, in[0], func(set []int) float64 { return sum(in[0], set) })
}

func reduceMean(n *ir.Node, in [][]float64) ([]float64, error) {
	return reduce(n, in[0], func(set []int) float64 { return sum(in[0], set) / float64(len(set)) })
}

func reduceMax(n *ir.Node, in [][]float64) ([]float64, error) {
	return reduce(n, in[0], func(set []int) float64 { return largest(in[0], set) })
}
