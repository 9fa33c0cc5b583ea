package cpu

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/tensor"
)

// BenchmarkStep times single steps on a volume of a size that networks have in their first blocks. MB/s counts the bytes of the
// inputs and the output once.
func BenchmarkStep(b *testing.B) {
	x := tensor.Shape{1, 16, 56, 56, 64}
	one, two, three := [3]int{1, 1, 1}, [3]int{2, 2, 2}, [3]int{3, 3, 3}
	emit := func(o *ir.Op, attr any) func(b *ir.Builder, in []*ir.Value) *ir.Value {
		return func(b *ir.Builder, in []*ir.Value) *ir.Value { return b.Emit(o, attr, in...) }
	}
	conv := func(out, kernel, stride, groups int, o *ir.Op) func(b *ir.Builder, in []*ir.Value) *ir.Value {
		return func(b *ir.Builder, in []*ir.Value) *ir.Value {
			p := kernel / 2
			a := op.ConvAttr{Stride: [3]int{stride, stride, stride}, Dilation: one, Before: [3]int{p, p, p}, After: [3]int{p, p, p}, Groups: groups}
			w := make([]float32, out*64/groups*kernel*kernel*kernel)
			for i := range w {
				w[i] = float32(math.Sin(float64(i)))
			}
			c := b.Const(tensor.Shape{out, 64 / groups, kernel, kernel, kernel}, w)
			if o == op.ConvBackwardData {
				return b.Emit(o, op.ConvBackwardDataAttr{Conv: a, In: [3]int(x[1:4])}, in[0], c)
			}
			return b.Emit(o, a, in[0], c)
		}
	}
	stem := op.PoolAttr{Kernel: three, Stride: two, Dilation: one, Before: one, After: one}
	halves := op.PoolAttr{Kernel: two, Stride: two, Dilation: one}
	half := tensor.Shape{1, 8, 28, 28, 64}
	back := func(a op.PoolAttr) op.PoolBackwardAttr { return op.PoolBackwardAttr{Pool: a, In: [3]int(x[1:4])} }
	sliced := op.SliceAttr{Start: []int{0, 0, 0, 0, 16}, Step: []int{1, 1, 1, 1, 1}, Count: []int{1, 16, 56, 56, 32}}
	double := op.ResizeAttr{Out: tensor.Shape{1, 16, 56, 56, 64}, Scale: []float64{1, 2, 2, 2, 1}, Mode: "linear", Coord: "half_pixel"}
	for _, c := range []struct {
		name  string
		in    []tensor.Shape
		build func(b *ir.Builder, in []*ir.Value) *ir.Value
	}{
		{"Relu", []tensor.Shape{x}, emit(op.UnaryOp("Relu"), op.UnaryAttr{})},
		{"Silu", []tensor.Shape{x}, emit(op.UnaryOp("Silu"), op.UnaryAttr{})},
		{"SiluBackward", []tensor.Shape{x, x}, emit(op.UnaryBackward, op.UnaryBackwardAttr{Func: "Silu"})},
		{"Add", []tensor.Shape{x, x}, emit(op.BinaryOp("Add"), nil)},
		{"Gate", []tensor.Shape{x, {1, 1, 1, 1, 64}}, emit(op.BinaryOp("Mul"), nil)},
		{"Bits+Mask", []tensor.Shape{x, x}, func(b *ir.Builder, in []*ir.Value) *ir.Value {
			return b.Emit(op.MaskBackward, op.MaskAttr{In: 1}, in[0], b.Emit(op.Bits, op.BitsAttr{Lo: 0, Hi: math.Inf(1)}, in[1]))
		}},
		{"Affine", []tensor.Shape{x, {64}, {64}}, emit(op.Affine, nil)},
		{"ReduceMean", []tensor.Shape{x}, emit(op.ReduceMean, op.ReduceAttr{Axes: []int{1, 2, 3}})},
		{"Expand", []tensor.Shape{{1, 1, 1, 1, 64}}, emit(op.Expand, op.ExpandAttr{Shape: x})},
		{"GroupNorm", []tensor.Shape{x}, emit(op.GroupNorm, op.GroupNormAttr{Groups: 8})},
		{"GroupNormBackward", []tensor.Shape{x, x}, emit(op.GroupNormBackward, op.GroupNormAttr{Groups: 8})},
		{"GroupMoments+Apply", []tensor.Shape{x}, func(b *ir.Builder, in []*ir.Value) *ir.Value {
			a := op.GroupNormAttr{Groups: 8}
			return b.Emit(op.GroupNormApply, a, in[0], b.Emit(op.GroupMoments, a, in[0]))
		}},
		{"GroupGradMoments+Apply", []tensor.Shape{x, x, {1, 1, 1, 8, 3}}, func(b *ir.Builder, in []*ir.Value) *ir.Value {
			a := op.GroupNormAttr{Groups: 8}
			return b.Emit(op.GroupGradApply, a, in[0], in[1], in[2], b.Emit(op.GroupGradMoments, a, in[0], in[1], in[2]))
		}},
		{"LayerNorm", []tensor.Shape{x}, emit(op.LayerNorm, op.LayerNormAttr{Axes: 1})},
		{"LayerNormBackward", []tensor.Shape{x, x}, emit(op.LayerNormBackward, op.LayerNormAttr{Axes: 1})},
		{"Softmax", []tensor.Shape{{1, 8, 512, 512}}, emit(op.Softmax, op.SoftmaxAttr{Axis: 3})},
		{"Attention", []tensor.Shape{{1, 8, 512, 64}, {1, 8, 512, 64}}, emit(op.MatMul, op.MatMulAttr{TransB: true})},
		{"MaxPool", []tensor.Shape{x}, emit(op.MaxPool, stem)},
		{"MaxPool2", []tensor.Shape{x}, emit(op.MaxPool, halves)},
		{"MaxPoolIndex+Backward", []tensor.Shape{half, x}, func(b *ir.Builder, in []*ir.Value) *ir.Value {
			return b.Emit(op.MaxPoolBackward, back(stem), in[0], b.Emit(op.MaxPoolIndex, stem, in[1]))
		}},
		{"AvgPool2", []tensor.Shape{x}, emit(op.AvgPool, halves)},
		{"AvgPool2Backward", []tensor.Shape{half}, emit(op.AvgPoolBackward, back(halves))},
		{"Concat", []tensor.Shape{x, x}, emit(op.Concat, op.ConcatAttr{Axis: 4})},
		{"Slice", []tensor.Shape{x}, emit(op.Slice, sliced)},
		{"ToChannelsFirst", []tensor.Shape{x}, emit(op.Transpose, op.TransposeAttr{Perm: []int{0, 4, 1, 2, 3}})},
		{"Resize", []tensor.Shape{half}, emit(op.Resize, double)},
		{"ResizeBackward", []tensor.Shape{x}, emit(op.ResizeBackward, op.ResizeBackwardAttr{Resize: double, In: half})},
		{"Conv1", []tensor.Shape{x}, conv(64, 1, 1, 1, op.Conv)},
		{"Conv3", []tensor.Shape{x}, conv(64, 3, 1, 1, op.Conv)},
		{"Conv3Backward", []tensor.Shape{x}, conv(64, 3, 1, 1, op.ConvBackwardData)},
		{"Conv3Stride2Backward", []tensor.Shape{half}, conv(64, 3, 2, 1, op.ConvBackwardData)},
		{"Depthwise3", []tensor.Shape{x}, conv(64, 3, 1, 64, op.Conv)},
		{"Conv1Narrow", []tensor.Shape{{1, 4, 7, 7, 64}}, conv(256, 1, 1, 1, op.Conv)},
		{"Depthwise5", []tensor.Shape{x}, conv(64, 5, 1, 64, op.Conv)},
		{"Depthwise3Backward", []tensor.Shape{x}, conv(64, 3, 1, 64, op.ConvBackwardData)},
	} {
		b.Run(c.name, func(b *testing.B) {
			g, ctx, n := &ir.Graph{}, context.Background(), 0
			builder := ir.NewBuilder(g)
			var in []*ir.Value
			for _, s := range c.in {
				v := g.Input("", ir.F32(s...))
				in = append(in, v)
				n += s.Elements()
			}
			y := c.build(builder, in)
			if builder.Err() != nil {
				b.Fatal(builder.Err())
			}
			g.Outputs = append([]*ir.Value{y}, in...) // not in place
			p := plan.Make(g)
			prog, err := newBackend(b, Options{}).Load(ctx, p, nil)
			if err != nil {
				b.Fatal(err)
			}
			defer prog.Close()
			for k, v := range in {
				data := make([]float32, v.Shape().Elements())
				for i := range data {
					data[i] = float32(math.Sin(float64(i*(k+1)) * 0.7))
				}
				if err := prog.Write(v, data); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(4 * (n + y.Shape().Elements())))
			b.ReportAllocs()
			for b.Loop() {
				if err := prog.Run(ctx, 0, len(p.Steps)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkStreamed times a network with its gradient under budgets that are shares of what whole tensors take.
func BenchmarkStreamed(b *testing.B) {
	g, _ := network(b, 64, 24)
	whole, ctx := plan.Make(g), context.Background()
	for _, share := range []int{1, 2, 4, 0} {
		p, name := whole, "smallest"
		if share != 1 {
			opt := plan.Options{External: backendtest.External(g)}
			if share > 0 {
				opt.Budget = whole.Peak / share
			}
			var err error
			if p, err = plan.Stream(g, opt); err != nil {
				b.Fatal(err)
			}
		}
		if share > 0 {
			name = fmt.Sprintf("1_%d", share)
		}
		b.Run(name, func(b *testing.B) {
			prog, err := newBackend(b, Options{}).Load(ctx, p, nil)
			if err != nil {
				b.Fatal(err)
			}
			defer prog.Close()
			fill(b, prog, p)
			b.ReportAllocs()
			for b.Loop() {
				if err := prog.Run(ctx, 0, len(p.Steps)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(p.Steps)), "steps")
			b.ReportMetric(float64(p.Peak)/(1<<20), "MiB")
		})
	}
}
