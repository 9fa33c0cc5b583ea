package pass_test

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/reference"
	"github.com/voxcam/voxcam/internal/grad"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/pass"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Norms that were taken apart give the same values and gradients, gather the statistics of a value once, and keep the values that
// others hold.
func TestSplitNorms(t *testing.T) {
	g := &ir.Graph{}
	r := rand.New(rand.NewPCG(1, 2))
	x := g.Input("x", ir.F32(1, 3, 4, 5, 6))
	flat := g.Input("flat", ir.F32(1, 1, 4, 5, 6)) // one plane: nothing to stream
	b := ir.NewBuilder(g)
	params := func() *ir.Value {
		w := make([]float32, 6)
		for i := range w {
			w[i] = float32(r.NormFloat64())
		}
		return b.Const(tensor.Shape{6}, w)
	}
	y := b.Emit(op.GroupNorm, op.GroupNormAttr{Groups: 2, Eps: 1e-3}, x, params(), params())
	y = b.Emit(op.UnaryOp("Sin"), op.UnaryAttr{}, y)
	y = b.Emit(op.GroupNorm, op.GroupNormAttr{Groups: 6, Eps: 1e-3}, y)
	z := b.Emit(op.GroupNorm, op.GroupNormAttr{Groups: 3, Eps: 1e-3}, flat, params())
	score := b.Emit(op.ReduceSum, op.ReduceAttr{Axes: []int{1, 2, 3}}, b.Emit(op.BinaryOp("Mul"), nil, b.Emit(op.UnaryOp("Exp"), op.UnaryAttr{}, y), z))
	if b.Err() != nil {
		t.Fatal(b.Err())
	}
	_, gradients, err := grad.Build(g, score, []*ir.Value{x, flat})
	if err != nil {
		t.Fatal(err)
	}
	g.Outputs = append(gradients, score)
	data := map[*ir.Value][]float64{}
	for _, v := range g.Inputs {
		for range v.Shape().Elements() {
			data[v] = append(data[v], r.NormFloat64())
		}
	}
	want, err := reference.Eval(context.Background(), g, data)
	if err != nil {
		t.Fatal(err)
	}
	held := slices.Clone(g.Outputs)
	if err := pass.Run(context.Background(), g, nil, pass.Gradient); err != nil {
		t.Fatal(err)
	}
	count := map[*ir.Op]int{}
	for _, n := range g.Nodes {
		count[n.Op]++
	}
	if count[op.GroupMoments] != 2 || count[op.GroupGradApply] != 2 || count[op.GroupNorm] != 1 || count[op.GroupNormBackward] != 1 {
		t.Errorf("nodes after splitting: %v", count)
	}
	got, err := reference.Eval(context.Background(), g, data)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range held {
		for i, w := range want[v] {
			if math.Abs(got[v][i]-w) > 1e-9 {
				t.Fatalf("%v: element %d is %v, was %v", v, i, got[v][i], w)
			}
		}
	}
}
