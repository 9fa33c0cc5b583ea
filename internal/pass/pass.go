// Package pass rewrites graphs: an ordered list of passes, each of which keeps what the graph computes. The graph is verified
// after each one.
package pass

import (
	"context"
	"fmt"

	"github.com/voxcam/voxcam/internal/ir"
)

// Pass is one rewrite.
type Pass struct {
	Name string
	Run  func(g *ir.Graph) error
	// Why says why the pass stands where it does.
	Why string
}

// List is the order of the passes.
var List = []Pass{
	{"expand", dropExpand, "before layout, which would otherwise move the copies"},
	{"layout", sinkTransposes, "brings images to channels-last; the folds behind it look for neighbours without transposes between them"},
	{"constants", foldConstants, "layout leaves reshapes and transposes of constants"},
	{"affine", foldAffine, "needs the inference BatchNorm right behind its convolution"},
}

// Run applies all passes, until ctx is done. Outputs and targets keep their meaning; a target's axes follow its value.
func Run(ctx context.Context, g *ir.Graph) error {
	g.Prune()
	for _, p := range List {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := p.Run(g); err != nil {
			return fmt.Errorf("pass %s: %w", p.Name, err)
		}
		g.Prune()
		if err := g.Verify(); err != nil {
			return fmt.Errorf("pass %s left a broken graph: %w", p.Name, err)
		}
	}
	return nil
}

// kept are the values that a pass must not remove or change: outputs and targets.
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
