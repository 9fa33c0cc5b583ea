package plan

import (
	"runtime"
	"testing"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// chain is a graph of so many activations.
func chain(t *testing.T, length int) *ir.Graph {
	t.Helper()
	g := &ir.Graph{}
	y := g.Input("volume", ir.F32(1, 4, 2, 2, 1))
	b := ir.NewBuilder(g)
	for range length {
		y = b.Emit(op.UnaryOp("Silu"), op.UnaryAttr{}, y)
	}
	y = b.Emit(op.ReduceMean, op.ReduceAttr{Axes: []int{1, 2, 3, 4}}, y)
	if err := b.Err(); err != nil {
		t.Fatal(err)
	}
	g.Outputs = []*ir.Value{y}
	return g
}

// Laying out a graph that is twice as large takes about twice the memory, also where every sweep is simulated for the first time.
func TestOutlinesGrowWithTheGraph(t *testing.T) {
	taken := func(length int) uint64 {
		n := newPlanner(chain(t, length), nil, Costs{})
		saved := make([]bool, len(n.nodes))
		for i := range saved {
			saved[i] = n.nodes[i].kind == slabwise
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		o := n.candidate(saved, 0, newScheduleCache())
		n.evictions(o)
		n.plan(o)
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	taken(50)
	if once, twice := taken(1000), taken(2000); twice > 3*once {
		t.Errorf("1000 nodes take %d bytes, 2000 take %d", once, twice)
	}
}
