package plan

import (
	"cmp"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/grad"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// gated is a block with a squeeze-and-excitation gate, a strided window and a skip connection: what makes planning hard.
func gated(t *testing.T, gradient bool) *ir.Graph {
	g := &ir.Graph{}
	x := g.Input("volume", ir.F32(1, 16, 6, 6, 2))
	b := ir.NewBuilder(g)
	conv := func(x *ir.Value, out, kernel int) *ir.Value {
		in := x.Shape()[4]
		w := b.Const(tensor.Shape{out, in, kernel, 1, 1}, make([]float32, out*in*kernel))
		pad := [3]int{kernel / 2, 0, 0}
		return b.Emit(op.Conv, op.ConvAttr{Stride: [3]int{1, 1, 1}, Dilation: [3]int{1, 1, 1}, Before: pad, After: pad, Groups: 1}, x, w)
	}
	y := b.Emit(op.UnaryOp("Silu"), op.UnaryAttr{}, conv(x, 8, 3))
	y = b.Emit(op.AvgPool, op.PoolAttr{Kernel: [3]int{2, 1, 1}, Stride: [3]int{2, 1, 1}, Dilation: [3]int{1, 1, 1}}, y)
	gate := b.Emit(op.UnaryOp("Sigmoid"), op.UnaryAttr{}, b.Emit(op.ReduceMean, op.ReduceAttr{Axes: []int{1, 2, 3}}, y))
	z := b.Emit(op.UnaryOp("Relu"), op.UnaryAttr{}, conv(b.Emit(op.BinaryOp("Mul"), nil, y, gate), 4, 3))
	if !gradient {
		z = b.Emit(op.BinaryOp("Add"), nil, z, conv(y, 4, 1))
	}
	score := b.Emit(op.ReduceMean, op.ReduceAttr{Axes: []int{1, 2, 3, 4}}, z)
	return finished(t, b, g, x, score, gradient)
}

// finished is the graph of a score, with the gradient at x if that is asked for.
func finished(t *testing.T, b *ir.Builder, g *ir.Graph, x, score *ir.Value, gradient bool) *ir.Graph {
	t.Helper()
	if err := b.Err(); err != nil {
		t.Fatal(err)
	}
	g.Outputs = []*ir.Value{score}
	if gradient {
		_, d, err := grad.Build(g, score, []*ir.Value{x})
		if err != nil {
			t.Fatal(err)
		}
		g.Outputs = append(g.Outputs, d...)
		g.Prune()
	}
	return g
}

// On graphs that are small enough to try every choice of saved values, the search is close to the best: in the smallest peak, and
// in the time within budgets.
func TestSearchAgainstAllChoices(t *testing.T) {
	for _, gradient := range []bool{false, true} {
		g := gated(t, gradient)
		n := newPlanner(g, []*ir.Value{g.Inputs[0]}, Costs{})
		var free []int
		saved := make([]bool, len(n.nodes))
		for i := range n.nodes {
			saved[i] = n.nodes[i].kind == slabwise
			if n.values[i].streamable {
				free = append(free, i)
			}
		}
		if len(free) > 16 {
			t.Fatalf("%d free values are too many to try all", len(free))
		}
		var all []*candidate
		cache := newScheduleCache()
		for choice := range 1 << len(free) {
			trial := append([]bool(nil), saved...)
			for bit, v := range free {
				trial[v] = choice>>bit&1 == 0
			}
			for _, slabBytes := range append(n.costs.SlabBytes, 0) {
				all = append(all, n.candidate(trial, slabBytes, cache))
			}
		}
		slices.SortFunc(all, func(a, b *candidate) int { return cmp.Compare(a.seconds, b.seconds) })
		best := func(budget int) (seconds float64, peak int) {
			for _, o := range all {
				if peak == 0 || o.peak < peak {
					peak = o.peak
				}
				// Offsets can need more than what is alive.
				if seconds == 0 && o.peak <= budget && n.plan(o).Peak <= budget {
					seconds = o.seconds
				}
			}
			return seconds, peak
		}
		search, err := NewSearch(t.Context(), g, Options{External: []*ir.Value{g.Inputs[0]}})
		if err != nil {
			t.Fatal(err)
		}
		points := search.Curve()
		_, least := best(0)
		if got := points[len(points)-1].Bytes; float64(got) > 1.1*float64(least) {
			t.Errorf("gradient %v: the smallest plan of the search needs %d bytes, of all %d choices %d", gradient, got, len(all), least)
		}
		for budget := least * 11 / 10; budget < 2*points[0].Bytes; budget += least / 4 {
			want, _ := best(budget)
			p, err := search.Plan(t.Context(), budget)
			if err != nil {
				t.Fatal(err)
			}
			got := p.Seconds
			if estimate := search.Seconds(budget); estimate < 0.85*got || estimate > 1.5*got {
				t.Errorf("gradient %v, budget %d: the search expects %.3g s of a plan that takes %.3g s", gradient, budget, estimate, got)
			}
			if got > 1.15*want {
				t.Errorf("gradient %v, budget %d: the search takes %.3g s, the best of all choices %.3g s", gradient, budget, got, want)
			}
		}
	}
}
