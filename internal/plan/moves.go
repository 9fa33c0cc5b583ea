package plan

import (
	"cmp"
	"context"
	"maps"
	"slices"
)

// The search for candidates: a descent from the plan that saves everything, and moves of a local search, each of which saves or rematerialises
// single values.

// descend goes from the candidate that saves everything to one that cannot be made smaller: at the fullest unit it rematerialises the
// values that cost the least time a byte. Every candidate on the way is a point.
func (n *planner) descend(ctx context.Context, slabBytes int, cache *scheduleCache) []Point {
	saved := make([]bool, len(n.nodes))
	for i := range saved {
		saved[i] = n.nodes[i].kind == slabwise
	}
	var points []Point
	visit := func(c *candidate) { points = append(points, newPoint(c)) }
	c := n.candidate(slices.Clone(saved), slabBytes, cache)
	visit(c)
	n.shrink(ctx, c, visit, cache)
	// Values that are read only in the sweep that computes them cost little to stream.
	for changed := true; changed; {
		changed = false
		trial := slices.Clone(saved)
		for i := range trial {
			if trial[i] && n.values[i].streamable && n.readOnce(i) {
				trial[i] = false
				changed = true
			}
		}
		if !changed {
			break
		}
		saved = trial
	}
	c = n.candidate(slices.Clone(saved), slabBytes, cache)
	visit(c)
	n.shrink(ctx, c, visit, cache)
	// Checkpoints: save small values, whatever it costs to rematerialise the rest.
	sizes := map[int]bool{}
	for i := range n.nodes {
		if n.values[i].streamable {
			sizes[n.values[i].bytes] = true
		}
	}
	for _, most := range slices.Sorted(maps.Keys(sizes)) {
		if ctx.Err() != nil {
			return points
		}
		trial := make([]bool, len(n.nodes))
		for i := range trial {
			trial[i] = n.nodes[i].kind == slabwise && (!n.values[i].streamable || n.values[i].bytes < most)
		}
		visit(n.candidate(trial, slabBytes, cache))
	}
	if slabBytes > 0 {
		return points
	}
	// Local search from the smallest so far: save or rematerialise single values as long as that makes the fullest unit smaller.
	start := points
	slices.SortStableFunc(start, func(a, b Point) int { return cmp.Compare(a.Bytes, b.Bytes) })
	for _, pt := range slices.Clone(start[:min(len(start), starts)]) {
		n.improve(ctx, n.candidate(pt.saved, pt.slabBytes, cache), visit, cache)
	}
	return points
}

// shrink rematerialises the saved values of the fullest unit that cost the least time a byte, again and again, and visits every candidate.
func (n *planner) shrink(ctx context.Context, c *candidate, visit func(*candidate), cache *scheduleCache) {
	stuck := 0
	for range 4*len(n.nodes) + 16 {
		drop := n.evictions(c)
		if len(drop) == 0 || ctx.Err() != nil {
			return
		}
		saved := slices.Clone(c.saved)
		for _, v := range drop {
			saved[v] = false
		}
		next := n.candidate(saved, c.slabBytes, cache)
		visit(next)
		if stuck++; next.peak < c.peak {
			stuck = 0
		}
		if stuck > 64 {
			return
		}
		c = next
	}
}

// Bounds of the search, which keep planning within a second or two for the largest models.
const (
	starts  = 3  // candidates to improve
	spedUp  = 4  // plans that fit a budget and are made faster
	rounds  = 40 // changes from each
	breadth = 16 // values tried in a round
)

// improve is a local search for a lower peak: each move saves or rematerialises one value, the one that lowers the peak the most. It visits every
// candidate.
func (n *planner) improve(ctx context.Context, c *candidate, visit func(*candidate), cache *scheduleCache) {
	for range rounds {
		var best *candidate
		change := func(v int) *candidate {
			saved := slices.Clone(c.saved)
			saved[v] = !saved[v]
			return n.candidate(saved, c.slabBytes, cache)
		}
		for _, next := range each(ctx, n.changes(c), change) {
			if next != nil && next.peak < c.peak && (best == nil || next.peak < best.peak) {
				best = next
			}
		}
		if best == nil {
			return
		}
		c = best
		visit(c)
	}
}

// speedUp is a local search for less time within a budget: each move saves one value, or exchanges it for another that is rematerialised.
func (n *planner) speedUp(ctx context.Context, c *candidate, budget int, cache *scheduleCache) *candidate {
	for range rounds {
		var best *candidate
		keep := func(v int) *candidate {
			saved := slices.Clone(c.saved)
			saved[v] = true
			next := n.candidate(saved, c.slabBytes, cache)
			if next.peak > budget { // something else may make room
				for _, w := range n.changes(next) {
					if next.saved[w] && w != v {
						other := slices.Clone(saved)
						other[w] = false
						if swapped := n.candidate(other, c.slabBytes, cache); swapped.peak <= budget && swapped.seconds < c.seconds {
							return swapped
						}
					}
				}
			}
			return next
		}
		for _, next := range each(ctx, n.streamed(c), keep) {
			if next != nil && next.peak <= budget && next.seconds < c.seconds*(1-1e-9) && (best == nil || next.seconds < best.seconds) {
				best = next
			}
		}
		if best == nil {
			break
		}
		c = best
	}
	return c
}

// bestFlip returns the fastest plan that fits a budget and differs from a candidate in one value, or nil.
func (n *planner) bestFlip(ctx context.Context, c *candidate, budget int, cache *scheduleCache) *Plan {
	var best *Plan
	tries := 0
	for v := range n.nodes {
		if !n.values[v].streamable || tries == 2*breadth || ctx.Err() != nil {
			continue
		}
		saved := slices.Clone(c.saved)
		saved[v] = !saved[v]
		next := n.candidate(saved, c.slabBytes, cache)
		if next.peak > budget || next.seconds > 1.1*c.seconds || best != nil && next.seconds >= best.Seconds {
			continue
		}
		tries++
		if p := n.plan(next); p.Peak <= budget {
			best = p
		}
	}
	return best
}

// streamed returns the values that are not saved and could be, those that would gain the most time first: they are computed once,
// and the steps that make their planes become one.
func (n *planner) streamed(c *candidate) []int {
	times := make([]int, len(n.nodes))
	for _, u := range c.units {
		for _, k := range u.nodes {
			times[k]++
		}
	}
	saves := func(k int) float64 {
		steps := n.values[k].depth/n.slabHeight(k, c.slabBytes)*times[k] - 1
		return n.nodes[k].cost*float64(times[k]-1) + n.costs.StepSeconds*float64(steps)
	}
	var list []int
	for k, t := range times {
		if t > 0 && n.values[k].streamable && !c.saved[k] {
			list = append(list, k)
		}
	}
	slices.SortStableFunc(list, func(a, b int) int { return cmp.Compare(saves(b), saves(a)) })
	return list[:min(len(list), breadth)]
}

// changes returns the values that decide, saved or not, how full the fullest unit is: those that are alive in it, the largest first, and
// those that it streams, the smallest first: saving one of them cuts the sweep in two.
func (n *planner) changes(c *candidate) []int {
	var alive, streamed []int
	for _, b := range c.buffers {
		if b.external || b.first > c.at || b.last < c.at {
			continue
		}
		for _, v := range b.values {
			if v < len(n.nodes) && n.values[v].streamable && c.saved[v] {
				alive = append(alive, v)
			}
		}
	}
	if u := c.units[c.at]; u.whole < 0 {
		for _, k := range u.nodes {
			if n.values[k].streamable && !c.saved[k] && n.values[k].bytes < c.peak {
				streamed = append(streamed, k)
			}
		}
	}
	bySize := func(a, b int) int { return cmp.Compare(n.values[a].bytes, n.values[b].bytes) }
	slices.SortStableFunc(alive, func(a, b int) int { return bySize(b, a) })
	slices.SortStableFunc(streamed, bySize)
	return append(alive[:min(len(alive), breadth)], streamed[:min(len(streamed), 2*breadth)]...)
}

// readOnce reports whether a value has one reader, which runs slab by slab: a first guess at values that are cheap to stream.
func (n *planner) readOnce(v int) bool {
	readers := n.values[v].readers
	return len(readers) == 1 && n.nodes[readers[0]].kind == slabwise
}

// evictions returns the saved values of the fullest unit to rematerialise next: those that cost the least time a byte, together about a
// twentieth of the peak.
func (n *planner) evictions(c *candidate) []int {
	type option struct {
		value int
		score float64
		bytes int
	}
	var options []option
	units := n.unitsOf(c)
	for _, b := range c.buffers {
		if b.external || b.first > c.at || b.last < c.at {
			continue
		}
		for _, v := range b.values {
			if v < len(n.nodes) && n.values[v].streamable && c.saved[v] {
				options = append(options, option{v, n.rematerialisation(v, c, units) / float64(n.values[v].bytes), n.values[v].bytes})
			}
		}
	}
	slices.SortFunc(options, func(a, b option) int {
		switch {
		case a.score < b.score:
			return -1
		case a.score > b.score:
			return 1
		}
		return a.value - b.value
	})
	var drop []int
	freed := 0
	for _, op := range options {
		drop = append(drop, op.value)
		if freed += op.bytes; freed > c.peak/20 {
			break
		}
	}
	return drop
}

// occurrences has the sweeps that each node is in, in lists that follow one another, and marks for walks over nodes and sweeps.
type occurrences struct {
	first []int // of each node, in units; one more for the end
	units []int

	mark        int
	node, sweep []int
}

// unitsOf lists the sweeps of each node of a candidate.
func (n *planner) unitsOf(c *candidate) *occurrences {
	occ := &occurrences{first: make([]int, len(n.nodes)+1), node: make([]int, len(n.nodes)), sweep: make([]int, len(c.units))}
	for _, u := range c.units {
		for _, k := range u.nodes {
			occ.first[k+1]++
		}
	}
	for k := range n.nodes {
		occ.first[k+1] += occ.first[k]
	}
	occ.units = make([]int, occ.first[len(n.nodes)])
	next := slices.Clone(occ.first)
	for ui, u := range c.units {
		for _, k := range u.nodes {
			occ.units[next[k]] = ui
			next[k]++
		}
	}
	return occ
}

// rematerialisation estimates the time that it takes to compute a value again for those of its readers that run in later units.
func (n *planner) rematerialisation(v int, c *candidate, in *occurrences) float64 {
	in.mark++
	once := 0.0
	in.node[v] = in.mark
	stack := []int{v}
	for len(stack) > 0 {
		k := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		once += n.nodes[k].cost
		for _, from := range n.nodes[k].inputs {
			if from >= 0 && from < len(n.nodes) && n.nodes[from].kind == slabwise && !c.saved[from] && in.node[from] != in.mark {
				in.node[from] = in.mark
				stack = append(stack, from)
			}
		}
	}
	units := 0
	for _, r := range n.values[v].readers {
		for _, ui := range in.units[in.first[r]:in.first[r+1]] {
			if in.sweep[ui] != in.mark && ui != c.buffers[c.home[v]].first {
				in.sweep[ui] = in.mark
				units++
			}
		}
	}
	return once * float64(units)
}
