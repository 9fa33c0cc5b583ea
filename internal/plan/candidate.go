package plan

// candidate is a plan that the search compares, without offsets: units in order, and which buffers live through which of them.
type candidate struct {
	saved     []bool
	slabBytes int
	units     []*unit
	schedules []*slabSchedule // of sweeps, nil for whole steps
	buffers   []lifetime      // of saved values and those without depth
	home      []int           // buffer of each value that has one, -1
	seconds   float64
	steps     float64 // part of seconds: the cost of slabs beyond whole steps
	peak      int     // bytes alive in the fullest unit: a lower bound of the peak with any offsets
	at        int     // that unit
}

// lifetime is the units from the first to the last that need a buffer; -1 is before the first, len(units) behind the last.
type lifetime struct {
	values      []int
	bytes       int
	first, last int
	external    bool
}

// candidate lays out a choice of saved values, with slabs of about slabBytes.
func (n *planner) candidate(saved []bool, slabBytes int, cache *scheduleCache) *candidate {
	c := &candidate{saved: saved, slabBytes: slabBytes, units: n.layoutUnits(saved), home: make([]int, len(n.values))}
	last := make([]int, len(n.values))
	for i := range last {
		last[i], c.home[i] = -2, -1
	}
	for ui, u := range c.units {
		nodes := u.nodes
		if u.whole >= 0 {
			nodes = []int{u.whole}
		}
		for _, k := range nodes {
			c.seconds += n.nodes[k].cost
			for _, in := range n.nodes[k].inputs {
				if in >= 0 {
					last[in] = ui
				}
			}
		}
	}
	for i, v := range n.values {
		if v.output {
			last[i] = len(c.units)
		}
	}
	most := len(n.values) - len(n.nodes)
	for _, u := range c.units {
		most += max(1, len(u.targets))
	}
	c.buffers = make([]lifetime, 0, most)
	place := func(v, at int) {
		c.home[v] = len(c.buffers)
		c.buffers = append(c.buffers, lifetime{values: n.join(nil, v), bytes: n.values[v].bytes, first: at, last: max(at, last[v]), external: n.values[v].external})
	}
	for v := len(n.nodes); v < len(n.values); v++ {
		place(v, -1)
	}
	for ui, u := range c.units {
		var t *slabSchedule
		made := u.targets
		if u.whole >= 0 {
			made = []int{u.whole}
		} else {
			t = n.schedule(u, saved, slabBytes, cache)
			c.steps += n.overhead(u, t)
			c.seconds += n.overhead(u, t)
		}
		c.schedules = append(c.schedules, t)
		for _, k := range made {
			if in := n.shares(k, u, c, last, ui); in >= 0 {
				b := &c.buffers[c.home[in]]
				c.home[k] = c.home[in]
				b.values = append(b.values, k)
				b.last = max(b.last, last[k], ui)
				continue
			}
			place(k, ui)
		}
	}
	for ui, here := range c.alive() {
		if t := c.schedules[ui]; t != nil {
			here += t.bytes
		}
		if here > c.peak {
			c.peak, c.at = here, ui
		}
	}
	return c
}

// alive returns the bytes of the buffers that live in each unit.
func (c *candidate) alive() []int {
	bytes := make([]int, len(c.units)+2)
	for _, b := range c.buffers {
		if !b.external {
			bytes[max(b.first, 0)] += b.bytes
			bytes[min(b.last, len(c.units)-1)+1] -= b.bytes
		}
	}
	for ui := range c.units[:max(0, len(c.units)-1)] {
		bytes[ui+1] += bytes[ui]
	}
	return bytes[:len(c.units)]
}

// overhead returns the time of a sweep's steps beyond one for each node, which the costs of nodes include.
func (n *planner) overhead(u *unit, t *slabSchedule) float64 {
	if len(u.nodes) == 1 { // its steps are joined
		return 0
	}
	return n.costs.StepSeconds * float64(t.count-len(u.nodes))
}

// shares returns the value whose buffer node k may use for its own value, or -1. k must be alone in its unit, and be a view, or run in
// place on a value that is not read afterwards.
func (n *planner) shares(k int, u *unit, c *candidate, last []int, at int) int {
	node, in := n.nodes[k].node, n.nodes[k].inputs
	if len(in) == 0 || in[0] < 0 || len(node.Outputs) != 1 || u.whole < 0 && len(u.nodes) != 1 {
		return -1
	}
	x, y := &n.values[in[0]], &n.values[k]
	if x.external != y.external || (x.depth > 0) != (y.depth > 0) || x.bytes != y.bytes || c.home[in[0]] < 0 {
		return -1
	}
	if x.depth > 0 && !sameStorage(x.value, y.value) {
		return -1
	}
	if node.Op.View {
		return in[0]
	}
	if !node.Op.InPlace || !x.value.Shape().Equal(y.value.Shape()) || x.value.Type.Elem != y.value.Type.Elem {
		return -1
	}
	b := c.buffers[c.home[in[0]]]
	if b.last > at {
		return -1
	}
	for _, other := range in[1:] {
		if other >= 0 && other != in[0] && c.home[other] == c.home[in[0]] {
			return -1
		}
	}
	return in[0]
}

// plan turns a candidate into steps and buffers with offsets.
func (n *planner) plan(c *candidate) *Plan {
	p := &Plan{Graph: n.g, Seconds: c.seconds, Granularity: n.costs.Granularity}
	for _, s := range c.buffers {
		b := Buffer{Bytes: s.bytes, First: 1 << 60, Last: -2, External: s.external}
		for _, v := range s.values {
			b.Values = append(b.Values, n.values[v].value)
		}
		if d := n.values[s.values[0]].depth; d > 0 {
			b.Planes = d
		}
		if s.first < 0 {
			b.First, b.Last = -1, -1
		}
		p.Buffers = append(p.Buffers, b)
	}
	computed, alive := make([]bool, len(n.nodes)), c.alive()
	for i, u := range c.units {
		p.Units = append(p.Units, n.describe(c, i, len(p.Steps), computed))
		p.Units[i].AliveBytes = alive[i]
		if u.whole >= 0 {
			n.step(p, slabStep{node: u.whole}, Whole, func(v int) int { return c.home[v] })
			p.Units[i].Steps = 1
			continue
		}
		n.sweep(p, c, u)
		p.Units[i].Steps = len(p.Steps) - p.Units[i].First
	}
	end := len(p.Steps)
	for i := range p.Buffers {
		b := &p.Buffers[i]
		for _, v := range b.Values {
			if n.values[n.index[v]].output && c.home[n.index[v]] == i {
				b.Last = end
			}
		}
		b.Last = max(b.Last, b.First)
	}
	p.assign()
	return p
}

// sweep adds the rings and the steps of a sweep to a plan.
func (n *planner) sweep(p *Plan, c *candidate, u *unit) {
	t := n.simulate(u, c.saved, c.slabBytes, true)
	rings := map[int]int{} // buffers, by value
	for _, k := range u.nodes {
		r := t.rings[k]
		if r == nil {
			continue
		}
		if rings[k] = len(p.Buffers); r.root != k {
			rings[k] = rings[r.root]
		} else {
			b := Buffer{First: 1 << 60, Last: -2}
			b.Planes, b.Bytes, b.Doubled = n.ring(r.planes, n.values[k].plane, n.values[k].depth)
			p.Buffers = append(p.Buffers, b)
		}
		b := &p.Buffers[rings[k]]
		b.Values = append(b.Values, n.values[k].value)
	}
	where := func(v int) int {
		if b, ok := rings[v]; ok {
			return b
		}
		return c.home[v]
	}
	for _, s := range merged(t.steps, len(u.nodes) == 1) {
		mode := Slab
		if n.nodes[s.node].kind == reduction {
			mode = Accumulate
		}
		n.step(p, s, mode, where)
	}
}

// describe returns unit i in the form of a plan, and marks its nodes as computed.
func (n *planner) describe(c *candidate, i, first int, computed []bool) Unit {
	u := c.units[i]
	d := Unit{First: first, Sweep: u.whole < 0}
	nodes, made := u.nodes, u.targets
	if u.whole >= 0 {
		nodes, made = []int{u.whole}, []int{u.whole}
	}
	for _, k := range nodes {
		d.Nodes = append(d.Nodes, n.nodes[k].node)
		d.Seconds += n.nodes[k].cost
		if computed[k] {
			d.Rematerialised = append(d.Rematerialised, n.nodes[k].node)
		}
		computed[k] = true
	}
	for _, k := range made {
		if c.buffers[c.home[k]].last > i {
			d.Saved = append(d.Saved, n.values[k].value)
		}
	}
	if t := c.schedules[i]; t != nil {
		d.RingBytes = t.bytes
		d.Seconds += n.overhead(u, t)
	}
	return d
}

// merged joins the steps of a node that is alone in its sweep: there is no ring to keep small.
func merged(steps []slabStep, alone bool) []slabStep {
	if !alone || len(steps) == 0 {
		return steps
	}
	return []slabStep{{steps[0].node, steps[0].z0, steps[len(steps)-1].z1}}
}

// step appends a step, and extends the lives of the buffers that it touches.
func (n *planner) step(p *Plan, s slabStep, mode Mode, where func(v int) int) {
	at := len(p.Steps)
	touch := func(b int) int {
		if b >= 0 {
			p.Buffers[b].First = min(p.Buffers[b].First, at)
			p.Buffers[b].Last = max(p.Buffers[b].Last, at)
		}
		return b
	}
	step := Step{Node: n.nodes[s.node].node, Mode: mode, Z0: int(s.z0), Z1: int(s.z1)}
	for _, in := range n.nodes[s.node].inputs {
		b := -1
		if in >= 0 {
			b = touch(where(in))
		}
		step.In = append(step.In, b)
	}
	for i := range step.Node.Outputs {
		b := where(s.node)
		if i > 0 {
			b = -1
		}
		step.Out = append(step.Out, touch(b))
	}
	p.Steps = append(p.Steps, step)
}
