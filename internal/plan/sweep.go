package plan

import (
	"slices"
	"sync"
)

// unit is a stretch of the schedule: a node as a whole, or a sweep.
type unit struct {
	whole   int   // the node, -1 for a sweep
	nodes   []int // of a sweep, in order; those whose values are not saved are computed for this sweep alone
	targets []int // the nodes among them whose values are saved, and the reductions
}

// layout cuts a graph into units.
type layout struct {
	n     *planner
	saved []bool
	units []*unit
	made  []unit // all units, in one piece of memory
	home  []int  // unit that computes a saved value; -1: before all
	held  *holders

	// closure has the values that are not saved and that a target needs. Stamp marks those of the last mark.
	closure, stack []int
	stamp          []int
	mark           int

	work    []float64 // by unit: time of the closure's nodes that it computes already; zero between targets
	sharing []int     // the units where it is not zero
}

// layoutUnits cuts the graph into units for a choice of saved values. Each saved value is computed once; the values between
// are computed again in every unit that needs them, so a target joins an earlier sweep that does the same work, unless something that it depends
// on is complete only behind that sweep.
func (n *planner) layoutUnits(saved []bool) []*unit {
	most := 0
	for i := range n.nodes {
		if n.nodes[i].kind != slabwise || saved[i] {
			most++
		}
	}
	l := &layout{
		n: n, saved: saved, units: make([]*unit, 0, most), made: make([]unit, 0, most),
		home: make([]int, len(n.values)), held: newHolders(len(n.nodes)), stamp: make([]int, len(n.nodes)),
	}
	for i := range l.home {
		l.home[i] = -1
	}
	for i := range n.nodes {
		if n.nodes[i].kind != slabwise || saved[i] {
			l.place(i)
		}
	}
	for _, u := range l.units {
		slices.Sort(u.nodes)
	}
	return l.units
}

// place puts a target into a unit of its own, or into a sweep.
func (l *layout) place(target int) {
	earliest := l.close(target)
	if l.n.nodes[target].kind == whole {
		l.home[target] = len(l.units)
		l.add(target)
		return
	}
	best := l.sweepFrom(earliest)
	if best < 0 {
		best = len(l.units)
		l.add(-1)
	}
	u := l.units[best]
	for _, k := range l.closure {
		if !l.held.have(k, best) {
			u.nodes = append(u.nodes, k)
			l.held.add(k, best)
		}
	}
	u.nodes, u.targets = l.n.join(u.nodes, target), l.n.join(u.targets, target)
	l.home[target] = best
}

func (l *layout) add(whole int) {
	l.made = append(l.made, unit{whole: whole})
	l.units = append(l.units, &l.made[len(l.made)-1])
}

// close finds a target's closure, and the first unit behind everything that it depends on.
func (l *layout) close(target int) (earliest int) {
	n := l.n
	l.closure, l.stack = l.closure[:0], append(l.stack[:0], target)
	l.mark++
	for len(l.stack) > 0 {
		k := l.stack[len(l.stack)-1]
		l.stack = l.stack[:len(l.stack)-1]
		for _, in := range n.nodes[k].inputs {
			switch {
			case in < 0:
			case in < len(n.nodes) && n.nodes[in].kind == slabwise && !l.saved[in]:
				if l.stamp[in] != l.mark {
					l.stamp[in] = l.mark
					l.closure, l.stack = append(l.closure, in), append(l.stack, in)
				}
			case l.home[in] < 0 && in >= len(n.nodes) && n.values[in].depth == 0 && len(l.units) > 0:
				// The seed of a gradient: the caller writes it when everything before its first reader is done.
				l.home[in] = len(l.units) - 1
				earliest = max(earliest, len(l.units))
			case l.home[in] < 0:
			case n.nodes[target].kind != whole && in < len(n.nodes) && n.nodes[in].kind == slabwise && l.units[l.home[in]].whole < 0:
				earliest = max(earliest, l.home[in])
			default:
				earliest = max(earliest, l.home[in]+1)
			}
		}
	}
	return earliest
}

// sweepFrom returns the unit, from earliest on, that computes the most of the closure already, the last of equals; -1 if none does.
func (l *layout) sweepFrom(earliest int) int {
	l.work, l.sharing = append(l.work, make([]float64, len(l.units)-len(l.work))...), l.sharing[:0]
	for _, k := range l.closure {
		for h := l.held.first[k]; h >= 0; h = l.held.list[h].next {
			if u := l.held.list[h].unit; u >= earliest {
				l.work[u] += l.n.nodes[k].cost
				l.sharing = append(l.sharing, u)
			}
		}
	}
	best, shared := -1, 0.0
	for _, u := range l.sharing {
		if w := l.work[u]; w > shared || w == shared && u > best {
			best, shared = u, w
		}
	}
	for _, u := range l.sharing {
		l.work[u] = 0
	}
	return best
}

// holders has, for each value that is not saved, the sweeps that compute it: linked lists, in one piece of memory.
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

// join appends to a list. Most lists have a single element, and share memory that is not written.
func (n *planner) join(list []int, v int) []int {
	if len(list) == 0 {
		return n.singles[v : v+1 : v+1]
	}
	return append(list, v)
}

// slabHeight returns how many planes a step of node k computes, or reads if it is a reduction: as many as make it read or write slabBytes of a
// tensor, at least one.
func (n *planner) slabHeight(k, slabBytes int) int {
	info := &n.nodes[k]
	return min(max(1, slabBytes/max(1, info.plane)), info.depth)
}

// ring is the buffer of a value that is not saved, in a sweep.
type ring struct {
	root   int // the value that the ring belongs to, for a value computed in place
	planes int
}

// slabSchedule has the steps of a sweep, and how many planes each ring must hold.
type slabSchedule struct {
	steps []slabStep    // nil if they were not asked for
	count int           // of steps
	rings map[int]*ring // by node; nil if they were not asked for
	bytes int           // of all rings
}

// slabStep computes planes of a node, or adds planes to a reduction.
type slabStep struct {
	node   int
	z0, z1 int32
}

// simulation runs a sweep on paper.
type simulation struct {
	*workspace
	n         *planner
	saved     []bool
	slabBytes int
	record    bool
	made      *slabSchedule
}

// workspace is the working memory of a simulation, by node or value: as large as the graph, so that simulations of small sweeps share it. All of
// it is zero between simulations.
type workspace struct {
	in    []bool  // the sweep has the node
	rings []*ring // of values that are not saved
	done  []int   // planes of a node that have been computed, or read by a reduction
	tail  []int   // the last value that is computed in place in a value's ring
}

func newWorkspace(nodes, values int) *workspace {
	return &workspace{make([]bool, nodes), make([]*ring, nodes), make([]int, values), make([]int, nodes)}
}

// simulate makes the schedule of a sweep. The targets advance side by side, each pulling the planes that it needs from its inputs,
// and no plane is computed before it is needed, so that rings stay as small as the windows allow. Without record the
// steps are left out: the search simulates many sweeps, and their steps would take more memory than the plan.
func (n *planner) simulate(u *unit, saved []bool, slabBytes int, record bool) *slabSchedule {
	s := &simulation{workspace: n.workspaces.Get().(*workspace), n: n, saved: saved, slabBytes: slabBytes, record: record, made: &slabSchedule{}}
	defer func() {
		for _, k := range u.nodes {
			s.in[k], s.rings[k], s.done[k], s.tail[k] = false, nil, 0, 0
		}
		n.workspaces.Put(s.workspace)
	}()
	s.layRings(u)
	for {
		next, least := -1, 2.0
		for _, k := range u.targets {
			if d := s.total(k); s.done[k] < d {
				if p := float64(s.done[k]) / float64(d); p < least {
					next, least = k, p
				}
			}
		}
		if next < 0 {
			break
		}
		s.advance(next, min(s.done[next]+n.slabHeight(next, slabBytes), s.total(next)))
	}
	s.sizeRings(u)
	return s.made
}

// layRings gives each value that is not saved a ring of its own, or that of the value that it is computed in place of.
func (s *simulation) layRings(u *unit) {
	for _, k := range u.nodes {
		s.in[k] = true
	}
	for _, k := range u.nodes {
		if !s.streamed(k) {
			continue
		}
		r := &ring{root: k}
		if in := s.n.nodes[k].inputs[0]; s.n.runsInPlace(k) && in >= 0 && s.streamed(in) && s.hasOneReader(in) && once(s.n.nodes[k].inputs, in) {
			r.root = s.rings[in].root
		}
		s.rings[k] = r
		s.tail[r.root] = k
	}
}

// sizeRings adds up the bytes of the rings.
func (s *simulation) sizeRings(u *unit) {
	if s.record {
		s.made.rings = make(map[int]*ring, len(u.nodes))
	}
	for _, k := range u.nodes {
		r := s.rings[k]
		if r == nil {
			continue
		}
		if r.root == k {
			r.planes = min(r.planes, s.n.values[k].depth)
			_, bytes, _ := s.n.ring(r.planes, s.n.values[k].plane, s.n.values[k].depth)
			s.made.bytes += bytes
		}
		if s.record {
			s.made.rings[k] = r
		}
	}
}

// streamed reports whether the sweep computes a value without saving it.
func (s *simulation) streamed(v int) bool { return s.computes(v) && !s.saved[v] }

// computes reports whether the sweep computes a value plane by plane.
func (s *simulation) computes(v int) bool {
	return v < len(s.n.nodes) && s.in[v] && s.n.nodes[v].kind == slabwise
}

// hasOneReader reports whether one node of the sweep reads a value.
func (s *simulation) hasOneReader(v int) bool {
	readers := 0
	for _, r := range s.n.values[v].readers {
		if s.in[r] {
			readers++
		}
	}
	return readers == 1
}

// total returns the number of planes that a node computes, or reads if it is a reduction.
func (s *simulation) total(k int) int {
	if s.n.nodes[k].kind == reduction {
		return s.n.reducedDepth(k)
	}
	return s.n.values[k].depth
}

// floor returns the first plane of a value that some reader in the sweep still needs.
func (s *simulation) floor(v int) int {
	low := s.n.values[v].depth
	for _, r := range s.n.values[v].readers {
		if !s.in[r] {
			continue
		}
		next := s.done[r]
		if next >= s.total(r) {
			continue
		}
		info := &s.n.nodes[r]
		for i, in := range info.inputs {
			switch {
			case in != v:
			case info.kind == reduction:
				low = min(low, next)
			case info.lo[i] != nil:
				low = min(low, int(info.lo[i][next]))
			}
		}
	}
	return low
}

// advance computes the planes of node k up to a plane, after those that they need.
func (s *simulation) advance(k, to int) {
	n, info := s.n, &s.n.nodes[k]
	for s.done[k] < to {
		z0 := s.done[k]
		height := n.slabHeight(k, s.slabBytes)
		z1 := min(max(to, min(z0+height, s.total(k))), z0+height)
		for i, in := range info.inputs {
			switch {
			case in < 0 || n.values[in].depth == 0:
			case info.kind == reduction:
				s.need(in, z1)
			case info.lo[i] != nil:
				s.need(in, int(info.hi[i][z1-1]))
			}
		}
		if r := s.rings[k]; r != nil {
			// Room for the planes that are still needed and the new ones.
			root := s.rings[r.root]
			root.planes = max(root.planes, z1-min(z0, s.floor(s.tail[r.root])))
		}
		s.made.count++
		if s.record {
			s.made.steps = append(s.made.steps, slabStep{k, int32(z0), int32(z1)})
		}
		s.done[k] = z1
	}
}

// need has the planes of a value up to a plane computed, if the sweep computes it.
func (s *simulation) need(v, to int) {
	if s.computes(v) && s.done[v] < to {
		s.advance(v, to)
	}
}

// reducedDepth returns the number of planes that a reduction reads.
func (n *planner) reducedDepth(k int) int {
	for _, in := range n.nodes[k].inputs {
		if in >= 0 && n.values[in].depth > 0 {
			return n.values[in].depth
		}
	}
	return 0
}

// runsInPlace reports whether a node that runs slab by slab may overwrite its first input plane by plane.
func (n *planner) runsInPlace(k int) bool {
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

// schedule returns the schedule of a sweep without its steps, from the cache if the same sweep was simulated before.
func (n *planner) schedule(u *unit, saved []bool, slabBytes int, cache *scheduleCache) *slabSchedule {
	key := make([]byte, 0, 4*len(u.nodes)+4)
	for _, k := range u.nodes {
		b := byte(0)
		if saved[k] {
			b = 1
		}
		key = append(key, byte(k), byte(k>>8), byte(k>>16), b)
	}
	key = append(key, byte(slabBytes), byte(slabBytes>>8), byte(slabBytes>>16), byte(slabBytes>>24))
	if t := cache.get(key); t != nil {
		return t
	}
	t := n.simulate(u, saved, slabBytes, false)
	cache.put(key, t)
	return t
}

// scheduleCache has schedules of sweeps, by all that they depend on. It may be used by many goroutines.
type scheduleCache struct {
	mu   sync.Mutex // guards made
	made map[string]*slabSchedule
}

func newScheduleCache() *scheduleCache { return &scheduleCache{made: map[string]*slabSchedule{}} }

func (c *scheduleCache) get(key []byte) *slabSchedule {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.made[string(key)]
}

func (c *scheduleCache) put(key []byte, t *slabSchedule) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made[string(key)] = t
}
