package explain

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/voxcam/voxcam/internal/cam"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/onnx"
	"github.com/voxcam/voxcam/internal/plan"
)

// Budget bounds the memory that computing takes: the arena, where activations and gradients live, the backend's copies of the
// weights, and what steps compute with. The volume and the gradient with respect to it are counted apart.
type Budget struct {
	Bytes    int  // 0: no bound
	Arena    int  // bound of the arena alone, without copies of the weights and what steps compute with; 0: none
	Smallest bool // as little as possible
}

// bounded reports whether plans must stream.
func (b Budget) bounded() bool { return b.Smallest || b.Bytes > 0 || b.Arena > 0 }

// planFor plans a gradient within the network's budget, of which the backend's copies of the weights and what its steps compute
// with take a part. Without a backend that part is nothing.
func (n *network) planFor(p *gradient) (*plan.Plan, error) {
	if !n.budget.bounded() {
		return plan.Make(p.graph), nil
	}
	opt := plan.Options{External: p.external()}
	if n.budget.Smallest || n.budget.Arena > 0 {
		opt.Budget = n.budget.Arena
		return plan.Stream(p.graph, opt)
	}
	weights, scratch := 0, 0
	if n.backend != nil {
		var err error
		if weights, err = n.weightBytes(p); err != nil {
			return nil, err
		}
	}
	for {
		opt.Budget = n.budget.Bytes - weights - scratch
		made, err := plan.Stream(p.graph, plan.Options{Budget: max(opt.Budget, 1), External: opt.External})
		if tooSmall := (*plan.TooSmallError)(nil); errors.As(err, &tooSmall) {
			return nil, &BudgetError{Budget: n.budget.Bytes, Smallest: tooSmall.Smallest + weights + scratch, Weights: weights + scratch}
		}
		if err != nil || n.backend == nil {
			return made, err
		}
		// What the steps need depends on the plan.
		needs, err := n.backend.ScratchBytes(made)
		if err != nil || made.Peak+weights+needs <= n.budget.Bytes {
			return made, err
		}
		scratch = max(scratch+1, needs)
	}
}

// weightBytes is what the backend's copies of the weights take when p is loaded, and with it the other pass that the volume needs: the
// gradient at the volume uses all that the gradient at a layer does.
func (n *network) weightBytes(p *gradient) (int, error) {
	if !p.input && n.needsInput {
		other, err := n.differentiate(true)
		if err != nil {
			return 0, err
		}
		p = other
	}
	return n.backend.WeightBytes(p.graph)
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
	Smallest int // bytes of the smallest plan
	Whole    int // bytes with whole tensors
	Weights  int // bytes of the constants
	Volume   int // bytes of the volume, and of the gradient with respect to it, which are counted apart
}

// Plans plans what methods need, without running anything. shape is [C, D, H, W]; sizes of zero are taken from the file.
func Plans(path string, opt Options, methods []string) (passes []PlannedPass, err error) {
	choices, err := cam.Choose(methods, nil)
	if err != nil {
		return nil, err
	}
	file, err := onnx.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	shape := opt.Shape
	for i, d := range declaredShape(file) {
		if shape[i] <= 0 {
			shape[i] = d
		}
	}
	if slices.Min(shape[:]) < 1 {
		return nil, fmt.Errorf("%s leaves the size of the volume open: give --volume-shape channels,depth,height,width", path)
	}
	n, err := newNetwork(file, shape, opt, nil)
	if err != nil {
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
		p, err := n.differentiate(input)
		if err != nil {
			return nil, err
		}
		pass.Graph = p.graph
		opt := plan.Options{External: p.external()}
		for _, v := range opt.External {
			pass.Volume += 4 * v.Shape().Elements()
		}
		pass.Curve = plan.Curve(p.graph, opt)
		least, err := plan.Stream(p.graph, opt)
		if err != nil {
			return nil, err
		}
		pass.Smallest, pass.Whole, pass.Weights = least.Peak, plan.Make(p.graph).Peak, constants(p.graph)
		var tooSmall *BudgetError
		if pass.Plan, err = n.planFor(p); errors.As(err, &tooSmall) {
			pass.Err = err
		} else if err != nil {
			return nil, err
		}
		passes = append(passes, pass)
	}
	return passes, nil
}

// constants is the storage of a graph's constants as float32.
func constants(g *ir.Graph) (total int) {
	seen := map[any]bool{}
	for _, node := range g.Nodes {
		for _, v := range node.Inputs {
			if v != nil && v.Const != nil && !seen[v.Const] {
				seen[v.Const] = true
				total += 4 * v.Const.Len()
			}
		}
	}
	return total
}
