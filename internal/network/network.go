package network

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/grad"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/layer"
	"github.com/voxcam/voxcam/internal/pass"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/sysmem"
)

// Network is the model bound to one volume shape: a graph that passes have prepared, and programs made from it on demand.
type Network struct {
	Shape     [4]int // [C, D, H, W]
	Assumed   string // about the order of the input's axes; "" if nothing is assumed
	ahead     bool   // volumes may overlap
	follows   bool   // plans may be made anew for other budgets: their candidates are kept
	afterPass AfterPass
	graph     *ir.Graph
	raw       *ir.Value // the output's values in front of its activation; of one with space, the score of each voxel
	labels    *ir.Value // the class of each voxel; nil for outputs without space
	others    []other   // inputs besides the one that is explained
	axes      string    // of the one that is explained, in the file's order
	Head      cam.Head
	Target    layer.Match // of the graph before the passes
	Layer     *cam.Layer  // the target, as records have it; nil without one
	NoLayer   error       // the reason why there is no target layer; nil if there is one

	Backend backend.Backend
	free    func() (int, error) // memory of the host that is free
	weights map[[2]bool]int     // bytes, by whether the passes at the layer and at the input are needed

	Budget    cam.Budget // of the plans
	Forced    bool       // the device refused more
	needs     Needs
	Placed    bool // Placement follows needs and Budget
	Placement placement
	Taken     int // bytes of the budget that plans and buffers take; 0: there are no plans, or budgets do not move
	Buffers   buffers
	Arena     backend.Arena // of all programs; made with the first
	atLayer   *Gradient
	atInput   *Gradient
}

// AfterPass is called with the text of the graph, without weights, as it was imported ("import"), after each pass of the compiler, and after
// differentiation. Names from differentiation on begin with "layer-" or "volume-", for the tensor by which is differentiated.
type AfterPass func(pass, graph string) error

// Binding has the shape, the device and the budget that a model is bound to.
type Binding struct {
	Shape     [4]int // of volumes, [C, D, H, W]
	Backend   backend.Backend
	Budget    cam.Budget
	Ahead     bool      // device memory is taken for a second volume, and for maps on their way back, as far as plans do not suffer
	Follows   bool      // plans may be made anew for other budgets, as they always are on a backend.Resident
	AfterPass AfterPass // nil: not called
}

// Bind binds the model to a volume shape and resolves the target layer. An error has an advice if it may be due to the shape.
func (f *ModelFile) Bind(ctx context.Context, b Binding) (*Network, error) {
	n, err := f.bind(ctx, b)
	if changed := f.Err(); changed != nil {
		return nil, changed
	}
	if err != nil {
		return nil, f.misfit(b.Shape, err)
	}
	return n, nil
}

func (f *ModelFile) bind(ctx context.Context, b Binding) (*Network, error) {
	imported, err := f.importFor(ctx, b.Shape, OpeningBytes(b.Budget, b.Backend))
	if err != nil {
		return nil, err
	}
	assumed := ""
	if f.confirm {
		if assumed, err = layer.Confirm(imported); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Path(), err)
		}
	}
	g := imported.Graph
	axes := f.inputAxes()
	_, resident := b.Backend.(backend.Resident)
	n := &Network{
		Shape: b.Shape, Assumed: assumed, ahead: b.Ahead, follows: b.Follows || resident, afterPass: b.AfterPass, graph: g, Backend: b.Backend, free: sysmem.Free,
		weights: map[[2]bool]int{}, Budget: b.Budget, axes: axes,
	}
	if n.raw, n.Head, err = f.findHead(imported, [3]int(b.Shape[1:])); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path(), err)
	}
	g.Outputs = []*ir.Value{n.raw}

	opt := f.options
	n.Target, n.NoLayer = findLayer(imported, n.Head, n.raw, layer.Request{
		Name: opt.TargetLayer, Grid: opt.TokenGrid, Prefix: opt.PrefixTokens, Layout: opt.LayerLayout, Volume: [3]int(b.Shape[1:]),
	})
	if n.NoLayer == nil && !grad.Depends(g, n.raw, n.Target.Value) {
		n.NoLayer = fmt.Errorf("the class scores (output %q) are not computed from layer %q, which leads elsewhere, as an auxiliary head does; "+
			"choose a layer on the way to the scores", n.Head.Output, n.Target.Label)
	}
	if n.NoLayer != nil && opt.TargetLayer != "" {
		return nil, fmt.Errorf("%s: %w", f.Path(), n.NoLayer)
	}
	if n.NoLayer == nil {
		g.Targets = []ir.Target{n.Target.Target}
		n.Layer = describe(n.Target)
	}
	if n.Head.Task == cam.TaskSegmentation {
		if err := appendRegion(g, n.raw, n.Head, axes); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Path(), err)
		}
	}
	for _, v := range g.Inputs[1:] {
		if v.Name != weightsName {
			n.others = append(n.others, other{v.Name, v.Shape().Clone()})
		}
	}
	observe := n.observer("")
	if err := observe("import", g); err != nil {
		return nil, err
	}
	if err := pass.Run(ctx, g, observe, pass.Recognition, pass.Lowering); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path(), err)
	}
	n.raw, n.labels = g.Outputs[0], nil
	if len(g.Outputs) > 1 {
		n.labels = g.Outputs[1]
	}
	return n, nil
}

// describe returns a target layer in the form of records.
func describe(t layer.Match) *cam.Layer {
	return &cam.Layer{
		Name: t.Label, Value: t.Value.Name, Shape: t.Value.Shape().Clone(), Axes: t.Axes.String(), Module: t.Module, Call: t.Call, Calls: t.Calls,
		AnotherTensor: t.Another, Warnings: t.Warnings, Notes: t.Notes,
	}
}

// Gradient is a gradient program: it computes the class scores, and the gradient of one of them at the layer or at the input. One at the layer
// may stop at the scores, for methods that look at the activation alone.
type Gradient struct {
	graph    *ir.Graph
	Input    bool // at the input, not at a layer
	backend  backend.Backend
	volume   *ir.Value   // input, [1, D, H, W, C]
	raw      *ir.Value   // as in Network
	labels   *ir.Value   // as in Network
	others   []*ir.Value // inputs besides the one that is explained, as in Network
	given    [][]float32 // of others
	weights  *ir.Value   // input, of classes in the score of a voxel; nil for outputs without space
	classes  []float32   // of weights
	seed     *ir.Value   // input, the gradient of the score with respect to raw; nil without a gradient
	at       *ir.Value   // the value by which is differentiated
	Gradient *ir.Value   // nil where the activation is enough
	axes     ir.Axes     // of at

	candidates candidates
	plan       *plan.Plan      // nil without one
	arena      int             // bytes of an arena for the plan
	bytes      int             // of an arena, and of working memory of the plan's steps
	split      int             // the first step of the plan that needs the seed
	Program    backend.Program // nil while it is not loaded
	// Whether the volume lies outside the arena.
	volumeOutside bool
}

// GradientAt returns the program for the gradient at the target layer, or at the input.
func (n *Network) GradientAt(ctx context.Context, input bool) (*Gradient, error) {
	if p := *n.slot(input); p != nil && p.Program != nil {
		return p, nil
	}
	needed := Needs{layer: !input, input: input}
	if !input && n.NoLayer != nil {
		return nil, n.NoLayer
	}
	if err := n.plan(ctx, needed); err != nil {
		return nil, err
	}
	if err := n.Load(ctx); err != nil {
		return nil, err
	}
	return *n.slot(input), nil
}

func (n *Network) slot(input bool) **Gradient {
	if input {
		return &n.atInput
	}
	return &n.atLayer
}

// pass returns the gradient program at the layer, or at the input, perhaps without a plan.
func (n *Network) pass(input bool) (p *Gradient, err error) {
	slot := n.slot(input)
	if *slot == nil {
		*slot, err = n.differentiate(input)
	}
	return *slot, err
}

// Passes returns the gradient programs that have plans.
func (n *Network) Passes() (list []*Gradient) {
	for _, p := range []*Gradient{n.atLayer, n.atInput} {
		if p != nil && p.plan != nil {
			list = append(list, p)
		}
	}
	return list
}

// Require adds to the needs, and makes placement and plans for them. It takes no memory of a device, and gives some back where plans and
// buffers are in the way.
func (n *Network) Require(ctx context.Context, needed Needs) error {
	more := n.needs.and(needed)
	grown := more.input && !n.needs.input || more.layer && n.activationOnly() || n.bufferBytes(more, n.Placement) > n.bufferBytes(n.needs, n.Placement)
	if n.needs = more; grown { // plans did not reckon with weights and fields that are needed now
		if err := n.Replan(n.Budget); err != nil {
			return err
		}
		if p := n.atLayer; p != nil && p.Gradient == nil && more.layer {
			n.atLayer = nil
			clear(n.weights)
		}
	}
	if !n.Placed {
		to, err := n.place(ctx)
		if err != nil {
			return err
		}
		if err := n.move(to); err != nil {
			return err
		}
		n.Placed = true
	}
	err := n.plan(ctx, needed)
	if tooSmall := (*cam.BudgetError)(nil); errors.As(err, &tooSmall) { // the other pass may need more
		least, leastErr := n.LeastBytes(ctx)
		if leastErr != nil {
			return leastErr
		}
		tooSmall.Smallest = max(tooSmall.Smallest, least+n.bufferBytes(n.needs, n.Placement))
	}
	return err
}

// Replan forgets plans and programs, so that others are made within a budget.
func (n *Network) Replan(b cam.Budget) error {
	n.Budget, n.Placed, n.Taken = b, false, 0
	err := n.unload()
	for _, p := range n.Passes() {
		p.plan = nil
	}
	return err
}

// plan makes the plans that are needed and not there.
func (n *Network) plan(ctx context.Context, needed Needs) error {
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
	for _, p := range n.Passes() {
		most = max(most, p.bytes)
	}
	n.Taken = most + weights + n.bufferBytes(n.needs, n.Placement)
	return nil
}

// Load puts the programs of all plans into the arena that they share, one after the other. An arena that
// is too small makes room for a larger one.
func (n *Network) Load(ctx context.Context) (err error) {
	bytes := 0
	for _, p := range n.Passes() {
		bytes = max(bytes, p.arena)
	}
	if n.Arena == nil || n.Arena.Bytes() < bytes {
		if err := n.unload(); err != nil {
			return err
		}
		if n.Arena, err = n.Backend.NewArena(bytes); err != nil {
			return err
		}
	}
	for _, p := range n.Passes() {
		if p.Program != nil {
			continue
		}
		if err := n.loadInto(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// loadInto puts a program into the arena, with its gradient in a buffer if that lies outside.
func (n *Network) loadInto(ctx context.Context, p *Gradient) (err error) {
	of := p.plan.BufferOf()
	p.volumeOutside = p.plan.Buffers[of[p.volume]].External
	outside := p.Gradient != nil && p.plan.Buffers[of[p.Gradient]].External
	program, err := n.Backend.Load(ctx, p.plan, n.Arena)
	if err == nil && outside {
		if err = n.take(&n.Buffers.gradient, n.Values(), n.Placement.gradient); err == nil {
			err = program.Bind(p.Gradient, n.Buffers.gradient)
		}
		if err != nil {
			err = errors.Join(err, program.Close())
		}
	}
	if err != nil {
		return err
	}
	p.Program = program
	return nil
}

// differentiate builds the graph that computes the scores and the gradient, or the needed ones of them, without a plan.
func (n *Network) differentiate(input bool) (*Gradient, error) {
	if !input && n.NoLayer != nil {
		return nil, n.NoLayer
	}
	g, twin := n.graph.Clone()
	p := &Gradient{graph: g, raw: twin[n.raw], volume: g.Inputs[0], at: g.Inputs[0], Input: input, backend: n.Backend}
	p.others = g.Inputs[1 : 1+len(n.others)]
	if n.labels != nil {
		p.labels, p.weights = twin[n.labels], g.Inputs[1+len(n.others)]
	}
	if !input {
		p.at, p.axes = g.Targets[0].Value, g.Targets[0].Axes
	}
	g.Targets = nil
	g.Outputs = []*ir.Value{p.raw}
	if p.labels != nil {
		g.Outputs = append(g.Outputs, p.labels)
	}
	at := "volume-"
	if !input {
		at = "layer-"
		g.Outputs = append(g.Outputs, p.at)
	}
	observe := n.observer(at)
	if input || !n.activationOnly() {
		seed, gradients, err := grad.Build(g, p.raw, []*ir.Value{p.at})
		if err != nil {
			return nil, err
		}
		p.seed, p.Gradient = seed, gradients[0]
		g.Outputs = slices.Insert(g.Outputs, 1, p.Gradient)
		g.Prune()
		if !slices.ContainsFunc(g.Nodes, func(n *ir.Node) bool { return slices.Contains(n.Inputs, seed) }) {
			p.seed = nil // the gradient is zero everywhere; behind the first step, the seed's memory holds other values
		}
		if err := observe(pass.Differentiation, g); err != nil {
			return nil, err
		}
	}
	if err := pass.Run(context.Background(), g, observe, pass.Gradient); err != nil {
		return nil, err
	}
	return p, nil
}

// observer hands the text of graphs to Binding.AfterPass, if there is one, under the names of passes behind a prefix.
func (n *Network) observer(prefix string) pass.Observer {
	return func(pass string, g *ir.Graph) error {
		if n.afterPass == nil {
			return nil
		}
		return n.afterPass(prefix+pass, g.String())
	}
}

// unload closes the programs and their arena.
func (n *Network) unload() error {
	var errs []error
	for _, p := range []*Gradient{n.atLayer, n.atInput} {
		if p != nil && p.Program != nil {
			errs = append(errs, p.Program.Close())
			p.Program = nil
		}
	}
	if n.Arena != nil {
		errs = append(errs, n.Arena.Close())
		n.Arena = nil
	}
	return errors.Join(errs...)
}

// Close gives back all that was taken, and forgets the plans.
func (n *Network) Close() error { return errors.Join(n.Replan(n.Budget), n.Buffers.close()) }

// put brings a volume to where the program reads it.
func (p *Gradient) put(x backend.Field) error {
	for i, v := range p.others {
		if err := p.Program.Write(v, p.given[i]); err != nil {
			return err
		}
	}
	if p.weights != nil {
		if err := p.Program.Write(p.weights, p.classes); err != nil {
			return err
		}
	}
	if p.volumeOutside {
		return p.Program.Bind(p.volume, x)
	}
	inside, err := p.Program.Field(p.volume)
	if err != nil {
		return err
	}
	return p.backend.Copy(inside, x)
}

// choose writes the gradient of the score with respect to the raw values, if there is a gradient.
func (p *Gradient) choose(seed []float32) error {
	if p.seed == nil {
		return nil
	}
	return p.Program.Write(p.seed, seed)
}

// Weigh sets the weights of classes in the score of a voxel, for the passes to come on an output with space.
func (p *Gradient) Weigh(classes []float32) { p.classes = classes }

// Labels returns the class of each voxel, after Forward.
func (p *Gradient) Labels() ([]float32, error) {
	labels := make([]float32, p.labels.Shape().Elements())
	return labels, p.Program.Read(p.labels, labels)
}

// Forward runs the program on a volume up to the output's raw values.
func (p *Gradient) Forward(ctx context.Context, x backend.Field) ([]float32, error) {
	if err := p.put(x); err != nil {
		return nil, err
	}
	if err := p.Program.Run(ctx, 0, p.split); err != nil {
		return nil, err
	}
	raw := make([]float32, p.raw.Shape().Elements())
	return raw, p.Program.Read(p.raw, raw)
}

// Backward runs the rest for a score with a gradient with respect to the raw values. It must follow Forward.
func (p *Gradient) Backward(ctx context.Context, seed []float32) error {
	if err := p.choose(seed); err != nil {
		return err
	}
	return p.Program.Run(ctx, p.split, len(p.plan.Steps))
}

// Both runs forward and backward in one, without reading the raw values.
func (p *Gradient) Both(ctx context.Context, x backend.Field, seed []float32) error {
	if err := p.put(x); err != nil {
		return err
	}
	if err := p.choose(seed); err != nil {
		return err
	}
	return p.Program.Run(ctx, 0, len(p.plan.Steps))
}

// Activated reports whether forward alone leaves the activation of the layer.
func (p *Gradient) Activated() bool {
	made := p.plan.BufferOf()[p.at]
	return !p.Input && !slices.ContainsFunc(p.plan.Steps[p.split:], func(s plan.Step) bool { return slices.Contains(s.Out, made) })
}

// Layer returns the activation of the layer and the gradient at it, if there is one, valid until the next run.
func (p *Gradient) Layer(score float64) (l backend.Layer, err error) {
	if l.Layout, err = backend.NewLayout(p.at.Shape(), p.axes); err != nil {
		return l, err
	}
	if l.Activation, err = p.Program.Field(p.at); err != nil {
		return l, err
	}
	l.Score = score
	if p.Gradient != nil {
		l.Gradient, err = p.Program.Field(p.Gradient)
	}
	return l, err
}
