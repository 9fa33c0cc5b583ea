package architecture

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// riddle matches doc comments that explain a name by a relative clause where a noun would say it: "amount is what came back".
var riddle = regexp.MustCompile(`^[A-Za-z.]+ (is|are|says|has|does) (what|how|who|where|when|why)\b`)

// Doc comments begin with the name and say what it is or does, and every package has one.
func TestComments(t *testing.T) {
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if name := entry.Name(); path != root && (name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")) {
			return fs.SkipDir
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		pkg := strings.TrimPrefix(filepath.ToSlash(rel), "internal/")
		files, err := filepath.Glob(filepath.Join(path, "*.go"))
		if err != nil {
			return err
		}
		documented, product := false, false
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
			if err != nil {
				return err
			}
			product, documented = true, documented || f.Doc != nil
			for _, doc := range docs(f) {
				if riddle.MatchString(doc) {
					first, _, _ := strings.Cut(doc, "\n")
					t.Errorf("%s: %q: begin with what it is or returns", name, first)
				}
			}
		}
		if product && !documented {
			t.Errorf("package %s has no comment", pkg)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// docs returns the doc comments of the declarations of a file.
func docs(f *ast.File) (list []string) {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			list = append(list, d.Doc.Text())
		case *ast.GenDecl:
			list = append(list, d.Doc.Text())
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					list = append(list, s.Doc.Text())
				case *ast.ValueSpec:
					list = append(list, s.Doc.Text())
				}
			}
		}
	}
	return list
}
