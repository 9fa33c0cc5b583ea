package printable

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// hostile are names of which none may reach a terminal as it is, with what is shown.
var hostile = map[string]string{
	"\x1b[2J\x1b[31mred":  `\u001b[2J\u001b[31mred`,
	"a\nok: all samples":  `a\nok: all samples`,
	"a\rb\tc":             `a\rb\tc`,
	"\u202egnp.exe":       `\u202egnp.exe`,
	"a\u2066b\u2069":      `a\u2066b\u2069`,
	"\u009b31m":           `\u009b31m`, // an escape sequence of its own in some terminals
	"\x9b31m":             `\x9b31m`,
	"a\u2028b\u200bc\x7f": `a\u2028b\u200bc\u007f`,
	"\U000e0041":          `\udb40\udc41`,
	"\x00":                `\u0000`,
	"M\xfcller":           `M\xfcller`,
}

var harmless = []string{"", "case 1", "Müller", "黄斑 変性\u3000右", "é", "א", "\ufffd", `back\slash`, "🫁"}

func TestLine(t *testing.T) {
	for name, want := range hostile {
		if got := Line(name); got != want {
			t.Errorf("%q is shown as %s, not as %s", name, got, want)
		}
	}
	for _, name := range harmless {
		if got := Line(name); got != name {
			t.Errorf("%q is shown as %q", name, got)
		}
	}
}

type kind string

type number int

func (number) String() string { return "\x1b" }

func TestFprintf(t *testing.T) {
	var b strings.Builder
	Fprintf(&b, "%s %v %v %v %d %5.1f\n", "\n", errors.New("\x1b"), kind("\r"), number(3), 7, 0.5)
	Fprintln(&b, "\x1b", 3)
	if want := "\\n \\u001b \\r \\u001b 7   0.5\n\\u001b 3\n"; b.String() != want {
		t.Errorf("%q instead of %q", b.String(), want)
	}
}

func TestLines(t *testing.T) {
	if got, want := Lines("a\nb\x1b\n  c"), "a\n  b\\u001b\n  c"; got != want {
		t.Errorf("%q instead of %q", got, want)
	}
}

// However the bytes come, the same is shown.
func TestWriter(t *testing.T) {
	text := "Müller\n\tab\x1b[0m\u202e黄\xfc🫁\U000e0041."
	want := "Müller\n\tab\\u001b[0m\\u202e黄\\xfc🫁\\udb40\\udc41."
	for _, size := range []int{1, 2, 3, 5, 100} {
		var b bytes.Buffer
		w := &Writer{To: &b}
		for rest := []byte(text); len(rest) > 0; {
			n := min(size, len(rest))
			if m, err := w.Write(rest[:n]); m != n || err != nil {
				t.Fatal(m, err)
			}
			rest = rest[n:]
		}
		if b.String() != want {
			t.Errorf("by %d bytes: %q instead of %q", size, b.String(), want)
		}
	}
}

func TestWriterKeepsJSON(t *testing.T) {
	for name := range hostile {
		name = strings.ToValidUTF8(name, "?")
		var b bytes.Buffer
		if err := json.NewEncoder(&Writer{To: &b}).Encode(map[string]string{"name": name}); err != nil {
			t.Fatal(err)
		}
		var back map[string]string
		if err := json.Unmarshal(b.Bytes(), &back); err != nil || back["name"] != name {
			t.Errorf("%q: %s became %q, %v", name, b.Bytes(), back["name"], err)
		}
	}
}

func TestCount(t *testing.T) {
	for want, got := range map[string]string{
		"0 samples": Count(0, "sample"), "1 sample": Count(1, "sample"), "2 samples": Count(2, "sample"), "1 process": Count(1, "process"), "3 processes": Count(3, "process"),
	} {
		if got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
