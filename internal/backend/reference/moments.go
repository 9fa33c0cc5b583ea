package reference

import (
	"math"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// momentsKernels is the part of kernels whose functions are in this file.
var momentsKernels = map[*ir.Op]kernel{
	op.GroupMoments:     groupMoments,
	op.GroupNormApply:   groupNormApply,
	op.GroupGradMoments: groupGradMoments,
	op.GroupGradApply:   groupGradApply,
}

// groupOf returns the group that element i of an image [1, D, H, W, C] belongs to.
func groupOf(n *ir.Node, x *ir.Value) func(i int) int {
	channels := x.Shape()[4]
	members := channels / n.Attr.(op.GroupNormAttr).Groups
	return func(i int) int { return i % channels / members }
}

// param returns element i of a parameter by channel, or the default of an absent parameter.
func param(in [][]float64, k, i int, absent float64) float64 {
	if k >= len(in) || in[k] == nil {
		return absent
	}
	return in[k][i%len(in[k])]
}

func groupMoments(n *ir.Node, in [][]float64) ([]float64, error) {
	a, group := n.Attr.(op.GroupNormAttr), groupOf(n, n.Inputs[0])
	out, variance, count := make([]float64, 3*a.Groups), make([]float64, a.Groups), float64(len(in[0])/a.Groups)
	for i, x := range in[0] {
		out[3*group(i)] += x / count
	}
	for i, x := range in[0] {
		d := x - out[3*group(i)]
		variance[group(i)] += d * d / count
	}
	for g, v := range variance {
		out[3*g+2] = 1 / math.Sqrt(v+a.Eps)
	}
	return out, nil
}

// standard returns element i of x with the moments in that input taken off.
func standard(in [][]float64, x, moments, i, group int) float64 {
	m := in[moments][3*group:]
	return (in[x][i] - m[0] - m[1]) * m[2]
}

func groupNormApply(n *ir.Node, in [][]float64) ([]float64, error) {
	group, out := groupOf(n, n.Inputs[0]), make([]float64, len(in[0]))
	for i := range out {
		out[i] = standard(in, 0, 1, i, group(i))*param(in, 2, i, 1) + param(in, 3, i, 0)
	}
	return out, nil
}

func groupGradMoments(n *ir.Node, in [][]float64) ([]float64, error) {
	groups, group := n.Attr.(op.GroupNormAttr).Groups, groupOf(n, n.Inputs[1])
	out, count := make([]float64, 2*groups), float64(len(in[0])/groups)
	for i, dy := range in[0] {
		g := dy * param(in, 3, i, 1)
		out[2*group(i)] += g / count
		out[2*group(i)+1] += g * standard(in, 1, 2, i, group(i)) / count
	}
	return out, nil
}

func groupGradApply(n *ir.Node, in [][]float64) ([]float64, error) {
	group, out := groupOf(n, n.Inputs[1]), make([]float64, len(in[0]))
	for i, dy := range in[0] {
		means := in[3][2*group(i):]
		out[i] = (dy*param(in, 4, i, 1) - means[0] - standard(in, 1, 2, i, group(i))*means[1]) * in[2][3*group(i)+2]
	}
	return out, nil
}
