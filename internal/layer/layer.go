// Package layer finds the activation that a user means by a layer's name, and says how its axes lie in the volume.
//
// A layer is named as PyTorch names modules (backbone1._conv_head, layer4), or by a value or a node of the file. Exporters leave
// three traces of modules: the scope of a node, the names of the parameters that it reads, and both are incomplete in their own
// way: the TorchScript exporter loses the parents of modules that are reached by a method call, and both fold a BatchNorm into
// the convolution before it, so that the convolution's own output is not in the file.
package layer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/onnx"
)

// Request names a layer.
type Request struct {
	Name   string // "" for the default
	Grid   [3]int // of a token layer: depth, height, width; zero infers it
	Layout string // "", "auto", "channels-first" or "channels-last"
	Volume [3]int // depth, height, width of the volume
}

// Target is the layer that was found.
type Target struct {
	ir.Target
	Grid     [3]int // cells along depth, height, width
	Warnings []string
}

// NotFoundError is a name that fits no layer, or several.
type NotFoundError struct {
	Name       string
	Ambiguous  bool
	Candidates []string
}

func (e *NotFoundError) Error() string {
	what, hint := "no layer is called", "; layers with similar names or with spatial extent: "
	if e.Ambiguous {
		what, hint = "more than one value could be the output of", "; name one of the values: "
	}
	return fmt.Sprintf("%s %q%s%s (voxcam inspect lists all)", what, e.Name, hint, strings.Join(e.Candidates, ", "))
}

// Find resolves a request on a graph as imported, before any pass.
func Find(m *onnx.Imported, req Request) (Target, error) {
	idx := newIndex(m)
	var t Target
	var err error
	if req.Name == "" {
		t, err = idx.last(req)
	} else {
		t, err = idx.named(req)
	}
	if err != nil {
		return Target{}, err
	}
	return t, idx.place(&t, req)
}

// index is what is known of the model's modules.
type index struct {
	m       *onnx.Imported
	paths   []string       // module path of each node of m.Nodes, "" if unknown
	folded  map[string]int // path of a convolution whose norm was folded into it -> node
	renamed map[int]bool   // convolutions whose parameters the exporter replaced, which it does when it folds a norm
	axes    map[*ir.Value]string
	readers map[*ir.Value][]int // nodes of m.Nodes that read a value
}

func newIndex(m *onnx.Imported) *index {
	idx := &index{m: m, paths: make([]string, len(m.Nodes)), folded: map[string]int{}, renamed: map[int]bool{},
		axes: nameAxes(m.Graph), readers: map[*ir.Value][]int{}}
	prefixes := map[string]string{} // first name of a scope -> the parents that it lost
	for i, n := range m.Nodes {
		for _, v := range n.Inputs {
			idx.readers[v] = append(idx.readers[v], i)
		}
		path := n.Scope
		conv := n.Op == "Conv" || n.Op == "ConvTranspose"
		for _, p := range n.Params {
			if conv && strings.HasPrefix(p, "onnx::Conv") {
				idx.renamed[i] = true
			}
			dot := strings.LastIndexByte(p, '.')
			if dot < 0 {
				continue
			}
			owner := p[:dot]
			switch {
			case path == "" || owner == path:
				path = owner
			case strings.HasSuffix(owner, "."+path):
				first, _, _ := strings.Cut(path, ".")
				prefixes[first] = strings.TrimSuffix(owner, path)
				path = owner
			case conv && !strings.HasPrefix(owner, path+".") && !strings.HasPrefix(path, owner+"."):
				idx.folded[owner] = i
			}
		}
		idx.paths[i] = path
	}
	for i, path := range idx.paths {
		first, _, _ := strings.Cut(path, ".")
		if prefix := prefixes[first]; prefix != "" && !strings.HasPrefix(path, prefix) {
			idx.paths[i] = prefix + path
		}
	}
	return idx
}

// named resolves a name: a module, else a value, else a node.
func (idx *index) named(req Request) (Target, error) {
	t := Target{Target: ir.Target{Label: req.Name}}
	for path := req.Name; path != ""; _, path, _ = strings.Cut(path, ".") {
		if nodes := idx.module(path); len(nodes) > 0 {
			values := idx.leaving(nodes)
			if len(values) != 1 {
				return t, idx.ambiguous(req.Name, values)
			}
			t.Value = values[0]
			for _, i := range nodes {
				if idx.renamed[i] && slices.Contains(idx.m.Nodes[i].Outputs, t.Value) {
					t.Warnings = append(t.Warnings, foldedWarning(req.Name, "the BatchNorm behind it"))
				}
			}
			return t, nil
		}
		if i, ok := idx.folded[path]; ok {
			t.Value = idx.m.Nodes[i].Outputs[0]
			t.Warnings = append(t.Warnings, foldedWarning(req.Name, fmt.Sprintf("the BatchNorm %s", idx.paths[i])))
			return t, nil
		}
		if v := idx.m.Names[req.Name]; v != nil && v.Const == nil {
			t.Value = v
			return t, nil
		}
		for _, n := range idx.m.Nodes {
			if n.Name == req.Name && len(n.Outputs) > 0 {
				t.Value = n.Outputs[0]
				return t, nil
			}
		}
	}
	return t, &NotFoundError{Name: req.Name, Candidates: idx.candidates(req.Name)}
}

func foldedWarning(name, norm string) string {
	return fmt.Sprintf("the exporter has folded %s into %s: what is explained is the output of both together, not the module's own; "+
		"export the model with its norms kept apart to have that", norm, name)
}

// module returns the nodes that belong to a module or to a module in it.
func (idx *index) module(path string) (nodes []int) {
	for i, p := range idx.paths {
		if p == path || strings.HasPrefix(p, path+".") {
			nodes = append(nodes, i)
		}
	}
	return nodes
}

// leaving returns the values that the nodes compute and that others read.
func (idx *index) leaving(nodes []int) (values []*ir.Value) {
	for _, i := range nodes {
		for _, v := range idx.m.Nodes[i].Outputs {
			if v == nil || v.Const != nil || slices.Contains(values, v) {
				continue
			}
			outside := func(reader int) bool { return !slices.Contains(nodes, reader) }
			if slices.ContainsFunc(idx.readers[v], outside) || slices.Contains(idx.m.Graph.Outputs, v) {
				values = append(values, v)
			}
		}
	}
	return values
}

func (idx *index) ambiguous(name string, values []*ir.Value) error {
	e := &NotFoundError{Name: name, Ambiguous: true}
	for _, v := range values {
		e.Candidates = append(e.Candidates, v.Name)
	}
	if len(values) == 0 {
		return fmt.Errorf("the module %q computes nothing that others read: it is constant in this file", name)
	}
	return e
}

// candidates are the modules whose names are near, then those whose output has spatial extent, the last ones first.
func (idx *index) candidates(name string) []string {
	const most = 12
	type near struct {
		path     string
		distance int
	}
	var all []near
	seen := map[string]bool{}
	for _, p := range idx.paths {
		for ; p != "" && !seen[p]; p = parent(p) {
			seen[p] = true
			d := levenshtein.ComputeDistance(name, p)
			if strings.HasSuffix(p, "."+name) || strings.HasSuffix(name, "."+p) {
				d = 0
			}
			if d <= max(2, len(name)/3) {
				all = append(all, near{p, d})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b near) int { return a.distance - b.distance })
	var out []string
	for _, n := range all {
		out = append(out, n.path)
	}
	for i := len(idx.m.Nodes) - 1; i >= 0 && len(out) < most; i-- {
		n := idx.m.Nodes[i]
		if len(n.Outputs) == 0 || n.Outputs[0] == nil || cells(idx.axes[n.Outputs[0]], n.Outputs[0].Shape()) < 2 {
			continue
		}
		label := idx.paths[i]
		if label == "" {
			label = n.Outputs[0].Name
		}
		if label != "" && !slices.Contains(out, label) {
			out = append(out, label)
		}
	}
	return out[:min(len(out), most)]
}

func parent(path string) string {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return ""
	}
	return path[:i]
}

// Label returns the module path of a node if it is known, else the name of its output: how a user would name the layer.
func (idx *index) label(i int) string {
	n := idx.m.Nodes[i]
	if p := idx.paths[i]; p != "" {
		if values := idx.leaving(idx.module(p)); len(values) == 1 && slices.Contains(n.Outputs, values[0]) {
			return p
		}
	}
	if len(n.Outputs) > 0 && n.Outputs[0] != nil {
		return n.Outputs[0].Name
	}
	return n.Name
}
