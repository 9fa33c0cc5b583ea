package explain

import (
	"context"
	"errors"
	"fmt"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/grad"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/layer"
	"github.com/voxcam/voxcam/internal/onnx"
	"github.com/voxcam/voxcam/internal/pass"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/sysmem"
)

// network is the model bound to one volume shape: a graph that passes have prepared, and programs made from it on demand.
type network struct {
	shape      [4]int // [C, D, H, W]
	assumed    string // about the order of the input's axes; "" if nothing is
	ahead      bool   // volumes may overlap
	follows    bool   // plans may be made anew for other budgets: what that takes is kept
	afterPass  func(pass, graph string) error
	graph      *ir.Graph
	logits     *ir.Value
	target     layer.Target // of the graph before the passes
	layer      *cam.Layer   // the target, as records have it; nil without one
	noLayer    error        // why there is no target layer; nil if there is one
	classCount int

	backend backend.Backend
	free    func() (int, error) // memory of the host that is free
	weights map[[2]bool]int     // bytes, by whether the passes at the layer and at the input are needed

	budget  cam.Budget // of the plans
	forced  bool       // the device refused more
	needs   needs
	placed  bool // places are those of needs and budget
	places  places
	taken   int // bytes of the memory that a budget bounds which plans and fields take; 0: there are no plans, or nobody needs to know
	fields  fields
	arena   backend.Arena // of all programs; made with the first
	atLayer *gradient
	atInput *gradient
}

// newNetwork binds the model to a volume shape and resolves the target layer.
func newNetwork(ctx context.Context, file *onnx.Model, shape [4]int, opt Options, b backend.Backend) (*network, error) {
	imported, err := importModel(ctx, file, shape, opt, b)
	if err != nil {
		return nil, err
	}
	assumed := ""
	if opt.confirm {
		if assumed, err = layer.Confirm(imported); err != nil {
			return nil, fmt.Errorf("%s: %w", file.Path, err)
		}
	}
	g := imported.Graph
	n := &network{assumed: assumed, shape: shape, budget: opt.Budget, ahead: opt.Ahead, graph: g, backend: b, free: sysmem.Free, weights: map[[2]bool]int{}}
	_, resident := b.(backend.Resident)
	n.follows = resident || opt.Allow != nil
	if n.logits, err = scores(g); err != nil {
		return nil, fmt.Errorf("%s: %w", file.Path, err)
	}
	n.classCount = n.logits.Shape().Elements()
	g.Outputs = []*ir.Value{n.logits}

	n.target, n.noLayer = layer.Find(imported, layer.Request{
		Name: opt.TargetLayer, Grid: opt.TokenGrid, Prefix: opt.PrefixTokens, Layout: opt.LayerLayout, Volume: [3]int(shape[1:]),
	})
	if n.noLayer == nil && !grad.Depends(g, n.logits, n.target.Value) {
		n.noLayer = fmt.Errorf("the class scores (output %q) are not computed from layer %q, which leads elsewhere, as an auxiliary head does; "+
			"choose a layer on the way to the scores", n.logits.Name, n.target.Label)
	}
	if n.noLayer != nil && opt.TargetLayer != "" {
		return nil, fmt.Errorf("%s: %w", file.Path, n.noLayer)
	}
	if n.noLayer == nil {
		g.Targets = []ir.Target{n.target.Target}
		n.layer = describe(n.target)
	}
	n.afterPass = opt.AfterPass
	observe := n.observer("")
	if err := observe("import", g); err != nil {
		return nil, err
	}
	if err := pass.Run(ctx, g, observe, pass.Recognition, pass.Lowering); err != nil {
		return nil, fmt.Errorf("%s: %w", file.Path, err)
	}
	n.logits = g.Outputs[0]
	return n, nil
}

// describe is a target layer as records have it.
func describe(t layer.Target) *cam.Layer {
	return &cam.Layer{
		Name: t.Label, Value: t.Value.Name, Shape: t.Value.Shape().Clone(), Axes: t.Axes.String(), Module: t.Module, Call: t.Call, Calls: t.Calls,
		AnotherTensor: t.Another, Warnings: t.Warnings, Notes: t.Notes,
	}
}

// scores finds the output that holds one score a class.
func scores(g *ir.Graph) (*ir.Value, error) {
	for _, v := range g.Outputs {
		long := 0
		for _, d := range v.Shape() {
			if d > 1 {
				long++
			}
		}
		if long <= 1 && v.Const == nil {
			return v, nil
		}
	}
	var shapes []string
	for _, v := range g.Outputs {
		shapes = append(shapes, fmt.Sprintf("%q %v", v.Name, v.Shape()))
	}
	return nil, fmt.Errorf("no output is a vector of class scores [1, classes]: the outputs are %s", shapes)
}

// gradient is a pass through the network: a program that computes the class scores and the gradient of one of them.
type gradient struct {
	graph    *ir.Graph
	input    bool // at the input, not at a layer
	backend  backend.Backend
	volume   *ir.Value // input, [1, D, H, W, C]
	logits   *ir.Value
	seed     *ir.Value // input, one-hot over the logits
	at       *ir.Value // what the gradient is with respect to
	gradient *ir.Value
	axes     ir.Axes // of at

	drafts  drafts
	plan    *plan.Plan      // nil without one
	arena   int             // bytes of an arena for the plan
	bytes   int             // of an arena, and what the plan's steps compute with besides
	split   int             // the first step of the plan that needs the seed
	program backend.Program // nil while it is not loaded
	// Whether the volume lies outside the arena.
	volumeOutside bool
}

// gradientAt returns the program for the gradient at the target layer, or at the input.
func (n *network) gradientAt(ctx context.Context, input bool) (*gradient, error) {
	if p := *n.slot(input); p != nil && p.program != nil {
		return p, nil
	}
	needed := needs{layer: !input, input: input}
	if !input && n.noLayer != nil {
		return nil, n.noLayer
	}
	if err := n.plan(ctx, needed); err != nil {
		return nil, err
	}
	if err := n.load(ctx); err != nil {
		return nil, err
	}
	return *n.slot(input), nil
}

func (n *network) slot(input bool) **gradient {
	if input {
		return &n.atInput
	}
	return &n.atLayer
}

// pass is the gradient at the layer, or at the input, without a plan if nobody has made one.
func (n *network) pass(input bool) (p *gradient, err error) {
	slot := n.slot(input)
	if *slot == nil {
		*slot, err = n.differentiate(input)
	}
	return *slot, err
}

// passes are those that have plans.
func (n *network) passes() (list []*gradient) {
	for _, p := range []*gradient{n.atLayer, n.atInput} {
		if p != nil && p.plan != nil {
			list = append(list, p)
		}
	}
	return list
}

// require makes places and plans for what is needed besides what was needed before. It takes no memory of a device, and gives some back
// where plans and fields are in the way.
func (n *network) require(ctx context.Context, needed needs) error {
	more := n.needs.and(needed)
	grown := more.input && !n.needs.input || n.fieldBytes(more, n.places) > n.fieldBytes(n.needs, n.places)
	if n.needs = more; grown { // plans did not reckon with weights and fields that are needed now
		if err := n.replan(n.budget); err != nil {
			return err
		}
	}
	if !n.placed {
		to, err := n.place(ctx)
		if err != nil {
			return err
		}
		if err := n.move(to); err != nil {
			return err
		}
		n.placed = true
	}
	err := n.plan(ctx, needed)
	if tooSmall := (*cam.BudgetError)(nil); errors.As(err, &tooSmall) { // the other pass may need more
		least, leastErr := n.leastBytes(ctx)
		if leastErr != nil {
			return leastErr
		}
		tooSmall.Smallest = max(tooSmall.Smallest, least+n.fieldBytes(n.needs, n.places))
	}
	return err
}

// replan forgets plans and programs, for others within a budget.
func (n *network) replan(b cam.Budget) error {
	n.budget, n.placed, n.taken = b, false, 0
	err := n.unload()
	for _, p := range n.passes() {
		p.plan = nil
	}
	return err
}

// plan makes the plans that are needed and not there.
func (n *network) plan(ctx context.Context, needed needs) error {
	for _, input := range []bool{true, false} {
		if !n.wants(needed, input) {
			continue
		}
		p, err := n.pass(input)
		if err == nil && p.plan == nil {
			err = n.planPass(ctx, p)
		}
		if err != nil {
			return err
		}
	}
	if !n.follows {
		return nil
	}
	weights, err := n.weightBytes(nil)
	if err != nil {
		return err
	}
	most := 0
	for _, p := range n.passes() {
		most = max(most, p.bytes)
	}
	n.taken = most + weights + n.fieldBytes(n.needs, n.places)
	return nil
}

// load puts the programs of all plans into the arena that they share, one after the other. An arena that
// is too small makes room for a larger one.
func (n *network) load(ctx context.Context) (err error) {
	bytes := 0
	for _, p := range n.passes() {
		bytes = max(bytes, p.arena)
	}
	if n.arena == nil || n.arena.Bytes() < bytes {
		if err := n.unload(); err != nil {
			return err
		}
		if n.arena, err = n.backend.NewArena(bytes); err != nil {
			return err
		}
	}
	for _, p := range n.passes() {
		if p.program != nil {
			continue
		}
		if err := n.loadInto(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// loadInto puts a program into the arena, with its gradient in a field if that lies outside.
func (n *network) loadInto(ctx context.Context, p *gradient) (err error) {
	of := p.plan.BufferOf()
	p.volumeOutside = p.plan.Buffers[of[p.volume]].External
	outside := p.plan.Buffers[of[p.gradient]].External
	program, err := n.backend.Load(ctx, p.plan, n.arena)
	if err == nil && outside {
		if err = n.take(&n.fields.gradient, n.values(), n.places.gradient); err == nil {
			err = program.Bind(p.gradient, n.fields.gradient)
		}
		if err != nil {
			err = errors.Join(err, program.Close())
		}
	}
	if err != nil {
		return err
	}
	p.program = program
	return nil
}

// differentiate builds the graph that computes the scores and the gradient, without a plan.
func (n *network) differentiate(input bool) (*gradient, error) {
	if !input && n.noLayer != nil {
		return nil, n.noLayer
	}
	g, twin := n.graph.Clone()
	p := &gradient{graph: g, logits: twin[n.logits], volume: g.Inputs[0], at: g.Inputs[0], input: input, backend: n.backend}
	if !input {
		p.at, p.axes = g.Targets[0].Value, g.Targets[0].Axes
	}
	g.Targets = nil
	seed, gradients, err := grad.Build(g, p.logits, []*ir.Value{p.at})
	if err != nil {
		return nil, err
	}
	p.seed, p.gradient = seed, gradients[0]
	g.Outputs = []*ir.Value{p.logits, p.gradient}
	if !input {
		g.Outputs = append(g.Outputs, p.at)
	}
	g.Prune()
	at := "layer-"
	if input {
		at = "volume-"
	}
	observe := n.observer(at)
	if err := observe(pass.Differentiation, g); err != nil {
		return nil, err
	}
	if err := pass.Run(context.Background(), g, observe, pass.Gradient); err != nil {
		return nil, err
	}
	return p, nil
}

// observer hands the text of graphs to Options.AfterPass, if there is one, under the names of passes behind a prefix.
func (n *network) observer(prefix string) pass.Observer {
	return func(pass string, g *ir.Graph) error {
		if n.afterPass == nil {
			return nil
		}
		return n.afterPass(prefix+pass, g.String())
	}
}

// unload closes the programs and their arena.
func (n *network) unload() error {
	var errs []error
	for _, p := range []*gradient{n.atLayer, n.atInput} {
		if p != nil && p.program != nil {
			errs = append(errs, p.program.Close())
			p.program = nil
		}
	}
	if n.arena != nil {
		errs = append(errs, n.arena.Close())
		n.arena = nil
	}
	return errors.Join(errs...)
}

// close gives back all that was taken, and forgets the plans.
func (n *network) close() error { return errors.Join(n.replan(n.budget), n.fields.close()) }

// put brings a volume to where the program reads it.
func (p *gradient) put(x backend.Field) error {
	if p.volumeOutside {
		return p.program.Bind(p.volume, x)
	}
	inside, err := p.program.Field(p.volume)
	if err != nil {
		return err
	}
	return p.backend.Copy(inside, x)
}

// choose writes the seed of a class.
func (p *gradient) choose(class int) error {
	seed := make([]float32, p.seed.Shape().Elements())
	seed[class] = 1
	return p.program.Write(p.seed, seed)
}

// forward runs the program on a volume up to the class scores.
func (p *gradient) forward(ctx context.Context, x backend.Field) ([]float32, error) {
	if err := p.put(x); err != nil {
		return nil, err
	}
	if err := p.program.Run(ctx, 0, p.split); err != nil {
		return nil, err
	}
	logits := make([]float32, p.logits.Shape().Elements())
	return logits, p.program.Read(p.logits, logits)
}

// backward runs the rest for one class. It must follow forward.
func (p *gradient) backward(ctx context.Context, class int) error {
	if err := p.choose(class); err != nil {
		return err
	}
	return p.program.Run(ctx, p.split, len(p.plan.Steps))
}

// both is forward and backward in one run, without the scores.
func (p *gradient) both(ctx context.Context, x backend.Field, class int) error {
	if err := p.put(x); err != nil {
		return err
	}
	if err := p.choose(class); err != nil {
		return err
	}
	return p.program.Run(ctx, 0, len(p.plan.Steps))
}

// layer is the layer with the gradient at it, until the next run.
func (p *gradient) layer(score float64) (l backend.Layer, err error) {
	if l.Layout, err = backend.NewLayout(p.at.Shape(), p.axes); err != nil {
		return l, err
	}
	if l.Activation, err = p.program.Field(p.at); err != nil {
		return l, err
	}
	l.Gradient, err = p.program.Field(p.gradient)
	l.Score = score
	return l, err
}
