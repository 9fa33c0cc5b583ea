package explain

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/grad"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/layer"
	"github.com/voxcam/voxcam/internal/onnx"
	"github.com/voxcam/voxcam/internal/pass"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/tensor"
)

// network is the model bound to one volume shape: a graph that passes have prepared, and programs made from it on demand.
type network struct {
	shape   [4]int // [C, D, H, W]
	budget  Budget
	graph   *ir.Graph
	logits  *ir.Value
	target  layer.Target // of the graph before the passes
	noLayer error        // why there is no target layer; nil if there is one

	backend    backend.Backend
	arena      backend.Arena // of all programs; made with the first
	needsInput bool          // some method of the requests so far needs the gradient at the volume
	atLayer    *gradient
	atInput    *gradient
	classCount int
}

// newNetwork binds the model to a volume shape and resolves the target layer.
func newNetwork(file *onnx.Model, shape [4]int, opt Options, b backend.Backend) (*network, error) {
	imported, err := onnx.Import(file, onnx.Options{InputShape: []int{1, shape[0], shape[1], shape[2], shape[3]}})
	if err != nil {
		return nil, err
	}
	g := imported.Graph
	n := &network{shape: shape, budget: opt.Budget, graph: g, backend: b}
	if n.logits, err = scores(g); err != nil {
		return nil, fmt.Errorf("%s: %w", file.Path, err)
	}
	n.classCount = n.logits.Shape().Elements()
	g.Outputs = []*ir.Value{n.logits}

	n.target, n.noLayer = layer.Find(imported, layer.Request{
		Name: opt.TargetLayer, Grid: opt.TokenGrid, Layout: opt.LayerLayout, Volume: [3]int(shape[1:]),
	})
	if n.noLayer != nil && opt.TargetLayer != "" {
		return nil, fmt.Errorf("%s: %w", file.Path, n.noLayer)
	}
	if n.noLayer == nil {
		g.Targets = []ir.Target{n.target.Target}
	}
	if err := onnx.Recognise(g); err != nil {
		return nil, fmt.Errorf("%s: %w", file.Path, err)
	}
	if err := pass.Run(g); err != nil {
		return nil, fmt.Errorf("%s: %w", file.Path, err)
	}
	n.logits = g.Outputs[0]
	return n, nil
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

// gradient is a program that computes the class scores and the gradient of one of them.
type gradient struct {
	graph    *ir.Graph
	input    bool // at the input, not at a layer
	program  backend.Program
	plan     *plan.Plan
	volume   *ir.Value // input, [1, D, H, W, C]
	logits   *ir.Value
	seed     *ir.Value // input, one-hot over the logits
	at       *ir.Value // what the gradient is with respect to
	gradient *ir.Value
	axes     string    // of at
	split    int       // the first step that needs the seed
	buffer   []float32 // the gradient, in the caller's memory
	// Where the volume and the gradient lie if they are outside the arena.
	backend                        backend.Backend
	volumeOutside, gradientOutside bool
	fields                         [2]backend.Field
}

// gradientAt returns the program for the gradient at the target layer, or at the input.
func (n *network) gradientAt(ctx context.Context, input bool) (*gradient, error) {
	slot := &n.atLayer
	if input {
		slot = &n.atInput
	}
	if *slot != nil {
		return *slot, nil
	}
	p, err := n.differentiate(input)
	if err != nil {
		return nil, err
	}
	if p.plan, err = n.planFor(p); err != nil {
		return nil, err
	}
	p.split = slices.IndexFunc(p.plan.Steps, func(s plan.Step) bool { return slices.Contains(s.Node.Inputs, p.seed) })
	if p.split < 0 {
		p.split = len(p.plan.Steps)
	}
	if err := n.load(ctx, p); err != nil {
		return nil, err
	}
	*slot = p
	return p, nil
}

// prepare loads the programs of the passes that are needed.
func (n *network) prepare(ctx context.Context, layer, input bool) error {
	if input && !n.needsInput {
		n.needsInput = true
		if err := n.close(); err != nil { // plans that did not reckon with the weights of the gradient at the volume
			return err
		}
	}
	if input {
		if _, err := n.gradientAt(ctx, true); err != nil {
			return err
		}
	}
	if layer && n.noLayer == nil {
		if _, err := n.gradientAt(ctx, false); err != nil {
			return err
		}
	}
	if input { // the arena may have grown since
		_, err := n.gradientAt(ctx, true)
		return err
	}
	return nil
}

// load puts a program into the arena that all programs of the network share, one after the other. An arena that is too small
// makes room for a larger one, and the programs in it are loaded again when they are needed.
func (n *network) load(ctx context.Context, p *gradient) (err error) {
	if n.arena == nil || n.arena.Bytes() < p.plan.Peak {
		if err := n.close(); err != nil {
			return err
		}
		if n.arena, err = n.backend.NewArena(p.plan.Peak); err != nil {
			return err
		}
	}
	if p.program, err = n.backend.Load(ctx, p.plan, n.arena); err != nil {
		return err
	}
	p.backend = n.backend
	of := p.plan.BufferOf()
	p.volumeOutside, p.gradientOutside = p.plan.Buffers[of[p.volume]].External, p.plan.Buffers[of[p.gradient]].External
	if p.gradientOutside {
		p.buffer = make([]float32, p.gradient.Shape().Elements())
		return p.bind(1, p.gradient, p.buffer)
	}
	return nil
}

// differentiate builds the graph that computes the scores and the gradient, without a plan.
func (n *network) differentiate(input bool) (*gradient, error) {
	if !input && n.noLayer != nil {
		return nil, n.noLayer
	}
	g, twin := n.graph.Clone()
	p := &gradient{graph: g, logits: twin[n.logits], volume: g.Inputs[0], at: g.Inputs[0], axes: "NDHWC", input: input}
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
	if err := pass.SplitNorms(g); err != nil {
		return nil, err
	}
	return p, g.Verify()
}

func (n *network) close() error {
	var errs []error
	for _, p := range []**gradient{&n.atLayer, &n.atInput} {
		if *p != nil {
			errs = append(errs, (*p).program.Close())
			for _, f := range (*p).fields {
				if f != nil {
					errs = append(errs, f.Close())
				}
			}
			*p = nil
		}
	}
	if n.arena != nil {
		errs = append(errs, n.arena.Close())
		n.arena = nil
	}
	return errors.Join(errs...)
}

// forward runs the program on a volume, [D, H, W, C], up to the class scores. Under a budget the volume stays where it is.
func (p *gradient) forward(ctx context.Context, x []float32) ([]float32, error) {
	put := p.program.Write
	if p.volumeOutside {
		put = func(v *ir.Value, x []float32) error { return p.bind(0, v, x) }
	}
	if err := put(p.volume, x); err != nil {
		return nil, err
	}
	if err := p.program.Run(ctx, 0, p.split); err != nil {
		return nil, err
	}
	return p.read(p.logits)
}

// bind makes a field of data the storage of a value.
func (p *gradient) bind(i int, v *ir.Value, data []float32) (err error) {
	if p.fields[i] != nil {
		if err := p.fields[i].Close(); err != nil {
			return err
		}
	}
	if p.fields[i], err = p.backend.Wrap(data, backend.OnDevice); err != nil {
		return err
	}
	return p.program.Bind(v, p.fields[i])
}

// backward runs the rest for one class. It must follow forward.
func (p *gradient) backward(ctx context.Context, class int) error {
	seed := make([]float32, p.seed.Shape().Elements())
	seed[class] = 1
	if err := p.program.Write(p.seed, seed); err != nil {
		return err
	}
	return p.program.Run(ctx, p.split, len(p.plan.Steps))
}

func (p *gradient) read(v *ir.Value) ([]float32, error) {
	out := make([]float32, v.Shape().Elements())
	return out, p.program.Read(v, out)
}

// readGradient reads the gradient into memory that the next call overwrites: there are many draws.
func (p *gradient) readGradient() ([]float32, error) {
	if p.buffer == nil {
		p.buffer = make([]float32, p.gradient.Shape().Elements())
	}
	if p.gradientOutside {
		return p.buffer, p.fields[1].Read(p.buffer)
	}
	return p.buffer, p.program.Read(p.gradient, p.buffer)
}

// layer reads the layer, or the gradient at it, as [voxels, C].
func (p *gradient) layer(v *ir.Value, voxels int) ([]float32, int, error) {
	raw, err := p.read(v)
	if err != nil {
		return nil, 0, err
	}
	return channelsLast(raw, v.Shape(), p.axes, voxels)
}

// channelsLast brings a layer's values, with axes named by letters, to [voxels, C]; leading tokens that belong to no voxel are
// dropped.
func channelsLast(x []float32, shape tensor.Shape, axes string, voxels int) (out []float32, channels int, err error) {
	strides := shape.Strides()
	space := []int{} // sizes and strides of the axes that voxels run along, outermost first
	step := []int{}
	cStride := 0
	for _, letter := range "DHWT" {
		if i := slices.Index([]byte(axes), byte(letter)); i >= 0 {
			space, step = append(space, shape[i]), append(step, strides[i])
		}
	}
	for i, a := range []byte(axes) {
		switch {
		case a == 'C':
			channels, cStride = shape[i], strides[i]
		case a == 'N' && shape[i] != 1:
			return nil, 0, fmt.Errorf("the target layer has a batch of %d for one volume", shape[i])
		}
	}
	total := 1
	for _, d := range space {
		total *= d
	}
	skip := total - voxels
	if channels == 0 || skip < 0 {
		return nil, 0, fmt.Errorf("a layer %v with axes %q does not hold %d voxels", shape, axes, voxels)
	}
	out = make([]float32, voxels*channels)
	for v := range voxels {
		at := 0
		for rest, a := v+skip, len(space)-1; a >= 0; a-- {
			at += rest % space[a] * step[a]
			rest /= space[a]
		}
		for c := range channels {
			out[v*channels+c] = x[at+c*cStride]
		}
	}
	return out, channels, nil
}
