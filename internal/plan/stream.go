package plan

import (
	"cmp"
	"context"
	"fmt"
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

// Point is a choice of saved values on the way from the fastest plan to the smallest one.
type Point struct {
	Bytes   int     // of the arena
	Seconds float64 // estimate
	Saved   int     // number of values that are saved whole

	// The candidate can be made again from these: it takes much room itself.
	saved     []bool
	slabBytes int
	steps     float64 // of Seconds
}

// Search holds the choices for one graph, from which plans for any budget are made.
type Search struct {
	n      *planner
	cache  *scheduleCache
	points []Point
	least  *Plan
}

// NewSearch looks for choices, until ctx is done. Options.Budget does not matter here.
func NewSearch(ctx context.Context, g *ir.Graph, opt Options) (*Search, error) {
	n := newPlanner(g, opt.External, opt.Costs)
	s := &Search{n: n, cache: newScheduleCache()}
	s.points = n.explore(ctx, s.cache)
	return s, stopped(ctx)
}

// stopped returns why a search was stopped, or nil. A search that was stopped has found only a part.
func stopped(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Stream plans g within a budget: values with depth are saved whole while there is room, and streamed through rings and
// rematerialised where there is not. Of the plans that fit, it returns the one with the least estimated time.
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
		if pt.Bytes > budget || best != nil && tried == spedUp {
			continue
		}
		c := s.candidate(pt)
		p := s.n.plan(c)
		if p.Peak > budget { // offsets need more than the bytes alive: a choice close by may be placed better
			if misfits++; misfits > 1 {
				continue
			}
			if p = s.n.bestFlip(ctx, c, budget, s.cache); p == nil {
				continue
			}
		}
		tried++
		for _, room := range []int{budget, budget - budget/16} { // offsets can need more than the bytes alive
			if faster := s.n.plan(s.n.speedUp(ctx, c, room, s.cache)); faster.Peak <= budget {
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

// fit returns the points within a budget, and further ones with slabs of the right height: for the choices with the least work, the
// highest slabs that there is room for.
func (s *Search) fit(ctx context.Context, budget int) []Point {
	var fitting, low []Point
	for _, pt := range s.points {
		if pt.Bytes > budget {
			continue
		}
		if fitting = append(fitting, pt); pt.slabBytes == 0 {
			low = append(low, pt)
		}
	}
	work := func(pt Point) float64 { return pt.Seconds - pt.steps }
	slices.SortStableFunc(low, func(a, b Point) int { return cmp.Or(cmp.Compare(work(a), work(b)), cmp.Compare(a.Bytes, b.Bytes)) })
	heights := s.n.heights()
	tried := map[string]bool{}
	var choices [][]bool
	for _, pt := range low {
		if len(tried) == 2*breadth {
			break
		}
		if key := fmt.Sprint(pt.saved); !tried[key] {
			tried[key] = true
			choices = append(choices, pt.saved)
		}
	}
	highest := func(saved []bool) *candidate {
		// The lowest index of heights, which descend, that fits.
		var best *candidate
		lo, hi := 0, len(heights)
		for lo < hi {
			middle := (lo + hi) / 2
			if c := s.n.candidate(saved, heights[middle], s.cache); c.peak <= budget {
				best, hi = c, middle
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

// heights returns the bytes of slabs that are tried to fill a budget, from large to small.
func (n *planner) heights() (list []int) {
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
	// Offsets can need more than the bytes alive, so the first few choices are tried.
	const tries = 24
	points := slices.Clone(s.points) // a copy: the order of s.points decides between equals elsewhere
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
		p := s.n.plan(s.candidate(pt))
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
	s.least = s.n.plan(s.candidate(best.point))
	if whole := Make(s.n.g); whole.Peak < s.least.Peak { // it shares buffers in ways that sweeps do not
		s.least = whole
	}
	return s.least, nil
}

// Curve returns the choices from the fastest to the smallest, none of which is both slower and larger than another. Their bytes
// are the most alive at once; offsets can make the plan a little larger.
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

// Curve returns the curve of a new search.
func Curve(g *ir.Graph, opt Options) []Point {
	s, _ := NewSearch(context.Background(), g, opt) // nothing stops it
	return s.Curve()
}

// explore searches with each size of slabs. It returns the choices that it found, and the same with slabs of one plane, from the largest to
// the smallest.
func (n *planner) explore(ctx context.Context, cache *scheduleCache) []Point {
	sizes := append(slices.Clone(n.costs.SlabBytes), 0)
	found := each(ctx, sizes, func(slabBytes int) []Point { return n.descend(ctx, slabBytes, cache) })
	points := slices.Concat(found...)
	for _, pt := range each(ctx, slices.Concat(found[:len(sizes)-1]...), func(pt Point) Point { return newPoint(n.candidate(pt.saved, 0, cache)) }) {
		if pt.saved == nil {
			break // stopped
		}
		points = append(points, pt)
	}
	slices.SortStableFunc(points, func(a, b Point) int { return b.Bytes - a.Bytes })
	return points
}

// each applies f to each element of a list, on all processors. Once ctx is done the rest of the results are zero.
func each[E, R any](ctx context.Context, list []E, f func(E) R) []R {
	return parallel.Collect(len(list), 1, func(i, _ int) (r R) {
		if ctx.Err() == nil {
			r = f(list[i])
		}
		return r
	})
}

// candidate makes the candidate of a point.
func (s *Search) candidate(pt Point) *candidate {
	return s.n.candidate(pt.saved, pt.slabBytes, s.cache)
}

func newPoint(c *candidate) Point {
	count := 0
	for _, k := range c.saved {
		if k {
			count++
		}
	}
	return Point{Bytes: c.peak, Seconds: c.seconds, Saved: count, saved: c.saved, slabBytes: c.slabBytes, steps: c.steps}
}
