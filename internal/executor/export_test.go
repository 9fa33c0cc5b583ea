package executor

import "time"

// AskAlways lets Allow know the device's usage of the moment.
func (m *Model) AskAlways() { m.allowance.every = 0 }

// IdleFor changes the time without any work after which ShuttleIdle leaves the device. It must come before the first work.
func (m *Model) IdleFor(d time.Duration) { m.idleFor = d }
