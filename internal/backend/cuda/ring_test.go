package cuda

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
)

// A ring whose planes are as large as the pieces that memory is mapped in is seen twice, one behind the other, and gives what whole
// tensors give.
func TestDoubledRings(t *testing.T) {
	b := open(t, Options{})
	g := &ir.Graph{}
	x := g.Input("x", ir.F32(1, 9, 32, 128, 128)) // planes of 2 MiB
	build := ir.NewBuilder(g)
	mean := op.PoolAttr{Kernel: [3]int{3, 1, 1}, Stride: [3]int{1, 1, 1}, Dilation: [3]int{1, 1, 1}, Before: [3]int{1, 0, 0}, After: [3]int{1, 0, 0}}
	y := build.Emit(op.AvgPool, mean, build.Emit(op.AvgPool, mean, build.Emit(op.AvgPool, mean, x)))
	y = build.Emit(op.ReduceMean, op.ReduceAttr{Axes: []int{1, 2, 3}}, y)
	if err := build.Err(); err != nil {
		t.Fatal(err)
	}
	g.Outputs = []*ir.Value{y}
	costs := b.Costs()
	costs.SlabBytes = []int{2 << 20}
	streamed, err := plan.Stream(g, plan.Options{Costs: costs})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(streamed.Buffers, func(b plan.Buffer) bool { return b.Doubled }) {
		t.Fatal("the plan has no ring that can be mapped twice")
	}
	data := make([]float32, x.Shape().Elements())
	r := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = r.Float32()
	}
	var results [2][]float32
	for i, p := range []*plan.Plan{plan.Make(g), streamed} {
		program, err := b.Load(context.Background(), p, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := program.Write(x, data); err != nil {
			t.Fatal(err)
		}
		if err := program.Run(context.Background(), 0, len(p.Steps)); err != nil {
			t.Fatal(err)
		}
		results[i] = make([]float32, y.Shape().Elements())
		if err := program.Read(y, results[i]); err != nil {
			t.Fatal(err)
		}
		if i == 1 { // the ring is where it was after its memory was away
			_, err := b.Vacate()
			if err := errors.Join(err, b.Return(), program.Write(x, data), program.Run(context.Background(), 0, len(p.Steps))); err != nil {
				t.Fatal(err)
			}
			again := make([]float32, len(results[i]))
			if err := program.Read(y, again); err != nil || !slices.Equal(again, results[i]) {
				t.Error("after the memory was away the ring gives something else: ", err)
			}
		}
		if err := program.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(results[0], results[1]) {
		t.Error("the ring gives something else than whole tensors")
	}
}
