package report

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"io"
	"io/fs"
	"maps"
	"math"
	"slices"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/voxcam/voxcam/cam"
)

// TimelineFile is the file of a session that has a line of JSON, a Moment, for each second or so of its runs. It is appended to while
// a run goes on, and the only file of a session that may end in the middle of a line.
const TimelineFile = "reports/memory_timeline.jsonl"

const timelinePlot = "summaries/memory_timeline.png"

// Moment is a line of the timeline: the figures of that time, or something that happened.
type Moment struct {
	Time   time.Time `json:"time"`
	Run    string    `json:"run,omitempty"`    // Begun or Ended
	Sample string    `json:"sample,omitempty"` // the sample that is explained

	Figures *Figures      `json:"figures,omitempty"`
	Event   cam.EventKind `json:"incident,omitempty"`
	Text    string        `json:"text,omitempty"` // of the event
}

// Values of Moment.Run. A run that was killed has no end.
const (
	Begun = "begun"
	Ended = "ended"
)

// Figures are the use of memory at one time, in bytes; 0 stands for unknown, or none.
type Figures struct {
	GPUTotal       int `json:"gpu_total_bytes,omitempty"`
	GPUUsed        int `json:"gpu_used_bytes,omitempty"` // by all processes
	GPUFree        int `json:"gpu_free_bytes,omitempty"`
	GPUUtilization int `json:"gpu_utilization_percent,omitempty"`

	Reserved  int `json:"reserved_bytes,omitempty"`  // by this session, of the GPU's memory
	Allocated int `json:"allocated_bytes,omitempty"` // of them
	Overhead  int `json:"overhead_bytes,omitempty"`  // by this session besides: context, kernels, libraries

	HostAvailable int `json:"host_available_bytes,omitempty"`
	Resident      int `json:"resident_bytes,omitempty"`        // of the host's memory, by this process
	Worker        int `json:"worker_resident_bytes,omitempty"` // and by the one that has the device

	Budget int       `json:"budget_bytes,omitempty"`
	Level  cam.Level `json:"level,omitempty"`
	State  string    `json:"state,omitempty"` // of the device
}

// ours returns the bytes of the GPU's memory that the session has.
func (f *Figures) ours() int { return f.Reserved + f.Overhead }

func (f *Figures) others() int { return max(f.GPUUsed-f.ours(), 0) }

// Extremes are the largest and smallest figures of a timeline.
type Extremes struct {
	Runs           int     `json:"runs"`
	Seconds        float64 `json:"seconds"` // of all runs
	Figures        int     `json:"figures"`
	GPUTotal       int     `json:"gpu_total_bytes"`
	LeastFree      int     `json:"least_gpu_free_bytes"`
	MostOurs       int     `json:"most_gpu_bytes"`
	MostOthers     int     `json:"most_gpu_bytes_of_others"`
	MostResident   int     `json:"most_resident_bytes"` // of both processes together
	LeastAvailable int     `json:"least_host_available_bytes"`
}

// mostLines bounds a timeline: a run thins it out long before.
const mostLines = 1 << 16

// ReadTimeline reads the timeline in a session's folder. A line that a crash has torn is passed over; a file that does not exist is empty.
func ReadTimeline(folder fs.FS) ([]Moment, error) {
	f, err := folder.Open(TimelineFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []Moment
	lines := bufio.NewReaderSize(f, 1<<16)
	for n := 0; ; n++ {
		if n == mostLines {
			return nil, fmt.Errorf("%s: more than %d lines, which no run writes: remove it", TimelineFile, mostLines)
		}
		line, err := lines.ReadSlice('\n')
		var m Moment
		if err == nil && json.Unmarshal(bytes.TrimSpace(line), &m) == nil && !m.Time.IsZero() {
			out = append(out, m)
		}
		switch {
		case err == nil || errors.Is(err, bufio.ErrBufferFull): // a line that long is none of ours
		case errors.Is(err, io.EOF):
			return out, nil
		default:
			return nil, err
		}
	}
}

// runs splits a timeline into runs.
func runs(moments []Moment) (out [][]Moment) {
	for i, m := range moments {
		if i == 0 || m.Run == Begun {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], m)
	}
	return out
}

// extremes returns the extremes of a timeline; nil if it has no figures.
func extremes(moments []Moment) *Extremes {
	e := &Extremes{}
	least := func(to *int, x int) {
		if x > 0 && (*to == 0 || x < *to) {
			*to = x
		}
	}
	for _, run := range runs(moments) {
		e.Runs++
		e.Seconds += span(run)
		for _, m := range run {
			f := m.Figures
			if f == nil {
				continue
			}
			e.Figures++
			if f.GPUTotal > 0 {
				if e.GPUTotal == 0 || f.GPUFree < e.LeastFree {
					e.LeastFree = f.GPUFree
				}
				e.GPUTotal = f.GPUTotal
				e.MostOthers = max(e.MostOthers, f.others())
			}
			e.MostOurs = max(e.MostOurs, f.ours())
			e.MostResident = max(e.MostResident, f.Resident+f.Worker)
			least(&e.LeastAvailable, f.HostAvailable)
		}
	}
	if e.Figures == 0 {
		return nil
	}
	return e
}

// curve is a line of a panel of the timeline.
type curve struct {
	name  string
	value func(*Figures) int
}

// panels of the picture. A panel whose curves have no values is left out.
var panels = []struct {
	title  string
	known  func(*Figures) bool
	curves []curve
}{
	{"Memory of the GPU", func(f *Figures) bool { return f.GPUTotal > 0 }, []curve{
		{"free", func(f *Figures) int { return f.GPUFree }},
		{"this session", (*Figures).ours},
		{"others", (*Figures).others}}},
	{"Memory of the host, by this session", func(*Figures) bool { return true }, []curve{
		{"this process", func(f *Figures) int { return f.Resident }},
		{"the device's process", func(f *Figures) int { return f.Worker }}}},
}

// WriteTimelinePlot draws memory over the time of a session's runs. Between two runs there is a gap with how long it was. Events are
// marked at the top.
func WriteTimelinePlot(w io.Writer, moments []Moment, dpi int) error {
	axis := newAxis(runs(moments))
	var grid [][]*plot.Plot
	for _, p := range panels {
		drawn, err := axis.panel(p.title, p.known, p.curves)
		if err != nil {
			return err
		}
		if drawn != nil {
			grid = append(grid, []*plot.Plot{drawn})
		}
	}
	if grid == nil {
		none := plot.New()
		none.HideAxes()
		none.Title.Text = "no figures of memory"
		grid = [][]*plot.Plot{{none}}
	}
	return writePanels(w, grid, 9*vg.Inch, legendRoom, dpi)
}

// legendRoom is the width of the legend.
const legendRoom = 1.9 * vg.Inch

// axis maps the times of runs to one axis, on which the gap between two runs is short.
type axis struct {
	runs   [][]Moment
	starts []float64 // of each run, in units
	gaps   []string  // idle time before each run, in words
	unit   string
	second float64 // in units
	length float64
}

func newAxis(runs [][]Moment) *axis {
	a := &axis{runs: runs, unit: "seconds", second: 1}
	total := 0.0
	for _, run := range runs {
		total += span(run)
	}
	switch {
	case total > 2*3600:
		a.unit, a.second = "hours", 1.0/3600
	case total > 2*60:
		a.unit, a.second = "minutes", 1.0/60
	}
	gap := 0.03 * max(total, 1) * a.second
	at := 0.0
	for i, run := range runs {
		text := ""
		if i > 0 {
			between := run[0].Time.Sub(last(runs[i-1]))
			text = between.Round(time.Second).String() + " later"
			at += gap
		}
		a.starts, a.gaps = append(a.starts, at), append(a.gaps, text)
		at += span(run) * a.second
	}
	a.length = max(at, a.second)
	return a
}

// span returns the seconds that a run took.
func span(run []Moment) float64 { return max(last(run).Sub(run[0].Time).Seconds(), 0) }

// last returns the latest time of a run. Events are written a little after they happened, so that lines are not quite in order.
func last(run []Moment) time.Time {
	return slices.MaxFunc(run, func(a, b Moment) int { return a.Time.Compare(b.Time) }).Time
}

func (a *axis) at(run int, t time.Time) float64 {
	return a.starts[run] + max(t.Sub(a.runs[run][0].Time).Seconds(), 0)*a.second
}

// panel draws curves over the times whose figures are known; nil if there is nothing to draw.
func (a *axis) panel(title string, known func(*Figures) bool, curves []curve) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.Y.Label.Text, p.X.Label.Text = title, "GiB", a.unit+" of running"
	p.Add(plotter.NewGrid())
	top := 0.0
	for i, c := range curves {
		named := false
		for r, run := range a.runs {
			var points plotter.XYs
			some := false
			for _, m := range run {
				if m.Figures != nil && known(m.Figures) {
					value := c.value(m.Figures)
					some = some || value != 0
					points = append(points, plotter.XY{X: a.at(r, m.Time), Y: gib(value)})
					top = max(top, gib(value))
				}
			}
			if !some {
				continue
			}
			line, err := plotter.NewLine(points)
			if err != nil {
				return nil, err
			}
			line.Color, line.Width = palette[i%len(palette)], vg.Points(1.2)
			p.Add(line)
			if !named {
				p.Legend.Add(c.name, line)
				named = true
			}
		}
	}
	if top == 0 {
		return nil, nil
	}
	if err := a.events(p, top*1.05); err != nil {
		return nil, err
	}
	if err := a.breaks(p, top); err != nil {
		return nil, err
	}
	p.X.Min, p.X.Max = 0, a.length
	p.Y.Min, p.Y.Max = 0, top*1.1
	p.Legend.Top, p.Legend.XOffs = true, legendRoom-vg.Points(8) // beside the panel
	return p, nil
}

// mostKinds bounds the kinds of events in the legend.
const mostKinds = 16

// events marks events at a height, each kind with its own mark.
func (a *axis) events(p *plot.Plot, y float64) error {
	marks := map[cam.EventKind]plotter.XYs{}
	for r, run := range a.runs {
		for _, m := range run {
			if m.Event != "" {
				marks[m.Event] = append(marks[m.Event], plotter.XY{X: a.at(r, m.Time), Y: y})
			}
		}
	}
	shapes := []draw.GlyphDrawer{draw.PyramidGlyph{}, draw.BoxGlyph{}, draw.CrossGlyph{}}
	kinds := slices.Sorted(maps.Keys(marks))
	for i, kind := range kinds[:min(len(kinds), mostKinds)] {
		n := len(palette) - 1 - i%len(palette) // from the end, away from the colours of the curves
		style := draw.GlyphStyle{Color: palette[n], Shape: shapes[i%len(shapes)], Radius: vg.Points(3)}
		if err := addPoints(p, marks[kind], fmt.Sprintf("%s (%d)", kind, len(marks[kind])), style); err != nil {
			return err
		}
	}
	return nil
}

// breaks draws a line where a run continued the session.
func (a *axis) breaks(p *plot.Plot, top float64) error {
	const most = 12 // more breaks would make their texts unreadable
	texts := plotter.XYLabels{}
	for i := 1; i < len(a.runs); i++ {
		x := a.starts[i]
		line, err := plotter.NewLine(plotter.XYs{{X: x, Y: 0}, {X: x, Y: top}})
		if err != nil {
			return err
		}
		line.Color, line.Width, line.Dashes = color.Gray{150}, vg.Points(0.7), []vg.Length{vg.Points(3), vg.Points(3)}
		p.Add(line)
		texts.XYs, texts.Labels = append(texts.XYs, plotter.XY{X: x, Y: top}), append(texts.Labels, a.gaps[i])
	}
	if len(texts.Labels) == 0 || len(texts.Labels) > most {
		return nil
	}
	labels, err := plotter.NewLabels(texts)
	if err != nil {
		return err
	}
	for i := range labels.TextStyle {
		labels.TextStyle[i].Font.Size = vg.Points(7)
		labels.TextStyle[i].Rotation = -math.Pi / 2
	}
	p.Add(labels)
	return nil
}

// Thin leaves out every second line of figures of a timeline, and of events where they alone are more than half of most. The choice does not
// depend on values, so that a picture of the rest is fair.
func Thin(moments []Moment, most int) []Moment {
	events := 0
	for _, m := range moments {
		if m.Event != "" {
			events++
		}
	}
	odd := map[bool]bool{}
	return slices.DeleteFunc(slices.Clone(moments), func(m Moment) bool {
		of := m.Event != ""
		if m.Run != "" || of && events <= most/2 {
			return false
		}
		odd[of] = !odd[of]
		return !odd[of]
	})
}
