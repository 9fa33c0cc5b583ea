package architecture

import (
	"go/ast"
	"regexp"
	"strings"
	"testing"
)

// riddle matches comments that explain a name by a relative clause where a noun would say it: "amount is what came back".
var riddle = regexp.MustCompile(`^[A-Za-z.]+ (is|are|says|has|does) (what|how|who|whom|whose|where|when|why)\b`)

// Doc comments begin with the name and say what it is or does: those of packages, declarations, constants and variables in groups, fields,
// and methods of interfaces.
func TestComments(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		documented[s.pkg] = documented[s.pkg] || s.file.Doc != nil
		for _, doc := range docs(s.file) {
			if text := doc.Text(); riddle.MatchString(text) {
				first, _, _ := strings.Cut(text, "\n")
				t.Errorf("%s: %q: begin with what it is or returns", s.position(doc.Pos()), first)
			}
		}
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("package %q has no comment", pkg)
		}
	}
}

// docs returns the comments of a file that belong to a name, in front of it or behind it on its line.
func docs(f *ast.File) (list []*ast.CommentGroup) {
	add := func(groups ...*ast.CommentGroup) {
		for _, g := range groups {
			if g != nil {
				list = append(list, g)
			}
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.File:
			add(n.Doc)
		case *ast.FuncDecl:
			add(n.Doc)
		case *ast.GenDecl:
			add(n.Doc)
		case *ast.TypeSpec:
			add(n.Doc, n.Comment)
		case *ast.ValueSpec:
			add(n.Doc, n.Comment)
		case *ast.Field: // of a struct, or a method of an interface
			add(n.Doc, n.Comment)
		}
		return true
	})
	return list
}
