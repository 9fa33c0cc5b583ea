// Package docs keeps the documentation equal to the program: what can be generated from the program's tables is, and what is
// written by hand may only name files and flags that exist.
package docs

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/cli"
	"github.com/voxcam/voxcam/internal/config"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/session"
	"github.com/voxcam/voxcam/volume/format"
)

//go:generate go test . -run "TestGenerated|TestReadme" -update

var update = flag.Bool("update", false, "write the generated parts of the documentation")

// generated parts stand in a file between <!-- generated: NAME --> and <!-- end -->.
var generated = map[string]func(*testing.T) string{
	"commands": commands, "methods": methods, "keys": keys, "defaults": defaults, "volumes": volumes, "exit codes": exitCodes, "ladder": ladder,
}

var part = regexp.MustCompile(`(?s)<!-- generated: ([a-z ]+) -->\n(.*?)<!-- end -->`)

func TestGenerated(t *testing.T) {
	seen := map[string]bool{}
	for _, file := range pages(t) {
		was, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		now := part.ReplaceAllFunc(was, func(old []byte) []byte {
			name := string(part.FindSubmatch(old)[1])
			seen[name] = true
			make, ok := generated[name]
			if !ok {
				t.Errorf("%s: nothing generates %q", file, name)
				return old
			}
			return fmt.Appendf(nil, "<!-- generated: %s -->\n%s<!-- end -->", name, make(t))
		})
		switch {
		case bytes.Equal(was, now):
		case *update:
			if err := os.WriteFile(file, now, 0o666); err != nil {
				t.Error(err)
			}
		default:
			t.Errorf("%s is not what the program says: run go generate ./docs", file)
		}
	}
	for name := range generated {
		if !seen[name] {
			t.Errorf("no page has the generated part %q", name)
		}
	}
}

// ladder prints the rungs of the ladder.
func ladder(*testing.T) string {
	var b strings.Builder
	b.WriteString("| what happens | if | what is done |\n|---|---|---|\n")
	for _, r := range policy.Ladder() {
		var failures []string
		for _, f := range r.Failures {
			failures = append(failures, f.String())
		}
		fmt.Fprintf(&b, "| %s | %s | %v |\n", strings.Join(failures, "; "), r.If, r.Action)
	}
	return b.String()
}

// pages are the files of documentation, at the root and here.
func pages(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"../*.md", "*.md", "*/*.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, files...)
	}
	if len(all) < 10 {
		t.Fatalf("only %d pages: %v", len(all), all)
	}
	return all
}

// TestMain runs the program on the processor, so that it prints the same on machines with a GPU.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "worker" { // of a run that a test has started
		os.Exit(cli.Run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	if err := os.Setenv(device.Driver, "/absent/libcuda.so.1"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// run runs the program and returns what it prints.
func run(t *testing.T, args ...string) string {
	t.Helper()
	var out, talk bytes.Buffer
	if code := cli.Run(t.Context(), args, &out, &talk); code != 0 {
		t.Fatalf("voxcam %s: exit code %d: %s", strings.Join(args, " "), code, talk.String())
	}
	return out.String()
}

var command = regexp.MustCompile(`(?m)^  ([a-z-]+)  +[A-Z]`)

// subcommands are those of ours, without those that come with the library.
func subcommands(t *testing.T) (names []string) {
	for _, m := range command.FindAllStringSubmatch(run(t, "--help"), -1) {
		if m[1] != "help" && m[1] != "completion" {
			names = append(names, m[1])
		}
	}
	return names
}

func commands(t *testing.T) string {
	var b strings.Builder
	for _, name := range subcommands(t) {
		fmt.Fprintf(&b, "\n## voxcam %s\n\n```text\n%s```\n", name, run(t, name, "--help"))
	}
	return b.String() + "\n"
}

func methods(t *testing.T) string {
	var b strings.Builder
	for _, name := range cam.Methods() {
		m, err := cam.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		groups := ""
		if len(m.Groups) > 0 {
			groups = "; in the groups " + strings.Join(m.Groups, ", ")
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s%s.\n\n| convention | looks at | evaluates | formula |\n|---|---|---|---|\n", name, m.Citation, groups)
		for i, c := range m.Conventions {
			note := ""
			if i == 0 && len(m.Conventions) > 1 {
				note = " (default)"
			}
			at := fmt.Sprint("the ", c.Kind())
			if !c.UsesGradient() {
				at = fmt.Sprintf("the activation of the %v, without a gradient", c.Kind())
			}
			fmt.Fprintf(&b, "| `%s`%s | %s | %v | %s |\n", c.Name, note, at, c.Sampling(), strings.ReplaceAll(c.Formula, "|", `\|`))
		}
	}
	return b.String() + "\n"
}

func keys(*testing.T) string {
	var b strings.Builder
	section := ""
	for _, k := range config.Keys() {
		name, rest, _ := strings.Cut(k.Name, ".")
		if name != section {
			section = name
			fmt.Fprintf(&b, "\n### [%s]\n\n| key | meaning |\n|---|---|\n", section)
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", rest, k.Doc)
	}
	return b.String() + "\n"
}

func defaults(*testing.T) string {
	var b strings.Builder
	b.WriteString("\n| key | default |\n|---|---|\n")
	for _, k := range config.Keys() {
		if k.Default != "" {
			fmt.Fprintf(&b, "| `%s` | `%s` |\n", k.Name, k.Default)
		}
	}
	return b.String() + "\n"
}

func volumes(*testing.T) string {
	var b strings.Builder
	b.WriteString("\n| format | extensions | what is read | axes unless named |\n|---|---|---|---|\n")
	for _, f := range format.Table() {
		if !f.Refused {
			fmt.Fprintf(&b, "| %s | %s | %s | %s, %s, %s |\n", f.Name, strings.Join(f.Extensions, ", "), f.Description,
				f.DefaultAxes(3), f.DefaultAxes(4), f.DefaultAxes(5))
		}
	}
	return b.String() + "\n"
}

func exitCodes(*testing.T) string {
	var b strings.Builder
	b.WriteString("\n| code | meaning |\n|---|---|\n")
	for _, c := range session.ExitCodes {
		fmt.Fprintf(&b, "| %d | %s |\n", c.Code, c.Meaning)
	}
	return b.String() + "\n"
}

var link = regexp.MustCompile(`\]\(([^)#:\s]+)(#[^)]*)?\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	for _, file := range pages(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllSubmatch(text, -1) {
			to := filepath.Join(filepath.Dir(file), filepath.FromSlash(string(m[1])))
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", file, m[1])
			}
		}
	}
}

var (
	block = regexp.MustCompile("(?s)```[a-z]*\n(.*?)```")
	typed = regexp.MustCompile(`^(?:\$ )?(?:\S*voxcam|go run \./cmd/voxcam) ([a-z-]+)(.*)$`)
	named = regexp.MustCompile(`--[a-z][a-z-]*`)
)

// Commands in the pages use flags that exist.
func TestCommandsExist(t *testing.T) {
	known := subcommands(t)
	found := 0
	for _, file := range pages(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range block.FindAllSubmatch(text, -1) {
			for line := range strings.Lines(strings.ReplaceAll(string(b[1]), "\\\n", " ")) {
				m := typed.FindStringSubmatch(strings.TrimSpace(line))
				if m == nil {
					continue
				}
				found++
				if !slices.Contains(known, m[1]) {
					t.Errorf("%s: there is no command voxcam %s", file, m[1])
					continue
				}
				help := run(t, m[1], "--help")
				for _, flag := range named.FindAllString(m[2], -1) {
					if !strings.Contains(help, flag+" ") {
						t.Errorf("%s: voxcam %s has no flag %s", file, m[1], flag)
					}
				}
			}
		}
	}
	if found < 5 {
		t.Errorf("found only %d commands in the pages: the pattern does not fit any more", found)
	}
}

// The default that a page names in passing is that of the program.
func TestDefaultInProse(t *testing.T) {
	page, err := os.ReadFile("memory.md")
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("`memory.wait` (%v s)", config.Defaults().Memory.Wait.Seconds()); !bytes.Contains(page, []byte(text)) {
		t.Errorf("memory.md does not say %q", text)
	}
}

// The examples of configurations are valid.
func TestConfigurationExamples(t *testing.T) {
	text, err := os.ReadFile("formats/config.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllSubmatch(text, -1)
	if len(examples) == 0 {
		t.Fatal("formats/config.md has no example")
	}
	for _, e := range examples {
		file := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(file, e[1], 0o666); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(file)
		if err != nil {
			t.Error(err)
			continue
		}
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
	}
}
