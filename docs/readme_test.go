package docs

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/cli"
	"github.com/voxcam/voxcam/internal/demo"
)

var (
	console = regexp.MustCompile("(?s)```console\n(.*?)```")
	// varies is what differs from run to run: seconds.
	varies = regexp.MustCompile(`\d+(\.\d+)? s\b`)
)

// TestReadme types the commands of the README's examples in order, in a folder where the demonstration's data set is, and compares
// what they print. A line of three dots stands for any number of lines; commands other than voxcam and ls are left out.
func TestReadme(t *testing.T) {
	readme, err := filepath.Abs("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	was, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if _, err := demo.WriteDataset(t.Context(), "voxcam-demo", 24, 1); err != nil {
		t.Fatal(err)
	}
	typed := 0
	now := console.ReplaceAllFunc(was, func(block []byte) []byte {
		text := string(console.FindSubmatch(block)[1])
		for _, example := range strings.Split("\n"+text, "\n$ ")[1:] {
			command, want, _ := strings.Cut(strings.ReplaceAll(example, "\\\n", " "), "\n")
			args := strings.Fields(command)
			got, known := output(t, args)
			if !known {
				continue
			}
			typed++
			if !matches(strings.TrimSpace(want), strings.TrimSpace(got)) {
				if *update && !strings.Contains(want, "\n...\n") {
					typed, _, _ := strings.Cut(example, strings.TrimSpace(want)) // the command, as it is written
					if strings.TrimSpace(want) == "" {
						typed = strings.TrimRight(example, "\n") + "\n"
					}
					text = strings.Replace(text, example, typed+strings.TrimSpace(got)+"\n", 1)
					continue
				}
				t.Errorf("%s\nprints\n%s\nand not\n%s", command, got, want)
			}
		}
		return []byte("```console\n" + text + "```")
	})
	if typed < 5 {
		t.Errorf("the README has only %d commands to type", typed)
	}
	if *update && !bytes.Equal(was, now) {
		if err := os.WriteFile(readme, now, 0o666); err != nil {
			t.Error(err)
		}
	}
}

// output runs a command of the README. Trailing blanks, which nobody sees, are taken off its lines.
func output(t *testing.T, args []string) (text string, known bool) {
	t.Helper()
	switch args[0] {
	case "voxcam":
		var b bytes.Buffer
		cli.Run(t.Context(), args[1:], &b, &b)
		return regexp.MustCompile(` +\n`).ReplaceAllString(b.String(), "\n"), true
	case "ls":
		entries, err := os.ReadDir(args[1])
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			text += e.Name() + "\n"
		}
		return text, true
	}
	return "", false
}

// matches compares line by line.
func matches(want, got string) bool {
	lines := func(s string) []string { return strings.Split(varies.ReplaceAllString(s, "_ s"), "\n") }
	first, last, dots := strings.Cut(strings.Join(lines(want), "\n"), "\n...\n")
	if !dots {
		return slices.Equal(lines(want), lines(got))
	}
	all := strings.Join(lines(got), "\n")
	return strings.HasPrefix(all, first+"\n") && strings.HasSuffix(all, "\n"+last)
}
