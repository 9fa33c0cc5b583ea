package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/voxcam/voxcam/internal/device"
)

// Whatever a file is called, no message steers the terminal or begins a line with what its name says.
func TestMessagesAreFreeOfNames(t *testing.T) {
	if os.Getenv(device.Driver) == "" {
		t.Setenv(device.Driver, "/absent/libcuda.so.1")
	}
	name := filepath.Join(t.TempDir(), "x\x1b[2J\u202e\nvoxcam: all is well\xff.onnx")
	model, err := os.ReadFile(demoModel)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, model, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"inspect", name}, {"inspect", name, "--json"}, {"inspect", name + "absent"}, {"plan", name}, {"plan", name + "absent"},
		{"explain", name, "--model", demoModel, "--out", t.TempDir()}, {"explain", name + "absent", "--model", demoModel, "--out", t.TempDir()},
		{"run", "--config", name}, {"run", "--config", name + "absent"}, {name}, {"run", "--" + name}, {"demo", "--out", name},
		{"explain", demoModel, "--model", demoModel, "--method", name, "--out", "x"}, {"plan", demoModel, "--device", name},
	} {
		var out bytes.Buffer
		Run(t.Context(), args, &out, &out)
		for line := range strings.Lines(out.String()) {
			if strings.HasPrefix(line, "voxcam: all is well") {
				t.Errorf("%.60q: a forged line in\n%s", args, out.String())
			}
		}
		if text := out.String(); text == "" || strings.ContainsAny(text, "\x1b\u202e") || !utf8.ValidString(text) {
			t.Errorf("%.60q: %q", args, text)
		}
	}
}
