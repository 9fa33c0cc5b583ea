package cpu

import (
	"math"
	"testing"

	"github.com/voxcam/voxcam/internal/invariants"
	"github.com/voxcam/voxcam/internal/plan"
)

// A plan that reads a buffer after the end of its life finds NaN there.
func TestDeadMemoryIsPoisoned(t *testing.T) {
	if !invariants.Enabled {
		t.Skip("dead memory is only poisoned with -tags invariants")
	}
	b := newBackend(t, Options{Threads: 1})
	g, _ := network(t, 8, 4)
	p := plan.Make(g)
	for _, x := range execute(t, b, p) {
		if math.IsNaN(float64(x)) {
			t.Fatal("a correct plan gives NaN")
		}
	}
	at := p.Steps[len(p.Steps)/2].Out[0]
	p.Buffers[at].Last = len(p.Steps) / 2
	for _, x := range execute(t, b, p) {
		if math.IsNaN(float64(x)) {
			return
		}
	}
	t.Errorf("buffer %d is poisoned at its first step, and nothing shows", at)
}
