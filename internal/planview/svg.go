package planview

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/printable"
)

// Sizes of a picture in pixels.
const (
	width      = 1200
	leftEdge   = 84 // of the plot, behind the sizes
	rightEdge  = width - 16
	plotHeight = 400
	namesArea  = 172 // above the plot, for the names of the rows
	headArea   = 46  // above them, for the name and the figures of the pass
	footArea   = 96  // below the plot, for the steps and the legend
	lineHeight = 15
)

// Bounds that keep a file below a megabyte, whatever the plan.
const (
	mostBars  = 2500 // buffers in a file, the largest on the picture first
	leastSide = 0.6  // pixels: anything thinner or flatter is left out
)

// role is the purpose of a buffer; it chooses the colour.
type role int

const (
	keptValue role = iota
	ringOfValues
	keptGradient
	ringOfGradients
	withoutDepth
	roles
)

// legend has a class of the style sheet and a text for each role.
var legend = [roles]struct{ class, text string }{
	{"k", "value of the network, whole"},
	{"r", "ring: a few planes of it at a time"},
	{"g", "gradient, whole"},
	{"h", "ring of a gradient"},
	{"s", "vectors and the like, without planes"},
}

// style is plain enough for viewers that are no browsers; the second half is for dark surroundings.
const style = `<style>
svg{background:#fff}
text{font:11px system-ui,Helvetica,Arial,sans-serif;fill:#1b1f24}
.t{font-size:16px;font-weight:600}.q{fill:#57606a}.e{text-anchor:end}.m{text-anchor:middle}
.b{fill:#f0f3f6}.l{stroke:#d0d7de;fill:none}.x{stroke:#b3261e;stroke-dasharray:6 4;fill:none}.y{fill:#b3261e}
.k,.r,.g,.h,.s{stroke:#fff;stroke-width:.5}
.k{fill:#4a7fc1}.r{fill:#a9cdf0}.g{fill:#c8691c}.h{fill:#f6cf9c}.s{fill:#8c959f}
.i{fill:#fff;pointer-events:none}.d{fill:#10243e;pointer-events:none}
@media (prefers-color-scheme:dark){
svg{background:#0d1117}text{fill:#e6edf3}.q{fill:#9aa4af}.b{fill:#161b22}.l{stroke:#30363d}.x{stroke:#ff7b72}.y{fill:#ff7b72}
.k,.r,.g,.h,.s{stroke:#0d1117}.k{fill:#3f6fae}.r{fill:#7fb2e5}.g{fill:#b5651d}.h{fill:#e0a860}.s{fill:#6e7681}.i{fill:#fff}.d{fill:#0d1a2b}
}
</style>
`

// howToRead stands on every picture.
var howToRead = []string{
	"How to read this. Time runs to the right: the program takes one step after the other. The height is the arena, the one block of memory that everything computed lives in.",
	"Each bar is a buffer: as wide as it is needed, as high as it is large, at the place that the plan gave it. Bars never overlap, so that the highest edge is the memory that is needed.",
	"A column with a shade of its own is a unit of work: a sweep goes once through the volume from its first plane to its last and holds what is between only in rings, which are flat.",
	"What is not kept whole is computed again in a later column that needs it. Hover over a bar or a column for its name and size.",
}

// WriteSVG draws passes below each other: bytes over steps, one bar a buffer.
func WriteSVG(w io.Writer, passes []PassPlan) error {
	var b strings.Builder
	panel := headArea + namesArea + plotHeight + footArea
	top := len(howToRead)*lineHeight + 22
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img"><title>Memory plan: %s</title>`+"\n%s",
		width, top+len(passes)*panel, escape(names(passes)), style)
	for i, line := range howToRead {
		fmt.Fprintf(&b, `<text class="q" x="12" y="%d">%s</text>`+"\n", 20+i*lineHeight, escape(line))
	}
	for i, p := range passes {
		fmt.Fprintf(&b, `<g transform="translate(0 %d)">`+"\n", top+i*panel)
		newPanel(p, mostBars/len(passes)).draw(&b)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func names(passes []PassPlan) string {
	var list []string
	for _, p := range passes {
		list = append(list, p.Name)
	}
	return strings.Join(list, ", ")
}

// escape makes any text fit for XML.
func escape(s string) string { return html.EscapeString(printable.Line(s)) }

// panel is the picture of one pass.
type panel struct {
	pass  PassPlan
	r     *reading
	rows  []UnitRow
	edges []float64 // left edge of each row, and the right edge of the last
	top   int       // bytes at the upper edge of the plot
	bars  int       // at most
}

func newPanel(p PassPlan, bars int) *panel {
	d := &panel{pass: p, r: read(p.Plan), bars: bars, top: max(1, p.Plan.Peak)}
	d.rows = d.r.rows()
	if p.Budget > d.top && p.Budget < d.top*3/2 {
		d.top = p.Budget
	}
	d.top += d.top / 20
	// Half of the width is shared evenly among the rows, so that none vanishes; half goes by the number of steps.
	x := float64(leftEdge)
	for _, row := range d.rows {
		d.edges = append(d.edges, x)
		x += (rightEdge - leftEdge) * (0.5/float64(len(d.rows)) + 0.5*float64(row.Steps)/float64(max(1, len(p.Plan.Steps))))
	}
	d.edges = append(d.edges, x)
	return d
}

// x is the left edge of a step.
func (d *panel) x(step int) float64 {
	i, found := slices.BinarySearchFunc(d.rows, step, func(r UnitRow, s int) int { return cmp.Compare(r.Step, s) })
	if !found {
		i--
	}
	if i < 0 || i >= len(d.rows) {
		return leftEdge
	}
	row := d.rows[i]
	return d.edges[i] + (d.edges[i+1]-d.edges[i])*min(1, float64(step-row.Step)/float64(max(1, row.Steps)))
}

const plotTop = headArea + namesArea

// y is the height of a place in the arena.
func (d *panel) y(bytes int) float64 {
	return plotTop + plotHeight*(1-float64(bytes)/float64(d.top))
}

func (d *panel) draw(b *strings.Builder) {
	p := d.pass
	fmt.Fprintf(b, `<text class="t" x="12" y="18">%s</text>`+"\n", escape(p.Name))
	var parts []string
	for _, f := range p.facts() {
		parts = append(parts, f.Name+" "+f.Text)
	}
	fmt.Fprintf(b, `<text class="q" x="12" y="36">%s</text>`+"\n", escape(strings.Join(append(parts[:min(3, len(parts))], strings.Join(p.Methods, ", ")), " · ")))
	d.drawColumns(b)
	d.drawScale(b)
	left, bytes := d.drawBars(b)
	d.drawLines(b)
	y := plotTop + plotHeight + 68
	x := leftEdge
	for _, l := range legend {
		fmt.Fprintf(b, `<rect class="%s" x="%d" y="%d" width="14" height="12"/><text x="%d" y="%d">%s</text>`+"\n", l.class, x, y-10, x+19, y, l.text)
		x += 44 + len(l.text)*11/2
	}
	if left > 0 {
		fmt.Fprintf(b, `<text class="q" x="%d" y="%d">%s too small or too short to be seen are left out, the largest of %s.</text>`+"\n",
			leftEdge, y+18, printable.Count(left, "buffer"), bytesize.Format(bytes))
	}
}

// drawColumns draws a column for each row with its name, as far as there is room.
func (d *panel) drawColumns(b *strings.Builder) {
	const bottom = plotTop + plotHeight
	for i, row := range d.rows {
		x, w := d.edges[i], d.edges[i+1]-d.edges[i]
		fmt.Fprintf(b, `<rect class="b" fill-opacity="%d" x="%.1f" y="%d" width="%.1f" height="%d"><title>unit %s: %s, %s, %s; %s; alive at most %s%s</title></rect>`+"\n",
			i%2, x, headArea, w, namesArea+plotHeight, rowColumns[0].cell(row), escape(row.Modules), row.Part, row.How,
			printable.Count(row.Steps, "step"), bytesize.Format(row.Alive), escape(because(row.Why)))
		if w >= 12 {
			fmt.Fprintf(b, `<text transform="translate(%.1f %d)rotate(-90)">%s</text>`+"\n", x+w/2+4, plotTop-6, escape(shorten(row.Modules, 25)))
		}
		if w >= 22 {
			fmt.Fprintf(b, `<text class="q m" x="%.1f" y="%d">%s</text>`+"\n", x+w/2, bottom+14, rowColumns[0].cell(row))
		}
	}
	fmt.Fprintf(b, `<text class="q e" x="%d" y="%d">unit</text>`+"\n", leftEdge-6, bottom+14)
	fmt.Fprintf(b, `<text class="q" x="%d" y="%d">%s in order; half of the width goes by the number of steps, half is shared evenly among the columns</text>`+"\n",
		leftEdge, bottom+46, printable.Count(len(d.pass.Plan.Steps), "step"))
}

func because(why []string) string {
	if len(why) == 0 {
		return ""
	}
	return "; " + strings.Join(why, "; ")
}

// drawScale draws lines at round sizes.
func (d *panel) drawScale(b *strings.Builder) {
	step := 1
	for d.top/step > 8 {
		step *= 2
	}
	for at := 0; at <= d.top; at += step {
		y := d.y(at)
		fmt.Fprintf(b, `<path class="l" d="M%d %.1fH%d"/><text class="q e" x="%d" y="%.1f">%s</text>`+"\n",
			leftEdge, y, rightEdge, leftEdge-6, y+4, bytesize.Format(at))
	}
}

// bar is a buffer on the picture.
type bar struct {
	buffer     int
	x, y, w, h float64
}

// drawBars draws the buffers, and returns how many it left out and the size of the largest of them.
func (d *panel) drawBars(b *strings.Builder) (left, largest int) {
	var bars []bar
	for i, buf := range d.pass.Plan.Buffers {
		if buf.External || buf.Bytes == 0 {
			continue
		}
		first, last := d.r.life(buf)
		x, y := d.x(first), d.y(buf.Offset+buf.Bytes)
		bars = append(bars, bar{i, x, y, d.x(last+1) - x, d.y(buf.Offset) - y})
	}
	slices.SortStableFunc(bars, func(a, b bar) int { return cmp.Compare(b.w*b.h, a.w*a.h) })
	for i, r := range bars {
		buf := d.pass.Plan.Buffers[r.buffer]
		if i >= d.bars || r.w < leastSide || r.h < leastSide {
			left++
			largest = max(largest, buf.Bytes)
			continue
		}
		kind := d.role(buf)
		fmt.Fprintf(b, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s</title></rect>`+"\n",
			legend[kind].class, r.x, r.y, r.w, r.h, escape(d.title(buf)))
		if room := int((r.w - 6) / 6.4); r.h >= 13 && room >= 8 {
			class := "i"
			if kind == ringOfValues || kind == ringOfGradients {
				class = "d"
			}
			text := bytesize.Format(buf.Bytes)
			if n := maker(buf); n != nil && room > len(text)+6 {
				text = shorten(module(n), room-len(text)-1) + " " + text
			}
			fmt.Fprintf(b, `<text class="%s" x="%.1f" y="%.1f">%s</text>`+"\n", class, r.x+3, r.y+r.h/2+4, escape(text))
		}
	}
	return left, largest
}

// maker is the node that computes the last value of a buffer, nil for inputs.
func maker(b plan.Buffer) *ir.Node { return b.Values[len(b.Values)-1].Def }

func (d *panel) role(b plan.Buffer) role {
	v := b.Values[len(b.Values)-1]
	ring := b.Planes > 0 && b.Planes < v.Shape()[1]
	gradient := v.Def != nil && d.r.gradient[v.Def]
	switch {
	case !v.HasDepth():
		return withoutDepth
	case ring && gradient:
		return ringOfGradients
	case ring:
		return ringOfValues
	case gradient:
		return keptGradient
	}
	return keptValue
}

// title says all of a buffer.
func (d *panel) title(b plan.Buffer) string {
	v := b.Values[len(b.Values)-1]
	s := fmt.Sprintf("%s, %s", valueName(v), bytesize.Format(b.Bytes))
	if n := len(b.Values); n > 1 {
		s += fmt.Sprintf(", and %s before it in the same place", printable.Count(n-1, "value"))
	}
	if b.Planes > 0 && v.HasDepth() && b.Planes < v.Shape()[1] {
		s += fmt.Sprintf(", %d of %d planes", b.Planes, v.Shape()[1])
	}
	first, last := d.r.life(b)
	return fmt.Sprintf("%s, %v, steps %d to %d, at %s", s, v.Shape(), first, last, bytesize.Format(b.Offset))
}

// drawLines marks the budget and the fullest step.
func (d *panel) drawLines(b *strings.Builder) {
	mark := func(bytes int, text string) {
		y := d.y(bytes)
		fmt.Fprintf(b, `<path class="x" d="M%d %.1fH%d"/><text class="y e" x="%d" y="%.1f">%s</text>`+"\n", leftEdge, y, rightEdge, rightEdge, y-4, text)
	}
	switch p := d.pass; {
	case p.Budget > 0 && p.Budget <= d.top:
		mark(p.Budget, fmt.Sprintf("budget %s; the plan needs %s", bytesize.Format(p.Budget), bytesize.Format(p.Plan.Peak)))
	case p.Budget > 0:
		mark(p.Plan.Peak, fmt.Sprintf("the plan needs %s; the budget of %s is far above", bytesize.Format(p.Plan.Peak), bytesize.Format(p.Budget)))
	default:
		mark(p.Plan.Peak, "the plan needs "+bytesize.Format(p.Plan.Peak))
	}
	full := 0
	for i, bytes := range d.r.alive {
		if bytes > d.r.alive[full] {
			full = i
		}
	}
	if len(d.r.alive) == 0 {
		return
	}
	x := (d.x(full) + d.x(full+1)) / 2
	anchor, dx := "", 8.0
	if x > width*2/3 {
		anchor, dx = " e", -8
	}
	const bottom = plotTop + plotHeight
	fmt.Fprintf(b, `<path class="y" d="M%.1f %dl-5 9h10z"/><text class="y%s" x="%.1f" y="%d">fullest here: %s in use at once</text>`+"\n",
		x, bottom+20, anchor, x+dx, bottom+29, bytesize.Format(d.r.alive[full]))
}
