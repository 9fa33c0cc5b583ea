// Package parallel computes large slices on all processors.
package parallel

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Values is the number of values that a goroutine should do at a time where each takes some nanoseconds: enough that starting it does not show.
const Values = 1 << 18

// Parts calls f for the parts [from, to) of n things, size at a time, each with its number, and returns when all are done. The parts do not
// depend on the number of processors. If there is one part only it is done in the caller's goroutine.
func Parts(n, size int, f func(part, from, to int)) {
	parts := Count(n, size)
	if parts == 1 {
		f(0, 0, n)
		return
	}
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(parts, runtime.GOMAXPROCS(0)) {
		group.Go(func() {
			for part := int(next.Add(1)) - 1; part < parts; part = int(next.Add(1)) - 1 {
				f(part, part*size, min(n, (part+1)*size))
			}
		})
	}
	group.Wait()
}

// Collect returns the results of f for each part, in the order of the parts.
func Collect[R any](n, size int, f func(from, to int) R) []R {
	made := make([]R, Count(n, size))
	Parts(n, size, func(part, from, to int) { made[part] = f(from, to) })
	return made
}

// Count returns the number of parts.
func Count(n, size int) int { return (n + size - 1) / size }
