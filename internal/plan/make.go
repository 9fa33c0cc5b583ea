package plan

import (
	"cmp"
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
)

// Make plans g with whole tensors: every value has a buffer from its definition to its last use. Nodes run in the graph's
// order; offsets are chosen greedily, the largest buffer first, at the lowest place that is free during its life.
func Make(g *ir.Graph) *Plan {
	p := &Plan{Graph: g}
	end := len(g.Nodes)
	last := map[*ir.Value]int{}
	for i, n := range g.Nodes {
		for _, v := range n.Inputs {
			if v != nil {
				last[v] = i
			}
		}
	}
	for _, v := range g.Outputs {
		last[v] = end
	}
	for _, t := range g.Targets {
		last[t.Value] = end
	}

	where := map[*ir.Value]int{} // value -> buffer
	place := func(v *ir.Value, step int) {
		where[v] = len(p.Buffers)
		until, used := last[v]
		if !used {
			until = step
		}
		p.Buffers = append(p.Buffers, Buffer{Values: []*ir.Value{v}, Bytes: bytes(v), First: step, Last: until})
	}
	share := func(v, source *ir.Value, step int) {
		i := where[source]
		where[v] = i
		b := &p.Buffers[i]
		b.Values = append(b.Values, v)
		b.Last = max(b.Last, last[v], step)
	}
	for _, v := range g.Inputs {
		place(v, -1)
	}
	for i, n := range g.Nodes {
		step := Step{Node: n}
		for _, v := range n.Inputs {
			b := -1
			if v != nil && v.Const == nil {
				b = where[v]
			}
			step.In = append(step.In, b)
		}
		source := n.In(0)
		switch {
		case n.Op.View && source.Const == nil, inPlace(n, i, p, where):
			share(n.Out(), source, i)
		default:
			place(n.Out(), i)
		}
		for _, v := range n.Outputs[1:] {
			place(v, i)
		}
		for _, v := range n.Outputs {
			step.Out = append(step.Out, where[v])
		}
		p.Steps = append(p.Steps, step)
	}
	p.assign()
	return p
}

// inPlace reports whether node i may write its output over its first input: the buffer dies there and no other input is in it.
func inPlace(n *ir.Node, i int, p *Plan, where map[*ir.Value]int) bool {
	v := n.In(0)
	if !n.Op.InPlace || v == nil || v.Const != nil || v.Type.Elem != n.Out().Type.Elem || !v.Shape().Equal(n.Out().Shape()) {
		return false
	}
	b := where[v]
	if p.Buffers[b].Last != i {
		return false
	}
	for _, other := range n.Inputs[1:] {
		if other != nil && other != v && other.Const == nil && where[other] == b {
			return false
		}
	}
	return true
}

// assign gives every buffer its offset and the plan its peak.
func (p *Plan) assign() {
	order := make([]int, len(p.Buffers))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(p.Buffers[b].Bytes, p.Buffers[a].Bytes) })
	var placed []int // buffers by offset
	for _, i := range order {
		b := &p.Buffers[i]
		if b.External {
			continue
		}
		at := 0
		for _, j := range placed {
			other := &p.Buffers[j]
			if other.Last < b.First || other.First > b.Last {
				continue
			}
			if other.Offset >= at+b.Bytes {
				break
			}
			at = max(at, other.Offset+other.Bytes)
		}
		b.Offset = at
		p.Peak = max(p.Peak, at+b.Bytes)
		k, _ := slices.BinarySearchFunc(placed, at, func(j, at int) int { return cmp.Compare(p.Buffers[j].Offset, at) })
		placed = slices.Insert(placed, k, i)
	}
}
