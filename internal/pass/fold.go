package pass

import (
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// dropExpand lets elementwise operations broadcast by themselves where the model copies an operand first.
func dropExpand(g *ir.Graph) error {
	keep := kept(g)
	for _, n := range g.Nodes {
		if _, ok := op.BinaryNamed(n.Op.Name); !ok && n.Op != op.Where {
			continue
		}
		for i, v := range n.Inputs {
			if v.Def == nil || v.Def.Op != op.Expand || keep[v] {
				continue
			}
			types := make([]ir.Type, len(n.Inputs))
			for j, in := range n.Inputs {
				types[j] = in.Type
			}
			types[i] = v.Def.Inputs[0].Type
			if out, err := n.Op.Infer(n.Attr, types); err == nil && out[0].Shape.Equal(n.Out().Shape()) {
				n.Inputs[i] = v.Def.Inputs[0]
			}
		}
	}
	return nil
}

// foldConstants computes reshapes and transposes of constants.
func foldConstants(g *ir.Graph) error {
	g.Nodes = slices.DeleteFunc(slices.Clone(g.Nodes), func(n *ir.Node) bool {
		c := n.In(0)
		if c == nil || c.Const == nil || len(n.Inputs) != 1 {
			return false
		}
		v := n.Out()
		switch n.Op {
		case op.Reshape:
			v.Const = c.Const
		case op.Transpose:
			v.Const = tensor.Floats(transposed(c.Const.Float32s(), c.Shape(), n.Attr.(op.TransposeAttr).Perm))
		default:
			return false
		}
		v.Def = nil
		if v.Name == "" {
			v.Name = c.Name
		}
		return true
	})
	return nil
}

func transposed(x []float32, s tensor.Shape, perm []int) []float32 {
	out := make([]float32, len(x))
	shape, strides := s.Permute(perm), s.Strides()
	index := make([]int, len(shape))
	at := 0
	for i := range out {
		out[i] = x[at]
		for a := len(shape) - 1; a >= 0; a-- {
			index[a]++
			at += strides[perm[a]]
			if index[a] < shape[a] {
				break
			}
			at -= index[a] * strides[perm[a]]
			index[a] = 0
		}
	}
	return out
}

// foldAffine multiplies the scale of an inference BatchNorm into the convolution before it, unless another node reads the
// convolution's output or asked for it.
func foldAffine(g *ir.Graph) error {
	uses, keep, folded := g.Uses(), kept(g), map[*ir.Node]bool{}
	for _, n := range g.Nodes {
		if n.Op != op.Affine || n.Inputs[1].Const == nil || n.Inputs[2].Const == nil {
			continue
		}
		conv := n.Inputs[0].Def
		if conv == nil || conv.Op != op.Conv || len(uses[conv.Out()]) != 1 || keep[conv.Out()] || conv.Inputs[1].Const == nil {
			continue
		}
		if bias := conv.In(2); bias != nil && bias.Const == nil {
			continue
		}
		scale, shift := n.Inputs[1].Const.Float32s(), slices.Clone(n.Inputs[2].Const.Float32s())
		if bias := conv.In(2); bias != nil {
			for i, v := range bias.Const.Float32s() {
				shift[i] += v * scale[i]
			}
		}
		w := conv.Inputs[1]
		scaled := g.Constant(w.Name, w.Shape(), w.Const.ScaleRows(scale))
		conv.Inputs = []*ir.Value{conv.Inputs[0], scaled, g.Constant(n.Inputs[2].Name, n.Inputs[2].Shape(), tensor.Floats(shift))}
		v := n.Out()
		folded[n] = true
		conv.Outputs[0], v.Def = v, conv
	}
	g.Nodes = slices.DeleteFunc(g.Nodes, func(n *ir.Node) bool { return folded[n] })
	return nil
}
