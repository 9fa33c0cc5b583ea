package plan

import (
	"sync"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// nodeKind names the way in which a node can run.
type nodeKind uint8

const (
	whole     nodeKind = iota // needs its inputs whole
	slabwise                  // plane by plane
	reduction                 // reads planes, gives a value without depth
)

// maxPlanes is the number of planes, of all values of a graph, that are planned one by one: about ten times as many as the largest networks
// have at a depth of 512. A plan takes some hundred bytes for each, so that a graph with more is planned with whole tensors.
const maxPlanes = 1 << 20

// planner has a graph and its facts that the search needs often, by index: node i computes value i; the graph's inputs follow.
type planner struct {
	g      *ir.Graph
	nodes  []nodeInfo
	values []valueInfo
	index  map[*ir.Value]int
	costs  Costs

	singles    []int     // value i at i: memory that all lists of one value share
	workspaces sync.Pool // of *workspace
}

type nodeInfo struct {
	node   *ir.Node
	kind   nodeKind
	inputs []int     // value of each input, -1 for constants and absent ones
	lo, hi [][]int32 // planes of each input with depth that an output plane needs; none for reductions
	cost   float64   // seconds
	depth  int       // planes that steps go along: of the value, or of the reduced input
	plane  int       // bytes of a plane of the largest tensor that a step reads or writes, for one of those planes
}

type valueInfo struct {
	value    *ir.Value
	readers  []int // nodes, each once
	depth    int   // planes; 0 for a value without depth
	bytes    int   // as a whole, in planes if it has depth
	plane    int   // bytes of a plane
	external bool
	output   bool
	// streamable says that the value need not be saved: it has depth, a node that runs slab by slab computes it, and only such nodes and
	// reductions read it.
	streamable bool
}

// Costs describe a device to the planner. The zero value is replaced by those of an ordinary processor.
type Costs struct {
	FlopsPerSecond float64
	BytesPerSecond float64
	StepSeconds    float64 // overhead of a step
	// SlabBytes are the sizes of slabs that are worth trying, the most comfortable one first. Slabs of one plane are always tried.
	SlabBytes []int
	// Granularity is not 0 on a device that can show memory at two addresses, in pieces of that many bytes. A ring of at least a piece is
	// then made of whole pieces where that costs little, so that a backend can make its planes follow one another without an end.
	Granularity int
}

func (c Costs) orDefault() Costs {
	if c.FlopsPerSecond == 0 {
		return Costs{FlopsPerSecond: 2e11, BytesPerSecond: 1e10, StepSeconds: 5e-6, SlabBytes: []int{1 << 18}}
	}
	return c
}

// newPlanner reads a graph. Inputs and outputs with depth are external if they are listed.
func newPlanner(g *ir.Graph, external []*ir.Value, costs Costs) *planner {
	n := &planner{g: g, index: map[*ir.Value]int{}, costs: costs.orDefault()}
	planes := n.readValues(external)
	for i := range g.Nodes {
		n.readNode(i, planes <= maxPlanes)
	}
	n.workspaces.New = func() any { return newWorkspace(len(n.nodes), len(n.values)) }
	for i := range n.nodes {
		info, v := &n.nodes[i], &n.values[i]
		if info.depth = v.depth; info.kind == reduction {
			info.depth = n.reducedDepth(i)
		}
		info.plane = v.plane
		for _, in := range info.inputs {
			if in >= 0 && n.values[in].depth > 0 && info.depth > 0 {
				info.plane = max(info.plane, n.values[in].plane*n.values[in].depth/info.depth)
			}
		}
		v.streamable = v.depth > 0 && info.kind == slabwise && !v.output
		for _, r := range v.readers {
			v.streamable = v.streamable && n.nodes[r].kind != whole
		}
	}
	return n
}

// readValues lists the values, and returns how many planes they have together.
func (n *planner) readValues(external []*ir.Value) (planes int) {
	add := func(v *ir.Value) {
		n.index[v] = len(n.values)
		n.singles = append(n.singles, len(n.values))
		info := valueInfo{value: v, bytes: bytes(v)}
		if v.HasDepth() {
			info.depth, info.plane = v.Shape()[1], PlaneBytes(v)
			info.bytes = align(info.depth * info.plane)
			planes += info.depth
		}
		n.values = append(n.values, info)
	}
	for _, node := range n.g.Nodes {
		add(node.Out())
	}
	for _, v := range n.g.Inputs {
		add(v)
	}
	for _, v := range external {
		n.values[n.index[v]].external = true
	}
	for _, v := range n.g.Outputs {
		if i, ok := n.index[v]; ok {
			n.values[i].output = true
		}
	}
	return planes
}

// readNode lists node i and its inputs. Unless planes are planned, it runs whole.
func (n *planner) readNode(i int, planes bool) {
	node := n.g.Nodes[i]
	info := nodeInfo{node: node, kind: kindOf(node), cost: cost(node, n.costs)}
	if !planes {
		info.kind = whole
	}
	for k, in := range node.Inputs {
		at := -1
		if in != nil && in.Const == nil {
			at = n.index[in]
			if r := n.values[at].readers; len(r) == 0 || r[len(r)-1] != i {
				n.values[at].readers = append(r, i)
			}
		}
		info.inputs = append(info.inputs, at)
		var lo, hi []int32
		if info.kind == slabwise && at >= 0 && n.values[at].depth > 0 {
			lo, hi = make([]int32, n.values[i].depth), make([]int32, n.values[i].depth)
			for z := range lo {
				l, h, _ := node.Op.Slab(node, k, z, z+1)
				lo[z], hi[z] = int32(l), int32(h)
			}
		}
		info.lo, info.hi = append(info.lo, lo), append(info.hi, hi)
	}
	n.nodes = append(n.nodes, info)
}

// kindOf returns how a node can run.
func kindOf(n *ir.Node) nodeKind {
	if len(n.Outputs) != 1 {
		return whole
	}
	if n.Op.Accumulates != nil && n.Op.Accumulates(n) {
		return reduction
	}
	if n.Op.Slab == nil || !n.Out().HasDepth() {
		return whole
	}
	deep := false
	for i, v := range n.Inputs {
		if v == nil || !v.HasDepth() {
			continue
		}
		deep = true
		if _, _, ok := n.Op.Slab(n, i, 0, 1); !ok {
			return whole
		}
	}
	if !deep && n.Op != op.Expand {
		return whole
	}
	return slabwise
}

// cost estimates the seconds of a node by its arithmetic and the bytes that it moves through memory.
func cost(n *ir.Node, c Costs) float64 {
	if n.Op.View {
		return c.StepSeconds
	}
	moved := float64(n.Out().Type.Elem.Bytes(n.Out().Shape().Elements()))
	for _, v := range n.Inputs {
		if v != nil && v.Const == nil {
			moved += float64(v.Type.Elem.Bytes(v.Shape().Elements()))
		}
	}
	flops := float64(n.Out().Shape().Elements())
	if n.Op.Flops != nil {
		flops = n.Op.Flops(n)
	}
	return flops/c.FlopsPerSecond + moved/c.BytesPerSecond + c.StepSeconds
}

// ring returns the places and bytes of a ring with at least the given number of places, for depth planes of plane bytes each, and whether it
// is made of whole pieces of the device's granularity.
func (n *planner) ring(need, plane, depth int) (places, bytes int, doubled bool) {
	g := n.costs.Granularity
	if g > 0 && need < depth && need*plane >= g {
		step := g / gcd(g, plane)
		if places := (need + step - 1) / step * step; places < depth && places-need <= need/4 {
			return places, places * plane, true
		}
	}
	return need, align(need * plane), false
}

func gcd(a, b int) int {
	for b > 0 {
		a, b = b, a%b
	}
	return a
}

func align(n int) int { return (n + Align - 1) / Align * Align }

func bytes(v *ir.Value) int { return align(v.Type.Elem.Bytes(v.Shape().Elements())) }

// sameStorage reports whether two values with depth can share a ring.
func sameStorage(a, b *ir.Value) bool {
	return a.Type.Elem == b.Type.Elem && a.Type.Elem == tensor.Float32 && a.Shape().Elements() == b.Shape().Elements() && a.Shape()[1] == b.Shape()[1]
}
