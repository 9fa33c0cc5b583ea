package explain

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/cam"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/onnx"
	"github.com/voxcam/voxcam/internal/plan"
)

// Budget bounds the memory that computing takes: the arena, where activations and gradients live, the backend's copies of the
// weights, and what steps compute with. The volume and the gradient with respect to it are counted apart, except where a device has
// memory of its own: there, all that lies on the device is counted.
type Budget struct {
	Bytes    int  // 0: no bound
	Arena    int  // bound of the arena alone, without copies of the weights and what steps compute with; 0: none
	Smallest bool // as little as possible
}

// bounded reports whether plans must stream.
func (b Budget) bounded() bool { return b.Smallest || b.Bytes > 0 || b.Arena > 0 }

// draft is a gradient with the choices for its plan, kept until its program is there.
func (n *network) draft(input bool) (*gradient, error) {
	if p := n.drafts[input]; p != nil {
		return p, nil
	}
	p, err := n.differentiate(input)
	if err != nil {
		return nil, err
	}
	p.search = plan.NewSearch(p.graph, plan.Options{External: p.external(), Costs: n.backend.Costs()})
	n.drafts[input] = p
	return p, nil
}

// planned is a gradient with its plan within the network's budget, of which fields, the backend's copies of the weights, and what
// its steps compute with take a part.
func (n *network) planned(input bool) (p *gradient, err error) {
	if n.budget.bounded() {
		if p, err = n.draft(input); err != nil {
			return nil, err
		}
		if p.plan, err = n.within(p); err != nil {
			return nil, err
		}
		delete(n.drafts, input)
		p.search = nil
	} else {
		if p, err = n.differentiate(input); err != nil {
			return nil, err
		}
		p.plan = plan.Make(p.graph)
	}
	p.split = slices.IndexFunc(p.plan.Steps, func(s plan.Step) bool { return slices.Contains(s.Node.Inputs, p.seed) })
	if p.split < 0 {
		p.split = len(p.plan.Steps)
	}
	return p, nil
}

// within plans a draft.
func (n *network) within(p *gradient) (*plan.Plan, error) {
	switch {
	case n.budget.Smallest:
		return p.search.Smallest(), nil
	case n.budget.Arena > 0:
		return p.search.Plan(n.budget.Arena)
	}
	weights, err := n.weightBytes(p)
	if err != nil {
		return nil, err
	}
	fixed := weights + n.fieldBytes(n.needs, n.places)
	for besides := 0; ; {
		made, err := p.search.Plan(max(1, n.budget.Bytes-fixed-besides))
		if tooSmall := (*plan.TooSmallError)(nil); errors.As(err, &tooSmall) {
			smallest := p.search.Smallest()
			least, err := n.besides(smallest)
			if err != nil {
				return nil, err
			}
			needs := smallest.Peak + fixed + least
			if needs <= n.budget.Bytes {
				return smallest, nil
			}
			return nil, &BudgetError{Budget: n.budget.Bytes, Smallest: needs, Weights: weights + least}
		}
		if err != nil {
			return nil, err
		}
		// What the steps need depends on the plan.
		needs, err := n.besides(made)
		if err != nil || made.Peak+fixed+needs <= n.budget.Bytes {
			return made, err
		}
		besides = max(besides+1, needs)
	}
}

// besides is what a program of a plan takes besides weights and the plan's peak: what steps compute with.
func (n *network) besides(p *plan.Plan) (int, error) {
	arena, err := n.backend.ArenaBytes(p)
	if err != nil {
		return 0, err
	}
	scratch, err := n.backend.ScratchBytes(p)
	return arena - p.Peak + scratch, err
}

// weightBytes is what the backend's copies of the weights take when p is loaded, and with it the other pass that the volume needs.
func (n *network) weightBytes(p *gradient) (int, error) {
	graphs := []*ir.Graph{p.graph}
	if other := !p.input; n.needs.input && other || n.needs.layer && !other && n.noLayer == nil {
		o, err := n.differentiate(other)
		if err != nil {
			return 0, err
		}
		graphs = append(graphs, o.graph)
	}
	return n.backend.WeightBytes(graphs...)
}

// BudgetError says that not even the smallest plan fits.
type BudgetError struct {
	Budget, Smallest int
	Weights          int // of Smallest: copies of the weights, and what steps compute with
}

func (e *BudgetError) Error() string {
	return fmt.Sprintf("the memory budget of %s is too small: the least that works is %s, of which %s are copies of the weights; "+
		"give a larger budget, smaller volumes, or for the CAM methods alone a layer further behind", mib(e.Budget), mib(e.Smallest), mib(e.Weights))
}

func mib(bytes int) string { return fmt.Sprintf("%.1f MiB", math.Ceil(float64(bytes)/(1<<20)*10)/10) }

// external are the volume and, if it is what is wanted, the gradient with respect to it: they are streamed from and to where the
// caller has them.
func (p *gradient) external() []*ir.Value {
	var ext []*ir.Value
	for _, v := range []*ir.Value{p.volume, p.gradient} {
		if v.HasDepth() && (v == p.volume || p.input) {
			ext = append(ext, v)
		}
	}
	return ext
}

// PlannedPass is the plan of one pass through the network that methods need.
type PlannedPass struct {
	Name     string
	Methods  []string
	Graph    *ir.Graph
	Plan     *plan.Plan // nil when Err says why
	Err      error      // *BudgetError
	Curve    []plan.Point
	Smallest int // bytes of the arena of the smallest plan
	Whole    int // bytes of the arena with whole tensors
	Weights  int // bytes of the backend's copies of the weights, and of what the steps of the smallest plan compute with
	Fields   int // bytes on the device of volumes, gradients, moments and maps, which a budget counts; 0 without a device
	Volume   int // bytes of the volume, and of the gradient with respect to it, which are counted apart
}

// Plans plans what methods need on a backend, without running anything.
func Plans(path string, b backend.Backend, opt Options, methods []string) (passes []PlannedPass, err error) {
	choices, err := cam.Choose(methods, nil)
	if err != nil {
		return nil, err
	}
	file, err := onnx.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	shape, err := fullShape(file, opt.Shape)
	if err != nil {
		return nil, err
	}
	n, err := newNetwork(file, shape, opt, b)
	if err != nil {
		return nil, err
	}
	n.needs = needsOf(choices, n.voxels(), n.shape[0])
	if err := n.place(); err != nil {
		return nil, err
	}
	for _, input := range []bool{false, true} {
		pass := PlannedPass{Name: "gradient at the layer " + n.target.Label}
		if input {
			pass.Name = "gradient at the volume"
		}
		for _, c := range choices {
			if (kindOf(c) != atLayer) == input {
				pass.Methods = append(pass.Methods, c.Name)
			}
		}
		if len(pass.Methods) == 0 {
			continue
		}
		p, err := n.draft(input)
		if err != nil {
			return nil, err
		}
		pass.Graph = p.graph
		for _, v := range p.external() {
			pass.Volume += 4 * v.Shape().Elements()
		}
		pass.Curve, pass.Smallest, pass.Whole = p.search.Curve(), p.search.Smallest().Peak, plan.Make(p.graph).Peak
		if pass.Weights, err = n.weightBytes(p); err != nil {
			return nil, err
		}
		besides, err := n.besides(p.search.Smallest())
		if err != nil {
			return nil, err
		}
		pass.Weights += besides
		pass.Fields = n.fieldBytes(n.needs, n.places)
		var tooSmall *BudgetError
		pass.Plan = plan.Make(p.graph)
		if n.budget.bounded() {
			pass.Plan, err = n.within(p)
		}
		if errors.As(err, &tooSmall) {
			pass.Err = err
		} else if err != nil {
			return nil, err
		}
		passes = append(passes, pass)
	}
	return passes, nil
}
