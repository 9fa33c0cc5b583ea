package simulator

import (
	"fmt"
	"slices"
	"sync"
)

// Watch counts the calls that reach the driver, and refuses some. Its Intercept is a driver.Intercept.
type Watch struct {
	Refuse func(i int, call string) (code int) // asked about call i, counted from 0; nil refuses none

	mu     sync.Mutex
	Calls  []string
	Passed map[string]int // calls that were not refused, by name
}

// Intercept notes a call.
func (w *Watch) Intercept(call string) (code int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := len(w.Calls)
	w.Calls = append(w.Calls, call)
	if w.Refuse != nil {
		if code := w.Refuse(i, call); code != 0 {
			return code
		}
	}
	if w.Passed == nil {
		w.Passed = map[string]int{}
	}
	w.Passed[call]++
	return 0
}

// Opposites are calls that take something, and those that give it back.
var Opposites = [][2]string{
	{"cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2"}, {"cuMemCreate", "cuMemRelease"},
	{"cuMemAddressReserve", "cuMemAddressFree"}, {"cuMemHostAlloc", "cuMemFreeHost"}, {"cuStreamCreate", "cuStreamDestroy_v2"},
	{"cuEventCreate", "cuEventDestroy_v2"}, {"cuModuleLoadDataEx", "cuModuleUnload"}, {"cuStreamBeginCapture_v2", "cuStreamEndCapture"},
	{"cuStreamEndCapture", "cuGraphDestroy"}, {"cuGraphInstantiateWithFlags", "cuGraphExecDestroy"},
}

// Balance names the pairs of calls that were not made equally often.
func (w *Watch) Balance(pairs [][2]string) (uneven []string) {
	for _, p := range pairs {
		if taken, given := w.Passed[p[0]], w.Passed[p[1]]; taken != given {
			uneven = append(uneven, fmt.Sprintf("%d of %s and %d of %s", taken, p[0], given, p[1]))
		}
	}
	return uneven
}

// taking are the calls that can fail for want of memory with any arguments.
var taking = []string{
	"cuMemCreate", "cuMemAddressReserve", "cuMemHostAlloc", "cuStreamCreate", "cuEventCreate", "cuModuleLoadDataEx", "cuGraphInstantiateWithFlags",
}

// CodeFor returns the code that a call of the driver fails with: out of memory (2) for a call that takes memory, else unknown (999).
func CodeFor(call string) int {
	if slices.Contains(taking, call) {
		return 2
	}
	return 999
}
