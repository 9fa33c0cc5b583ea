package monitor

import (
	"strings"

	"github.com/rivo/uniseg"

	"github.com/voxcam/voxcam/internal/printable"
)

// style is the look of a piece of text, as SGR parameters of a terminal (ECMA-48).
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
)

// piece is text of one style.
type piece struct {
	text  string
	style style
}

// line is one row of a view.
type line []piece

func text(s string) line { return line{{s, plain}} }

func (l line) add(s string, st style) line { return append(l, piece{s, st}) }

// width returns the number of cells that a line takes.
func (l line) width() int {
	n := 0
	for _, p := range l {
		n += uniseg.StringWidth(printable.Line(p.text))
	}
	return n
}

// pad fills a line up with blanks.
func (l line) pad(width int) line {
	if missing := width - l.width(); missing > 0 {
		return l.add(strings.Repeat(" ", missing), plain)
	}
	return l
}

// render makes a line at most that many cells wide. A cut ends with an ellipsis.
func (l line) render(width int, color bool) string {
	var b strings.Builder
	room := width
	cut := l.width() > width
	if cut {
		room--
	}
	for _, p := range l {
		if room <= 0 {
			break
		}
		s, cells := fit(printable.Line(p.text), room)
		room -= cells
		if color && p.style != plain && s != "" {
			b.WriteString("\x1b[" + string(p.style) + "m" + s + "\x1b[0m")
		} else {
			b.WriteString(s)
		}
		if s != printable.Line(p.text) {
			break
		}
	}
	if cut && width > 0 {
		b.WriteString("…")
	}
	if color {
		return b.String()
	}
	return strings.TrimRight(b.String(), " ")
}

// fit returns the beginning of s that has room in that many cells.
func fit(s string, room int) (head string, cells int) {
	rest, state := s, -1
	for len(rest) > 0 {
		var cluster string
		var w int
		cluster, rest, w, state = uniseg.FirstGraphemeClusterInString(rest, state)
		if cells+w > room {
			return head, cells
		}
		head += cluster
		cells += w
	}
	return head, cells
}

// clip returns s cut to that many cells, or filled up with blanks.
func clip(s string, width int) string {
	return text(line{{s, plain}}.render(width, false)).pad(width).String()
}

func (l line) String() string {
	var b strings.Builder
	for _, p := range l {
		b.WriteString(p.text)
	}
	return b.String()
}
