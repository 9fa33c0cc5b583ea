// Package printable keeps names that come from files (cases, classes, layers, paths) from steering a terminal or forging a line of a
// report: control characters, line breaks, marks that turn the direction of text, and bytes that are no UTF-8 are shown as escapes.
// In JSON, which has escapes of its own, names stay as they are. Count prints numbers of things.
package printable

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// short are the escapes that people know.
var short = map[rune]string{'\n': `\n`, '\r': `\r`, '\t': `\t`}

// Line is s with all of that as escapes, also line breaks and tabs: `\n`, `\u001b`, `\x80`. But for the last, which stand for bytes, they
// are those of JSON.
func Line(s string) string {
	if strings.IndexFunc(s, steers) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		escape(&b, r, s[:size])
		s = s[size:]
	}
	return b.String()
}

// Short is a Line of at most that many letters; an omission is marked.
func Short(s string, most int) string {
	letters := []rune(Line(s))
	if len(letters) > most {
		return string(letters[:most-1]) + "…"
	}
	return string(letters)
}

// Count is a number of things with their name, a regular noun that is given in the singular: "1 sample", "2 samples", "0 processes".
func Count(n int, thing string) string {
	switch {
	case n == 1:
		return "1 " + thing
	case strings.HasSuffix(thing, "s"):
		return fmt.Sprintf("%d %ses", n, thing)
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// escape writes a rune, encoded as in text.
func escape(b *strings.Builder, r rune, text string) {
	known, ok := short[r]
	switch {
	case r == utf8.RuneError && len(text) == 1:
		fmt.Fprintf(b, `\x%02x`, text[0])
	case !steers(r):
		b.WriteString(text)
	case ok:
		b.WriteString(known)
	case r < 1<<16:
		fmt.Fprintf(b, `\u%04x`, r)
	default:
		high, low := utf16.EncodeRune(r)
		fmt.Fprintf(b, `\u%04x\u%04x`, high, low)
	}
}

// steers reports whether a rune is no letter, mark, number, punctuation, symbol or space.
func steers(r rune) bool { return !unicode.IsGraphic(r) }

// Fprintf is fmt.Fprintf with each text, error and Stringer as a Line.
func Fprintf(w io.Writer, format string, args ...any) (int, error) {
	return fmt.Fprintf(w, format, lines(args)...)
}

// Sprintf is Fprintf into a string.
func Sprintf(format string, args ...any) string { return fmt.Sprintf(format, lines(args)...) }

// Fprintln is fmt.Fprintln, likewise.
func Fprintln(w io.Writer, args ...any) (int, error) { return fmt.Fprintln(w, lines(args)...) }

func lines(args []any) []any {
	out := make([]any, len(args))
	for i, arg := range args {
		switch x := arg.(type) {
		case string:
			out[i] = Line(x)
		case error:
			out[i] = Line(x.Error())
		case fmt.Stringer:
			out[i] = Line(x.String())
		default:
			out[i] = arg
			if v := reflect.ValueOf(arg); v.Kind() == reflect.String {
				out[i] = Line(v.String())
			}
		}
	}
	return out
}

// Lines returns a text of several lines with all but the first indented, so that a line break within a name never looks like a line of its
// own.
func Lines(s string) string {
	parts := strings.Split(s, "\n")
	for i := range parts {
		parts[i] = Line(parts[i])
		if i > 0 && !strings.HasPrefix(parts[i], " ") {
			parts[i] = "  " + parts[i]
		}
	}
	return strings.Join(parts, "\n")
}

// Writer writes text for people to another one: line breaks and tabs as they are, all else that would steer a terminal as escapes. JSON
// that goes through it stays the same document.
type Writer struct {
	To   io.Writer
	part []byte // of a rune that is not whole yet
}

// Write fails as To does.
func (w *Writer) Write(p []byte) (int, error) {
	text := string(append(w.part, p...))
	w.part = nil
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		if r == utf8.RuneError && size == 1 && !utf8.FullRuneInString(text) {
			w.part = []byte(text)
			break
		}
		if r == '\n' || r == '\t' {
			b.WriteRune(r)
		} else {
			escape(&b, r, text[:size])
		}
		text = text[size:]
	}
	if _, err := io.WriteString(w.To, b.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}
