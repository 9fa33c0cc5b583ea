package monitor

import (
	"io"
	"strings"
)

// Screen is a terminal that shows one frame after another, apart from its earlier contents.
type Screen struct {
	w    io.Writer
	open bool
}

// Commands of terminals since xterm: the alternate screen, the cursor, and lines that are cut rather than wrapped.
const (
	enter     = "\x1b[?1049h\x1b[?25l\x1b[?7l"
	leave     = "\x1b[?7h\x1b[?25h\x1b[?1049l"
	home      = "\x1b[H"
	clearLine = "\x1b[K"
	clearRest = "\x1b[J"
)

// NewScreen takes the terminal over, until Close.
func NewScreen(w io.Writer) (*Screen, error) {
	_, err := io.WriteString(w, enter)
	return &Screen{w, true}, err
}

// Draw shows a frame. It is written in one piece and over the last frame, so that nothing flickers.
func (s *Screen) Draw(frame []string) error {
	_, err := io.WriteString(s.w, home+strings.Join(frame, clearLine+"\r\n")+clearLine+clearRest)
	return err
}

// Close gives the terminal back as it was. Further calls do nothing.
func (s *Screen) Close() error {
	if !s.open {
		return nil
	}
	s.open = false
	_, err := io.WriteString(s.w, leave)
	return err
}
