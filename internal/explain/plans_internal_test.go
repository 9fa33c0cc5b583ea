package explain

import (
	"testing"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/onnx"
)

// The same graph and budget have the same plan, whatever was planned before.
func TestPlansDoNotDependOnTheOnesBefore(t *testing.T) {
	b, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	file, err := onnx.Open("../../testdata/cases/pools/model.torchscript.onnx")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	shape, err := fullShape(file, [4]int{})
	if err != nil {
		t.Fatal(err)
	}
	open := func() *network {
		n, err := newNetwork(file, shape, Options{Allow: func(backend.Usage) Budget { return Budget{} }}, b)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.require(needs{layer: true, input: true}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	type outcome struct {
		peak, steps, buffers int
		seconds              float64
	}
	planned := func(n *network, budget Budget) (list [2]outcome) {
		t.Helper()
		if err := n.replan(budget); err != nil {
			t.Fatal(err)
		}
		if err := n.require(needs{layer: true, input: true}); err != nil {
			t.Fatal(err)
		}
		for i, p := range n.passes() {
			list[i] = outcome{p.plan.Peak, len(p.plan.Steps), len(p.plan.Buffers), p.plan.Seconds}
		}
		return list
	}
	all := open()
	whole := all.taken
	if err := all.replan(Budget{Smallest: true}); err != nil {
		t.Fatal(err)
	}
	if err := all.require(needs{layer: true, input: true}); err != nil {
		t.Fatal(err)
	}
	least := all.taken
	budgets := []Budget{{Smallest: true}, {Bytes: whole}}
	for part := range 10 {
		budgets = append(budgets, Budget{Bytes: least + (whole-least)*part/10 + 1<<10})
	}
	for i, budget := range budgets {
		alone := planned(open(), budget)
		for range 2 { // from what was kept, too
			if again := planned(all, budget); again != alone {
				t.Errorf("budget %d, %+v: %+v after others, %+v alone", i, budget, again, alone)
			}
		}
		if p := all.atInput; !budget.Smallest && all.taken > budget.Bytes {
			t.Errorf("%d bytes are taken within %d; %+v", all.taken, budget.Bytes, p.plan.Peak)
		}
	}
}
