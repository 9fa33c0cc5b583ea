package plan

import (
	"slices"
	"sync"
)

// unit is a stretch of the schedule: a node as a whole, or a sweep.
type unit struct {
	whole   int   // the node, -1 for a sweep
	nodes   []int // of a sweep, in order; those whose values are not kept are computed for this sweep alone
	targets []int // the nodes among them whose values are kept, or that gather
}

// layoutUnits cuts the graph into units for a choice of kept values. Each kept value is computed once; the values between
// are computed again in every unit that needs them, so a target joins an earlier sweep with which it shares such work, unless
// something that it depends on is complete only behind that sweep.
func (n *network) layoutUnits(kept []bool) []*unit {
	most := 0
	for i := range n.nodes {
		if n.nodes[i].kind != local || kept[i] {
			most++
		}
	}
	units, made := make([]*unit, 0, most), make([]unit, 0, most) // in one piece of memory
	add := func(whole int) {
		made = append(made, unit{whole: whole})
		units = append(units, &made[len(made)-1])
	}
	home := make([]int, len(n.values)) // unit that computes a kept value; -1: before all
	for i := range home {
		home[i] = -1
	}
	held := newHolders(len(n.nodes))
	stamp, mark := make([]int, len(n.nodes)), 0
	var stack, closure, sharing []int
	var work []float64 // by unit: time of the closure's nodes that it computes already
	for i := range n.nodes {
		info := &n.nodes[i]
		if info.kind == local && !kept[i] {
			continue
		}
		// The values that are not kept and are needed for this one, and the first unit behind everything that they depend on.
		earliest := 0
		closure, stack = closure[:0], append(stack[:0], i)
		mark++
		for len(stack) > 0 {
			k := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			for _, in := range n.nodes[k].inputs {
				switch {
				case in < 0:
				case in < len(n.nodes) && n.nodes[in].kind == local && !kept[in]:
					if stamp[in] != mark {
						stamp[in] = mark
						closure, stack = append(closure, in), append(stack, in)
					}
				case home[in] < 0 && in >= len(n.nodes) && n.values[in].depth == 0 && len(units) > 0:
					// The seed of a gradient: the caller writes it when everything before its first reader is done.
					home[in] = len(units) - 1
					earliest = max(earliest, len(units))
				case home[in] < 0:
				case info.kind != whole && in < len(n.nodes) && n.nodes[in].kind == local && units[home[in]].whole < 0:
					earliest = max(earliest, home[in])
				default:
					earliest = max(earliest, home[in]+1)
				}
			}
		}
		if info.kind == whole {
			home[i] = len(units)
			add(i)
			continue
		}
		best, shared := -1, 0.0
		work, sharing = append(work, make([]float64, len(units)-len(work))...), sharing[:0]
		for _, k := range closure {
			for h := held.first[k]; h >= 0; h = held.list[h].next {
				if u := held.list[h].unit; u >= earliest {
					work[u] += n.nodes[k].cost
					sharing = append(sharing, u)
				}
			}
		}
		for _, u := range sharing {
			if w := work[u]; w > shared || w == shared && u > best {
				best, shared = u, w
			}
		}
		for _, u := range sharing {
			work[u] = 0
		}
		if best < 0 {
			best = len(units)
			add(-1)
		}
		u := units[best]
		for _, k := range closure {
			if !held.have(k, best) {
				u.nodes = append(u.nodes, k)
				held.add(k, best)
			}
		}
		u.nodes, u.targets = n.join(u.nodes, i), n.join(u.targets, i)
		home[i] = best
	}
	for _, u := range units {
		slices.Sort(u.nodes)
	}
	return units
}

// holders are the sweeps that compute each value that is not kept: lists, in one piece of memory.
type holders struct {
	first []int // of each value, in list; -1 for none
	list  []struct{ unit, next int }
}

func newHolders(values int) *holders {
	h := &holders{first: make([]int, values)}
	for i := range h.first {
		h.first[i] = -1
	}
	return h
}

func (h *holders) add(value, unit int) {
	h.list = append(h.list, struct{ unit, next int }{unit, h.first[value]})
	h.first[value] = len(h.list) - 1
}

func (h *holders) have(value, unit int) bool {
	for at := h.first[value]; at >= 0; at = h.list[at].next {
		if h.list[at].unit == unit {
			return true
		}
	}
	return false
}

// join appends to a list. Most have a single element, and share memory that is not written.
func (n *network) join(list []int, v int) []int {
	if len(list) == 0 {
		return n.ordinal[v : v+1 : v+1]
	}
	return append(list, v)
}

// pace is how many planes a step of node k computes, or takes if it gathers: as many as make it read or write chunk bytes of a tensor, at
// least one.
func (n *network) pace(k, chunk int) int {
	info := &n.nodes[k]
	return min(max(1, chunk/max(1, info.plane)), info.depth)
}

// ring is the buffer of a value that is not kept, in a sweep.
type ring struct {
	root   int // the value whose ring it is, for one that is computed in place
	planes int
}

// timetable is a sweep run once on paper: its steps and how many planes each ring must hold.
type timetable struct {
	steps []planned
	count int           // of steps
	rings map[int]*ring // by node; nil if they were not asked for
	bytes int           // of all rings
}

// planned is a step of a node over planes.
type planned struct {
	node   int
	z0, z1 int32
}

// simulate makes the timetable of a sweep. The targets advance side by side, each pulling the planes that it needs from what it
// reads, and no plane is computed before somebody needs it, so that rings stay as small as the windows allow. Without record the
// steps are left out: the search simulates many sweeps, and their steps would take more memory than the plan.
func (n *network) simulate(u *unit, kept []bool, chunk int, record bool) *timetable {
	t := &timetable{}
	desk := n.desks.Get().(*desk)
	defer func() { // as it was found
		for _, k := range u.nodes {
			desk.in[k], desk.rings[k], desk.done[k], desk.tail[k] = false, nil, 0, 0
		}
		n.desks.Put(desk)
	}()
	inSweep, rings := desk.in, desk.rings
	for _, k := range u.nodes {
		inSweep[k] = true
	}
	alone := func(v int) bool { // one node of the sweep reads it
		readers := 0
		for _, r := range n.values[v].readers {
			if inSweep[r] {
				readers++
			}
		}
		return readers == 1
	}
	streamed := func(v int) bool { return v < len(n.nodes) && inSweep[v] && n.nodes[v].kind == local && !kept[v] }
	for _, k := range u.nodes {
		if streamed(k) {
			r := &ring{root: k}
			if in := n.nodes[k].inputs[0]; n.runsInPlace(k) && in >= 0 && streamed(in) && alone(in) && once(n.nodes[k].inputs, in) {
				r.root = rings[in].root
			}
			rings[k] = r
		}
	}
	done := desk.done // planes of a node that have been computed, or taken
	total := func(k int) int {
		if n.nodes[k].kind == gathers {
			return n.gatheredDepth(k)
		}
		return n.values[k].depth
	}
	// floor is the first plane of value v that some reader in the sweep still needs.
	floor := func(v int) int {
		low := n.values[v].depth
		for _, r := range n.values[v].readers {
			if !inSweep[r] {
				continue
			}
			next := done[r]
			if next >= total(r) {
				continue
			}
			info := &n.nodes[r]
			for i, in := range info.inputs {
				switch {
				case in != v:
				case info.kind == gathers:
					low = min(low, next)
				case info.lo[i] != nil:
					low = min(low, int(info.lo[i][next]))
				}
			}
		}
		return low
	}
	// tail is the last value computed in place in a value's ring.
	tail := desk.tail
	for _, k := range u.nodes {
		if r := rings[k]; r != nil {
			tail[r.root] = k
		}
	}
	var advance func(k, to int)
	need := func(v, to int) {
		if v < len(n.nodes) && inSweep[v] && n.nodes[v].kind == local && done[v] < to {
			advance(v, to)
		}
	}
	advance = func(k, to int) {
		info := &n.nodes[k]
		for done[k] < to {
			z0 := done[k]
			step := n.pace(k, chunk)
			z1 := min(max(to, min(z0+step, total(k))), z0+step)
			for i, in := range info.inputs {
				switch {
				case in < 0 || n.values[in].depth == 0:
				case info.kind == gathers:
					need(in, z1)
				case info.lo[i] != nil:
					need(in, int(info.hi[i][z1-1]))
				}
			}
			if r := rings[k]; r != nil {
				// Room for the planes that are still needed and the new ones.
				root := rings[r.root]
				root.planes = max(root.planes, z1-min(z0, floor(tail[r.root])))
			}
			t.count++
			if record {
				t.steps = append(t.steps, planned{k, int32(z0), int32(z1)})
			}
			done[k] = z1
		}
	}
	for {
		next, least := -1, 2.0
		for _, k := range u.targets {
			if d := total(k); done[k] < d {
				if p := float64(done[k]) / float64(d); p < least {
					next, least = k, p
				}
			}
		}
		if next < 0 {
			break
		}
		advance(next, min(done[next]+n.pace(next, chunk), total(next)))
	}
	if record {
		t.rings = make(map[int]*ring, len(u.nodes))
	}
	for _, k := range u.nodes {
		r := rings[k]
		if r == nil {
			continue
		}
		if r.root == k {
			r.planes = min(r.planes, n.values[k].depth)
			_, bytes, _ := n.ring(r.planes, n.values[k].plane, n.values[k].depth)
			t.bytes += bytes
		}
		if record { // there are many tables
			t.rings[k] = r
		}
	}
	return t
}

// desk has the working memory of a simulation, by node: as much as the graph is large, so that simulations of small sweeps share it. It is empty
// between them.
type desk struct {
	in    []bool
	rings []*ring
	done  []int
	tail  []int
}

func newDesk(nodes, values int) *desk {
	return &desk{make([]bool, nodes), make([]*ring, nodes), make([]int, values), make([]int, nodes)}
}

// gatheredDepth is the number of planes that a gathering node takes.
func (n *network) gatheredDepth(k int) int {
	for _, in := range n.nodes[k].inputs {
		if in >= 0 && n.values[in].depth > 0 {
			return n.values[in].depth
		}
	}
	return 0
}

// runsInPlace reports whether a local node may overwrite its first input plane by plane.
func (n *network) runsInPlace(k int) bool {
	node := n.nodes[k].node
	in := n.nodes[k].inputs[0]
	return (node.Op.InPlace || node.Op.View) && in >= 0 && sameStorage(n.values[in].value, node.Out())
}

func once(inputs []int, v int) bool {
	count := 0
	for _, in := range inputs {
		if in == v {
			count++
		}
	}
	return count == 1
}

// timetable returns the simulation of a sweep, from the cache if the same sweep was simulated before.
func (n *network) timetable(u *unit, kept []bool, chunk int, cache *timetables) *timetable {
	key := make([]byte, 0, 4*len(u.nodes)+4)
	for _, k := range u.nodes {
		b := byte(0)
		if kept[k] {
			b = 1
		}
		key = append(key, byte(k), byte(k>>8), byte(k>>16), b)
	}
	key = append(key, byte(chunk), byte(chunk>>8), byte(chunk>>16), byte(chunk>>24))
	if t := cache.get(key); t != nil {
		return t
	}
	t := n.simulate(u, kept, chunk, false)
	cache.put(key, t)
	return t
}

// timetables are simulations of sweeps, by what they depend on. They may be used by many goroutines.
type timetables struct {
	mu   sync.Mutex
	made map[string]*timetable
}

func newTimetables() *timetables { return &timetables{made: map[string]*timetable{}} }

func (c *timetables) get(key []byte) *timetable {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.made[string(key)]
}

func (c *timetables) put(key []byte, t *timetable) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made[string(key)] = t
}
