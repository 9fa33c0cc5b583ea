package executor

import (
	"sync/atomic"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
)

// allowance holds the allowed budget, and the device's figures that it follows from.
type allowance struct {
	budget   cam.Budget                     // without a rule
	rule     func(backend.Usage) cam.Budget // may be nil
	resident backend.Resident               // the device of the figures; may be nil
	every    time.Duration                  // the age of figures that are asked for again: asking takes a call of the driver

	asked  atomic.Pointer[time.Time] // for usage; nil: it is out of date
	usage  backend.Usage
	latest cam.Budget
}

// stale marks the figures as out of date. It may be called at any time.
func (a *allowance) stale() { a.asked.Store(nil) }

// update sets latest to the budget that is allowed now. fresh reports whether the device was asked for it.
func (a *allowance) update() (fresh bool, err error) {
	a.latest = a.budget
	if a.rule == nil {
		return false, nil
	}
	if fresh, err = a.ask(); err == nil {
		a.latest = a.rule(a.usage)
	}
	return fresh, err
}

// ask updates the figures of the device's memory, if they are old.
func (a *allowance) ask() (fresh bool, err error) {
	if asked := a.asked.Load(); a.resident == nil || asked != nil && time.Since(*asked) < a.every {
		return false, nil
	}
	u, err := a.resident.Usage()
	if err != nil {
		return false, err
	}
	now := time.Now()
	a.usage = u
	a.asked.Store(&now)
	return true, nil
}

// allows reports whether the latest allowance is at least that many bytes.
func (a *allowance) allows(bytes int) bool { return a.latest.Bytes == 0 || a.latest.Bytes >= bytes }

// tighter returns the smaller of two budgets.
func tighter(a, b cam.Budget) cam.Budget {
	if !a.Bounded() || !a.Smallest && (b.Smallest || b.Bytes > 0 && b.Bytes < a.Bytes) {
		return b
	}
	return a
}
