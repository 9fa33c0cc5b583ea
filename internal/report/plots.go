package report

import (
	"fmt"
	"image/color"
	"io"
	"maps"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/voxcam/voxcam/internal/printable"
)

// palette is Okabe and Ito's, made for colour-blind readers.
var palette = []color.Color{
	color.RGBA{0, 114, 178, 255}, color.RGBA{230, 159, 0, 255}, color.RGBA{0, 158, 115, 255}, color.RGBA{204, 121, 167, 255},
	color.RGBA{86, 180, 233, 255}, color.RGBA{213, 94, 0, 255}, color.RGBA{240, 228, 66, 255}, color.RGBA{90, 90, 90, 255},
}

// DPI is the usual resolution of the plots in dots per inch.
const DPI = 300

const barWidth = vg.Length(24)

// WriteSummaryPlot writes analysis_summary.png: accuracy and time by split, samples by class, activations by method.
func WriteSummaryPlot(w io.Writer, o *Overall, dpi int) error {
	splits := splitNames(o)
	accuracy, seconds := make([]float64, len(splits)), make([]float64, len(splits))
	for i, name := range splits {
		accuracy[i], seconds[i] = value(o.Splits[name].Accuracy), value(o.Splits[name].Seconds)
	}
	a, err := bars("Accuracy", "share of right predictions", splits, []series{{values: accuracy}})
	if err != nil {
		return err
	}
	a.Y.Min, a.Y.Max = 0, headroom

	var classes []series
	for _, name := range splits {
		counts := make([]float64, len(o.Model.ClassNames))
		for i, class := range o.Model.ClassNames {
			counts[i] = float64(o.Splits[name].ClassDistribution[class])
		}
		classes = append(classes, series{name, counts})
	}
	c, err := bars("Samples by true class", "samples", o.Model.ClassNames, classes)
	if err != nil {
		return err
	}

	keys := heatmapKeys(o)
	var maxima []series
	for _, name := range splits {
		values := make([]float64, len(keys))
		for i, key := range keys {
			values[i] = math.NaN()
			if h := o.Splits[name].Heatmaps[key]; h != nil {
				values[i] = h.AvgMax
			}
		}
		maxima = append(maxima, series{name, values})
	}
	h, err := logBars("Average maximum of the signed maps", keys, maxima)
	if err != nil {
		return err
	}

	t, err := bars("Average time a sample", "seconds", splits, []series{{values: seconds}})
	if err != nil {
		return err
	}
	return writeGrid(w, [][]*plot.Plot{{a, c}, {h, t}}, dpi)
}

// WriteDetailPlot writes heatmap_detailed_analysis.png: mean against maximum of each sample's map, one panel a method.
func WriteDetailPlot(w io.Writer, o *Overall, samples []*Sample, dpi int) error {
	keys := heatmapKeys(o)
	columns := 2
	if len(keys) <= 1 {
		columns = 1
	}
	const most = 16 // panels that can still be read
	if len(keys) > most {
		keys = keys[:most]
	}
	var grid [][]*plot.Plot
	for i := 0; i < max(len(keys), 1); i += columns {
		row := make([]*plot.Plot, columns)
		for j := range row {
			row[j] = plot.New()
			if i+j >= len(keys) {
				row[j].HideAxes()
				if len(keys) == 0 {
					row[j].Title.Text = "no sample has a map"
				}
				continue
			}
			if err := scatter(row[j], keys[i+j], o, samples); err != nil {
				return err
			}
		}
		grid = append(grid, row)
	}
	return writeGrid(w, grid, dpi)
}

func scatter(p *plot.Plot, key string, o *Overall, samples []*Sample) error {
	p.Title.Text = printable.Short(key, mostLabel)
	p.X.Label.Text, p.Y.Label.Text = "mean of the signed map", "maximum of the signed map"
	// One glyph colour a class, in the order of the classes.
	byClass := make([]plotter.XYs, o.Model.Classes)
	for _, s := range samples {
		h, ok := s.Statistics[key]
		if ok && s.TrueClass != nil && inRange(*s.TrueClass, o.Model.Classes) {
			byClass[*s.TrueClass] = append(byClass[*s.TrueClass], plotter.XY{X: h.Mean, Y: h.Max})
		}
	}
	for class, points := range byClass {
		if len(points) == 0 {
			continue
		}
		style := draw.GlyphStyle{Color: palette[class%len(palette)], Shape: draw.CircleGlyph{}, Radius: vg.Points(3)}
		if err := addPoints(p, points, o.Model.ClassNames[class], style); err != nil {
			return err
		}
	}
	p.Legend.Top, p.Legend.Left = true, true
	p.Y.Max += (headroom - 1) * (p.Y.Max - p.Y.Min)
	p.Add(plotter.NewGrid())
	return nil
}

// addPoints adds points of one style to a plot, and their name to its legend.
func addPoints(p *plot.Plot, points plotter.XYs, name string, style draw.GlyphStyle) error {
	s, err := plotter.NewScatter(points)
	if err != nil {
		return err
	}
	s.GlyphStyle = style
	p.Add(s)
	p.Legend.Add(printable.Short(name, mostLabel), s)
	return nil
}

// headroom keeps the legend clear of the data.
const headroom = 1.25

type series struct {
	name   string
	values []float64 // NaN: no bar
}

// bars draws groups of bars. Values that do not exist are left out and, where a group has one bar, marked n/a.
func bars(title, unit string, labels []string, groups []series) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.Y.Label.Text = title, unit
	p.Y.Min = 0
	marks := plotter.XYLabels{}
	for i, g := range groups {
		values := make(plotter.Values, len(g.values))
		offset := (float64(i) - float64(len(groups)-1)/2)
		for k, v := range g.values {
			mark := plotter.XY{X: float64(k)}
			text := "n/a"
			if !math.IsNaN(v) {
				values[k], mark.Y, text = v, v, fmt.Sprintf("%.3g", v)
			}
			if len(groups) == 1 {
				marks.XYs, marks.Labels = append(marks.XYs, mark), append(marks.Labels, text)
			}
		}
		if len(values) == 0 {
			continue
		}
		b, err := plotter.NewBarChart(values, barWidth/vg.Length(len(groups)))
		if err != nil {
			return nil, err
		}
		b.Color = palette[i%len(palette)]
		b.LineStyle.Width = 0
		b.Offset = vg.Length(offset) * b.Width
		p.Add(b)
		if g.name != "" {
			p.Legend.Add(g.name, b)
		}
	}
	if len(marks.Labels) > 0 {
		l, err := plotter.NewLabels(marks)
		if err != nil {
			return nil, err
		}
		for i := range l.TextStyle {
			l.TextStyle[i].XAlign = draw.XCenter
		}
		l.Offset.Y = vg.Points(3)
		p.Add(l)
	}
	p.Legend.Top = true
	tilt(p, labels)
	p.X.Min, p.X.Max = -0.6, max(float64(len(labels))-0.4, 0.6)
	p.Y.Max *= headroom
	return p, nil
}

// logBars shows maxima of methods by their logarithm, as points, since their scales differ by powers of ten.
func logBars(title string, labels []string, groups []series) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.Y.Label.Text = title, "log10 of the maximum"
	for i, g := range groups {
		var points plotter.XYs
		for k, v := range g.values {
			if v > 0 {
				offset := 0.1 * (float64(i) - float64(len(groups)-1)/2)
				points = append(points, plotter.XY{X: float64(k) + offset, Y: math.Log10(v)})
			}
		}
		if len(points) == 0 {
			continue
		}
		style := draw.GlyphStyle{Color: palette[i%len(palette)], Shape: draw.CircleGlyph{}, Radius: vg.Points(4)}
		if err := addPoints(p, points, g.name, style); err != nil {
			return nil, err
		}
	}
	p.Legend.Top = true
	p.Add(plotter.NewGrid())
	tilt(p, labels)
	p.X.Min, p.X.Max = -0.6, max(float64(len(labels))-0.4, 0.6)
	p.Y.Max += (headroom - 1) * (p.Y.Max - p.Y.Min)
	return p, nil
}

// mostLabel bounds the letters of a name in a plot.
const mostLabel = 60

// tilt labels the groups; many or long names are set at an angle.
func tilt(p *plot.Plot, labels []string) {
	if len(labels) == 0 {
		return
	}
	total := 0
	for _, l := range labels {
		total += min(len(l), mostLabel)
	}
	shown := make([]string, len(labels))
	for i, l := range labels {
		shown[i] = printable.Short(l, mostLabel)
	}
	p.NominalX(shown...)
	if total > 48 {
		p.X.Tick.Label.Rotation = math.Pi / 7
		p.X.Tick.Label.XAlign, p.X.Tick.Label.YAlign = draw.XRight, draw.YCenter
	}
}

// heatmapKeys returns the keys of all maps of a session.
func heatmapKeys(o *Overall) []string {
	all := map[string]*HeatmapSum{}
	for _, s := range o.Splits {
		maps.Copy(all, s.Heatmaps)
	}
	return slices.Sorted(maps.Keys(all))
}

func value(x *float64) float64 {
	if x == nil {
		return math.NaN()
	}
	return *x
}

// writeGrid draws plots in rows of equal length as PNG.
func writeGrid(w io.Writer, grid [][]*plot.Plot, dpi int) error {
	return writePanels(w, grid, 5.5*vg.Inch, vg.Points(8), dpi)
}

// writePanels is writeGrid for panels of a width, with room at their right.
func writePanels(w io.Writer, grid [][]*plot.Plot, panelWidth, right vg.Length, dpi int) error {
	const panelHeight = 4 * vg.Inch
	rows, columns := len(grid), len(grid[0])
	width, height := panelWidth*vg.Length(columns), panelHeight*vg.Length(rows)
	tiles := draw.Tiles{Rows: rows, Cols: columns, PadX: vg.Points(18), PadY: vg.Points(18),
		PadTop: vg.Points(8), PadBottom: vg.Points(8), PadLeft: vg.Points(8), PadRight: right}
	var panels [][]draw.Canvas
	return writeBands(w, width, height, dpi, func(canvas vg.Canvas, bottom, top vg.Length) {
		if panels == nil {
			panels = plot.Align(grid, tiles, draw.NewCanvas(canvas, width, height))
		}
		for i, row := range panels {
			for j, c := range row {
				if c.Min.Y-tiles.PadY < top && c.Max.Y+tiles.PadY > bottom { // some texts reach a little beyond
					grid[i][j].Draw(c)
				}
			}
		}
	})
}
