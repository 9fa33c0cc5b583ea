package backendtest

import (
	"testing"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

func TestEveryOperationHasCases(t *testing.T) {
	has, names := map[*ir.Op]bool{}, map[string]bool{}
	for _, c := range Cases() {
		if names[c.Name] {
			t.Errorf("two cases are called %s", c.Name)
		}
		names[c.Name] = true
		s, err := c.Sample(1)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, n := range s.Graph.Nodes {
			if n.Op == c.Op {
				has[c.Op] = true
			}
		}
	}
	for _, o := range op.All {
		if !has[o] {
			t.Errorf("%s has no case: add one to internal/backend/backendtest/cases_*.go", o.Name)
		}
		if (o.Grad == nil) == (o.NoGrad == "") {
			t.Errorf("%s must have either a gradient rule, Grad, or NoGrad, the reason for having none: add it to its row in internal/op", o.Name)
		}
	}
}
