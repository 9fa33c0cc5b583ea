package plan_test

import (
	"testing"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
)

// A graph of so many planes that a plan of single ones would take more memory than the volumes is planned with whole tensors, and a budget
// that is too small for those is refused.
func TestTooManyPlanesAreNotPlannedOneByOne(t *testing.T) {
	g := &ir.Graph{}
	v := g.Input("volume", ir.F32(1, 1<<20, 2, 2, 1))
	b := ir.NewBuilder(g)
	for range 3 {
		v = b.Emit(op.UnaryOp("Exp"), op.UnaryAttr{}, v)
	}
	v = b.Emit(op.ReduceSum, op.ReduceAttr{Axes: []int{1, 2, 3}}, v)
	if err := b.Err(); err != nil {
		t.Fatal(err)
	}
	g.Outputs = []*ir.Value{v}
	p, err := plan.Stream(g, plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Steps) != len(g.Nodes) {
		t.Errorf("%d steps for %d nodes", len(p.Steps), len(g.Nodes))
	}
	if _, err := plan.Stream(g, plan.Options{Budget: 1 << 20}); err == nil {
		t.Error("16 MiB fit into one")
	}
}
