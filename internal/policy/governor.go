package policy

import (
	"sync"
	"time"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/bytesize"
)

// Reserve is the memory of a device, in bytes, that computing leaves to the driver. While a program runs, the driver itself takes memory in the
// process's name, in steps of 2 MiB: for kernels at their first launch, instantiated graphs, stacks of threads, and libraries'
// workspaces. If it finds none, a launch fails that needs no memory of its own. A small device leaves an eighth.
const Reserve = 64 * bytesize.MiB

// Governor bounds the memory that computing may take of a device now: the budget's part of the memory that other programs do not hold or,
// while it is held down, the least that works. It may be used by many goroutines.
type Governor struct {
	budget bytesize.Budget
	now    func() time.Time

	mu    sync.Mutex
	held  bool
	until time.Time // while held; zero: no end
}

// NewGovernor returns a governor that is not held down. A nil now is the clock.
func NewGovernor(b bytesize.Budget, now func() time.Time) *Governor {
	if now == nil {
		now = time.Now
	}
	return &Governor{budget: b, now: now}
}

// Allow returns the bytes that computing may take of a device, including those that it has already: a part of Usage.Available for auto and
// shares, the size for a size, but never more than is available without the driver's reserve. least, with 0 bytes, stands for the least that
// works: if that is the budget, while the governor is held down, and if nothing is available. For an empty usage (Total is 0: it is not
// known, or the device has no memory of its own) auto and shares return 0 bytes without least: no bound.
func (g *Governor) Allow(u backend.Usage) (bytes int, least bool) {
	if _, held := g.Held(); held || g.budget.Min() {
		return 0, true
	}
	available := u.Available()
	bytes, err := g.budget.Bytes(func() (int, error) { return available, nil })
	if u.Total <= 0 {
		return bytes, false
	}
	bytes = min(bytes, available-min(Reserve, available/8))
	if err != nil || bytes < 1 {
		return 0, true
	}
	return bytes, false
}

// Release holds computing down to the least that works, until a time or, if that is zero, until Resume. A later call replaces an earlier one.
func (g *Governor) Release(until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held, g.until = true, until
}

// Resume ends Release.
func (g *Governor) Resume() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held, g.until = false, time.Time{}
}

// Held reports whether computing is held down, and the time at which that ends; zero: at Resume.
func (g *Governor) Held() (until time.Time, held bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held && !g.until.IsZero() && !g.now().Before(g.until) {
		g.held, g.until = false, time.Time{}
	}
	return g.until, g.held
}
