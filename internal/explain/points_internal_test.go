package explain

import (
	"testing"
	"time"
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
