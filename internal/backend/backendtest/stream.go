package backendtest

import (
	"fmt"
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Plans lists ways to run a graph that must all give the same results: with whole tensors, with everything that can be cut into slabs of
// one to three planes, and as the planner streams it, with external values outside the arena.
func Plans(g *ir.Graph) (map[string]*plan.Plan, error) {
	plans := map[string]*plan.Plan{"whole": plan.Make(g)}
	if !slices.ContainsFunc(g.Nodes, func(n *ir.Node) bool { return n.Out().HasDepth() || n.In(0) != nil && n.In(0).HasDepth() }) {
		return plans, nil
	}
	for h := 1; h <= 3; h++ {
		plans[fmt.Sprintf("slabs of %d", h)] = Slabs(g, h)
	}
	var err error
	stream := func(name string, opt plan.Options) {
		if plans[name], err = plan.Stream(g, opt); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
	}
	if stream("smallest", plan.Options{}); err != nil {
		return nil, err
	}
	if stream("half", plan.Options{Budget: max(plans["smallest"].Peak, (plans["smallest"].Peak+plans["whole"].Peak)/2)}); err != nil {
		return nil, err
	}
	if external := External(g); len(external) > 0 {
		if stream("external", plan.Options{External: external}); err != nil {
			return nil, err
		}
	}
	return plans, nil
}

// External are the inputs and outputs that can be in the caller's memory.
func External(g *ir.Graph) (values []*ir.Value) {
	for _, v := range slices.Concat(g.Inputs, g.Outputs) {
		if v.HasDepth() && v.Type.Elem == tensor.Float32 && !slices.Contains(values, v) {
			values = append(values, v)
		}
	}
	return values
}

// Slabs plans every node that can run on slabs, or gather from them, in steps of h planes. Buffers hold all planes of their
// values, and none is used twice: it is about steps, not about memory.
func Slabs(g *ir.Graph, h int) *plan.Plan {
	p := &plan.Plan{Graph: g}
	mode := map[*ir.Node]plan.Mode{}
	for _, n := range g.Nodes {
		mode[n] = modeOf(n)
	}
	// Bits are either taken whole or by planes.
	uses := g.Uses()
	for changed := true; changed; {
		changed = false
		for _, n := range g.Nodes {
			y := n.Out()
			if y.Type.Elem != tensor.Bit {
				continue
			}
			users := append([]*ir.Node{n}, uses[y]...)
			if slices.ContainsFunc(users, func(u *ir.Node) bool { return mode[u] == plan.Whole }) {
				for _, u := range users {
					changed = changed || mode[u] != plan.Whole
					mode[u] = plan.Whole
				}
			}
		}
	}
	where := map[*ir.Value]int{}
	place := func(v *ir.Value, byPlane bool) {
		where[v] = len(p.Buffers)
		b := plan.Buffer{Values: []*ir.Value{v}, Offset: p.Peak, First: len(p.Steps)}
		size := v.Type.Elem.Bytes(v.Shape().Elements())
		if byPlane {
			b.Planes = v.Shape()[1]
			size = b.Planes * plan.PlaneBytes(v)
		}
		b.Bytes = (size + plan.Align - 1) / plan.Align * plan.Align
		p.Peak += b.Bytes
		p.Buffers = append(p.Buffers, b)
	}
	for _, v := range g.Inputs {
		place(v, false)
		p.Buffers[where[v]].First = -1
	}
	for _, n := range g.Nodes {
		place(n.Out(), mode[n] == plan.Slab)
		s := plan.Step{Node: n, Mode: mode[n], Out: []int{where[n.Out()]}}
		for _, v := range n.Inputs {
			at := -1
			if v != nil && v.Const == nil {
				at = where[v]
			}
			s.In = append(s.In, at)
		}
		depth := 0
		switch s.Mode {
		case plan.Whole:
			p.Steps = append(p.Steps, s)
			continue
		case plan.Slab:
			depth = n.Out().Shape()[1]
		case plan.Accumulate:
			depth = n.Inputs[0].Shape()[1]
		}
		for z := 0; z < depth; z += h {
			s.Z0, s.Z1 = z, min(z+h, depth)
			p.Steps = append(p.Steps, s)
		}
	}
	for i := range p.Buffers {
		p.Buffers[i].Last = len(p.Steps)
	}
	return p
}

// modeOf returns how a node can run.
func modeOf(n *ir.Node) plan.Mode {
	if n.Op.Accumulates != nil && n.Op.Accumulates(n) {
		return plan.Accumulate
	}
	if n.Op.Slab == nil || !n.Out().HasDepth() {
		return plan.Whole
	}
	for i, v := range n.Inputs {
		if v == nil || !v.HasDepth() {
			continue
		}
		if _, _, ok := n.Op.Slab(n, i, 0, 1); !ok {
			return plan.Whole
		}
	}
	return plan.Slab
}
