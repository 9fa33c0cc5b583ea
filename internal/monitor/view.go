package monitor

import (
	"fmt"
	"strings"
	"time"

	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/gpusurvey"
	"github.com/voxcam/voxcam/internal/printable"
)

// Renderer draws looks for a terminal of one size.
type Renderer struct {
	Width, Height int  // in cells; 0: no limit
	Color         bool // without, text alone tells everything
	Title         string
}

// detail is the amount of information in a frame. Frames that do not fit show less, in this order.
type detail struct {
	graph     int // rows
	processes int // per GPU
	incidents int // per session
	notes     bool
}

var details = []detail{
	{3, 1 << 30, 5, true}, {3, 8, 3, true}, {2, 5, 2, true}, {1, 5, 2, true}, {1, 3, 1, false}, {0, 3, 1, false}, {0, 1, 0, false}, {0, 0, 0, false},
}

// Frame draws a look, with the history of earlier looks, which may be nil. It returns at most Height lines, none wider than Width,
// without line ends.
func (v Renderer) Frame(l Look, h *History) []string {
	width := v.Width
	if width <= 0 {
		width = 1 << 10
	}
	var lines []line
	for _, d := range details {
		if h == nil {
			d.graph = 0
		}
		if lines = v.draw(l, h, d, width); v.Height <= 0 || len(lines) <= v.Height {
			break
		}
	}
	if v.Height > 0 && len(lines) > v.Height {
		hidden := len(lines) - v.Height + 1
		lines = append(lines[:v.Height-1], line{{fmt.Sprintf("%d more lines: make the terminal higher", hidden), dim}})
	}
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = l.render(width, v.Color)
	}
	return out
}

func (v Renderer) draw(l Look, h *History, d detail, width int) (out []line) {
	out = append(out, line{{l.Time.Format("15:04:05"), bold}, {"  " + v.Title, dim}})
	if len(l.GPUs) == 0 {
		out = append(out, text("no GPU is seen"))
	}
	for _, g := range l.GPUs {
		out = append(out, gpu(g, d, width)...)
		if d.graph > 0 {
			out = append(out, graphs(g, h, l.Time, d.graph, width)...)
		}
	}
	if l.Host.Total > 0 && l.Host.Free >= 0 {
		out = append(out, text(fmt.Sprintf("host  %s of %s free ", bytesize.Format(l.Host.Free), bytesize.Format(l.Host.Total))).
			add(l.Host.Health.String(), healthStyle(l.Host.Health)))
	}
	for _, s := range l.Sessions {
		out = append(out, session(s, d, l.Time)...)
	}
	if len(l.Sessions) == 0 {
		out = append(out, line{{"no session of yours is running", dim}})
	}
	if d.notes {
		for _, n := range l.Notes {
			out = append(out, line{{"note: " + n, dim}})
		}
	}
	return out
}

func healthStyle(h gpusurvey.Health) style {
	switch h {
	case gpusurvey.Healthy:
		return green
	case gpusurvey.Caution, gpusurvey.Warning:
		return yellow
	case gpusurvey.Critical:
		return red
	}
	return dim
}

// gpu draws the figures of a GPU and the processes that hold its memory.
func gpu(g gpusurvey.GPU, d detail, width int) (out []line) {
	head := line{{label(g), bold}, {" " + g.Name + "  ", plain}, {g.Health.String(), healthStyle(g.Health)}}
	if g.Utilization >= 0 {
		head = head.add(fmt.Sprintf("  busy %.0f %%", 100*g.Utilization), plain)
	}
	if g.Fragmentation > 0 {
		head = head.add(fmt.Sprintf("  fragmentation %.1f %%", 100*g.Fragmentation), plain)
	}
	out = append(out, head)
	if g.TrulyFree >= 0 && g.Total > 0 {
		figures := fmt.Sprintf(" %s used of %s, %s truly free", bytesize.Format(g.Used), bytesize.Format(g.Total), bytesize.Format(g.TrulyFree))
		cells := min(40, width-len(figures)-4) // the figures are ASCII
		if cells < 10 {
			cells = max(0, min(40, width-4))
			out = append(out, memoryBar(g, cells), text("  "+strings.TrimSpace(figures)))
		} else {
			out = append(out, append(memoryBar(g, cells), piece{figures, plain}))
		}
	}
	if g.Problem != "" {
		out = append(out, line{{"  " + g.Problem, yellow}})
	}
	return append(out, processes(g, d, width)...)
}

// memoryBar shows the shares of a GPU's memory: of this program, of others, and free.
func memoryBar(g gpusurvey.GPU, cells int) line {
	part := func(n int) int { return int(float64(cells)*float64(n)/float64(g.Total) + 0.5) }
	used := min(cells, part(g.Total-g.TrulyFree))
	own := min(used, part(g.Reserved))
	return line{{"  ", plain}, {strings.Repeat("█", own), cyan}, {strings.Repeat("▒", used-own), yellow}, {strings.Repeat("·", cells-used), dim}}
}

// processes returns the table of processes that hold memory, most first.
func processes(g gpusurvey.GPU, d detail, width int) (out []line) {
	if d.processes == 0 || len(g.Processes) == 0 {
		return nil
	}
	name, user := 16, 10
	if width < 80 {
		name, user = 8, 8
	}
	row := func(pid, who, bytes, what, whose string) string {
		return fmt.Sprintf("  %9s  %s  %9s  %s  %s", pid, clip(who, user), bytes, clip(what, name), whose)
	}
	out = append(out, line{{row("pid", "user", "memory", "name", ""), dim}})
	for i, p := range g.Processes {
		if i == d.processes {
			out = append(out, line{{row("", "", "", fmt.Sprintf("%d more", len(g.Processes)-i), ""), dim}})
			break
		}
		pid, bytes, st := fmt.Sprint(p.PID), "not told", plain
		if p.Elsewhere {
			pid += "?"
		}
		if p.Bytes >= 0 {
			bytes = bytesize.Format(p.Bytes)
		}
		whose := ""
		switch {
		case p.Ours:
			whose, st = "session "+p.Session, cyan
		case p.Orphan:
			whose, st = "orphaned worker: see voxcam recover --kill-processes", red
		case p.Program:
			whose, st = "this program", cyan
		case p.Elsewhere:
			whose = "of another container or the host"
		}
		out = append(out, line{{row(pid, p.User, bytes, p.Name, whose), st}})
	}
	if g.Unattributed >= bytesize.MiB {
		out = append(out, line{{row("", "", bytesize.Format(g.Unattributed), "", "not attributed"), dim}})
	}
	return out
}

// graphs draws the free memory and that of this program over the last minutes, side by side where there is room.
func graphs(g gpusurvey.GPU, h *History, now time.Time, rows, width int) (out []line) {
	const margin, gap = 16, 3 // for the scale, and between the two
	each := min(60, width-margin)
	wide := width >= 2*(margin+30)+gap
	if wide {
		each = min(60, (width-2*margin-gap)/2)
	}
	free := curve("free", h, g.UUID, now, each, rows, func(p point) int { return p.free }, func(a, b int) int { return min(a, b) }, green)
	own := curve("ours", h, g.UUID, now, each, rows, func(p point) int { return p.ours }, func(a, b int) int { return max(a, b) }, cyan)
	if !wide || len(own) != len(free) {
		return append(free, own...)
	}
	for i := range free {
		out = append(out, append(free[i].pad(margin+each+gap), own[i]...))
	}
	return out
}

func curve(name string, h *History, uuid string, now time.Time, columns, rows int, value func(point) int, worse func(a, b int) int, st style) (out []line) {
	cells, low, high := plot(h.points[uuid], now, h.window, columns, rows, value, worse)
	for i, row := range cells {
		scale := ""
		switch {
		case len(cells) == 1 || i == 0:
			scale = bytesize.Format(high)
		case i == len(cells)-1:
			scale = bytesize.Format(low)
		}
		what := ""
		if i == 0 {
			what = name
		}
		out = append(out, line{{fmt.Sprintf("%6s %-8s ", what, scale), dim}, {string(row), st}})
	}
	return out
}

func session(s Answer, d detail, now time.Time) (out []line) {
	if s.Problem != "" {
		return []line{{{"session", bold}, {" " + s.Problem, yellow}}}
	}
	head := line{{"session " + s.Session, bold}}
	who := fmt.Sprintf("  process %d", s.PID)
	if s.Worker != 0 && s.Worker != s.PID {
		who += fmt.Sprintf(", worker %d", s.Worker)
	}
	head = head.add(who, dim)
	if s.State != "" {
		head = head.add("  "+s.State, plain)
	}
	out = append(out, head, text("  on "+s.Device+holdings(s)), text("  "+planText(s)))
	if s.Held {
		until := "until it is told to resume"
		if !s.Until.IsZero() {
			until = "until " + s.Until.In(now.Location()).Format("15:04:05")
		}
		out = append(out, line{{"  holds the least that works, as it was asked, " + until, yellow}})
	}
	bar := line{{"  ", plain}}
	if s.Total > 0 {
		const cells = 20
		done := min(cells, cells*s.Done/s.Total)
		bar = bar.add(strings.Repeat("█", done), green).add(strings.Repeat("·", cells-done), dim).add(" ", plain)
	}
	bar = bar.add(progress(s), plain)
	counts := line{{"  ", plain}}
	for i, c := range tallies(s) {
		if i > 0 {
			counts = counts.add(", ", plain)
		}
		st := plain
		if c.n > 0 {
			st = c.style
		}
		counts = counts.add(fmt.Sprintf("%d %s", c.n, c.name), st)
	}
	out = append(out, bar, counts)
	for _, i := range s.Events[max(0, len(s.Events)-d.incidents):] {
		out = append(out, line{{"  " + i.Time.In(now.Location()).Format("15:04:05"), dim}, {fmt.Sprintf(" %s: %s", i.Kind, i.Text), plain}})
	}
	return out
}

// tally returns the number of samples with each status.
type tally struct {
	name  string
	n     int
	style style
}

func tallies(s Answer) []tally {
	return []tally{{"ok", s.OK, green}, {"degraded", s.Degraded, yellow}, {"failed", s.Failed, red}, {"skipped", s.Skipped, red}}
}

// planText describes the plans of a session.
func planText(s Answer) string {
	budget := "budget: the least that works"
	if s.Budget > 0 {
		budget = "budget " + bytesize.Format(s.Budget)
	}
	t := fmt.Sprintf("%s, arena %s", budget, bytesize.Format(s.Arena))
	if s.Level != "" {
		t = fmt.Sprintf("level %s, %s", s.Level, t)
	}
	var plans []string
	for _, p := range s.Plans {
		plans = append(plans, fmt.Sprintf("%s %s", p.Pass, bytesize.Format(p.Bytes)))
	}
	if len(plans) > 0 {
		t += " (" + strings.Join(plans, ", ") + ")"
	}
	return t
}

// holdings describes the memory of a session.
func holdings(s Answer) string {
	if s.Usage.Reserved+s.Usage.Overhead == 0 {
		return ""
	}
	return fmt.Sprintf(", holds %s, uses %s", bytesize.Format(s.Usage.Reserved+s.Usage.Overhead), bytesize.Format(s.Usage.Allocated))
}

// progress describes the progress of a session.
func progress(s Answer) string {
	t := fmt.Sprintf("%d of %s", s.Done, printable.Count(s.Total, "sample"))
	if s.LeftSeconds > 0 {
		t += fmt.Sprintf(", %s left", (time.Duration(s.LeftSeconds) * time.Second).String())
	}
	if s.Sample != "" {
		t += "; " + s.Split + "/" + s.Sample
		if s.PassesTotal > 0 {
			t += fmt.Sprintf(", pass %d of %d", s.Passes, s.PassesTotal)
		}
	}
	return t
}
