// Package pass rewrites graphs: one ordered list of passes, each of which keeps the graph's results. The constraints on their
// order are data, each with its reason, and are checked when the program starts. The graph is verified after each pass.
package pass

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/voxcam/voxcam/internal/ir"
)

// Pass is one rewrite. Between passes a graph has no nodes that nothing needs.
type Pass struct {
	Name  string
	Stage Stage
	Run   func(ctx context.Context, g *ir.Graph) error
	What  string // the rewrite in words, for people
}

// Stage is a run of neighbouring passes; a network goes through all stages.
type Stage uint8

// The stages, in order.
const (
	Recognition Stage = iota // of operations that exporters spell out, on the graph as imported, with its targets
	Lowering                 // to the form that backends compute: images channels-last, constants folded
	Gradient                 // on the graph with its gradient; differentiation comes before it
)

// Differentiation stands in the constraints for the step between the stages Lowering and Gradient; see package grad.
const Differentiation = "differentiation"

// List is the order of the passes.
var List = []Pass{
	{"padding", Recognition, recognise((*recogniser).pad), "zero padding in front of a convolution or an average becomes part of it"},
	{"group-norm", Recognition, recognise((*recogniser).groupNorm), "reshapes round an InstanceNorm become a GroupNorm"},
	{"layer-norm", Recognition, recognise((*recogniser).layerNorm), "means, differences and roots become a LayerNorm"},
	{"activation", Recognition, recognise((*recogniser).activation), "formulas of elementwise operations become activations"},
	{"nested-activation", Recognition, recognise((*recogniser).activation), "so do formulas that have an activation in them"},
	{"expand", Lowering, rewrite(dropExpand), "elementwise operations broadcast by themselves"},
	{"layout", Lowering, rewrite(sinkTransposes), "images become channels-last: transposes sink until they meet their inverse"},
	{"constants", Lowering, rewrite(foldConstants), "reshapes and transposes of constants are computed"},
	{"affine", Lowering, rewrite(foldAffine), "inference BatchNorm becomes part of the convolution before it"},
	{"split-norms", Gradient, rewrite(splitNorms), "group norms of images become statistics and their use, which plans can stream"},
}

// constraint puts one pass before another, for a reason.
type constraint struct{ before, after, why string }

// constraints has all reasons for the order of List. To add or move a pass, write down here the dependence on its place.
var constraints = []constraint{
	{"padding", "layout", "it looks for padding in the order of axes of the file"},
	{"group-norm", "layout", "it looks for groups in the order of axes of the file"},
	{"layer-norm", "layout", "it looks for means in the order of axes of the file"},
	{"activation", "nested-activation", "a HardSigmoid in full is part of a HardSwish"},
	{"nested-activation", "layout", "layout moves transposes in between the nodes of a formula"},
	{"nested-activation", Differentiation, "an activation saves one value for its gradient, a formula one for each of its nodes"},
	{"expand", "layout", "layout would move the copies that expand makes needless"},
	{"layout", "constants", "layout leaves reshapes and transposes of constants"},
	{"layout", "affine", "affine looks for neighbours without transposes between them"},
	{"constants", "affine", "affine takes weights and scales that are constants"},
	{"affine", Differentiation, "a scale that is part of the weights has no gradient of its own to compute"},
	{Differentiation, "split-norms", "the parts of a norm have no gradients"},
}

func init() {
	if err := checkOrder(List, constraints); err != nil {
		panic(err)
	}
}

// checkOrder checks a list of passes against constraints. A constraint must name passes of the list or Differentiation.
func checkOrder(list []Pass, constraints []constraint) error {
	place := map[string]int{}
	for _, p := range list {
		if p.Stage == Gradient && place[Differentiation] == 0 {
			place[Differentiation] = len(place) + 1
		}
		if place[p.Name] > 0 {
			return fmt.Errorf("two passes are called %s", p.Name)
		}
		place[p.Name] = len(place) + 1
	}
	for i, p := range list[1:] {
		if p.Stage < list[i].Stage {
			return fmt.Errorf("pass %s stands behind %s, which is of a later stage", p.Name, list[i].Name)
		}
	}
	for _, c := range constraints {
		switch before, after := place[c.before], place[c.after]; {
		case before == 0 || after == 0:
			return fmt.Errorf("pass %s must stand before %s, and one of them is not in the list", c.before, c.after)
		case before > after:
			return fmt.Errorf("pass %s must stand before %s: %s", c.before, c.after, c.why)
		}
	}
	return nil
}

// Observer is called with the graph after each pass. It must not change the graph. Its error ends the passes.
type Observer func(pass string, g *ir.Graph) error

// Run applies the passes of the given stages, until ctx is done. Outputs and targets keep their meaning; a target's axes follow its
// value. Observe is called after each pass; it may be nil. Errors name the pass.
func Run(ctx context.Context, g *ir.Graph, observe Observer, stages ...Stage) error {
	g.Prune()
	for _, stage := range stages {
		for _, p := range List {
			if p.Stage != stage {
				continue
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := p.apply(ctx, g); err != nil {
				return err
			}
			if observe == nil {
				continue
			}
			if err := observe(p.Name, g); err != nil {
				return err
			}
		}
	}
	return nil
}

// apply runs a pass and verifies the graph afterwards. A panic becomes an error.
func (p Pass) apply(ctx context.Context, g *ir.Graph) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("internal error, please report it (VOXCAM_DEBUG=1 in the environment shows where it happened): pass %s: %v", p.Name, r)
			if os.Getenv("VOXCAM_DEBUG") != "" {
				err = fmt.Errorf("internal error, please report it: pass %s: %v\n%s", p.Name, r, debug.Stack())
			}
		}
	}()
	if err := p.Run(ctx, g); err != nil {
		return fmt.Errorf("pass %s: %w", p.Name, err)
	}
	g.Prune()
	if err := g.Verify(); err != nil {
		return fmt.Errorf("pass %s left a broken graph: %w", p.Name, err)
	}
	return nil
}

// rewrite makes a pass of a function that is done at once.
func rewrite(f func(g *ir.Graph) error) func(context.Context, *ir.Graph) error {
	return func(_ context.Context, g *ir.Graph) error { return f(g) }
}

// kept returns the values that a pass must not remove or change: outputs and targets.
func kept(g *ir.Graph) map[*ir.Value]bool {
	m := map[*ir.Value]bool{}
	for _, v := range g.Outputs {
		m[v] = true
	}
	for _, t := range g.Targets {
		m[t.Value] = true
	}
	return m
}
