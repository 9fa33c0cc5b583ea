// Package layer finds the activation that a user means by a layer's name, and traces its axes back to those of the volume.
//
// A layer is named as PyTorch names modules (backbone1._conv_head, layer4), or by a value or a node of the file. Exporters leave
// two traces of modules, the scope of a node and the names of the parameters that it reads, and both are incomplete: the
// TorchScript exporter loses the parents of modules that are reached by a method call, and numbers calls so that they look like
// names; both fold a BatchNorm into the convolution before it, so that the convolution's own output is not in the file; and nothing
// says whether a ReLU runs in place. tools/export_onnx.py writes all that into the file. In other files the missing facts are
// assumed, with a line in Match.Warnings.
package layer

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/onnx"
)

// Request names a layer.
type Request struct {
	Name   string // a module, a call of it ("relu@1"), or a value or node of the file; "" for the default
	Grid   [3]int // of a token layer: depth, height, width; zero takes it from the graph
	Prefix int    // tokens of a token layer in front of those of the grid; 0 takes it from the graph
	Layout string // see LayoutHelp; "" is "auto"
	Volume [3]int // depth, height, width of the volume
}

// Match is the tensor of the graph that stands for a layer.
type Match struct {
	ir.Target
	Grid [3]int // cells along depth, height, width
	// Module is the module whose output Value is, or stands for; "" where a value was named. The module is called Calls times in the file;
	// this is call number Call, from 1.
	Module      string
	Call, Calls int
	// Another is the reason why Value is not the module's own output, which the file does not have; "" if it is that output.
	Another  string
	Warnings []string // assumptions, and other things that the user should know
	Notes    []string // choices that were made, for readers who want to know
}

// ListsAll is the advice in errors that name only some layers.
const ListsAll = "Inspect lists all"

// NotFoundError is a name that fits no layer, or several.
type NotFoundError struct {
	Name       string
	Ambiguous  bool
	Candidates []string
	Hint       string // the likely reason why the layer is missing; "" if none is known
}

func (e *NotFoundError) Error() string {
	what, hint := "no layer is called", "; layers with similar names or with spatial extent: "
	if e.Ambiguous {
		what, hint = "more than one value could be the output of", "; name one of the values: "
	}
	if e.Hint != "" {
		hint = "; " + e.Hint + hint
	}
	return fmt.Sprintf("%s %q%s%s (%s)", what, e.Name, hint, strings.Join(e.Candidates, ", "), ListsAll)
}

// exportTool is the advice for files without the needed facts about modules.
const exportTool = "export the model with tools/export_onnx.py"

// Find resolves a request on a graph as imported, before any pass.
func Find(m *onnx.Imported, req Request) (Match, error) {
	idx := newIndex(m)
	var t Match
	var err error
	if req.Name == "" {
		t, err = idx.last(req)
	} else {
		t, err = idx.named(req.Name)
	}
	if err != nil {
		return Match{}, err
	}
	return t, idx.place(&t, req)
}

// warn adds a warning.
func (t *Match) warn(format string, args ...any) {
	t.Warnings = append(t.Warnings, fmt.Sprintf(format, args...))
}

// named resolves a name: a module, else a value, else a node, else a module whose outer modules the file does not know.
func (idx *index) named(name string) (Match, error) {
	t := Match{Target: ir.Target{Label: name}}
	if found, err := idx.exactly(&t, name); found || err != nil {
		return t, err
	}
	if before, after, ok := strings.Cut(name, "@"); ok {
		if call, err := strconv.Atoi(after); err == nil {
			if t.Call = call; call < 1 {
				return t, fmt.Errorf("layer %q: calls of a module are numbered from 1", name)
			}
			if found, err := idx.exactly(&t, before); found || err != nil {
				return t, err
			}
			name = before
		}
	}
	for head, tail := cutHead(name, ""); tail != ""; head, tail = cutHead(tail, head) {
		if idx.called(head) {
			break // the file names the parts of that module
		}
		found, err := idx.exactly(&t, tail)
		if err != nil {
			return t, err
		}
		if !found {
			continue
		}
		if len(idx.lost) > 1 && t.Calls > 1 {
			return t, idx.ambiguous(t.Label, idx.outputs(tail))
		}
		t.warn("the file does not know the module %s; %s is taken for %s", head, tail, name)
		return t, nil
	}
	return t, &NotFoundError{Name: t.Label, Candidates: idx.candidates(t.Label), Hint: idx.missing()}
}

// cutHead moves the first name of a path to the end of head.
func cutHead(path, head string) (string, string) {
	first, rest, _ := strings.Cut(path, ".")
	if head == "" {
		return first, rest
	}
	return head + "." + first, rest
}

// missing explains the absence of a module from the file.
func (idx *index) missing() string {
	const gone = "modules that compute nothing when the model is used (Dropout, Identity) have no node in the file"
	n := 0
	for i := range idx.members {
		if idx.members[i].folded {
			n++
		}
	}
	if n == 0 {
		return gone
	}
	return fmt.Sprintf("the exporter has folded BatchNorms into the convolutions before them (%d in this file) and does not tell their names: the "+
		"output of such a norm is that of the convolution; %s, which keeps norms apart; %s", n, exportTool, gone)
}

// exactly finds a module, a value or a node of that very name. The call is t.Call, or the last.
func (idx *index) exactly(t *Match, name string) (bool, error) {
	if calls := idx.record[name]; len(calls) > 0 {
		return true, idx.recorded(t, name, calls)
	}
	if nodes := idx.module(name); len(nodes) > 0 {
		return true, idx.output(t, name, nodes)
	}
	if nodes := idx.stated(name); len(nodes) > 0 {
		if err := idx.output(t, name, nodes); err != nil {
			return true, err
		}
		base, k := cutNumber(name)
		t.warn("the file does not say whether %s is a module of that name or call %d of the module %s; in both cases the value is %q", name, k+1, base, t.Value.Name)
		return true, nil
	}
	if t.Call != 0 {
		return false, nil
	}
	if v := idx.m.Names[name]; v != nil && v.Const == nil {
		t.Value = v
		return true, nil
	}
	for _, n := range idx.m.Nodes {
		if n.Name == name && len(n.Outputs) > 0 && n.Outputs[0] != nil {
			t.Value = n.Outputs[0]
			return true, nil
		}
	}
	return false, nil
}

// stated returns the nodes whose scope has that name in the file, number of the call and all.
func (idx *index) stated(name string) (nodes []int) {
	for i := range idx.members {
		if idx.members[i].stated == name {
			nodes = append(nodes, i)
		}
	}
	return nodes
}

// output finds the value that a module computes with its nodes, in the call that is asked for or the last.
func (idx *index) output(t *Match, name string, nodes []int) error {
	calls := idx.calls(name, nodes)
	values := idx.leaving(nodes)
	if len(calls) > 1 && t.Call == 0 && len(values) != 1 {
		values = idx.leaving(calls[len(calls)-1])
	}
	t.Module, t.Calls = name, len(calls)
	if t.Call != 0 {
		if t.Call > len(calls) {
			return fmt.Errorf("layer %q: of the calls of the module %s in the file the last is number %d", t.Label, name, len(calls))
		}
		values = idx.leaving(calls[t.Call-1])
	}
	if len(values) != 1 {
		return idx.ambiguous(t.Label, values)
	}
	t.Value = values[0]
	made := idx.maker(t.Value)
	if t.Call == 0 {
		t.Call = len(calls)
		if k := slices.IndexFunc(calls, func(c []int) bool { return slices.Contains(c, made) }); k >= 0 {
			t.Call = k + 1
		}
	}
	idx.judge(t, name, nodes, made)
	return nil
}

// judge returns the doubts about a module's output, which node made computes, and whether it is another tensor.
func (idx *index) judge(t *Match, name string, nodes []int, made int) {
	if !idx.called(name) {
		t.warn("the file has no call of %s itself, only of modules in it: the last output of these is taken for its own", name)
	}
	idx.judgeNumbers(t, name, nodes)
	if slices.ContainsFunc(nodes, func(i int) bool { return idx.members[i].alone && idx.members[i].own() != name }) {
		t.warn("the exporter has lost the parents of %s, and other modules share its name: some of its operations may be missing, so that this is "+
			"not its last one; %s to have the file tell", name, exportTool)
	}
	b := member{}
	if made >= 0 {
		b = idx.members[made]
	}
	switch {
	case b.conv != "" && within(b.conv, name) && !slices.ContainsFunc(b.stack, func(s string) bool { return within(s, name) }):
		t.Another = foldedWarning(name, b.own())
	case b.folded && b.own() == name:
		t.Another = foldedWarning(name, "the BatchNorm behind it")
	case b.folded:
		t.warn("the exporter has folded a BatchNorm into %s: it is taken to be in %s, as %s; %s, which keeps norms apart, to be sure",
			b.own(), name, "in a Sequential that ends in a norm", exportTool)
	}
	if t.Another != "" {
		t.Warnings = append(t.Warnings, t.Another)
		return
	}
	if relu := idx.thenReLU(nodes, t.Value); relu != nil {
		t.warn("%s is followed by the module %s; the file does not say whether that ReLU runs in place, so that hooks on %s see its result; "+
			"it is taken to, and its output %s is explained; name %s for the tensor before it, or %s to have the file tell",
			name, relu.Scope, name, quoted(relu.Outputs[0]), quoted(t.Value), exportTool)
		t.Value = relu.Outputs[0]
	}
}

// judgeNumbers warns where a module is known by scopes that may be numbered calls, or may not.
func (idx *index) judgeNumbers(t *Match, name string, nodes []int) {
	if k := slices.IndexFunc(nodes, func(i int) bool { return idx.members[i].guessed && idx.members[i].own() == name }); k >= 0 {
		other := idx.members[nodes[k]].stated
		t.warn("%s is taken for call %d of %d of the module %s, since the exporter numbers calls (%s); if %s is a module of its own, the output "+
			"of %s is %s@1; %s to have the file tell", quoted(t.Value), t.Call, t.Calls, name, other, other, name, name, exportTool)
		return
	}
	if slices.ContainsFunc(nodes, func(i int) bool { return slices.ContainsFunc(idx.m.Nodes[i].InputNames, parameter) }) {
		return // parameters name their module
	}
	other := idx.numbered(name)
	if base, k := cutNumber(name); other == "" && k > 0 && len(idx.stated(base)) > 0 && !complete(idx.m.Nodes[nodes[0]]) {
		other = base
	}
	if other != "" {
		t.warn("the file does not say whether %s and %s are calls of one module or of two; %s to have it tell", name, other, exportTool)
	}
}

func quoted(v *ir.Value) string { return strconv.Quote(v.Name) }

// numbered returns the scope of the file that looks like another call of a module but is not known to be one, "" if there is none.
func (idx *index) numbered(name string) string {
	for i := range idx.members {
		if b := &idx.members[i]; !complete(idx.m.Nodes[i]) && b.own() == b.stated {
			if base, k := cutNumber(b.stated); k > 0 && base == name && !slices.ContainsFunc(idx.m.Nodes[i].InputNames, parameter) {
				return b.stated
			}
		}
	}
	return ""
}

func foldedWarning(name, norm string) string {
	return fmt.Sprintf("the exporter has folded %s into %s: what is explained is the output of both together, not the module's own, which is "+
		"not in the file; %s, which keeps norms apart", norm, name, exportTool)
}

// thenReLU returns the node of the ReLU module outside the given nodes that is the only reader of their value v, if there is one.
// Functional calls are not meant: F.relu works in place only on request, nn.ReLU does in most published networks.
func (idx *index) thenReLU(nodes []int, v *ir.Value) *onnx.NodeInfo {
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
	// A scope with other nodes is that of a module that calls F.relu.
	own := idx.members[readers[0]].own()
	for i := range idx.members {
		if b := &idx.members[i]; computes(idx.m.Nodes[i]) && b.in(own) && (b.own() != own || idx.m.Nodes[i].Op != "Relu") {
			return nil
		}
	}
	return n
}

// outputs returns the values that could be the output of a call of a module.
func (idx *index) outputs(name string) (values []*ir.Value) {
	for _, c := range idx.calls(name, idx.module(name)) {
		values = append(values, idx.leaving(c)...)
	}
	return values
}

func (idx *index) ambiguous(name string, values []*ir.Value) error {
	e := &NotFoundError{Name: name, Ambiguous: true}
	for _, v := range values {
		e.Candidates = append(e.Candidates, v.Name)
	}
	if len(values) == 0 {
		return fmt.Errorf("the module %q computes nothing that another node reads: it is constant in this file, or leads to another output than the class scores", name)
	}
	return e
}

// candidates returns the modules with similar names, then those whose output has spatial extent, the last ones first.
func (idx *index) candidates(name string) []string {
	const most, long = 12, 200 // comparing takes time by the product of lengths
	type near struct {
		path     string
		distance int
	}
	var all []near
	seen := map[string]bool{}
	for i := range idx.members {
		for p := idx.members[i].own(); p != "" && !seen[p]; p = parent(p) {
			if seen[p] = true; max(len(name), len(p)) > long {
				continue
			}
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
		label := idx.members[i].own()
		if label == "" {
			label = n.Outputs[0].Name
		}
		if label != "" && !slices.Contains(out, label) {
			out = append(out, label)
		}
	}
	return out[:min(len(out), most)]
}

// label names a value as a user would: by the innermost module that is called once and whose output it is, else by a module that is called
// more often, else by its name in the file. The name finds the same value again.
func (idx *index) label(v *ir.Value) Match {
	var found []Match
	for _, path := range idx.around(v) {
		t, err := idx.named(path)
		if err == nil && t.Value != v && t.Calls > 1 {
			t, err = idx.callOf(path, t.Calls, v)
		}
		if err == nil && t.Value == v && t.Another == "" && idx.called(path) {
			found = append(found, t)
		}
	}
	for _, fits := range []func(t Match) bool{
		func(t Match) bool { return t.Calls == 1 && len(t.Warnings) == 0 },
		func(t Match) bool { return len(t.Warnings) == 0 },
		func(t Match) bool { return t.Calls == 1 },
		func(t Match) bool { return true },
	} {
		if k := slices.IndexFunc(found, fits); k >= 0 {
			return found[k]
		}
	}
	return Match{Target: ir.Target{Value: v, Label: v.Name}}
}

// around returns the modules whose output a value might be, the innermost first.
func (idx *index) around(v *ir.Value) (paths []string) {
	for path, calls := range idx.record {
		if slices.ContainsFunc(calls, func(e entry) bool { return idx.m.Names[e.Value] == v }) {
			paths = append(paths, path)
		}
	}
	slices.SortFunc(paths, func(a, b string) int {
		return cmp.Or(strings.Count(b, ".")-strings.Count(a, "."), strings.Compare(a, b))
	})
	if made := idx.maker(v); made >= 0 && len(paths) == 0 {
		for _, path := range slices.Backward(idx.members[made].stack) {
			for ; path != ""; path = parent(path) {
				if !slices.Contains(paths, path) {
					paths = append(paths, path)
				}
			}
		}
	}
	return paths
}

// callOf returns the call of a module whose output is v.
func (idx *index) callOf(path string, calls int, v *ir.Value) (t Match, err error) {
	for k := 1; k <= calls; k++ {
		if t, err = idx.named(fmt.Sprintf("%s@%d", path, k)); err == nil && t.Value == v {
			return t, nil
		}
	}
	return t, err
}
