package plan_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/voxcam/voxcam/internal/grad"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/tensor"
)

// randomGraph draws a graph of images with joins, views, pooling and activations that ends in a vector of scores.
func randomGraph(t *rapid.T) (*ir.Graph, *ir.Value, *ir.Value) {
	g := &ir.Graph{}
	x := g.Input("volume", ir.F32(1, 4, 5, 6, 2))
	b := ir.NewBuilder(g)
	values := []*ir.Value{x}
	for range rapid.IntRange(1, 12).Draw(t, "nodes") {
		v := rapid.SampledFrom(values).Draw(t, "source")
		other := rapid.SampledFrom(values).Draw(t, "other")
		if !other.Shape().Equal(v.Shape()) {
			other = v
		}
		switch rapid.IntRange(0, 5).Draw(t, "op") {
		case 0:
			v = b.Emit(op.UnaryOp("Relu"), op.UnaryAttr{}, v)
		case 1:
			v = b.Emit(op.UnaryOp("Silu"), op.UnaryAttr{}, v)
		case 2:
			v = b.Emit(op.BinaryOp("Add"), nil, v, other)
		case 3:
			v = b.Emit(op.BinaryOp("Mul"), nil, v, other)
		case 4:
			v = b.Emit(op.Reshape, op.ReshapeAttr{Shape: append(tensor.Shape{1}, v.Shape()...)}, v)
		case 5:
			if s := v.Shape(); len(s) == 5 && s[1] > 1 {
				pool := op.PoolAttr{Kernel: [3]int{2, 1, 2}, Stride: [3]int{2, 1, 1}, Dilation: [3]int{1, 1, 1}, After: [3]int{1, 0, 1}}
				v = b.Emit(op.MaxPool, pool, v)
			}
		}
		values = append(values, v)
	}
	last := values[len(values)-1]
	axes := make([]int, len(last.Shape()))
	for i := range axes {
		axes[i] = i
	}
	score := b.Emit(op.ReduceSum, op.ReduceAttr{Axes: axes}, last)
	if err := b.Err(); err != nil {
		t.Fatal(err)
	}
	g.Outputs = []*ir.Value{score}
	return g, x, score
}

// Every byte that a step reads holds the value that it means, when the steps run in order on one arena: invariants P1 to P3.
func TestPlansNeverReadOverwrittenMemory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, x, score := randomGraph(t)
		if rapid.Bool().Draw(t, "gradient") {
			_, gradients, err := grad.Build(g, score, []*ir.Value{x})
			if err != nil {
				t.Skip(err) // the score does not depend on the input
			}
			g.Outputs = append(g.Outputs, gradients...)
			g.Prune()
		}
		if err := g.Verify(); err != nil {
			t.Fatal(err)
		}
		checkPlan(t, plan.Make(g))
	})
}

func checkPlan(t *rapid.T, p *plan.Plan) {
	owner := make([]*ir.Value, p.Peak/plan.Align)
	of := p.BufferOf()
	source := map[*ir.Value]*ir.Value{} // a view holds what its source holds
	root := func(v *ir.Value) *ir.Value {
		for source[v] != nil {
			v = source[v]
		}
		return v
	}
	each := func(v *ir.Value, visit func(i int)) {
		b := p.Buffers[of[v]]
		if b.Offset%plan.Align != 0 || b.Offset+b.Bytes > p.Peak || b.Bytes < v.Type.Elem.Bytes(v.Shape().Elements()) {
			t.Fatalf("%v does not fit its buffer %+v in %d bytes", v, b, p.Peak)
		}
		for i := b.Offset / plan.Align; i < (b.Offset+b.Bytes)/plan.Align; i++ {
			visit(i)
		}
	}
	write := func(v *ir.Value) { each(v, func(i int) { owner[i] = v }) }
	read := func(v *ir.Value, who string) {
		each(v, func(i int) {
			if owner[i] != root(v) {
				t.Fatalf("%s reads %v, but %v was written over it\n%v", who, v, owner[i], p.Graph)
			}
		})
	}
	for _, v := range p.Graph.Inputs {
		write(v)
	}
	for _, s := range p.Steps {
		for _, v := range s.Node.Inputs {
			if v != nil && v.Const == nil {
				read(v, s.Node.Op.Name)
			}
		}
		for _, v := range s.Node.Outputs {
			if s.Node.Op.View {
				source[v] = s.Node.Inputs[0]
				continue
			}
			write(v)
		}
	}
	for _, v := range p.Graph.Outputs {
		read(v, "the caller")
	}
}

// A chain of elementwise steps runs in one buffer, and the gradient of relu keeps one bit a value.
func TestPeakOfKnownGraphs(t *testing.T) {
	g := &ir.Graph{}
	x := g.Input("x", ir.F32(1024))
	b := ir.NewBuilder(g)
	y := x
	for range 5 {
		y = b.Emit(op.UnaryOp("Relu"), op.UnaryAttr{}, y)
	}
	g.Outputs = []*ir.Value{y}
	if p := plan.Make(g); p.Peak != 4096 {
		t.Errorf("a chain of five relus takes %d bytes, not one buffer of 4096", p.Peak)
	}
	score := b.Emit(op.ReduceSum, op.ReduceAttr{Axes: []int{0}}, y)
	_, gradients, err := grad.Build(g, score, []*ir.Value{x})
	if err != nil {
		t.Fatal(err)
	}
	g.Outputs = gradients
	// the values, five bit masks of 128 bytes, and a buffer each for the score and its seed
	if p := plan.Make(g); p.Peak != 4096+5*128+2*64 {
		t.Errorf("the gradient of five relus takes %d bytes, not %d", p.Peak, 4096+5*128+2*64)
	}
}
