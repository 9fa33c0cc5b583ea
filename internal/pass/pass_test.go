package pass_test

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/voxcam/voxcam/internal/backend/reference"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/pass"
	"github.com/voxcam/voxcam/internal/tensor"
)

// channelsFirst emits an operation on images as the importer does: between transposes from and to [N, C, D, H, W].
func channelsFirst(b *ir.Builder, x *ir.Value, run func(x *ir.Value) *ir.Value) *ir.Value {
	y := run(b.Emit(op.Transpose, op.TransposeAttr{Perm: op.ChannelsLast(5)}, x))
	if b.Err() != nil {
		return y
	}
	return b.Emit(op.Transpose, op.TransposeAttr{Perm: op.Inverse(op.ChannelsLast(5))}, y)
}

func randoms(seed uint64, n int) []float32 {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(r.NormFloat64())
	}
	return out
}

func conv(b *ir.Builder, x *ir.Value, out int, seed uint64) *ir.Value {
	return channelsFirst(b, x, func(x *ir.Value) *ir.Value {
		if b.Err() != nil {
			return x
		}
		in := x.Shape()[4]
		w := b.Const(tensor.Shape{out, in, 1, 1, 1}, randoms(seed, out*in))
		return b.Emit(op.Conv, op.ConvAttr{Stride: [3]int{1, 1, 1}, Dilation: [3]int{1, 1, 1}, Groups: 1}, x, w)
	})
}

// Random graphs in the importer's style, with everything that moves, splits and joins axes, compute the same before and behind
// the passes, at the output and at a target whose axes the passes may reorder.
func TestPassesKeepWhatGraphsCompute(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := &ir.Graph{}
		c := rapid.SampledFrom([]int{1, 2, 4}).Draw(t, "channels")
		x := g.Input("volume", ir.F32(1, c, 2, 3, 4))
		b := ir.NewBuilder(g)
		values := []*ir.Value{conv(b, x, 4, 7)}
		for i := range rapid.IntRange(1, 10).Draw(t, "nodes") {
			v := rapid.SampledFrom(values).Draw(t, "source")
			s, rank := v.Shape(), len(v.Shape())
			seed := uint64(i)
			switch rapid.IntRange(0, 11).Draw(t, "op") {
			case 0:
				if rank == 5 && s[0] == 1 {
					v = conv(b, v, 4, seed)
				}
			case 1:
				v = b.Emit(op.UnaryOp("Silu"), op.UnaryAttr{}, v)
			case 2: // broadcasting against a constant of fewer axes
				k := rapid.IntRange(0, rank).Draw(t, "rank")
				shape := s[rank-k:].Clone()
				if k > 1 {
					shape[rapid.IntRange(0, k-1).Draw(t, "one")] = 1
				}
				v = b.Emit(op.BinaryOp("Add"), nil, v, b.Const(shape, randoms(seed, shape.Elements())))
			case 3:
				other := rapid.SampledFrom(values).Draw(t, "other")
				if _, err := tensor.Broadcast(s, other.Shape()); err == nil {
					v = b.Emit(op.BinaryOp("Mul"), nil, v, other)
				}
			case 4:
				v = b.Emit(op.Transpose, op.TransposeAttr{Perm: rapid.Permutation(identity(rank)).Draw(t, "perm")}, v)
			case 5: // join two neighbours
				if rank > 1 {
					a := rapid.IntRange(0, rank-2).Draw(t, "axis")
					shape := append(append(s[:a].Clone(), s[a]*s[a+1]), s[a+2:]...)
					v = b.Emit(op.Reshape, op.ReshapeAttr{Shape: shape}, v)
				}
			case 6: // split one
				a := rapid.IntRange(0, rank-1).Draw(t, "axis")
				if s[a]%2 == 0 && rank < 6 {
					shape := append(append(s[:a].Clone(), 2, s[a]/2), s[a+1:]...)
					v = b.Emit(op.Reshape, op.ReshapeAttr{Shape: shape}, v)
				}
			case 7:
				axes := []int{rapid.IntRange(0, rank-1).Draw(t, "axis")}
				v = b.Emit(op.ReduceMean, op.ReduceAttr{Axes: axes}, v)
			case 8:
				v = b.Emit(op.Softmax, op.SoftmaxAttr{Axis: rapid.IntRange(0, rank-1).Draw(t, "axis")}, v)
			case 9:
				v = b.Emit(op.Concat, op.ConcatAttr{Axis: rapid.IntRange(0, rank-1).Draw(t, "axis")}, v, v)
			case 10:
				if rank == 5 {
					v = channelsFirst(b, v, func(x *ir.Value) *ir.Value {
						n := x.Shape()[4]
						return b.Emit(op.Affine, nil, x, b.Const(tensor.Shape{n}, randoms(seed, n)), b.Const(tensor.Shape{n}, randoms(seed+1, n)))
					})
				}
			case 11:
				if rank > 1 {
					w := b.Const(tensor.Shape{s[rank-1], 3}, randoms(seed, 3*s[rank-1]))
					v = b.Emit(op.MatMul, op.MatMulAttr{}, v, w)
				}
			}
			if err := b.Err(); err != nil {
				t.Fatal(err)
			}
			if v.Shape().Elements() < 2000 {
				values = append(values, v)
			}
		}
		out := values[len(values)-1]
		target := rapid.SampledFrom(values).Draw(t, "target")
		g.Outputs = []*ir.Value{out}
		g.Targets = []ir.Target{{Value: target, Axes: axesOf(t, "abcdefg"[:len(target.Shape())], target), Label: "target"}}
		before, twin := g.Clone()

		data := randoms(99, x.Shape().Elements())
		want := eval(t, before, twin[x], data)
		if err := pass.Run(context.Background(), g, nil, pass.Lowering); err != nil {
			t.Fatalf("%v\n%v", err, before)
		}
		got := eval(t, g, g.Inputs[0], transposed(data, x.Shape(), op.ChannelsLast(5)))
		compare(t, "output", got[g.Outputs[0]], want[twin[out]], before)
		to := g.Targets[0]
		perm := make([]int, len(to.Axes))
		for i, a := range to.Axes {
			perm[i] = int(a.Letter() - 'a')
		}
		compare(t, "target", got[to.Value], transposed(want[twin[target]], target.Shape(), perm), before)
	})
}

func identity(n int) []int {
	p := make([]int, n)
	for i := range p {
		p[i] = i
	}
	return p
}

func transposed[T float32 | float64](x []T, s tensor.Shape, perm []int) []T {
	shape, strides := s.Permute(perm), s.Strides()
	out := make([]T, len(x))
	for i := range out {
		at, rest := 0, i
		for a := len(shape) - 1; a >= 0; a-- {
			at += rest % shape[a] * strides[perm[a]]
			rest /= shape[a]
		}
		out[i] = x[at]
	}
	return out
}

func eval(t *rapid.T, g *ir.Graph, x *ir.Value, data []float32) map[*ir.Value][]float64 {
	in := make([]float64, len(data))
	for i, v := range data {
		in[i] = float64(v)
	}
	got, err := reference.Eval(context.Background(), g, map[*ir.Value][]float64{x: in})
	if err != nil {
		t.Fatalf("%v\n%v", err, g)
	}
	return got
}

func compare(t *rapid.T, what string, got, want []float64, g *ir.Graph) {
	if len(got) != len(want) {
		t.Fatalf("%s has %d values, not %d\n%v", what, len(got), len(want), g)
	}
	for i := range want {
		// folded weights are rounded to float32
		if math.Abs(got[i]-want[i]) > 1e-5*(1+math.Abs(want[i])) {
			t.Fatalf("%s value %d is %g, not %g\n%v", what, i, got[i], want[i], g)
		}
	}
}

// Behind the passes a convolution with its norm and activation has no transposes and no affine step, but a target in between
// stays.
func TestFoldsStopAtTargets(t *testing.T) {
	for _, kept := range []bool{false, true} {
		g := &ir.Graph{}
		x := g.Input("volume", ir.F32(1, 2, 3, 4, 5))
		b := ir.NewBuilder(g)
		y := conv(b, x, 4, 1)
		z := channelsFirst(b, y, func(x *ir.Value) *ir.Value {
			return b.Emit(op.Affine, nil, x, b.Const(tensor.Shape{4}, randoms(2, 4)), b.Const(tensor.Shape{4}, randoms(3, 4)))
		})
		g.Outputs = []*ir.Value{b.Emit(op.UnaryOp("Relu"), op.UnaryAttr{}, z)}
		if kept {
			g.Targets = []ir.Target{{Value: y, Axes: axesOf(t, "NCDHW", y)}}
		}
		if err := b.Err(); err != nil {
			t.Fatal(err)
		}
		if err := pass.Run(context.Background(), g, nil, pass.Lowering); err != nil {
			t.Fatal(err)
		}
		count := map[*ir.Op]int{}
		for _, n := range g.Nodes {
			count[n.Op]++
		}
		affine := 0
		if kept {
			affine = 1
			if g.Targets[0].Axes.String() != "NDHWC" || g.Targets[0].Value.Def.Op != op.Conv {
				t.Errorf("the target is %s of %s, not NDHWC of Conv", g.Targets[0].Axes, g.Targets[0].Value.Def.Op.Name)
			}
		}
		// one transposition is left: that of the output back to the file's order
		if count[op.Transpose] != 1 || count[op.Affine] != affine || count[op.Conv] != 1 {
			t.Errorf("kept %v: unexpected graph\n%v", kept, g)
		}
	}
}

func axesOf(t interface{ Fatal(...any) }, text string, v *ir.Value) ir.Axes {
	axes, err := ir.ParseAxes(text, v.Shape())
	if err != nil {
		t.Fatal(err)
	}
	return axes
}
