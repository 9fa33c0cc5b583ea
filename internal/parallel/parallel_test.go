package parallel

import (
	"sync/atomic"
	"testing"
)

// Each thing is done once, in the part that it belongs to.
func TestParts(t *testing.T) {
	for n := range 20 {
		for size := 1; size < 25; size++ {
			done := make([]atomic.Int32, n)
			var calls atomic.Int32
			Parts(n, size, func(part, from, to int) {
				calls.Add(1)
				if from != part*size || to != min(n, from+size) {
					t.Errorf("%d by %d: part %d is [%d, %d)", n, size, part, from, to)
				}
				for i := from; i < to; i++ {
					done[i].Add(1)
				}
			})
			if int(calls.Load()) != Count(n, size) {
				t.Errorf("%d by %d: %d parts, want %d", n, size, calls.Load(), Count(n, size))
			}
			for i := range done {
				if done[i].Load() != 1 {
					t.Errorf("%d by %d: thing %d was done %d times", n, size, i, done[i].Load())
				}
			}
		}
	}
}
