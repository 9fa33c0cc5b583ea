package layer

import (
	"context"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/reference"
	"github.com/voxcam/voxcam/internal/ir"
)

// An operation without a rule for the trace of axes works element by element: an element of the output depends on the elements of its
// inputs that broadcast to it, and on no others. Operations that no model has before differentiation need none.
func TestOperationsWithoutARuleWorkElementByElement(t *testing.T) {
	for _, c := range backendtest.Cases() {
		if rules[c.Op] != nil || c.Op.Grad == nil && c.Op.NoGrad != "piecewise constant" {
			continue
		}
		s, err := c.Sample(7)
		if err != nil {
			t.Fatal(err)
		}
		values, err := reference.Eval(context.Background(), s.Graph, s.Data)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range s.Graph.Nodes {
			if n.Op == c.Op {
				if !elementwise(t, n, values) {
					t.Errorf("%s: %s does not work element by element: add a rule for it to internal/layer/trace.go", c.Name, n.Op.Name)
				}
			}
		}
	}
}

// elementwise reports whether a few changes of the inputs change only the elements of the output in the same places.
func elementwise(t *testing.T, n *ir.Node, values map[*ir.Value][]float64) bool {
	t.Helper()
	in := make([][]float64, len(n.Inputs))
	for i, v := range n.Inputs {
		if in[i] = values[v]; v.Const != nil {
			in[i] = reference.Const(v.Const)
		}
	}
	y := n.Out().Shape()
	for i, v := range n.Inputs {
		if len(v.Shape()) > len(y) {
			return false
		}
		for _, k := range []int{0, len(in[i]) / 2, len(in[i]) - 1} {
			changed := slices.Clone(in)
			changed[i] = slices.Clone(in[i])
			for j := range changed[i] { // all but one: what changes besides reads others
				if j != k {
					changed[i][j] += 0.75
				}
			}
			out, err := reference.Node(n, changed)
			if err != nil {
				t.Fatal(err)
			}
			for j, after := range out {
				if after != values[n.Out()][j] && source(v, y, j) == k {
					return false
				}
			}
		}
	}
	return true
}

// source is the element of a value that broadcasts to element j of a shape.
func source(v *ir.Value, y []int, j int) int {
	at, step := 0, 1
	for axis := len(y) - 1; axis >= 0; axis-- {
		i := j % y[axis]
		j /= y[axis]
		k := axis - (len(y) - len(v.Shape()))
		if k < 0 {
			continue
		}
		if d := v.Shape()[k]; d > 1 {
			at += i % d * step
		}
		step *= v.Shape()[k]
	}
	return at
}
