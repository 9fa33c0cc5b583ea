package monitor

import "time"

// History remembers the memory of GPUs over the last minutes.
type History struct {
	window time.Duration
	points map[string][]point // by UUID, oldest first
}

// point is the memory of a GPU at a time, in bytes; -1 is unknown.
type point struct {
	at         time.Time
	free, ours int
}

// NewHistory returns a history that reaches back by window.
func NewHistory(window time.Duration) *History {
	return &History{window: window, points: map[string][]point{}}
}

// Add remembers a look, and forgets looks that have become too old.
func (h *History) Add(l Look) {
	for _, g := range l.GPUs {
		p := point{l.Time, g.TrulyFree, g.Reserved}
		if p.free < 0 { // then the processes' shares are not known either
			p.ours = -1
		}
		list := append(h.points[g.UUID], p)
		for len(list) > 0 && l.Time.Sub(list[0].at) > h.window {
			list = list[1:]
		}
		h.points[g.UUID] = list
	}
}

// blocks are columns of one eighth of a cell to a whole cell.
var blocks = []rune(" ▁▂▃▄▅▆▇█")

// plot draws values over time in columns of equal duration, the newest at the right, and rows of eight steps each. It returns the rows from
// top to bottom, and the values of the lowest and the highest step. Of several points in one column, worse chooses one. rows is nil if there
// is no point.
func plot(points []point, now time.Time, window time.Duration, columns, rows int, value func(point) int, worse func(a, b int) int) (out [][]rune, low, high int) {
	if columns < 1 || rows < 1 {
		return nil, 0, 0
	}
	// Columns begin at multiples of their duration, so that the plot moves and does not flicker.
	each := max((window+time.Duration(columns)-1)/time.Duration(columns), time.Millisecond)
	newest := now.UnixNano() / int64(each)
	values := make([]int, columns)
	for i := range values {
		values[i] = -1
	}
	low, high = -1, -1
	for _, p := range points {
		v := value(p)
		taken := now.Add(-now.Sub(p.at)) // by the clock of now, which may have been set since
		at := columns - 1 - int(newest-taken.UnixNano()/int64(each))
		if v < 0 || at < 0 || at >= columns {
			continue
		}
		if values[at] >= 0 {
			v = worse(values[at], v)
		}
		values[at] = v
	}
	last := -1
	for at, v := range values {
		if v < 0 { // an interval longer than a column makes gaps
			values[at] = last
			continue
		}
		last = v
		if low < 0 || v < low {
			low = v
		}
		high = max(high, v)
	}
	if high < 0 {
		return nil, 0, 0
	}
	if low < high/2 || low == high {
		low = 0
	}
	steps := len(blocks) - 1
	for row := rows - 1; row >= 0; row-- {
		line := make([]rune, columns)
		for at, v := range values {
			filled := 0
			switch {
			case v < 0:
			case high == low:
				filled = 1
			default:
				filled = 1 + int(float64(v-low)/float64(high-low)*float64(rows*steps-1)+0.5)
			}
			line[at] = blocks[min(max(filled-row*steps, 0), steps)]
		}
		out = append(out, line)
	}
	return out, low, high
}
