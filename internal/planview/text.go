package planview

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/printable"
)

// fact is a line about a plan as a whole.
type fact struct{ Name, Text string }

// facts are the figures of a pass.
func (p PassPlan) facts() []fact {
	budget := "as small as possible"
	if p.Budget > 0 {
		budget = "budget " + bytesize.Format(p.Budget)
	}
	list := []fact{{"peak", fmt.Sprintf("%s (%d bytes; %s)", bytesize.Format(p.Plan.Peak), p.Plan.Peak, budget)}}
	add := func(name string, bytes int, note string) {
		if bytes > 0 {
			list = append(list, fact{name, bytesize.Format(bytes) + note})
		}
	}
	add("smallest feasible budget", p.Smallest, fmt.Sprintf(" (%d bytes)", p.Smallest))
	add("whole tensors would need", p.Whole, fmt.Sprintf(", %.3g times the peak", float64(p.Whole)/float64(max(1, p.Plan.Peak))))
	if p.Fields == 0 {
		add("counted apart: volume", p.Volume, "")
	}
	add("volumes on the device", p.Fields, ", gradients, moments and maps included, which the budget pays for too")
	add("copies of weights", p.Weights, ", which the budget pays for too")
	if p.Plan.Seconds > 0 {
		text := "about " + seconds(p.Plan.Seconds)
		if len(p.Curve) > 0 && p.Curve[0].Seconds > 0 {
			text += fmt.Sprintf(", %.2f times the fastest plan", p.Plan.Seconds/p.Curve[0].Seconds)
		}
		list = append(list, fact{"estimated time", text})
	}
	return append(list, fact{"schedule", fmt.Sprintf("%s, %s, %s, %s", printable.Count(len(p.Plan.Graph.Nodes), "node"), printable.Count(len(read(p.Plan).units), "unit"),
		printable.Count(len(p.Plan.Steps), "step"), printable.Count(len(p.Plan.Buffers), "buffer"))})
}

func seconds(s float64) string {
	switch {
	case s == 0:
		return ""
	case s < 1e-3:
		return fmt.Sprintf("%.3g µs", s*1e6)
	case s < 1:
		return fmt.Sprintf("%.3g ms", s*1e3)
	}
	return fmt.Sprintf("%.3g s", s)
}

func blank(n int) string {
	if n == 0 {
		return ""
	}
	return bytesize.Format(n)
}

// column of a table.
type column[T any] struct {
	head string
	left bool // numbers are set to the right
	cell func(T) string
}

var rowColumns = []column[UnitRow]{
	{"unit", false, func(r UnitRow) string {
		if r.Last > r.First {
			return fmt.Sprintf("%d-%d", r.First, r.Last)
		}
		return fmt.Sprint(r.First)
	}},
	{"modules", true, func(r UnitRow) string { return r.Modules }},
	{"part", true, func(r UnitRow) string { return r.Part }},
	{"how", true, func(r UnitRow) string { return r.How }},
	{"nodes", false, func(r UnitRow) string { return fmt.Sprint(r.Nodes) }},
	{"again", false, func(r UnitRow) string {
		if r.Again == 0 {
			return ""
		}
		return fmt.Sprint(r.Again)
	}},
	{"steps", false, func(r UnitRow) string { return fmt.Sprint(r.Steps) }},
	{"kept", false, func(r UnitRow) string { return blank(r.Kept) }},
	{"rings", false, func(r UnitRow) string { return blank(r.Rings) }},
	{"alive", false, func(r UnitRow) string { return blank(r.Alive) }},
	{"time", false, func(r UnitRow) string { return seconds(r.Seconds) }},
}

var choiceColumns = []column[Tradeoff]{
	{"arena", false, func(c Tradeoff) string { return bytesize.Format(c.Bytes) }},
	{"of whole tensors", false, func(c Tradeoff) string {
		if c.Share == 0 {
			return ""
		}
		return fmt.Sprintf("%.1f %%", 100*c.Share)
	}},
	{"estimated time", false, func(c Tradeoff) string { return seconds(c.Seconds) }},
	{"times the fastest", false, func(c Tradeoff) string { return fmt.Sprintf("%.2f", c.Slower) }},
	{"values kept", false, func(c Tradeoff) string { return fmt.Sprint(c.Kept) }},
}

// Points of the curve that tables show.
const tablePoints = 12

// choicesNote stands under the table of choices.
const choicesNote = "The arena is the sum of what is in use at once. Placing it without overlap can take a few percent more."

// WriteText prints passes for a terminal.
func WriteText(w io.Writer, passes []PassPlan) error {
	var b strings.Builder
	for i, p := range passes {
		if i > 0 {
			b.WriteString("\n\n")
		}
		fmt.Fprintf(&b, "%s (%s)\n\n", p.Name, strings.Join(p.Methods, ", "))
		for _, f := range p.facts() {
			fmt.Fprintf(&b, "  %-25s %s\n", f.Name, f.Text)
		}
		b.WriteString("\n")
		writeTable(&b, rowColumns, Rows(p.Plan), func(r UnitRow) []string { return r.Why })
		if choices := p.Choices(tablePoints); len(choices) > 0 {
			b.WriteString("\nWhat other budgets would cost:\n\n")
			writeTable(&b, choiceColumns, choices, nil)
			b.WriteString("\n" + choicesNote + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeTable prints rows under heads, each followed by its notes.
func writeTable[T any](b *strings.Builder, columns []column[T], rows []T, notes func(T) []string) {
	widths := make([]int, len(columns))
	for i, c := range columns {
		widths[i] = utf8.RuneCountInString(c.head)
		for _, r := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.cell(r)))
		}
	}
	line := func(cell func(column[T]) string) {
		var s strings.Builder
		for i, c := range columns {
			text := cell(c)
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text))
			if s.WriteString("  "); c.left {
				s.WriteString(text + pad)
			} else {
				s.WriteString(pad + text)
			}
		}
		b.WriteString(strings.TrimRight(s.String(), " ") + "\n")
	}
	line(func(c column[T]) string { return c.head })
	for _, r := range rows {
		line(func(c column[T]) string { return c.cell(r) })
		if notes != nil {
			for _, n := range notes(r) {
				b.WriteString(strings.Repeat(" ", widths[0]+4) + "· " + n + "\n")
			}
		}
	}
}

// passJSON is the record of a pass. Offsets and sizes are bytes; buffers are named by their index, as steps name them.
type passJSON struct {
	Name     string       `json:"name"`
	Methods  []string     `json:"methods"`
	Peak     int          `json:"peak_bytes"`
	Budget   int          `json:"budget_bytes,omitempty"`
	Smallest int          `json:"smallest_feasible_bytes,omitempty"`
	Whole    int          `json:"whole_tensor_bytes,omitempty"`
	Weights  int          `json:"weights_bytes"`
	Fields   int          `json:"device_volume_bytes,omitempty"`
	Volume   int          `json:"volume_bytes"`
	Seconds  float64      `json:"estimated_seconds"`
	Units    []UnitRow    `json:"units"`
	Choices  []Tradeoff   `json:"choices"`
	Buffers  []bufferJSON `json:"buffers"`
	Steps    []stepJSON   `json:"steps"`
}

type bufferJSON struct {
	Values   []string `json:"values"`
	Offset   int      `json:"offset"`
	Bytes    int      `json:"bytes"`
	Planes   int      `json:"planes,omitempty"`
	First    int      `json:"first_step"` // -1: before the first
	Last     int      `json:"last_step"`  // the number of steps: behind the last
	External bool     `json:"external,omitempty"`
}

type stepJSON struct {
	Node string `json:"node"`
	Op   string `json:"op"`
	Mode string `json:"mode"`
	From int    `json:"from_plane,omitempty"`
	To   int    `json:"to_plane,omitempty"`
	In   []int  `json:"in"` // buffers; -1: a constant, or nothing
	Out  []int  `json:"out"`
}

var modes = map[plan.Mode]string{plan.Whole: "whole", plan.Slab: "slab", plan.Accumulate: "accumulate"}

// WriteJSON writes passes as one document, the schedule included.
func WriteJSON(w io.Writer, passes []PassPlan) error {
	doc := struct {
		Passes []passJSON `json:"passes"`
	}{Passes: []passJSON{}}
	for _, p := range passes {
		j := passJSON{
			Name: p.Name, Methods: p.Methods, Peak: p.Plan.Peak, Budget: p.Budget, Smallest: p.Smallest, Whole: p.Whole,
			Weights: p.Weights, Fields: p.Fields, Volume: p.Volume, Seconds: p.Plan.Seconds, Units: Rows(p.Plan), Choices: p.Choices(len(p.Curve)),
			Buffers: []bufferJSON{}, Steps: []stepJSON{},
		}
		for _, b := range p.Plan.Buffers {
			out := bufferJSON{Offset: b.Offset, Bytes: b.Bytes, Planes: b.Planes, First: b.First, Last: b.Last, External: b.External}
			for _, v := range b.Values {
				out.Values = append(out.Values, valueName(v))
			}
			j.Buffers = append(j.Buffers, out)
		}
		for _, s := range p.Plan.Steps {
			j.Steps = append(j.Steps, stepJSON{module(s.Node), s.Node.Op.Name, modes[s.Mode], s.Z0, s.Z1, slices.Concat([]int{}, s.In), s.Out})
		}
		doc.Passes = append(doc.Passes, j)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	return enc.Encode(doc)
}
