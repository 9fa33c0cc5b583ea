// Package planview shows plans to people: as a table of units with the reasons for them, as JSON, and as a picture of bytes over
// steps. It computes nothing that runs; everything is read from the plan, and the same plan always gives the same bytes.
//
// A row stands for one piece of work: a unit of the plan, or several units in a row that keep the values of one module whole. The first
// input of a graph is the volume; the gradient part is all that depends on the other inputs.
package planview

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/printable"
)

// PassPlan is the plan of one pass through the network, with its methods, budget and alternatives. Sizes are in bytes.
type PassPlan struct {
	Name     string   // of the gradient program
	Methods  []string // the methods that need it
	Plan     *plan.Plan
	Curve    []plan.Point // the choices between the fastest plan and the smallest one; may be empty
	Budget   int          // the plan's budget; 0: as small as possible
	Smallest int          // peak of the smallest plan; 0: unknown
	Whole    int          // peak with whole tensors; 0: unknown
	Weights  int          // counted apart from the arena, as the volume is
	Fields   int          // of volumes, gradients, moments and maps in the memory of a device, which the budget pays for
	Volume   int
}

// UnitRow is a line of the table of units.
type UnitRow struct {
	First   int      `json:"first_unit"` // counted from 1
	Last    int      `json:"last_unit"`
	Modules string   `json:"modules"` // abbreviated
	Part    string   `json:"part"`    // forward, gradient, or both
	How     string   `json:"how"`     // sweep, whole, or kept (several single steps, everything whole)
	Step    int      `json:"first_step"`
	Steps   int      `json:"steps"`
	Nodes   int      `json:"nodes"`
	Again   int      `json:"computed_again"`    // nodes of them that an earlier row has computed already
	Kept    int      `json:"kept_bytes"`        // left behind for later rows
	Rings   int      `json:"ring_bytes"`        // at most at a time
	Alive   int      `json:"alive_bytes"`       // of everything in the arena, at most at a time
	Seconds float64  `json:"estimated_seconds"` // 0: not estimated
	Why     []string `json:"why"`
}

// reading has a plan and the facts that its rows are made from.
type reading struct {
	plan     *plan.Plan
	units    []plan.Unit
	gradient map[*ir.Node]bool
	uses     map[*ir.Value][]*ir.Node
	home     map[*ir.Value]int // first buffer of a value
	alive    []int             // bytes in the arena by step
}

func read(p *plan.Plan) *reading {
	r := &reading{plan: p, units: p.Units, gradient: map[*ir.Node]bool{}, uses: p.Graph.Uses(), home: map[*ir.Value]int{}}
	late := map[*ir.Value]bool{}
	for _, v := range p.Graph.Inputs[min(1, len(p.Graph.Inputs)):] {
		late[v] = true
	}
	for _, n := range p.Graph.Nodes {
		if slices.ContainsFunc(n.Inputs, func(v *ir.Value) bool { return late[v] }) {
			r.gradient[n] = true
			for _, v := range n.Outputs {
				late[v] = true
			}
		}
	}
	change := make([]int, len(p.Steps)+1)
	for i, b := range p.Buffers {
		for _, v := range b.Values {
			if _, ok := r.home[v]; !ok {
				r.home[v] = i
			}
		}
		if first, last := r.life(b); !b.External {
			change[first] += b.Bytes
			change[last+1] -= b.Bytes
		}
	}
	sum := 0
	for _, c := range change[:len(p.Steps)] {
		sum += c
		r.alive = append(r.alive, sum)
	}
	if r.units == nil {
		for i, s := range p.Steps {
			u := plan.Unit{First: i, Steps: 1, Nodes: []*ir.Node{s.Node}}
			for _, v := range s.Node.Outputs {
				if p.Buffers[r.home[v]].Last > i {
					u.Saved = append(u.Saved, v)
				}
			}
			r.units = append(r.units, u)
		}
	}
	return r
}

// life is the first and the last step of a buffer, inside the plan.
func (r *reading) life(b plan.Buffer) (first, last int) {
	end := max(0, len(r.plan.Steps)-1)
	return min(max(b.First, 0), end), min(max(b.Last, 0), end)
}

// Most rows that a table of units should have before modules are put together more coarsely.
const manyRows = 60

// Rows describes a plan.
func Rows(p *plan.Plan) []UnitRow { return read(p).rows() }

func (r *reading) rows() (rows []UnitRow) {
	for depth := 2; depth >= 0; depth-- {
		rows = rows[:0]
		for i := 0; i < len(r.units); {
			n := 1
			for i+n < len(r.units) && r.together(r.units[i], r.units[i+n], depth) {
				n++
			}
			rows = append(rows, r.row(i, n))
			i += n
		}
		if len(rows) <= manyRows {
			break
		}
	}
	return rows
}

// together reports whether units are a single step each and belong to the same module, by the first depth names of its path.
func (r *reading) together(a, b plan.Unit, depth int) bool {
	plain := func(u plan.Unit) bool { return len(u.Nodes) == 1 && len(u.Rematerialised) == 0 && u.RingBytes == 0 }
	return plain(a) && plain(b) && r.gradient[a.Nodes[0]] == r.gradient[b.Nodes[0]] &&
		slices.Equal(head(module(a.Nodes[0]), depth), head(module(b.Nodes[0]), depth))
}

func head(path string, depth int) []string {
	parts := strings.Split(path, ".")
	return parts[:min(depth, len(parts))]
}

// row puts n units from i on together.
func (r *reading) row(i, n int) UnitRow {
	units := r.units[i : i+n]
	row := UnitRow{First: i + 1, Last: i + n, Step: units[0].First, How: "whole"}
	var nodes []*ir.Node
	kept := map[int]bool{}
	backward := 0
	for _, u := range units {
		row.Steps += u.Steps
		row.Seconds += u.Seconds
		row.Again += len(u.Rematerialised)
		row.Rings = max(row.Rings, u.RingBytes)
		nodes = append(nodes, u.Nodes...)
		for _, v := range u.Saved {
			b := r.plan.Buffers[r.home[v]]
			if _, last := r.life(b); !kept[r.home[v]] && !b.External && (n == 1 || last >= units[n-1].First+units[n-1].Steps) {
				kept[r.home[v]] = true
				row.Kept += b.Bytes
			}
		}
	}
	for _, node := range nodes {
		if r.gradient[node] {
			backward++
		}
	}
	row.Nodes, row.Modules = len(nodes), modules(nodes)
	for _, bytes := range r.alive[row.Step : row.Step+row.Steps] {
		row.Alive = max(row.Alive, bytes)
	}
	switch backward {
	case 0:
		row.Part = "forward"
	case len(nodes):
		row.Part = "gradient"
	default:
		row.Part = "both"
	}
	switch {
	case n > 1:
		row.How, row.Why = "kept", []string{"every value whole as long as it is needed: there is room"}
		if !slices.ContainsFunc(nodes, func(n *ir.Node) bool { return n.Out().HasDepth() }) {
			row.How, row.Why = "whole", []string{"vectors and the like, without planes"}
		}
	case units[0].Sweep:
		row.How, row.Why = "sweep", r.why(units[0])
	default:
		row.Why = r.why(units[0])
	}
	return row
}

// module returns the path of the PyTorch module that a node belongs to, or the nearest thing to it.
func module(n *ir.Node) string {
	switch {
	case n.Scope != "":
		return printable.Line(n.Scope)
	case n.Name != "":
		return printable.Line(strings.ReplaceAll(strings.Trim(n.Name, "/"), "/", "."))
	}
	return n.Op.Name
}

// modules names the modules of nodes by the first and the last one, "layer1.0 … 1", without repeating their common beginning.
func modules(nodes []*ir.Node) string {
	var paths []string
	for _, n := range nodes {
		if m := module(n); !slices.Contains(paths, m) {
			paths = append(paths, m)
		}
	}
	if len(paths) == 1 {
		return shorten(paths[0], 44)
	}
	first, last := strings.Split(paths[0], "."), strings.Split(paths[len(paths)-1], ".")
	same := 0
	for same < min(len(first), len(last)) && first[same] == last[same] {
		same++
	}
	if same == len(first) || same == len(last) { // one is inside the other
		same = max(0, same-1)
	}
	to := strings.Join(last[same:min(same+2, len(last))], ".")
	from := strings.Join(first[:min(same+2, len(first))], ".")
	return shorten(from, 30) + " … " + shorten(to, 24)
}

// shorten leaves the middle of a long text out.
func shorten(s string, most int) string {
	letters := []rune(s)
	if len(letters) <= most {
		return s
	}
	if most < 3 {
		return string(letters[:max(0, most)])
	}
	half := (most - 1) / 2
	return string(letters[:half]) + "…" + string(letters[len(letters)-(most-1-half):])
}

// why explains the choices for a unit in words.
func (r *reading) why(u plan.Unit) (why []string) {
	if !u.Sweep {
		n := u.Nodes[0]
		switch {
		case r.plan.Units == nil:
			return []string{"whole tensors: each value is there from its computation to its last reading"}
		case !n.Out().HasDepth() && !slices.ContainsFunc(n.Inputs, func(v *ir.Value) bool { return v != nil && v.HasDepth() }):
			return []string{"vectors and the like, without planes"}
		}
		return []string{n.Op.Name + " needs its input whole"}
	}
	var ends []string
	streamed, size := 0, 0
	for _, n := range u.Nodes {
		v := n.Out()
		switch {
		case slices.Contains(u.Saved, v) && v.HasDepth():
		case v.HasDepth():
			streamed++
			size += wholeBytes(v)
		default:
			if name := strings.ToLower(strings.TrimPrefix(n.Op.Name, "Reduce")); !slices.Contains(ends, name) {
				ends = append(ends, name)
			}
		}
	}
	if streamed > 0 && u.RingBytes > 0 {
		why = append(why, fmt.Sprintf("streams %s (%s as a whole) through rings of %s", printable.Count(streamed, "value"),
			bytesize.Format(size), bytesize.Format(u.RingBytes)))
	}
	if len(u.Rematerialised) > 0 {
		size := 0
		for _, n := range u.Rematerialised {
			size += wholeBytes(n.Out())
		}
		why = append(why, fmt.Sprintf("computes %s again instead of keeping %s", printable.Count(len(u.Rematerialised), "node"), bytesize.Format(size)))
	}
	why = append(why, r.keeps(u)...)
	if len(ends) > 0 {
		why = append(why, fmt.Sprintf("ends here: the %s over the volume is complete only with the last plane", strings.Join(ends, ", ")))
	}
	return why
}

// keeps names the readers for which a sweep leaves values behind.
func (r *reading) keeps(u plan.Unit) (why []string) {
	readers := []struct {
		text         string
		count, bytes int
	}{{text: "streamed to the caller: the result"}, {text: "kept: a result"}, {text: "kept: the gradient reads it later"}, {text: "kept: read by a later sweep"}}
	for _, v := range u.Saved {
		if !v.HasDepth() {
			continue
		}
		k := 3
		switch {
		case r.plan.Buffers[r.home[v]].External:
			k = 0
		case slices.Contains(r.plan.Graph.Outputs, v):
			k = 1
		case !r.gradient[v.Def] && !slices.ContainsFunc(r.uses[v], func(n *ir.Node) bool { return !r.gradient[n] && !slices.Contains(u.Nodes, n) }):
			k = 2
		}
		readers[k].count++
		readers[k].bytes += wholeBytes(v)
	}
	for _, k := range readers {
		if k.count > 0 {
			why = append(why, fmt.Sprintf("%s (%s, %s)", k.text, printable.Count(k.count, "value"), bytesize.Format(k.bytes)))
		}
	}
	return why
}

// wholeBytes is the storage of all of a value.
func wholeBytes(v *ir.Value) int {
	if v.HasDepth() {
		return v.Shape()[1] * plan.PlaneBytes(v)
	}
	return v.Type.Elem.Bytes(v.Shape().Elements())
}

// Tradeoff is a line of the table of peak against time.
type Tradeoff struct {
	Bytes   int     `json:"bytes"`
	Share   float64 `json:"share_of_whole,omitempty"` // of the peak with whole tensors
	Seconds float64 `json:"estimated_seconds"`
	Slower  float64 `json:"times_fastest"`
	Kept    int     `json:"values_kept"`
}

// Choices thins a curve out to about n points whose sizes fall by a constant factor. Both ends stay.
func (p PassPlan) Choices(n int) []Tradeoff {
	list := []Tradeoff{}
	if len(p.Curve) == 0 {
		return list
	}
	fastest, end := p.Curve[0], len(p.Curve)-1
	scale := math.Log(float64(max(2, fastest.Bytes)) / float64(max(1, p.Curve[end].Bytes)))
	last := -1
	for i, pt := range p.Curve {
		if len(p.Curve) > n {
			// The place among n on a scale of ratios: one point for each.
			place := int(float64(n-1) * math.Log(float64(max(2, fastest.Bytes))/float64(max(1, pt.Bytes))) / max(scale, 1e-9))
			if place == last && i != end {
				continue
			}
			last = place
		}
		c := Tradeoff{Bytes: pt.Bytes, Seconds: pt.Seconds, Kept: pt.Saved}
		if fastest.Seconds > 0 {
			c.Slower = pt.Seconds / fastest.Seconds
		}
		if p.Whole > 0 {
			c.Share = float64(pt.Bytes) / float64(p.Whole)
		}
		list = append(list, c)
	}
	return list
}

// valueName returns the name of a value or, without one, of its operation.
func valueName(v *ir.Value) string {
	switch {
	case v.Def != nil:
		return module(v.Def) + " (" + v.Def.Op.Name + ")"
	case v.Name != "":
		return printable.Line(v.Name)
	}
	return "input"
}
