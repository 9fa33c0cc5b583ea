package worker

import "testing"

// A child is ended by ticks without a sign, not by a clock.
func TestStall(t *testing.T) {
	var s stall
	silent := func(busy bool, signs int64, n int) bool {
		for range n {
			if s.tick(busy, signs) {
				return true
			}
		}
		return false
	}
	for _, step := range []struct {
		what  string
		busy  bool
		signs int64
		ticks int
		ends  bool
	}{
		{"as long as the limit", true, 1, 1 + watchTicks, false},
		{"a sign at the last moment", true, 2, watchTicks, false},
		{"nothing to do, for ever", false, 2, 100 * watchTicks, false},
		{"asked for something", true, 2, watchTicks, false},
		{"too long", true, 2, 1, true},
	} {
		if got := silent(step.busy, step.signs, step.ticks); got != step.ends {
			t.Fatalf("%s: %v", step.what, got)
		}
	}
}
