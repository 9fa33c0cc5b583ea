package architecture

import (
	"go/ast"
	"maps"
	"slices"
	"testing"
)

// mostPackages is the number of packages that may have a type of the same name.
const mostPackages = 2

// shared lists the names that more packages may have, each for a reason. It may only shrink: give a new type a name of its own, for what it
// holds.
var shared = map[string]string{
	"Backend": "backend.Backend, and its implementations",
	"Program": "backend.Program, and its implementations",
	"Options": "of a package's New, Open or Run, as is the custom in Go",
	"Error":   "a package's own failure, as net.Error is",
	"Graph":   "the word of CUDA, of ONNX and of the compiler, each for its own",
	"Model":   "the same model as the library, a package of methods and a file have it",
	"work":    "implementations of explain.Work",
}

func TestNoTypeNameInThreePackages(t *testing.T) {
	packages := map[string][]string{} // that have a type, by its name
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			group, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range group.Specs {
				// An alias is another package's type.
				if spec, ok := spec.(*ast.TypeSpec); ok && !spec.Assign.IsValid() && !slices.Contains(packages[spec.Name.Name], s.pkg) {
					packages[spec.Name.Name] = append(packages[spec.Name.Name], s.pkg)
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		switch list := packages[name]; {
		case len(list) > mostPackages && shared[name] == "":
			t.Errorf("%d packages have a type %s: %q: name each for what it holds", len(list), name, list)
		case len(list) <= mostPackages && shared[name] != "":
			t.Errorf("%d packages have a type %s: take it out of shared", len(list), name)
		}
	}
	for name := range shared {
		if packages[name] == nil {
			t.Errorf("no package has a type %s: take it out of shared", name)
		}
	}
}
