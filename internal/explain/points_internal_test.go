package explain

import (
	"testing"
	"time"

	"github.com/voxcam/voxcam/internal/network"
)

// Keeping states takes at most a twenty-fifth of the time.
func TestKeepingIsPaced(t *testing.T) {
	start := time.Now()
	const bytes = keepRate / 1000 // a millisecond, as a guess
	for _, c := range []struct {
		after, takes time.Duration
		due          bool
	}{
		{24 * time.Millisecond, 0, false}, {25 * time.Millisecond, 0, true},
		{49 * time.Millisecond, 2 * time.Millisecond, false}, {50 * time.Millisecond, 2 * time.Millisecond, true},
	} {
		k := keeping{last: start, takes: c.takes}
		if got := k.due(start.Add(c.after), bytes); got != c.due {
			t.Errorf("%v after the last one, which took %v: %v", c.after, c.takes, got)
		}
	}
}

// Budgets that are close have the same plan, and none is planned for more than it is.
func TestCoarsely(t *testing.T) {
	for _, x := range []int{0, 1, 63, 64, 65, 1000, 1 << 20, 1<<20 + 1, 1<<31 - 1} {
		if got := network.Coarsely(x); got > x || float64(got) < float64(x)*31/32 {
			t.Errorf("%d becomes %d", x, got)
		}
	}
}
