package cli

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Packages that speak to people at a command line themselves: pages and records of the program, and what is tested or made with it.
var spokenHere = regexp.MustCompile(`^(cmd|docs|internal/(cli|harm|monitor|report|demo|worker)|.*(_generate|testdata|simulator|backendtest))(/|$)`)

// The packages that the library is made of know no flags and no commands: they mention options, which all have a flag here.
func TestMessagesNameOptionsNotFlags(t *testing.T) {
	flag := regexp.MustCompile(`(^|[^a-z0-9-])--[a-z]{3}|voxcam (inspect|doctor|check|run|explain|plan|monitor|recover)\b`)
	mention := regexp.MustCompile(`the option ([a-z]+(_[a-z]+)*)`)
	const root = "../.."
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		name, _ := filepath.Rel(root, path)
		name = filepath.ToSlash(name)
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") && path != root || spokenHere.MatchString(name)):
			return fs.SkipDir
		case entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, text, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			literal, ok := n.(*ast.BasicLit)
			if !ok || literal.Kind != token.STRING {
				return true
			}
			if found := flag.FindString(literal.Value); found != "" && !strings.Contains(literal.Value, "docker run --gpus") {
				t.Errorf("%s says %q: mention the option, and let the command line name flags and commands", name, literal.Value)
			}
			for _, m := range mention.FindAllStringSubmatch(literal.Value, -1) {
				if _, ok := flagOf(m[1]); !ok {
					t.Errorf("%s mentions the option %s, which has no flag in the table", name, m[1])
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
