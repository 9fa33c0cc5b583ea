package plan

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/ir"
)

// slow is a device on which arithmetic, memory and steps all count.
var slow = Costs{FlopsPerSecond: 1e9, BytesPerSecond: 1e9, StepSeconds: 1e-6, SlabBytes: []int{4096}}

// What the search finds for a block with a gate, forward and with its gradient. Numbers change when the planner does: less is better.
func TestPlansOfAGatedBlock(t *testing.T) {
	type found struct {
		budget, peak, micros, steps, units, again, saved int
	}
	for _, c := range []struct {
		gradient bool
		curve    [][3]int // bytes, microseconds, saved values
		choices  int
		plans    []found
		tooSmall int // the smallest budget that works
		whole    int // bytes
	}{
		{false, [][3]int{{27648, 322, 8}, {23040, 339, 6}, {20800, 343, 5}, {18432, 373, 5}, {13952, 401, 1}, {9344, 598, 0}}, 45, []found{
			{0, 9344, 598, 137, 3, 3, 3}, {12000, 9344, 598, 137, 3, 3, 3}, {16000, 13952, 401, 90, 4, 0, 4}, {20000, 18432, 373, 62, 8, 0, 8},
			{27647, 23040, 339, 28, 9, 0, 9}, {27648, 27648, 322, 11, 11, 0, 11}, {1 << 30, 27648, 322, 11, 11, 0, 11},
		}, 9344, 27648},
		{true, [][3]int{{46208, 651, 17}, {46144, 661, 14}, {43968, 688, 11}, {41600, 753, 11}, {27776, 768, 13}, {23168, 863, 9}, {20928, 898, 6},
			{17408, 1007, 5}, {13696, 1028, 3}}, 79, []found{
			{0, 13696, 1028, 237, 9, 4, 10}, {16000, 13696, 1028, 237, 9, 4, 10}, {20000, 17408, 961, 186, 14, 2, 14},
			{30000, 27840, 761, 55, 21, 1, 21}, {60000, 55360, 651, 24, 24, 0, 24},
		}, 13696, 55360},
	} {
		g := gated(t, c.gradient)
		opt := Options{External: []*ir.Value{g.Inputs[0]}, Costs: slow}
		s, err := NewSearch(t.Context(), g, opt)
		if err != nil {
			t.Fatal(err)
		}
		micros := func(seconds float64) int { return int(math.Round(seconds * 1e6)) }
		var curve [][3]int
		for _, p := range s.Curve() {
			curve = append(curve, [3]int{p.Bytes, micros(p.Seconds), p.Saved})
		}
		if !slices.Equal(curve, c.curve) || len(s.points) != c.choices {
			t.Errorf("gradient %v: of %d choices the curve is %v", c.gradient, len(s.points), curve)
		}
		for _, want := range c.plans {
			opt.Budget = want.budget
			p, err := Stream(g, opt)
			if err != nil {
				t.Fatal(err)
			}
			got := found{want.budget, p.Peak, micros(p.Seconds), len(p.Steps), len(p.Units), 0, 0}
			for _, u := range p.Units {
				got.again += len(u.Rematerialised)
				got.saved += len(u.Saved)
			}
			if got != want {
				t.Errorf("gradient %v: %+v, want %+v", c.gradient, got, want)
			}
			if err := p.Check(); err != nil {
				t.Error(err)
			}
			checkUnits(t, s.n, p)
		}
		opt.Budget = c.tooSmall - 1
		var small *TooSmallError
		if _, err := Stream(g, opt); !errors.As(err, &small) || *small != (TooSmallError{c.tooSmall - 1, c.tooSmall}) {
			t.Errorf("gradient %v: %d bytes: %v", c.gradient, opt.Budget, err)
		}
		opt.Budget = c.tooSmall
		if _, err := Stream(g, opt); err != nil {
			t.Errorf("gradient %v: %v", c.gradient, err)
		}
		if p := Make(g); p.Peak != c.whole {
			t.Errorf("gradient %v: whole tensors take %d bytes", c.gradient, p.Peak)
		}
	}
}

// checkUnits holds what a plan says of its units against its steps and buffers.
func checkUnits(t *testing.T, n *planner, p *Plan) {
	t.Helper()
	at, seconds := 0, 0.0
	done := map[*ir.Node]bool{}
	for i, u := range p.Units {
		if u.First != at || u.Steps < 1 {
			t.Errorf("unit %d has %d steps from %d on, the one before ends at %d", i, u.Steps, u.First, at)
		}
		steps := p.Steps[at : at+u.Steps]
		at += u.Steps
		seconds += u.Seconds
		want := 0.0
		for k, node := range u.Nodes {
			want += cost(node, n.costs)
			if slices.Contains(u.Rematerialised, node) != done[node] {
				t.Errorf("unit %d computes %s, again: %v", i, node.Op.Name, done[node])
			}
			if k > 0 && n.index[node.Out()] <= n.index[u.Nodes[k-1].Out()] {
				t.Errorf("unit %d: %s is not in order", i, node.Op.Name)
			}
			done[node] = true
		}
		if u.Sweep && len(u.Nodes) > 1 {
			want += n.costs.StepSeconds * float64(u.Steps-len(u.Nodes))
		}
		if math.Abs(u.Seconds-want) > 1e-12 {
			t.Errorf("unit %d takes %v seconds, its nodes and steps %v", i, u.Seconds, want)
		}
		for _, s := range steps {
			if !slices.Contains(u.Nodes, s.Node) || (s.Mode == Whole) == u.Sweep {
				t.Errorf("unit %d has a step of %s, mode %d", i, s.Node.Op.Name, s.Mode)
			}
		}
		alive, rings := 0, 0
		for _, b := range p.Buffers {
			switch {
			case b.External:
			case u.Sweep && b.First >= u.First && b.Last < at && b.Planes > 0 && b.Planes < n.values[n.index[b.Values[0]]].depth:
				rings += b.Bytes
			case b.First < at && b.Last >= u.First:
				alive += b.Bytes
			}
		}
		if u.Sweep && rings != u.RingBytes && alive+rings != u.AliveBytes+u.RingBytes { // a ring may hold all planes
			t.Errorf("unit %d: %d bytes alive and %d of rings, buffers say %d and %d", i, u.AliveBytes, u.RingBytes, alive, rings)
		}
		for _, v := range u.Saved {
			if !slices.ContainsFunc(p.Buffers, func(b Buffer) bool { return slices.Contains(b.Values, v) && b.Last >= at }) {
				t.Errorf("unit %d leaves %v behind, which ends in it", i, v)
			}
		}
	}
	if at != len(p.Steps) || math.Abs(seconds-p.Seconds) > 1e-12 {
		t.Errorf("units have %d of %d steps, and %v of %v seconds", at, len(p.Steps), seconds, p.Seconds)
	}
}

// A buffer goes to the lowest place that is free during its life, or behind what is in the way.
func TestPlace(t *testing.T) {
	p := Plan{Steps: make([]Step, 6), Granularity: 256, Buffers: []Buffer{
		{Bytes: 512, First: 0, Last: 1}, {Bytes: 256, First: 1, Last: 3}, {Bytes: 128, First: 2, Last: 5}, {Bytes: 64, First: 2, Last: 2},
		{Bytes: 1 << 20, First: 0, Last: 5, External: true}, {Bytes: 64, First: 4, Last: 5},
	}}
	if got := p.fullest(); got != 768 { // step 1
		t.Errorf("the fullest step has %d bytes", got)
	}
	p.assign()
	var offsets []int
	for _, b := range p.Buffers {
		offsets = append(offsets, b.Offset)
	}
	if want := []int{0, 512, 0, 128, 0, 128}; p.Peak != 768 || !slices.Equal(offsets, want) {
		t.Errorf("%v in %d bytes, want %v", offsets, p.Peak, want)
	}
	ring := &Buffer{Bytes: 512, Doubled: true}
	for _, c := range []struct{ from, at, want int }{{0, 0, 0}, {64, 0, 256}, {64, 300, 512}, {256, 0, 256}} {
		if got := p.aligned(ring, c.from, c.at); got != c.want {
			t.Errorf("a doubled ring from %d and %d on lies at %d, want %d", c.from, c.at, got, c.want)
		}
	}
	if got := p.aligned(&Buffer{}, 64, 128); got != 128 {
		t.Errorf("a buffer lies at %d", got)
	}
}
