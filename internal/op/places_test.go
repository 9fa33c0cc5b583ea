package op_test

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/reference"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// What an operation needs in other places than its row is named in docs/architecture.md under "To add something". The tests here, and
// those of the backends, of backendtest and of layer, say which place was forgotten.

// row is the place in which an operation is declared.
type row struct {
	variable string // the Go variable, "" for a row of a table
	file     string
}

// rows finds the rows of operations in the sources of package op, by name.
func rows(t *testing.T) map[string]row {
	t.Helper()
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]row{}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			ast.Inspect(d, func(n ast.Node) bool {
				spec, ok := n.(*ast.ValueSpec)
				if !ok || len(spec.Values) != 1 {
					return true
				}
				if name := opName(spec.Values[0]); name != "" {
					found[name] = row{spec.Names[0].Name, "internal/op/" + path}
				}
				return true
			})
		}
	}
	for i := range op.Unaries {
		found[op.Unaries[i].Name] = row{"", "internal/op/unary.go"}
	}
	for _, table := range [][]op.Binary{op.Binaries, op.Compares} {
		for i := range table {
			found[table[i].Name] = row{"", "internal/op/binary.go"}
		}
	}
	return found
}

// opName returns the name in &ir.Op{Name: "..."}; "" for another expression.
func opName(e ast.Expr) string {
	address, ok := e.(*ast.UnaryExpr)
	if !ok {
		return ""
	}
	literal, ok := address.X.(*ast.CompositeLit)
	if !ok {
		return ""
	}
	if of, ok := literal.Type.(*ast.SelectorExpr); !ok || of.Sel.Name != "Op" {
		return ""
	}
	for _, field := range literal.Elts {
		if f, ok := field.(*ast.KeyValueExpr); ok && f.Key.(*ast.Ident).Name == "Name" {
			name, _ := strconv.Unquote(f.Value.(*ast.BasicLit).Value)
			return name
		}
	}
	return ""
}

// sources joins the product's Go files of folders.
func sources(t *testing.T, folders ...string) string {
	t.Helper()
	var text strings.Builder
	for _, folder := range folders {
		paths, err := filepath.Glob(filepath.Join(folder, "*.go"))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %v, %d files", folder, err, len(paths))
		}
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") || strings.HasPrefix(filepath.Base(path), "eval") { // which computes constants
				continue
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			text.Write(data)
		}
	}
	return text.String()
}

// A row belongs to the list of its file, or nothing finds it.
func TestEveryRowIsListed(t *testing.T) {
	for name, r := range rows(t) {
		if _, ok := op.Named(name); !ok {
			t.Errorf("%s is not in op.All: add it to the list of operations in %s", name, r.file)
		}
	}
}

// A row says how its nodes run on slabs, or why they cannot.
func TestEveryRowHasASlabRule(t *testing.T) {
	found := rows(t)
	for _, o := range op.All {
		if (o.Slab == nil && o.Accumulates == nil) == (o.NoSlab == "") {
			t.Errorf("%s needs a slab rule (Slab, Accumulates or both), or the reason NoSlab for having none: add it to its row in %s", o.Name, found[o.Name].file)
		}
	}
}

// A row says that its operation works across planes if its slab rule reads other planes than the one in the same place.
func TestEveryRowSaysWhetherItWorksAcrossPlanes(t *testing.T) {
	found := rows(t)
	for _, c := range backendtest.Cases() {
		s, err := c.Sample(1)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range s.Graph.Nodes {
			if n.Op.AcrossPlanes || n.Op.Slab == nil || !n.Out().HasDepth() {
				continue
			}
			for i, v := range n.Inputs {
				if v == nil || !v.HasDepth() {
					continue
				}
				for z := range n.Out().Shape()[1] {
					if lo, hi, ok := n.Op.Slab(n, i, z, z+1); ok && (lo != z || hi != z+1) {
						t.Errorf("%s: plane %d reads planes %d to %d: set AcrossPlanes in the row of %s in %s", c.Name, z, lo, hi, n.Op.Name, found[n.Op.Name].file)
					}
				}
			}
		}
	}
	for _, o := range []*ir.Op{op.Conv, op.ConvBackwardData, op.MaxPool, op.Pad, op.Resize} {
		if !o.AcrossPlanes {
			t.Errorf("%s reads other planes", o.Name)
		}
	}
	for _, o := range op.All {
		if o.Separable != nil && !o.AcrossPlanes {
			t.Errorf("%s is separable: backends find its planes by taps, so set AcrossPlanes in its row in %s", o.Name, found[o.Name].file)
		}
	}
}

// Something makes an operation: the importer, a pass, or the gradient of another operation.
func TestEveryOperationIsMade(t *testing.T) {
	made, gradients := sources(t, "../onnx", "../pass"), sources(t, ".")
	for name, r := range rows(t) {
		o, ok := op.Named(name)
		switch {
		case !ok: // which TestEveryRowIsListed says
		case r.variable == "":
			if !strings.Contains(made, strconv.Quote(name)) {
				t.Errorf("no model has %s: name it in internal/onnx/rules.go", name)
			}
		case !regexp.MustCompile(`op\.`+r.variable+`\b`).MatchString(made) && !(o.Grad == nil && strings.Contains(gradients, "Emit("+r.variable+",")):
			t.Errorf("no model has %s: make it by a rule in internal/onnx/rules.go, a pass in internal/pass, or a gradient in %s", name, r.file)
		}
	}
}

// A row of the table of functions of one variable has a line for its kernels on GPUs, and one for those of its slope.
func TestEveryFunctionHasItsKernelsForGPUs(t *testing.T) {
	const file = "internal/backend/cuda/kernel/pointwise.cu"
	text, err := os.ReadFile("../../" + file)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range op.Unaries {
		for macro, needed := range map[string]bool{"UNARY": true, "SLOPE": u.Slope != nil} {
			if line := regexp.MustCompile(`(?m)^` + macro + `\((true|false), ` + u.Name + `,`); needed && !line.Match(text) {
				t.Errorf("%s has no %s: add a line to %s and run go generate ./internal/backend/cuda/kernel", u.Name, macro, file)
			}
		}
	}
}

// The taps of a separable operation give what the reference gives, which knows nothing of taps.
func TestTapsAgreeWithTheReference(t *testing.T) {
	tried := map[*ir.Op]bool{}
	for _, c := range backendtest.Cases() {
		s, err := c.Sample(6)
		if err != nil {
			t.Fatal(err)
		}
		values, err := reference.Eval(context.Background(), s.Graph, s.Data)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range s.Graph.Nodes {
			if n.Op.Separable == nil {
				continue
			}
			tried[n.Op] = true
			sep := n.Op.Separable(n)
			if sep.From.Elements() != n.Inputs[0].Shape().Elements() || len(sep.From) != len(n.Out().Shape()) || len(sep.Taps) != len(sep.From) {
				t.Errorf("%s: taps of %d axes from %v to %v", c.Name, len(sep.Taps), sep.From, n.Out().Shape())
				continue
			}
			for i, want := range values[n.Out()] {
				if got := element(sep, n.Out(), values[n.Inputs[0]], i); math.Abs(got-want) > 1e-9*(1+math.Abs(want)) {
					t.Errorf("%s: element %d is %v, not %v", c.Name, i, got, want)
					break
				}
			}
		}
	}
	for _, o := range op.All {
		if o.Separable != nil && !tried[o] {
			t.Errorf("no case of %s was tried", o.Name)
		}
	}
}

// element computes element i of the output of a separable operation on x.
func element(s ir.Separable, out *ir.Value, x []float64, i int) float64 {
	type term struct {
		at     int
		weight float64
	}
	terms := []term{{0, 1}}
	strides, from := out.Shape().Strides(), s.From.Strides()
	for axis, taps := range s.Taps {
		var more []term
		for _, t := range terms {
			for _, tap := range taps[i/strides[axis]%out.Shape()[axis]] {
				more = append(more, term{t.at + tap.Index*from[axis], t.weight * tap.Weight})
			}
		}
		terms = more
	}
	if len(terms) == 0 {
		return s.Fill
	}
	sum := 0.0
	for _, t := range terms {
		sum += t.weight * x[t.at]
	}
	return sum
}
