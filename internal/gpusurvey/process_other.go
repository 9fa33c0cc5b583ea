//go:build !linux

package gpusurvey

import (
	"errors"
	"fmt"
)

// processes knows nothing on this system.
type processes struct{}

func newProcesses(string) *processes { return &processes{} }

// Identify describes a process, on Linux.
func Identify(pid int) (Holder, error) {
	return Holder{PID: pid, Bytes: -1, UID: -1}, fmt.Errorf("process %d: who it is cannot be told on this system: %w", pid, errors.ErrUnsupported)
}

func (*processes) holder(pid int) Holder { return Holder{PID: pid, Bytes: -1, UID: -1} }
