package layer

import (
	"slices"
	"strconv"
	"strings"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/onnx"
)

// index has the model's modules, as far as they are known.
type index struct {
	m       *onnx.Imported
	members []member           // of the nodes of m.Nodes
	lost    map[string]bool    // modules that parameters know, but no scope: they were entered by a method call
	record  map[string][]entry // the calls of each module, by tools/export_onnx.py; nil without
	axes    map[*ir.Value]*traced
	readers map[*ir.Value][]int // nodes of m.Nodes that read a value
	makers  map[*ir.Value]int   // the node of m.Nodes that computes a value
}

// member says which modules a node belongs to.
type member struct {
	// stack lists the modules in whose calls the node is, from the outermost inwards, without the root. The last is its own.
	stack []string
	// stated is the own module as the file states it: parents may be missing, and the number of a call is at its end.
	stated string
	// parts are modules inside its own one whose parameters the node reads.
	parts []string
	// conv is the convolution that the exporter folded the node's own module, a norm, into.
	conv string
	// folded says that a norm, whose name is lost, was folded into the node's own module, a convolution.
	folded bool
	// guessed says that the number at the end of stated is taken for that of a call, but might belong to a name.
	guessed bool
	// alone says that parameters know the path, but that other nodes in the same scope are of other modules.
	alone bool
}

// own returns the path of the node's own module, "" if it is the root or not known.
func (m *member) own() string {
	if len(m.stack) == 0 {
		return ""
	}
	return m.stack[len(m.stack)-1]
}

// in reports whether the node belongs to a module or to one in it.
func (m *member) in(path string) bool {
	inside := func(p string) bool { return within(p, path) }
	return slices.ContainsFunc(m.stack, inside) || slices.ContainsFunc(m.parts, inside)
}

func newIndex(m *onnx.Imported) *index {
	idx := &index{m: m, members: make([]member, len(m.Nodes)), lost: map[string]bool{}, record: recordOf(m.Model),
		axes: trace(m.Graph, "NCDHW"), readers: map[*ir.Value][]int{}, makers: map[*ir.Value]int{}}
	for i, n := range m.Nodes {
		for _, v := range n.Inputs {
			idx.readers[v] = append(idx.readers[v], i)
		}
		for _, v := range n.Outputs {
			if _, ok := idx.makers[v]; !ok && v != nil { // Identity has the value of its input
				idx.makers[v] = i
			}
		}
		b := &idx.members[i]
		b.stated = n.Scope
		for _, s := range n.Scopes {
			if s != "" {
				b.stack = append(b.stack, s)
			}
		}
		if n.Scopes == nil && n.Scope != "" {
			b.stack = []string{n.Scope}
		}
	}
	idx.findFolded()
	idx.findCalls()
	idx.findParents()
	return idx
}

// complete reports whether the scopes of a node are: those of the dynamo exporter, which come with classes.
func complete(n *onnx.NodeInfo) bool { return len(n.Classes) > 0 }

// findFolded finds the convolutions that a BatchNorm was folded into. The dynamo exporter gives the node the scope of the norm and
// leaves the parameters their names. The TorchScript exporter leaves the scope, and the new parameters have no names.
func (idx *index) findFolded() {
	for i, n := range idx.m.Nodes {
		if n.Op != "Conv" && n.Op != "ConvTranspose" && n.Op != "Gemm" || len(n.InputNames) < 2 {
			continue
		}
		b := &idx.members[i]
		owner := parent(n.InputNames[1])
		if complete(n) {
			if strings.Contains(n.Origin, "batch_norm") || n.Origin == "" && owner != "" && !within(owner, n.Scope) && !within(n.Scope, owner) {
				b.conv = owner
			}
			continue
		}
		b.folded = len(n.InputNames) > 2 && strings.HasPrefix(n.InputNames[1], "onnx::Conv") && strings.HasPrefix(n.InputNames[2], "onnx::Conv")
	}
}

// findCalls takes the numbers off scopes of the TorchScript exporter: it calls the second call of relu relu_1.
func (idx *index) findCalls() {
	all, nodes := map[string][]int{}, map[string][]int{} // by scope as stated; nodes compute something
	outer := map[string]bool{}                           // scopes with scopes inside: only the innermost have numbers
	for i, n := range idx.m.Nodes {
		b := &idx.members[i]
		if complete(n) || len(b.stack) == 0 {
			continue
		}
		all[b.stated] = append(all[b.stated], i)
		if !computes(n) {
			continue
		}
		nodes[b.stated] = append(nodes[b.stated], i)
		for _, s := range b.stack[:len(b.stack)-1] {
			outer[s] = true
		}
	}
	for scope, again := range nodes {
		base, k := cutNumber(scope)
		if k < 1 || outer[scope] || len(nodes[base]) == 0 {
			continue
		}
		same, sure := idx.sameModule(base, nodes[base], again)
		if !same {
			continue
		}
		for _, i := range all[scope] {
			b := &idx.members[i]
			b.stack[len(b.stack)-1] = base
			b.guessed = !sure
		}
	}
}

// computes reports whether a node computes a value that is not a constant.
func computes(n *onnx.NodeInfo) bool {
	return slices.ContainsFunc(n.Outputs, func(v *ir.Value) bool { return v != nil && v.Const == nil })
}

// cutNumber splits "relu_1" into "relu" and 1; the number is 0 if there is none.
func cutNumber(scope string) (base string, k int) {
	i := strings.LastIndexByte(scope, '_')
	if i < 1 || strings.HasPrefix(scope[i+1:], "0") {
		return scope, 0
	}
	k, err := strconv.Atoi(scope[i+1:])
	if err != nil || k < 1 {
		return scope, 0
	}
	return scope[:i], k
}

// sameModule reports whether two lists of nodes are calls of the same module, and whether that is sure: they have the same operations and
// the same parameters. Without parameters it is likely.
func (idx *index) sameModule(base string, first, again []int) (same, sure bool) {
	if len(first) != len(again) {
		return false, false
	}
	for k := range first {
		a, b := idx.m.Nodes[first[k]], idx.m.Nodes[again[k]]
		if a.Op != b.Op || len(a.Inputs) != len(b.Inputs) {
			return false, false
		}
		for j := range a.Inputs {
			p, q := a.InputNames[j], b.InputNames[j]
			if parameter(p) != parameter(q) {
				return false, false
			}
			if parameter(p) {
				// The exporter writes equal parameters once, under another name.
				if p != q && (a.Inputs[j] == nil || a.Inputs[j] != b.Inputs[j]) {
					return false, false
				}
				if owner := parent(q); owner != "" && !endsWith(owner, base) {
					return false, false
				}
				sure = true
			}
		}
	}
	return true, sure
}

// parameter reports whether the name of an input is that of a parameter.
func parameter(name string) bool {
	return name != "" && name[0] != '/' && (strings.Contains(name, ".") || strings.HasPrefix(name, "onnx::Conv"))
}

func endsWith(path, tail string) bool { return path == tail || strings.HasSuffix(path, "."+tail) }

// findParents restores the modules that scopes of the TorchScript exporter lack, those entered by a method call, from the paths of
// parameters.
func (idx *index) findParents() {
	alias := map[string]string{} // by scope, its path in the names of parameters; "" where they disagree
	paths := make([]string, len(idx.m.Nodes))
	for i, n := range idx.m.Nodes {
		b := &idx.members[i]
		for _, p := range n.Params {
			owner := parent(p)
			if owner == "" || owner == b.own() || owner == b.conv {
				continue
			}
			if within(owner, b.own()) && b.own() != "" {
				b.parts = append(b.parts, owner)
				continue
			}
			if complete(n) { // equal parameters of different modules are written once
				continue
			}
			own := b.own()
			if base, k := cutNumber(own); k > 0 && endsWith(owner, base) {
				own = base
			}
			scope, path, related := splitCommon(own, owner)
			switch {
			case related:
				if known, ok := alias[scope]; ok && known != path {
					path = ""
				}
				alias[scope], paths[i] = path, owner
			case own == "":
				b.parts = append(b.parts, owner)
			}
		}
	}
	for i := range idx.m.Nodes {
		b := &idx.members[i]
		if len(b.stack) == 0 || complete(idx.m.Nodes[i]) {
			continue
		}
		own := b.own()
		scope := own // the longest known part is the right one
		for scope != "" && alias[scope] == "" {
			scope = parent(scope)
		}
		path := alias[scope]
		if paths[i] != "" {
			if base, k := cutNumber(own); k > 0 && endsWith(paths[i], base) {
				own = base
			}
			scope, path, _ = splitCommon(own, paths[i])
			b.alone = alias[scope] == ""
		}
		if path == "" || scope == path {
			continue
		}
		b.stack[len(b.stack)-1] = own
		for k, s := range b.stack {
			if within(s, scope) {
				b.stack[k] = path + s[len(scope):]
			}
		}
		if head := strings.TrimSuffix(strings.TrimSuffix(path, scope), "."); head != path {
			idx.lost[head] = true
		}
	}
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

func parent(path string) string {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return ""
	}
	return path[:i]
}

// module returns the nodes that belong to a module or to a module in it, those of its convolutions that a norm outside of it was
// folded into among them.
func (idx *index) module(path string) (nodes []int) {
	for i := range idx.members {
		if b := &idx.members[i]; b.in(path) || b.conv != "" && within(b.conv, path) {
			nodes = append(nodes, i)
		}
	}
	return nodes
}

// called reports whether the file has a call of the module itself, not only of modules in it: lists of modules have none.
func (idx *index) called(path string) bool {
	if len(idx.record[path]) > 0 {
		return true
	}
	return !idx.lost[path] && slices.ContainsFunc(idx.members, func(b member) bool { return slices.Contains(b.stack, path) || b.conv == path })
}

// calls groups the nodes of a module by their call. Where the file does not tell calls apart, there is one group.
func (idx *index) calls(path string, nodes []int) [][]int {
	nodes = slices.DeleteFunc(slices.Clone(nodes), func(i int) bool { return !computes(idx.m.Nodes[i]) })
	if len(nodes) == 0 {
		return nil
	}
	for _, split := range []func(string, []int) [][]int{idx.byNumber, idx.byGap, idx.byRepetition} {
		if calls := split(path, nodes); len(calls) > 1 {
			return calls
		}
	}
	return [][]int{nodes}
}

// byNumber splits where the exporter has numbered the calls: those of a module without modules in it.
func (idx *index) byNumber(path string, nodes []int) (calls [][]int) {
	at := map[string]int{}
	for _, i := range nodes {
		b := &idx.members[i]
		if b.own() != path || complete(idx.m.Nodes[i]) {
			return nil
		}
		k, ok := at[b.stated]
		if !ok {
			k = len(calls)
			at[b.stated], calls = k, append(calls, nil)
		}
		calls[k] = append(calls[k], i)
	}
	return calls
}

// byGap splits where nodes of other modules lie between, if the parts are alike.
func (idx *index) byGap(path string, nodes []int) (calls [][]int) {
	for k, i := range nodes {
		gap := k == 0
		for j := nodes[max(k-1, 0)] + 1; j < i && !gap; j++ {
			gap = idx.m.Nodes[j].Scopes != nil && computes(idx.m.Nodes[j])
		}
		if gap {
			calls = append(calls, nil)
		}
		calls[len(calls)-1] = append(calls[len(calls)-1], i)
	}
	for _, c := range calls[1:] {
		if !slices.Equal(idx.steps(path, c), idx.steps(path, calls[0])) {
			return nil
		}
	}
	return calls
}

// byRepetition splits nodes that are the same steps again and again, where parameters or classes show that these are calls.
func (idx *index) byRepetition(path string, nodes []int) (calls [][]int) {
	steps := idx.steps(path, nodes)
	for period := 1; period <= len(nodes)/2; period++ {
		if len(nodes)%period != 0 || !slices.Equal(steps[period:], steps[:len(steps)-period]) {
			continue
		}
		if !slices.ContainsFunc(nodes[:period], func(i int) bool { return idx.once(path, i) }) {
			continue
		}
		return slices.Collect(slices.Chunk(nodes, period))
	}
	return nil
}

// once reports whether a node of a module runs once in a call: it has parameters, or is all that a layer of PyTorch's own does.
func (idx *index) once(path string, i int) bool {
	n := idx.m.Nodes[i]
	if slices.ContainsFunc(n.InputNames, parameter) {
		return true
	}
	k := len(n.Classes)
	return k >= 2 && strings.HasPrefix(n.Classes[k-2], "torch.nn.modules.activation.") || idx.members[i].stated != idx.members[i].own()
}

// steps describes nodes of a module so that those of two calls are equal.
func (idx *index) steps(path string, nodes []int) []string {
	steps := make([]string, len(nodes))
	for k, i := range nodes {
		n := idx.m.Nodes[i]
		steps[k] = strings.Join(append([]string{n.Op, idx.members[i].own()}, n.Params...), " ")
	}
	return steps
}

// leaving returns the values that the nodes of a module compute for readers outside. Nodes outside whose results come back do not count:
// they belong to the module and have lost their scope, or the module is called again, and its last result is meant.
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

// maker returns the node of the file that computes a value, -1 if none does.
func (idx *index) maker(v *ir.Value) int {
	if i, ok := idx.makers[v]; ok {
		return i
	}
	return -1
}
