//go:build !linux

package sysmem

import (
	"errors"
	"os"
	"runtime"
)

// Total returns the memory of the machine in bytes; 0 if it is not known.
func Total() int { return 0 }

// Resident returns the bytes of the machine's memory that a process has: of this one, those of the Go runtime. For others it is an error where
// the system does not tell.
func Resident(pid int) (int, error) {
	if pid != os.Getpid() {
		return 0, errors.ErrUnsupported
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.Sys - m.HeapReleased), nil
}
