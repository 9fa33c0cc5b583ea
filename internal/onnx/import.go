package onnx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/option"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Options of an import.
type Options struct {
	// InputShape is the shape of the volume, [1, C, D, H, W]. A model of 2D images takes one of depth 1. Nil takes the
	// shape that the file fixes.
	InputShape []int
	// InputAxes are the letters of the file's input, N C D H W in its order, such as "NDHWC"; the graph brings the volume to that order.
	// Letters that are not there are axes of one position. "" is NCDHW, and NCHW of a model of images; for a nil InputShape it is the
	// file's own order.
	InputAxes string
	// MaxFolded bounds the number of elements of a constant that is computed at import; 0 is DefaultMaxFolded. A larger one is
	// left to the graph where possible, else refused. All together may have 32 times as many.
	MaxFolded int
	// Memory bounds the bytes that an import holds at a time, of constants that it computes and of lists that nodes are turned into;
	// 0 is no bound. A node that needs more is refused with ErrMemory, if an output needs the node.
	Memory int
}

// DefaultMaxFolded is enough for the attention masks of a Swin transformer with windows of 7^3 on patches of 96^3 (40 million
// elements), which are the largest constants that exporters leave to compute.
const DefaultMaxFolded = 1 << 26

// Imported is a model as a graph, with the names by which its layers are found.
type Imported struct {
	Model *Model
	// Graph computes in the model's own layout, images as [N, C, D, H, W]: operations on images are surrounded by
	// transposes, which package pass removes. Nodes that no output needs are still there: any value may become a target.
	Graph *ir.Graph
	// Input is the volume; Outputs are the graph's, by name.
	Input       *ir.Value
	OutputNames []string
	// Names finds a value by its name in the file. Several names may belong to one value, whose own Name is the first.
	// Constants that only went into other constants have no value.
	Names map[string]*ir.Value
	// Nodes are the file's nodes in order, those of functions and branches in the place of their call.
	Nodes []*NodeInfo
	// ParamElements is the number of elements of each parameter in Params, by name.
	ParamElements map[string]int
	// Notes are remarks for the user.
	Notes []string
	// Held is the most memory that the import held at a time, in bytes, as Options.Memory counts it.
	Held int
}

// NodeInfo is a node of the file and its outputs in the graph.
type NodeInfo struct {
	Index  int // place among the file's nodes; nodes of one call of a function share it
	Name   string
	Op     string
	Domain string
	Opset  int
	// Scope is the path of the PyTorch module, "layer4.1.conv2", as far as the file tells. Scopes are those of all modules in whose
	// calls the node is, from the outermost ("") inwards; nil where the file does not tell. Classes are the classes of those modules,
	// ending with that of the operation, and Origin is the name of the operation of PyTorch, where the file has them.
	Scope   string
	Scopes  []string
	Classes []string
	Origin  string
	// Params are the names of the parameters that went into the node's constant inputs.
	Params []string
	// Inputs and Outputs are the values, nil where one is absent, a constant that was computed at import, or was not kept.
	InputNames, OutputNames []string
	Inputs, Outputs         []*ir.Value
}

// slot is the value, constant or error that an ONNX name stands for.
type slot struct {
	lit   *literal  // known at import
	value *ir.Value // or computed by the graph
	seq   []*slot   // or a sequence
	isSeq bool
	truth bool // a value of 0s and 1s
	whole bool // a value of whole numbers
	large bool // a value that is known, but too large to compute at import
	err   error
}

func (s *slot) shape() tensor.Shape {
	if s.lit != nil {
		return s.lit.shape
	}
	return s.value.Shape()
}

// integral reports whether arithmetic on the slot is that of whole numbers.
func (s *slot) integral() bool {
	return s.lit != nil && s.lit.isInt() || s.value != nil && (s.whole || s.truth)
}

// frame is a scope of names: the model's graph, a branch of If, or the body of a function.
type frame struct {
	outer  *frame // of a branch
	slots  map[string]*slot
	opsets map[string]int
	attrs  map[string]*Attribute // of the function's call
	prefix string                // of names in the body of a function
	scope  string                // of the function's call
	depth  int
}

func (f *frame) find(name string) *slot {
	for ; f != nil; f = f.outer {
		if s := f.slots[name]; s != nil {
			return s
		}
	}
	return nil
}

type importer struct {
	ctx      context.Context // of the import
	m        *Model
	g        *ir.Graph
	out      *Imported
	memory   int // bytes that may be held; 0: no bound
	held     int
	folded   int // elements that may still be computed
	maxOne   int
	executed int
	index    int // of the outermost node at work
}

// foldedOnes bounds the elements that are computed while a file is opened, in times of Options.MaxFolded: some seconds' work.
const foldedOnes = 8

// maxNodes bounds the nodes of a file, also after functions have been expanded.
const maxNodes = 1 << 16

// Import turns the model into a graph for one shape of the input.
func Import(m *Model, opt Options) (*Imported, error) {
	return ImportContext(context.Background(), m, opt)
}

// ImportContext is Import that stops when ctx is done.
func ImportContext(ctx context.Context, m *Model, opt Options) (*Imported, error) {
	if opt.MaxFolded == 0 {
		opt.MaxFolded = DefaultMaxFolded
	}
	g := &ir.Graph{}
	im := &importer{ctx: ctx, m: m, g: g, memory: opt.Memory, folded: foldedOnes * opt.MaxFolded, maxOne: opt.MaxFolded}
	im.out = &Imported{Model: m, Graph: g, Names: map[string]*ir.Value{}, ParamElements: map[string]int{}}
	top := &frame{slots: map[string]*slot{}, opsets: m.Opsets}
	if err := im.initializers(top, m.Graph); err != nil {
		return nil, err
	}
	if err := im.bindInput(top, opt.InputShape, opt.InputAxes); err != nil {
		return nil, err
	}
	if err := im.run(top, m.Graph.Nodes); err != nil {
		return nil, err
	}
	if err := im.outputs(top); err != nil {
		return nil, err
	}
	if err := g.Verify(); err != nil {
		return nil, fmt.Errorf("%s: the imported graph is broken: %w", m.Path, err)
	}
	return im.out, nil
}

func (im *importer) initializers(f *frame, g *Graph) error {
	for _, t := range g.Initializers {
		if t.Unsupported != "" {
			f.slots[t.Name] = &slot{err: &UnsupportedError{Path: im.m.Path, Reason: t.Unsupported, Advice: "export the model in float32"}}
			continue
		}
		l, err := t.literal()
		if err != nil {
			return &FormatError{Path: im.m.Path, Offset: -1, Where: "tensor " + quoted(t.Name), Err: err}
		}
		f.slots[t.Name] = &slot{lit: l}
	}
	return nil
}

// bindInput makes the graph's input of the volume's shape.
func (im *importer) bindInput(f *frame, shape tensor.Shape, axes string) error {
	wrong := func(format string, args ...any) error {
		return &InputError{Path: im.m.Path, Reason: fmt.Sprintf(format, args...)}
	}
	in, known := im.m.Input()
	if !known {
		return wrong("the model has the inputs %s: single volumes can be explained, with the data of each input by %s", im.m.listInputs(), option.Mention("input"))
	}
	if _, float := map[int32]bool{1: true, 10: true, 11: true, 16: true}[in.Type]; !float && in.Type != 0 {
		return notFloat(im.m.Path, in)
	}
	want := describeDims(in.Dims)
	if axes != "" && axes != volumeAxes {
		want += " (" + axes + ")"
	}
	if shape == nil {
		for _, d := range in.Dims {
			if d.Size == 0 {
				return wrong("the input %q is %s: give the size of the volume", in.Name, want)
			}
			shape = append(shape, int(d.Size))
		}
	}
	if axes == "" && len(shape) == 5 && len(in.Dims) == 4 && shape[2] == 1 { // a model of images, and a volume of one plane
		axes = "NCHW"
	}
	if axes == "" && len(shape) == 5 && len(in.Dims) <= 2 { // a vector, and a volume of one row
		axes = im.m.DefaultInputAxes()
	}
	if err := misfit(im.m.Path, impliedDims(im.m.Graph, in, axes), axes, shape); err != nil {
		return err
	}
	inner, perm, err := inOrder(shape, axes)
	if err != nil {
		return wrong("%v", err)
	}
	if err := shape.Check(); err != nil {
		return wrong("the volume: %v", err)
	}
	v := im.g.Input(in.Name, ir.Type{Shape: shape.Clone()})
	im.out.Input, im.out.Names[in.Name] = v, v
	b := ir.NewBuilder(im.g)
	if perm != nil {
		v = b.Emit(op.Transpose, op.TransposeAttr{Perm: perm}, v)
	}
	if !v.Shape().Equal(inner) {
		v = b.Emit(op.Reshape, op.ReshapeAttr{Shape: inner}, v)
	}
	f.slots[in.Name] = &slot{value: v}
	for _, other := range im.m.Inputs() {
		if other.Name == in.Name {
			continue
		}
		if err := im.bindOther(f, other); err != nil {
			return err
		}
	}
	return nil
}

// bindOther makes an input of the graph of an input of the model besides the one that is explained. Its data is the same in all passes.
func (im *importer) bindOther(f *frame, in ValueInfo) error {
	if _, float := map[int32]bool{1: true, 10: true, 11: true, 16: true}[in.Type]; !float && in.Type != 0 {
		return notFloat(im.m.Path, in)
	}
	var shape tensor.Shape
	for i, d := range in.Dims {
		if d.Size == 0 && i > 0 {
			return &InputError{Path: im.m.Path, Reason: fmt.Sprintf("the input %q is %s: export the model with fixed sizes of the inputs besides the one "+
				"that is explained", in.Name, describeDims(in.Dims))}
		}
		shape = append(shape, max(1, int(d.Size)))
	}
	if err := shape.Check(); err != nil {
		return &InputError{Path: im.m.Path, Reason: fmt.Sprintf("the input %q: %v", in.Name, err)}
	}
	v := im.g.Input(in.Name, ir.Type{Shape: shape})
	im.out.Names[in.Name] = v
	f.slots[in.Name] = &slot{value: v}
	return nil
}

func describeDims(dims []Dim) string {
	parts := make([]string, len(dims))
	for i, d := range dims {
		switch {
		case d.Size != 0:
			parts[i] = fmt.Sprint(d.Size)
		case d.Param != "":
			parts[i] = d.Param
		default:
			parts[i] = "?"
		}
	}
	return "[" + strings.Join(parts, ",") + "]"
}

// outputs makes the graph's outputs of the model's. One that does not depend on the input is left out, if there is another one. Of those that do, the
// first must be computable; another that is not is left out.
func (im *importer) outputs(f *frame) error {
	if len(im.m.Graph.Outputs) == 0 {
		return &FormatError{Path: im.m.Path, Offset: -1, Err: errors.New("the model has no output")}
	}
	var constant error
	for _, info := range im.m.Graph.Outputs {
		s := f.find(info.Name)
		var err error
		switch {
		case s == nil:
			err = &FormatError{Path: im.m.Path, Offset: -1, Err: fmt.Errorf("nothing computes the output %q", info.Name)}
		case s.err != nil:
			err = s.err
		case s.value == nil:
			err = &FormatError{Path: im.m.Path, Offset: -1, Err: fmt.Errorf("the output %q does not depend on the input", info.Name)}
			constant = cmp.Or(constant, err)
		}
		if err != nil {
			if len(im.g.Outputs) == 0 && (s == nil || s.err != nil) {
				return err
			}
			im.out.Notes = append(im.out.Notes, fmt.Sprintf("output %q is left out: %v", info.Name, err))
			continue
		}
		im.g.Outputs = append(im.g.Outputs, s.value)
		im.out.OutputNames = append(im.out.OutputNames, info.Name)
	}
	if len(im.g.Outputs) == 0 {
		return constant
	}
	return nil
}

// run imports nodes, each behind those that it needs. A node that cannot be imported spoils its outputs; that is an error only if an output of the
// model needs them, or when the file itself is malformed.
func (im *importer) run(f *frame, nodes []*Node) error {
	order, err := topological(nodes, func(name string) bool { return f.find(name) != nil })
	if err != nil {
		return &FormatError{Path: im.m.Path, Offset: -1, Err: err}
	}
	if order != nil {
		sorted := make([]*Node, len(nodes))
		for i, at := range order {
			sorted[i] = nodes[at]
		}
		nodes = sorted
	}
	var last map[int][]string
	if f.depth == 0 {
		last = lastReaders(nodes)
	}
	for i, n := range nodes {
		if f.depth == 0 {
			im.index = i
			if order != nil {
				im.index = order[i]
			}
		}
		if im.ctx.Err() != nil {
			return context.Cause(im.ctx)
		}
		if im.executed++; im.executed > maxNodes {
			return &FormatError{Path: im.m.Path, Offset: -1, Err: fmt.Errorf("the model has more than %d nodes", maxNodes)}
		}
		n = n.withAttributes(f.attrs)
		c := im.newCall(f, n)
		outs, err := c.run()
		var unsupported *UnsupportedError
		if err != nil && !errors.As(err, &unsupported) {
			return err
		}
		for k, name := range n.Outputs {
			if name == "" {
				continue
			}
			s := &slot{err: err}
			if err == nil {
				if k >= len(outs) || outs[k] == nil {
					s.err = c.unsupportedf("its output number %d is not computed", k+1)
				} else {
					s = outs[k]
				}
			}
			im.bind(f, name, s)
		}
		im.record(c, f)
		if f.depth == 0 {
			im.forget(f, last[i])
		}
	}
	return nil
}

// lastReaders lists, for each node, the names that no later one reads.
func lastReaders(nodes []*Node) map[int][]string {
	seen, last := map[string]bool{}, map[int][]string{}
	var read func(i int, n *Node)
	read = func(i int, n *Node) {
		for _, name := range n.Inputs {
			if name != "" && !seen[name] {
				seen[name] = true
				last[i] = append(last[i], name)
			}
		}
		for _, a := range n.Attributes {
			if a.Graph != nil {
				for _, o := range a.Graph.Outputs {
					seen[o.Name] = true
				}
				for _, m := range a.Graph.Nodes {
					read(i, m)
				}
			}
		}
	}
	for i, n := range slices.Backward(nodes) {
		read(i, n)
	}
	return last
}

// forget gives back the memory of large computed constants that nothing reads any more: the masks of a Swin transformer
// take gigabytes on their way.
func (im *importer) forget(f *frame, names []string) {
	for _, name := range names {
		if s := f.slots[name]; s != nil && s.lit != nil && s.lit.name == "" && s.lit.held() > lazyElements && !im.isOutput(name) {
			im.drop(s.lit)
			delete(f.slots, name)
		}
	}
}

func (im *importer) isOutput(name string) bool {
	return slices.ContainsFunc(im.m.Graph.Outputs, func(v ValueInfo) bool { return v.Name == name })
}

// bind gives a name to a slot.
func (im *importer) bind(f *frame, name string, s *slot) {
	f.slots[name] = s
	s.keep()
	if s.value != nil {
		full := f.prefix + name
		if s.value.Name == "" {
			s.value.Name = full
		}
		im.out.Names[full] = s.value
	}
}

// record notes where a node went.
func (im *importer) record(c *call, f *frame) {
	if c.inlined {
		return
	}
	info := c.info
	for i, name := range c.n.Inputs {
		info.InputNames = append(info.InputNames, prefixed(f.prefix, name))
		var v *ir.Value
		if s := c.in[i]; s != nil {
			if v = s.value; s.lit != nil {
				v = s.lit.value
				info.Params = appendNew(info.Params, s.lit.params...)
				if len(s.lit.params) == 1 && im.out.ParamElements[s.lit.params[0]] == 0 && s.lit.elem != tensor.I64 { // those are shapes, axes and indices
					im.out.ParamElements[s.lit.params[0]] = s.lit.len()
				}
			}
		}
		info.Inputs = append(info.Inputs, v)
	}
	for _, name := range c.n.Outputs {
		info.OutputNames = append(info.OutputNames, prefixed(f.prefix, name))
		var v *ir.Value
		if s := f.slots[name]; s != nil && s.lit == nil {
			v = s.value
		}
		info.Outputs = append(info.Outputs, v)
	}
	im.out.Nodes = append(im.out.Nodes, info)
}

func prefixed(prefix, name string) string {
	if name == "" {
		return ""
	}
	return prefix + name
}

func appendNew(list []string, more ...string) []string {
	for _, s := range more {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}
