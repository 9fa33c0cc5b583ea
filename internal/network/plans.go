package network

import (
	"context"
	"errors"
	"math/bits"
	"slices"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/plan"
)

// candidates has the search for a program's plan and its findings. Where plans follow a budget that moves, it is kept with the network,
// besides a few plans: a search takes some KB of the host's memory for each node of the graph, and a tenth of a second or two to repeat.
type candidates struct {
	search    *plan.Search
	made      map[int]sized // by budget
	least     sized         // the smallest
	leastPeak int           // of it; 0 while it is not known
	whole     int           // bytes of an arena with whole tensors; 0 while it is not known
}

// sized is a plan with the bytes of its arena, and with those that its steps take besides.
type sized struct {
	plan         *plan.Plan
	arena, bytes int
}

// keptPlans bounds the plans of a program that are kept. A budget that goes up and down comes back to the same ones.
const keptPlans = 8

// candidate returns a gradient program with the search for its plan.
func (n *Network) candidate(ctx context.Context, input bool) (*Gradient, error) {
	p, err := n.pass(input)
	if err != nil || p.candidates.search != nil {
		return p, err
	}
	search, err := plan.NewSearch(ctx, p.graph, plan.Options{External: p.external(), Costs: n.Backend.Costs()})
	if err != nil {
		return nil, err
	}
	p.candidates = candidates{search: search, made: map[int]sized{}, leastPeak: p.candidates.leastPeak, whole: p.candidates.whole}
	return p, nil
}

// planPass gives a program its plan within the network's budget, of which buffers, the backend's copies of the weights, and the working
// memory of its steps take a part.
func (n *Network) planPass(ctx context.Context, p *Gradient) (err error) {
	var made sized
	if n.Budget.Bounded() {
		if _, err := n.candidate(ctx, p.Input); err != nil {
			return err
		}
		if made, err = n.within(ctx, p); err != nil {
			return err
		}
		if !keepsAll(made.plan) && p.candidates.leastPeak == 0 { // to tell levels apart
			if _, err := n.smallest(ctx, p); err != nil {
				return err
			}
		}
	} else {
		if made, err = n.size(plan.Make(p.graph)); err != nil {
			return err
		}
		p.candidates.whole = made.plan.Peak
	}
	p.plan, p.arena, p.bytes = made.plan, made.arena, made.bytes
	p.split = slices.IndexFunc(p.plan.Steps, func(s plan.Step) bool { return p.seed != nil && slices.Contains(s.Node.Inputs, p.seed) })
	if p.split < 0 {
		p.split = len(p.plan.Steps)
	}
	if !n.follows {
		p.candidates.search, p.candidates.made, p.candidates.least.plan = nil, nil, nil
	}
	return nil
}

// within returns the plan of a candidate within the budget.
func (n *Network) within(ctx context.Context, p *Gradient) (sized, error) {
	switch {
	case n.Budget.Smallest:
		return n.smallestFree(ctx, p)
	case n.Budget.Arena > 0:
		made, err := p.candidates.search.Plan(ctx, n.Budget.Arena)
		if err != nil {
			return sized{}, err
		}
		return n.size(made)
	}
	weights, err := n.weightBytes(p)
	if err != nil {
		return sized{}, err
	}
	fixed := weights + n.bufferBytes(n.needs, n.Placement)
	for besides := 0; ; {
		made, err := n.upTo(ctx, p, max(1, n.Budget.Bytes-fixed-besides))
		if tooSmall := (*plan.TooSmallError)(nil); errors.As(err, &tooSmall) {
			smallest, err := n.smallest(ctx, p)
			if err != nil {
				return sized{}, err
			}
			needs := smallest.bytes + fixed
			if needs <= n.Budget.Bytes {
				return smallest, nil
			}
			return sized{}, &cam.BudgetError{Budget: n.Budget.Bytes, Smallest: needs, Weights: needs - smallest.plan.Peak - (fixed - weights)}
		}
		// The working memory of steps depends on the plan.
		if err != nil || made.bytes+fixed <= n.Budget.Bytes {
			return made, err
		}
		besides = max(besides+1, made.bytes-made.plan.Peak)
	}
}

// upTo returns the fastest plan that takes at most budget bytes, or a few percent less where budgets move, so that close budgets have the
// same plan.
func (n *Network) upTo(ctx context.Context, p *Gradient, budget int) (sized, error) {
	if n.follows {
		least, err := n.smallest(ctx, p)
		if err != nil {
			return sized{}, err
		}
		if coarse := coarsely(budget); coarse >= least.plan.Peak {
			budget = coarse
		}
	}
	if made, ok := p.candidates.made[budget]; ok {
		return made, nil
	}
	best, err := p.candidates.search.Plan(ctx, budget)
	if err != nil {
		return sized{}, err
	}
	made, err := n.size(best)
	if err == nil {
		if len(p.candidates.made) >= keptPlans {
			clear(p.candidates.made)
		}
		p.candidates.made[budget] = made
	}
	return made, err
}

// coarsely rounds a number down to one of six binary digits.
func coarsely(x int) int {
	low := max(0, bits.Len(uint(x))-6)
	return x >> low << low
}

// smallest returns the smallest plan.
func (n *Network) smallest(ctx context.Context, p *Gradient) (least sized, err error) {
	if p.candidates.least.plan == nil {
		found, err := p.candidates.search.Smallest(ctx)
		if err != nil {
			return sized{}, err
		}
		if p.candidates.least, err = n.size(found); err != nil {
			p.candidates.least = sized{}
			return sized{}, err
		}
		p.candidates.leastPeak = p.candidates.least.plan.Peak
	}
	return p.candidates.least, err
}

// smallestFree returns the smallest plan, if the host has the memory for it: a device says so itself.
func (n *Network) smallestFree(ctx context.Context, p *Gradient) (sized, error) {
	least, err := n.smallest(ctx, p)
	if _, resident := n.Backend.(backend.Resident); err != nil || resident {
		return least, err
	}
	weights, err := n.weightBytes(p)
	if err != nil {
		return sized{}, err
	}
	needs := least.bytes + weights
	if free, err := n.free(); err == nil && needs > free {
		return sized{}, &cam.BudgetError{Budget: free, Free: true, Smallest: needs, Weights: needs - least.plan.Peak}
	}
	return least, nil
}

// size asks the backend for the bytes of a plan.
func (n *Network) size(p *plan.Plan) (s sized, err error) {
	s.plan = p
	if s.arena, err = n.Backend.ArenaBytes(p); err != nil {
		return s, err
	}
	scratch, err := n.Backend.ScratchBytes(p)
	s.bytes = s.arena + scratch
	return s, err
}

// weightBytes returns the bytes of the backend's copies of the weights with p, if it is not nil, the programs that volumes need, and those
// that have plans.
func (n *Network) weightBytes(p *Gradient) (int, error) {
	var which [2]bool
	var graphs []*ir.Graph
	for i, input := range []bool{false, true} {
		slot := *n.slot(input)
		if which[i] = n.wants(n.needs, input) || slot != nil && (slot == p || slot.plan != nil); !which[i] {
			continue
		}
		pass, err := n.pass(input)
		if err != nil {
			return 0, err
		}
		graphs = append(graphs, pass.graph)
	}
	bytes, known := n.weights[which]
	if known || len(graphs) == 0 {
		return bytes, nil
	}
	bytes, err := n.Backend.WeightBytes(graphs...)
	if err == nil {
		n.weights[which] = bytes
	}
	return bytes, err
}

// external returns the values outside the arena: the volume and, for the program at the input, its gradient. They are streamed from and to
// device buffers.
func (p *Gradient) external() []*ir.Value {
	var ext []*ir.Value
	if p.volume.HasDepth() {
		ext = append(ext, p.volume)
	}
	if p.Input && p.Gradient.HasDepth() {
		ext = append(ext, p.Gradient)
	}
	return ext
}

// PlannedPass is the plan of one pass through the network that methods need.
type PlannedPass struct {
	Name     string
	Methods  []string
	Graph    *ir.Graph
	Plan     *plan.Plan // nil when Err says why
	Level    cam.Level  // of Plan
	Err      error      // *BudgetError
	Curve    []plan.Point
	Smallest int // bytes of the arena of the smallest plan
	Whole    int // bytes of the arena with whole tensors
	Weights  int // bytes of the backend's copies of the weights, and of working memory of the smallest plan's steps
	Fields   int // bytes on the device of volumes, gradients, moments and maps, which a budget counts; 0 without a device
	Volume   int // bytes of the volume, and of the gradient with respect to it, which are counted apart
}

// Plans makes the plans that methods need for a model, without running anything. The shape of b is
// the one of the options and the file. ctx stops it.
func Plans(ctx context.Context, path string, o ModelOptions, b Binding, choices []cam.Choice) (passes []PlannedPass, err error) {
	f, err := OpenFile(ctx, path, o, OpeningBytes(b.Budget, b.Backend))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if b.Shape, err = f.FullShape(); err != nil {
		return nil, err
	}
	n, err := f.Bind(ctx, b)
	if err != nil {
		return nil, err
	}
	n.needs = NeedsOf(choices, n.Voxels(), n.Shape[0])
	if n.Placement, err = n.place(ctx); err != nil {
		return nil, err
	}
	for _, input := range []bool{false, true} {
		pass := PlannedPass{Name: n.passName(input)}
		for _, c := range choices {
			if (KindOf(c) != AtLayer) == input {
				pass.Methods = append(pass.Methods, c.Name)
			}
		}
		if len(pass.Methods) == 0 {
			continue
		}
		p, err := n.candidate(ctx, input)
		if err != nil {
			return nil, err
		}
		pass.Graph = p.graph
		for _, v := range p.external() {
			pass.Volume += 4 * v.Shape().Elements()
		}
		least, err := n.smallest(ctx, p)
		if err != nil {
			return nil, err
		}
		pass.Curve, pass.Smallest, pass.Whole = p.candidates.search.Curve(), least.plan.Peak, p.whole()
		if pass.Weights, err = n.weightBytes(p); err != nil {
			return nil, err
		}
		pass.Weights += least.bytes - least.plan.Peak
		pass.Fields = n.bufferBytes(n.needs, n.Placement)
		var tooSmall *cam.BudgetError
		switch err := n.planPass(ctx, p); {
		case errors.As(err, &tooSmall):
			pass.Err = err
		case err != nil:
			return nil, err
		default:
			pass.Plan, pass.Level = p.plan, n.passLevel(p)
		}
		passes = append(passes, pass)
	}
	return passes, f.Err()
}
