//go:build !linux

package engine

import "runtime"

// residentBytes is how much memory the Go runtime has of the machine.
func residentBytes() (int, error) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.Sys - m.HeapReleased), nil
}
