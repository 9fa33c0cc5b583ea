package network

import (
	"context"
	"math"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/backend/cuda"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
)

// openPools opens the network of the pooling case.
func openPools(t *testing.T, b Binding) *Network {
	t.Helper()
	file, err := OpenFile(context.Background(), "../../testdata/cases/pools/model.torchscript.onnx", ModelOptions{InputAxes: "NCDHW"}, leastOpening)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	if b.Shape, err = file.FullShape(); err != nil {
		t.Fatal(err)
	}
	n, err := file.Bind(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The same graph and budget have the same plan, whatever was planned before.
func TestPlansDoNotDependOnTheOnesBefore(t *testing.T) {
	b, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	open := func() *Network {
		n := openPools(t, Binding{Backend: b, Follows: true})
		if err := n.Require(context.Background(), Needs{layer: true, input: true}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	type outcome struct {
		peak, steps, buffers int
		seconds              float64
	}
	planned := func(n *Network, budget cam.Budget) (list [2]outcome) {
		t.Helper()
		if err := n.Replan(budget); err != nil {
			t.Fatal(err)
		}
		if err := n.Require(context.Background(), Needs{layer: true, input: true}); err != nil {
			t.Fatal(err)
		}
		for i, p := range n.Passes() {
			list[i] = outcome{p.plan.Peak, len(p.plan.Steps), len(p.plan.Buffers), p.plan.Seconds}
		}
		return list
	}
	all := open()
	whole := all.Taken
	if err := all.Replan(cam.Budget{Smallest: true}); err != nil {
		t.Fatal(err)
	}
	if err := all.Require(context.Background(), Needs{layer: true, input: true}); err != nil {
		t.Fatal(err)
	}
	least := all.Taken
	budgets := []cam.Budget{{Smallest: true}, {Bytes: whole}}
	for part := range 10 {
		budgets = append(budgets, cam.Budget{Bytes: least + (whole-least)*part/10 + 1<<10})
	}
	for i, budget := range budgets {
		alone := planned(open(), budget)
		for range 2 { // from what was kept, too
			if again := planned(all, budget); again != alone {
				t.Errorf("budget %d, %+v: %+v after others, %+v alone", i, budget, again, alone)
			}
		}
		if p := all.atInput; !budget.Smallest && all.Taken > budget.Bytes {
			t.Errorf("%d bytes are taken within %d; %+v", all.Taken, budget.Bytes, p.plan.Peak)
		}
	}
}

// Fields lie where there is room for them, and more memory never makes a pass slower by the estimates that placement are chosen by.
func TestPlaces(t *testing.T) {
	b, err := cuda.New(cuda.Options{Driver: simulator.Build(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	n := openPools(t, Binding{Backend: b, Ahead: true})
	n.needs = Needs{layer: true, input: true, draws: true, moments: 2 * n.Values()}
	least, err := n.LeastBytes(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	seconds := func(at placement, budget int) float64 {
		s, err := n.passSeconds(context.Background(), budget-n.bufferBytes(n.needs, at))
		if err != nil {
			t.Fatal(err)
		}
		return s + n.hostSeconds(at)
	}
	all := n.bufferBytes(n.needs, placement{})
	seen := map[placement]bool{}
	for budget, before := least, math.Inf(1); budget <= least+3*all; budget += all / 16 {
		n.Budget = cam.Budget{Bytes: budget}
		at, err := n.place(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		seen[at] = true
		if taken := n.bufferBytes(n.needs, at) + least; taken > budget {
			t.Errorf("a budget of %d: fields at %+v and the smallest plan take %d", budget, at, taken)
		}
		if at == (placement{}) {
			continue
		}
		took := seconds(at, budget)
		if took > before {
			t.Errorf("a budget of %d: %g s with fields at %+v, %g s with less", budget, took, at, before)
		}
		before = took
	}
	if !seen[onHost] || !seen[placement{}] || len(seen) < 3 {
		t.Errorf("fields lay at %v", seen)
	}
}

// Budgets that are close have the same plan, and none is planned for more than it is.
func TestCoarsely(t *testing.T) {
	for _, x := range []int{0, 1, 63, 64, 65, 1000, 1 << 20, 1<<20 + 1, 1<<31 - 1} {
		if got := coarsely(x); got > x || float64(got) < float64(x)*31/32 {
			t.Errorf("%d becomes %d", x, got)
		}
	}
}
