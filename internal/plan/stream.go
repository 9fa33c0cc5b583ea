package plan

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/parallel"
)

// Options of a plan under a budget.
type Options struct {
	// Budget is the most bytes that the arena may take; 0 asks for the smallest plan that was found.
	Budget int
	// External are inputs and outputs with depth that lie in memory of the caller and take nothing of the arena.
	External []*ir.Value
	Costs    Costs
}

// TooSmallError says that no plan fits a budget.
type TooSmallError struct{ Budget, Smallest int }

func (e *TooSmallError) Error() string {
	return fmt.Sprintf("no plan fits %d bytes: the smallest budget that works is %d", e.Budget, e.Smallest)
}

// Point is a choice on the way from the fastest plan to the smallest one.
type Point struct {
	Bytes   int     // of the arena
	Seconds float64 // estimate
	Kept    int     // values that are kept whole

	// What its outline, which takes much room, is made of again.
	kept  []bool
	chunk int
	steps float64 // of Seconds
}

// Search holds the choices for one graph, from which plans for any budget are made.
type Search struct {
	n      *network
	cache  *timetables
	points []Point
	least  *Plan
}

// NewSearch looks for choices, until ctx is done. Options.Budget does not matter here.
func NewSearch(ctx context.Context, g *ir.Graph, opt Options) (*Search, error) {
	n := newNetwork(g, opt.External, opt.Costs)
	s := &Search{n: n, cache: newTimetables()}
	s.points = n.explore(ctx, s.cache)
	return s, stopped(ctx)
}

// stopped is why a search was stopped, which has found only a part then.
func stopped(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Stream plans g within a budget: values with depth are kept whole while there is room, and streamed through rings and
// computed again where there is not. Of the plans that fit, it returns the one with the least estimated time.
func Stream(g *ir.Graph, opt Options) (*Plan, error) {
	ctx := context.Background()
	s, err := NewSearch(ctx, g, opt)
	switch {
	case err != nil:
		return nil, err
	case opt.Budget <= 0:
		return s.Smallest(ctx)
	}
	return s.Plan(ctx, opt.Budget)
}

// Plan returns the plan with the least estimated time that takes at most budget bytes, or a *TooSmallError. ctx stops it.
func (s *Search) Plan(ctx context.Context, budget int) (*Plan, error) {
	fitting := s.fit(ctx, budget)
	slices.SortStableFunc(fitting, func(a, b Point) int { return cmp.Or(cmp.Compare(a.Seconds, b.Seconds), cmp.Compare(a.Bytes, b.Bytes)) })
	var best *Plan
	tried, misfits := 0, 0
	for _, pt := range fitting {
		if err := stopped(ctx); err != nil {
			return nil, err
		}
		if pt.Bytes > budget || best != nil && tried == hastened {
			continue
		}
		o := s.outline(pt)
		p := s.n.plan(o)
		if p.Peak > budget { // offsets need more than what is alive: a choice close by may be placed better
			if misfits++; misfits > 1 {
				continue
			}
			if p = s.n.neighbour(ctx, o, budget, s.cache); p == nil {
				continue
			}
		}
		tried++
		for _, room := range []int{budget, budget - budget/16} { // offsets can need more than what is alive
			if faster := s.n.plan(s.n.hasten(ctx, o, room, s.cache)); faster.Peak <= budget {
				p = faster
				break
			}
		}
		if best == nil || p.Seconds < best.Seconds {
			best = p
		}
	}
	if err := stopped(ctx); err != nil {
		return nil, err
	}
	if best != nil {
		return best, nil
	}
	p, err := s.Smallest(ctx)
	if err != nil {
		return nil, err
	}
	if p.Peak > budget {
		return nil, &TooSmallError{Budget: budget, Smallest: p.Peak}
	}
	return p, nil
}

// fit is the points within a budget, and those that become so with slabs of the right height: for the choices with the least work, the
// highest slabs that there is room for.
func (s *Search) fit(ctx context.Context, budget int) []Point {
	var fitting, low []Point
	for _, pt := range s.points {
		if pt.Bytes > budget {
			continue
		}
		if fitting = append(fitting, pt); pt.chunk == 0 {
			low = append(low, pt)
		}
	}
	work := func(pt Point) float64 { return pt.Seconds - pt.steps }
	slices.SortStableFunc(low, func(a, b Point) int { return cmp.Or(cmp.Compare(work(a), work(b)), cmp.Compare(a.Bytes, b.Bytes)) })
	heights := s.n.heights()
	tried := map[string]bool{}
	var choices [][]bool
	for _, pt := range low {
		if len(tried) == 2*wide {
			break
		}
		if key := fmt.Sprint(pt.kept); !tried[key] {
			tried[key] = true
			choices = append(choices, pt.kept)
		}
	}
	highest := func(kept []bool) *outline {
		// The lowest index of heights, which descend, that fits.
		var best *outline
		lo, hi := 0, len(heights)
		for lo < hi {
			middle := (lo + hi) / 2
			if o := s.n.outline(kept, heights[middle], s.cache); o.peak <= budget {
				best, hi = o, middle
			} else {
				lo = middle + 1
			}
		}
		return best
	}
	for _, best := range each(ctx, choices, highest) {
		if best != nil {
			fitting = append(fitting, newPoint(best))
		}
	}
	return fitting
}

// heights are the bytes of slabs that are tried to fill a budget, from large to small.
func (n *network) heights() (list []int) {
	for b := n.costs.SlabBytes[0]; b >= 1<<12; b -= b / 4 {
		list = append(list, b)
	}
	return list
}

// Smallest returns the plan with the least peak, or one that is faster and hardly larger. ctx stops it.
func (s *Search) Smallest(ctx context.Context) (*Plan, error) {
	if s.least != nil {
		return s.least, nil
	}
	// Offsets can need more than the sum of what is alive, so the first few choices are tried.
	const tries = 24
	points := slices.Clone(s.points) // whose order decides between equals in other plans
	slices.SortStableFunc(points, func(a, b Point) int { return cmp.Or(cmp.Compare(a.Bytes, b.Bytes), cmp.Compare(a.Seconds, b.Seconds)) })
	type trial struct { // without the plan, which takes much room
		point   Point
		peak    int
		seconds float64
	}
	var tried []trial
	least := 0
	for _, pt := range points[:min(len(points), tries)] {
		if least > 0 && pt.Bytes > least+least/50 {
			break
		}
		if err := stopped(ctx); err != nil {
			return nil, err
		}
		p := s.n.plan(s.outline(pt))
		tried = append(tried, trial{pt, p.Peak, p.Seconds})
		if least == 0 || p.Peak < least {
			least = p.Peak
		}
	}
	var best *trial
	for i, t := range tried {
		if t.peak <= least+least/50 && (best == nil || t.seconds < best.seconds) {
			best = &tried[i]
		}
	}
	s.least = s.n.plan(s.outline(best.point))
	if whole := Make(s.n.g); whole.Peak < s.least.Peak { // it shares buffers in ways that sweeps do not
		s.least = whole
	}
	return s.least, nil
}

// Curve returns the choices from the fastest to the smallest, none of which is both slower and larger than another. Their bytes
// are what is alive at once; offsets can make the plan a little larger.
func (s *Search) Curve() []Point {
	points := slices.Clone(s.points)
	slices.SortStableFunc(points, func(a, b Point) int { return cmp.Or(cmp.Compare(a.Seconds, b.Seconds), cmp.Compare(a.Bytes, b.Bytes)) })
	var curve []Point
	for _, pt := range points {
		if len(curve) == 0 || pt.Bytes < curve[len(curve)-1].Bytes {
			curve = append(curve, pt)
		}
	}
	return curve
}

// Seconds estimates the time of the plan for a budget, without making it: of the fastest choice within it, or of the smallest.
func (s *Search) Seconds(budget int) float64 {
	fitting := s.fit(context.Background(), budget)
	if len(fitting) == 0 {
		curve := s.Curve()
		return curve[len(curve)-1].Seconds
	}
	return slices.MinFunc(fitting, func(a, b Point) int { return cmp.Compare(a.Seconds, b.Seconds) }).Seconds
}

// Curve is NewSearch and Search.Curve.
func Curve(g *ir.Graph, opt Options) []Point {
	s, _ := NewSearch(context.Background(), g, opt) // which is not stopped
	return s.Curve()
}

// explore collects choices for each size of slabs, and the same choices with slabs of one plane, from the largest to the smallest.
func (n *network) explore(ctx context.Context, cache *timetables) []Point {
	sizes := append(slices.Clone(n.costs.SlabBytes), 0)
	found := each(ctx, sizes, func(chunk int) []Point { return n.descend(ctx, chunk, cache) })
	points := slices.Concat(found...)
	for _, pt := range each(ctx, slices.Concat(found[:len(sizes)-1]...), func(pt Point) Point { return newPoint(n.outline(pt.kept, 0, cache)) }) {
		if pt.kept == nil {
			break // stopped
		}
		points = append(points, pt)
	}
	slices.SortStableFunc(points, func(a, b Point) int { return b.Bytes - a.Bytes })
	return points
}

// each makes something of each element of a list, on all processors; nothing of those that come when ctx is done.
func each[E, R any](ctx context.Context, list []E, f func(E) R) []R {
	return parallel.Collect(len(list), 1, func(i, _ int) (r R) {
		if ctx.Err() == nil {
			r = f(list[i])
		}
		return r
	})
}

// outline makes the outline of a point again.
func (s *Search) outline(pt Point) *outline { return s.n.outline(pt.kept, pt.chunk, s.cache) }

func newPoint(o *outline) Point {
	count := 0
	for _, k := range o.kept {
		if k {
			count++
		}
	}
	return Point{Bytes: o.peak, Seconds: o.seconds, Kept: count, kept: o.kept, chunk: o.chunk, steps: o.steps}
}

// descend walks from the plan that keeps everything to one that cannot be made smaller: at the fullest unit it lets go of the
// values that cost the least time a byte. Every stop is a point.
func (n *network) descend(ctx context.Context, chunk int, cache *timetables) []Point {
	kept := make([]bool, len(n.nodes))
	for i := range kept {
		kept[i] = n.nodes[i].kind == local
	}
	var points []Point
	visit := func(o *outline) { points = append(points, newPoint(o)) }
	o := n.outline(slices.Clone(kept), chunk, cache)
	visit(o)
	n.letGo(ctx, o, visit, cache)
	// What is read only in the sweep that computes it costs little to stream.
	for changed := true; changed; {
		changed = false
		trial := slices.Clone(kept)
		for i := range trial {
			if trial[i] && n.values[i].free && n.freeToStream(i) {
				trial[i] = false
				changed = true
			}
		}
		if !changed {
			break
		}
		kept = trial
	}
	o = n.outline(slices.Clone(kept), chunk, cache)
	visit(o)
	n.letGo(ctx, o, visit, cache)
	// Checkpoints: keep what is small, whatever it costs to compute the rest again.
	sizes := map[int]bool{}
	for i := range n.nodes {
		if n.values[i].free {
			sizes[n.values[i].bytes] = true
		}
	}
	for _, most := range slices.Sorted(maps.Keys(sizes)) {
		if ctx.Err() != nil {
			return points
		}
		trial := make([]bool, len(n.nodes))
		for i := range trial {
			trial[i] = n.nodes[i].kind == local && (!n.values[i].free || n.values[i].bytes < most)
		}
		visit(n.outline(trial, chunk, cache))
	}
	if chunk > 0 {
		return points
	}
	// From the smallest so far, keep or let go of single values as long as that makes the fullest unit smaller.
	start := points
	slices.SortStableFunc(start, func(a, b Point) int { return cmp.Compare(a.Bytes, b.Bytes) })
	for _, pt := range slices.Clone(start[:min(len(start), starts)]) {
		n.improve(ctx, n.outline(pt.kept, pt.chunk, cache), visit, cache)
	}
	return points
}

// letGo lets the fullest unit go of the values that cost the least time a byte, again and again, and visits every stop.
func (n *network) letGo(ctx context.Context, o *outline, visit func(*outline), cache *timetables) {
	stuck := 0
	for range 4*len(n.nodes) + 16 {
		drop := n.candidates(o)
		if len(drop) == 0 || ctx.Err() != nil {
			return
		}
		kept := slices.Clone(o.kept)
		for _, v := range drop {
			kept[v] = false
		}
		next := n.outline(kept, o.chunk, cache)
		visit(next)
		if stuck++; next.peak < o.peak {
			stuck = 0
		}
		if stuck > 64 {
			return
		}
		o = next
	}
}

// Bounds of the search, which keep planning within a second or two for the largest models.
const (
	starts   = 3  // places to improve from
	hastened = 4  // plans that fit a budget and are made faster
	rounds   = 40 // changes from each
	wide     = 16 // values tried in a round
)

// improve changes one value at a time, the one that lowers the peak the most, and visits every stop.
func (n *network) improve(ctx context.Context, o *outline, visit func(*outline), cache *timetables) {
	for range rounds {
		var best *outline
		change := func(v int) *outline {
			kept := slices.Clone(o.kept)
			kept[v] = !kept[v]
			return n.outline(kept, o.chunk, cache)
		}
		for _, next := range each(ctx, n.changes(o), change) {
			if next != nil && next.peak < o.peak && (best == nil || next.peak < best.peak) {
				best = next
			}
		}
		if best == nil {
			return
		}
		o = best
		visit(o)
	}
}

// hasten keeps values, or lets go of others, one at a time, as long as that saves time within a budget.
func (n *network) hasten(ctx context.Context, o *outline, budget int, cache *timetables) *outline {
	for range rounds {
		var best *outline
		keep := func(v int) *outline {
			kept := slices.Clone(o.kept)
			kept[v] = true
			next := n.outline(kept, o.chunk, cache)
			if next.peak > budget { // something else may make room
				for _, w := range n.changes(next) {
					if next.kept[w] && w != v {
						other := slices.Clone(kept)
						other[w] = false
						if swapped := n.outline(other, o.chunk, cache); swapped.peak <= budget && swapped.seconds < o.seconds {
							return swapped
						}
					}
				}
			}
			return next
		}
		for _, next := range each(ctx, n.streamed(o), keep) {
			if next != nil && next.peak <= budget && next.seconds < o.seconds*(1-1e-9) && (best == nil || next.seconds < best.seconds) {
				best = next
			}
		}
		if best == nil {
			break
		}
		o = best
	}
	return o
}

// neighbour is the fastest plan that fits a budget and differs from an outline in one value, or nil.
func (n *network) neighbour(ctx context.Context, o *outline, budget int, cache *timetables) *Plan {
	var best *Plan
	tries := 0
	for v := range n.nodes {
		if !n.values[v].free || tries == 2*wide || ctx.Err() != nil {
			continue
		}
		kept := slices.Clone(o.kept)
		kept[v] = !kept[v]
		next := n.outline(kept, o.chunk, cache)
		if next.peak > budget || next.seconds > 1.1*o.seconds || best != nil && next.seconds >= best.Seconds {
			continue
		}
		tries++
		if p := n.plan(next); p.Peak <= budget {
			best = p
		}
	}
	return best
}

// streamed are the values that are not kept and could be, those that would save the most time first: they are not computed again,
// and the steps that make their planes become one.
func (n *network) streamed(o *outline) []int {
	times := make([]int, len(n.nodes))
	for _, u := range o.units {
		for _, k := range u.nodes {
			times[k]++
		}
	}
	saves := func(k int) float64 {
		steps := n.values[k].depth/n.pace(k, o.chunk)*times[k] - 1
		return n.nodes[k].cost*float64(times[k]-1) + n.costs.StepSeconds*float64(steps)
	}
	var list []int
	for k, t := range times {
		if t > 0 && n.values[k].free && !o.kept[k] {
			list = append(list, k)
		}
	}
	slices.SortStableFunc(list, func(a, b int) int { return cmp.Compare(saves(b), saves(a)) })
	return list[:min(len(list), wide)]
}

// changes are values whose being kept or not decides how full the fullest unit is: those that it keeps alive, the largest first,
// and those that it streams, the smallest first, where keeping one cuts the sweep in two.
func (n *network) changes(o *outline) []int {
	var alive, streamed []int
	for _, b := range o.buffers {
		if b.external || b.first > o.at || b.last < o.at {
			continue
		}
		for _, v := range b.values {
			if v < len(n.nodes) && n.values[v].free && o.kept[v] {
				alive = append(alive, v)
			}
		}
	}
	if u := o.units[o.at]; u.whole < 0 {
		for _, k := range u.nodes {
			if n.values[k].free && !o.kept[k] && n.values[k].bytes < o.peak {
				streamed = append(streamed, k)
			}
		}
	}
	bySize := func(a, b int) int { return cmp.Compare(n.values[a].bytes, n.values[b].bytes) }
	slices.SortStableFunc(alive, func(a, b int) int { return bySize(b, a) })
	slices.SortStableFunc(streamed, bySize)
	return append(alive[:min(len(alive), wide)], streamed[:min(len(streamed), 2*wide)]...)
}

// freeToStream is a first guess, refined by the descent: a value with one reader that is a local node.
func (n *network) freeToStream(v int) bool {
	readers := n.values[v].readers
	return len(readers) == 1 && n.nodes[readers[0]].kind == local
}

// candidates are the kept values that the fullest unit lets go of next: those with the least time a byte, together about a
// twentieth of the peak.
func (n *network) candidates(o *outline) []int {
	type option struct {
		value int
		score float64
		bytes int
	}
	var options []option
	units := n.unitsOf(o)
	for _, b := range o.buffers {
		if b.external || b.first > o.at || b.last < o.at {
			continue
		}
		for _, v := range b.values {
			if v < len(n.nodes) && n.values[v].free && o.kept[v] {
				options = append(options, option{v, n.again(v, o, units) / float64(n.values[v].bytes), n.values[v].bytes})
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
		if freed += op.bytes; freed > o.peak/20 {
			break
		}
	}
	return drop
}

// occurrences are the sweeps that nodes are in, in lists that follow one another, and marks on nodes and units for who walks along them.
type occurrences struct {
	first []int // of each node, in units; one more for the end
	units []int

	mark        int
	node, sweep []int
}

// unitsOf lists the sweeps of each node of an outline.
func (n *network) unitsOf(o *outline) *occurrences {
	c := &occurrences{first: make([]int, len(n.nodes)+1), node: make([]int, len(n.nodes)), sweep: make([]int, len(o.units))}
	for _, u := range o.units {
		for _, k := range u.nodes {
			c.first[k+1]++
		}
	}
	for k := range n.nodes {
		c.first[k+1] += c.first[k]
	}
	c.units = make([]int, c.first[len(n.nodes)])
	next := slices.Clone(c.first)
	for ui, u := range o.units {
		for _, k := range u.nodes {
			c.units[next[k]] = ui
			next[k]++
		}
	}
	return c
}

// again estimates the time that it takes to compute a value again for those of its readers that run in later units.
func (n *network) again(v int, o *outline, in *occurrences) float64 {
	in.mark++
	once := 0.0
	in.node[v] = in.mark
	stack := []int{v}
	for len(stack) > 0 {
		k := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		once += n.nodes[k].cost
		for _, from := range n.nodes[k].inputs {
			if from >= 0 && from < len(n.nodes) && n.nodes[from].kind == local && !o.kept[from] && in.node[from] != in.mark {
				in.node[from] = in.mark
				stack = append(stack, from)
			}
		}
	}
	units := 0
	for _, r := range n.values[v].readers {
		for _, ui := range in.units[in.first[r]:in.first[r+1]] {
			if in.sweep[ui] != in.mark && ui != o.buffers[o.home[v]].first {
				in.sweep[ui] = in.mark
				units++
			}
		}
	}
	return once * float64(units)
}
