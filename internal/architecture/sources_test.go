package architecture

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// source is a file of product code.
type source struct {
	pkg  string // as in order; "" is the root
	path string
	file *ast.File
	set  *token.FileSet
}

// position returns the file and line of p.
func (s source) position(p token.Pos) string { return s.set.Position(p).String() }

// sources parses the files of all packages, without those of tests.
func sources(t *testing.T) (list []source) {
	t.Helper()
	set := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if path != root && (name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		list = append(list, source{strings.TrimPrefix(filepath.ToSlash(rel), "internal/"), path, file, set})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}
