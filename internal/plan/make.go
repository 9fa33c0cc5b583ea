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

// assign gives every buffer its offset and the plan its peak. It tries some orders of placing buffers and takes the one that needs the
// least.
func (p *Plan) assign() {
	life := func(b *Buffer) int { return b.Last - b.First + 1 }
	orders := []func(a, b *Buffer) int{
		func(a, b *Buffer) int { return cmp.Compare(b.Bytes, a.Bytes) },
		func(a, b *Buffer) int { return cmp.Compare(life(b), life(a)) },
		func(a, b *Buffer) int { return cmp.Compare(b.Bytes*life(b), a.Bytes*life(a)) },
		func(a, b *Buffer) int { return cmp.Compare(a.First, b.First) },
		func(a, b *Buffer) int { return cmp.Compare(b.Last, a.Last) },
	}
	fullest := p.fullest()
	for i, order := range orders {
		offsets, peak := p.place(order)
		if i == 0 || peak < p.Peak {
			p.Peak = peak
			for k := range p.Buffers {
				p.Buffers[k].Offset = offsets[k]
			}
		}
		if p.Peak <= fullest {
			return
		}
	}
}

// aligned returns the lowest place for a buffer at or above both offsets.
func (p *Plan) aligned(b *Buffer, from, at int) int {
	at = max(at, from)
	if b.Doubled {
		at = (at + p.Granularity - 1) / p.Granularity * p.Granularity
	}
	return at
}

// fullest returns the bytes that are alive in the fullest step, which no placement goes below.
func (p *Plan) fullest() int {
	change := make([]int, len(p.Steps)+3)
	for _, b := range p.Buffers {
		if !b.External {
			change[b.First+1] += b.Bytes
			change[b.Last+2] -= b.Bytes
		}
	}
	most, sum := 0, 0
	for _, c := range change {
		sum += c
		most = max(most, sum)
	}
	return most
}

// place puts one buffer after the other at the lowest place that is free during its life.
func (p *Plan) place(compare func(a, b *Buffer) int) (offsets []int, peak int) {
	order := make([]int, len(p.Buffers))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return compare(&p.Buffers[a], &p.Buffers[b]) })
	offsets = make([]int, len(p.Buffers))
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
			if offsets[j] >= at+b.Bytes {
				break
			}
			at = p.aligned(b, offsets[j]+other.Bytes, at)
		}
		offsets[i] = at
		peak = max(peak, at+b.Bytes)
		k, _ := slices.BinarySearchFunc(placed, at, func(j, at int) int { return cmp.Compare(offsets[j], at) })
		placed = slices.Insert(placed, k, i)
	}
	return offsets, peak
}
