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
	Grid   [3]int // of a token layer: depth, height, width; zero takes it from the graph
	Prefix int    // tokens of a token layer in front of those of the grid; 0 takes it from the graph
	Layout string // see LayoutHelp; "" is "auto"
	Volume [3]int // depth, height, width of the volume
}

// Target is the layer that was found.
type Target struct {
	ir.Target
	Grid     [3]int // cells along depth, height, width
	Warnings []string
	Notes    []string // choices that were made, of interest to those who wonder
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
	paths   [][]string     // module paths of each node of m.Nodes, the best known first; a node may have several
	folded  map[string]int // path of a convolution whose norm was folded into it -> node
	renamed map[int]bool   // convolutions whose parameters the exporter replaced, which it does when it folds a norm
	axes    map[*ir.Value]*traced
	readers map[*ir.Value][]int // nodes of m.Nodes that read a value
}

func newIndex(m *onnx.Imported) *index {
	idx := &index{m: m, paths: make([][]string, len(m.Nodes)), folded: map[string]int{}, renamed: map[int]bool{},
		axes: trace(m.Graph, "NCDHW"), readers: map[*ir.Value][]int{}}
	alias := map[string]string{} // a scope that parameters know under another path; "" where they disagree
	for i, n := range m.Nodes {
		for _, v := range n.Inputs {
			idx.readers[v] = append(idx.readers[v], i)
		}
		conv := n.Op == "Conv" || n.Op == "ConvTranspose"
		for _, p := range n.Params {
			if conv && strings.HasPrefix(p, "onnx::Conv") {
				idx.renamed[i] = true
			}
			owner := parent(p)
			scope, path, related := splitCommon(n.Scope, owner)
			// Scopes with classes are complete, and equal parameters of different modules may have been merged.
			complete := len(n.Classes) > 0
			switch {
			case owner == "" || owner == n.Scope:
			case related && complete:
			case related:
				if known, ok := alias[scope]; ok && known != path {
					path = ""
				}
				alias[scope] = path
			case conv && !within(owner, n.Scope) && !within(n.Scope, owner):
				idx.folded[owner] = i
			case within(owner, n.Scope):
				idx.paths[i] = append(idx.paths[i], owner)
			}
		}
	}
	for i, n := range m.Nodes {
		// The longest alias that fits comes first: it is what the parameters say.
		best := ""
		for scope, path := range alias {
			if path != "" && within(n.Scope, scope) && len(scope) > len(best) {
				best = scope
			}
		}
		var own []string
		if best != "" {
			own = append(own, alias[best]+n.Scope[len(best):])
		}
		if n.Scope != "" {
			own = append(own, n.Scope)
		}
		idx.paths[i] = append(own, idx.paths[i]...)
	}
	return idx
}

// within reports whether path is the module outer or one in it.
func within(path, outer string) bool {
	return path == outer || strings.HasPrefix(path, outer+".") || outer == ""
}

// splitCommon takes the names that two paths have in common at the end off both of them, except the first of those names, and
// reports whether there are any.
func splitCommon(scope, owner string) (string, string, bool) {
	a, b := strings.Split(scope, "."), strings.Split(owner, ".")
	n := 0
	for n < min(len(a), len(b)) && a[len(a)-1-n] == b[len(b)-1-n] {
		n++
	}
	if n == 0 || scope == "" || owner == "" {
		return scope, owner, false
	}
	// The whole of one may be common; the first common name stays, since a bare prefix would fit everything.
	return strings.Join(a[:len(a)-n+1], "."), strings.Join(b[:len(b)-n+1], "."), true
}

// path is the best known module path of a node, "" if none is.
func (idx *index) path(i int) string {
	if len(idx.paths[i]) == 0 {
		return ""
	}
	return idx.paths[i][0]
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
			if relu := idx.inPlace(nodes, t.Value); relu != nil {
				t.Notes = append(t.Notes, fmt.Sprintf("%s is followed by the module %s, which PyTorch code runs in place as a rule, so that "+
					"hooks see its result: that is what is explained; name the value %q for the tensor before it", req.Name, relu.Scope, t.Value.Name))
				t.Value = relu.Outputs[0]
			}
			for _, i := range nodes {
				if idx.renamed[i] && slices.Contains(idx.m.Nodes[i].Outputs, t.Value) {
					t.Warnings = append(t.Warnings, foldedWarning(req.Name, "the BatchNorm behind it"))
				}
			}
			return t, nil
		}
		if i, ok := idx.folded[path]; ok {
			t.Value = idx.m.Nodes[i].Outputs[0]
			t.Warnings = append(t.Warnings, foldedWarning(req.Name, fmt.Sprintf("the BatchNorm %s", idx.path(i))))
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
	for i, paths := range idx.paths {
		if slices.ContainsFunc(paths, func(p string) bool { return within(p, path) }) {
			nodes = append(nodes, i)
		}
	}
	return nodes
}

// leaving returns the values that the nodes compute and that others read. Others do not count while what they compute comes
// back: they belong to the module and have lost their scope, or the module is called again, and its last result is meant.
func (idx *index) leaving(nodes []int) (values []*ir.Value) {
	inside := map[int]bool{}
	for _, i := range nodes {
		inside[i] = true
	}
	back := map[*ir.Value]bool{} // the module depends on it
	for i, n := range slices.Backward(idx.m.Nodes) {
		if inside[i] || slices.ContainsFunc(n.Outputs, func(v *ir.Value) bool { return v != nil && back[v] }) {
			for _, v := range n.Inputs {
				back[v] = true
			}
		}
	}
	leads := func(reader int) bool { // out of the module for good
		returns := func(v *ir.Value) bool { return v != nil && back[v] }
		return !inside[reader] && !slices.ContainsFunc(idx.m.Nodes[reader].Outputs, returns)
	}
	for _, i := range nodes {
		for _, v := range idx.m.Nodes[i].Outputs {
			if v == nil || v.Const != nil || slices.Contains(values, v) {
				continue
			}
			if slices.ContainsFunc(idx.readers[v], leads) || slices.Contains(idx.m.Graph.Outputs, v) {
				values = append(values, v)
			}
		}
	}
	return values
}

// inPlace returns the node of the ReLU module outside the given nodes that is the only reader of their value v, if there is one.
// Functional calls are not meant: F.relu works in place only on request, nn.ReLU does in nearly every published network.
func (idx *index) inPlace(nodes []int, v *ir.Value) *onnx.NodeInfo {
	readers := idx.readers[v]
	if len(readers) != 1 || slices.Contains(nodes, readers[0]) {
		return nil
	}
	n := idx.m.Nodes[readers[0]]
	if n.Op != "Relu" || n.Scope == "" || len(n.Outputs) != 1 || n.Outputs[0] == nil {
		return nil
	}
	if k := len(n.Classes); k >= 2 {
		if strings.HasSuffix(n.Classes[k-2], ".ReLU") {
			return n
		}
		return nil
	}
	if len(idx.module(n.Scope)) > 1 { // the scope is that of the module that calls F.relu
		return nil
	}
	return n
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
	for i := range idx.paths {
		for p := idx.path(i); p != "" && !seen[p]; p = parent(p) {
			seen[p] = true
			d := levenshtein.ComputeDistance(name, p)
			for _, tail, more := strings.Cut(name, "."); more; _, tail, more = strings.Cut(tail, ".") {
				d = min(d, levenshtein.ComputeDistance(tail, p)) // parents may be lost
			}
			if strings.HasSuffix(p, "."+name) {
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
		if len(n.Outputs) == 0 || n.Outputs[0] == nil || idx.axes[n.Outputs[0]].cells() < 2 {
			continue
		}
		label := idx.path(i)
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

// label returns the module path of a node if it is known, else the name of its output: how a user would name the layer.
func (idx *index) label(i int) string {
	n := idx.m.Nodes[i]
	if p := idx.path(i); p != "" {
		if values := idx.leaving(idx.module(p)); len(values) == 1 && slices.Contains(n.Outputs, values[0]) {
			return p
		}
	}
	if len(n.Outputs) > 0 && n.Outputs[0] != nil {
		return n.Outputs[0].Name
	}
	return n.Name
}
