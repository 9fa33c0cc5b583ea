package pass

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// Every pass says what it does, and its place has a reason.
func TestPassesAreExplained(t *testing.T) {
	for _, p := range List {
		if p.What == "" {
			t.Errorf("pass %s does not say what it does", p.Name)
		}
		if !slices.ContainsFunc(constraints, func(c constraint) bool { return c.before == p.Name || c.after == p.Name }) {
			t.Errorf("pass %s has no constraint: say in constraints (internal/pass/pass.go) what depends on its place", p.Name)
		}
	}
	for _, c := range constraints {
		if c.why == "" {
			t.Errorf("%s before %s has no reason", c.before, c.after)
		}
	}
}

// A list in an order that a constraint forbids is refused with the reason, as is a constraint on a pass that there is not.
func TestOrderIsChecked(t *testing.T) {
	fold := Pass{Name: "fold", Stage: Lowering}
	layout := Pass{Name: "layout", Stage: Lowering}
	split := Pass{Name: "split", Stage: Gradient}
	after := constraint{"layout", "fold", "it looks for neighbours"}
	for _, c := range []struct {
		list []Pass
		constraint
		want string // in the error; "" for none
	}{
		{[]Pass{layout, fold, split}, after, ""},
		{[]Pass{fold, layout, split}, after, "pass layout must stand before fold: it looks for neighbours"},
		{[]Pass{layout, split}, after, "not in the list"},
		{[]Pass{layout, layout}, after, "two passes are called layout"},
		{[]Pass{split, layout, fold}, after, "pass layout stands behind split, which is of a later stage"},
		{[]Pass{layout, split}, constraint{Differentiation, "split", "no gradients"}, ""},
		{[]Pass{layout, split}, constraint{"layout", Differentiation, "no gradients"}, ""},
		{[]Pass{layout, split}, constraint{Differentiation, "layout", "no gradients"}, "pass differentiation must stand before layout: no gradients"},
		{[]Pass{split, split}, constraint{Differentiation, "split", "no gradients"}, "two passes"},
	} {
		err := checkOrder(c.list, []constraint{c.constraint})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, %s before %s: %v", c.list, c.before, c.after, err)
		}
	}
}

// tiny is a graph of one node.
func tiny() *ir.Graph {
	g := &ir.Graph{}
	x := g.Input("x", ir.F32(1, 2))
	g.Outputs = []*ir.Value{ir.NewBuilder(g).Emit(op.UnaryOp("Exp"), op.UnaryAttr{}, x)}
	return g
}

// An error, a panic, and a graph that is broken name the pass that they come from.
func TestFailuresNameThePass(t *testing.T) {
	deliberate := errors.New("deliberate")
	for want, run := range map[string]func(g *ir.Graph) error{
		"pass broken: deliberate":              func(*ir.Graph) error { return deliberate },
		"pass broken: index out of range":      func(*ir.Graph) error { panic("index out of range") },
		"pass broken left a broken graph: ir:": func(g *ir.Graph) error { g.Nodes[0].Op = op.MatMul; return nil },
	} {
		err := Pass{Name: "broken", Run: rewrite(run)}.apply(context.Background(), tiny())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, not %q", err, want)
		}
		if strings.Contains(want, "deliberate") && !errors.Is(err, deliberate) {
			t.Errorf("%v does not wrap its cause", err)
		}
	}
}

// The observer is told of each pass of the stages, in the order of the list, and its error ends them, as does that of a context.
func TestObserver(t *testing.T) {
	var seen []string
	observe := func(pass string, g *ir.Graph) error {
		seen = append(seen, pass)
		if pass == "layout" {
			return context.Canceled
		}
		return g.Verify()
	}
	if err := Run(context.Background(), tiny(), observe, Recognition, Lowering); !errors.Is(err, context.Canceled) {
		t.Errorf("the observer's error is lost: %v", err)
	}
	var want []string
	for _, p := range List {
		if want = append(want, p.Name); p.Name == "layout" {
			break
		}
	}
	if !slices.Equal(seen, want) {
		t.Errorf("%v were observed, not %v", seen, want)
	}
	stopped, stop := context.WithCancelCause(context.Background())
	stop(errors.New("enough"))
	if err := Run(stopped, tiny(), nil, Gradient); err == nil || err.Error() != "enough" {
		t.Errorf("after the end of the context: %v", err)
	}
}
