//go:build !linux

package gpusurvey

import (
	"errors"
	"fmt"
)

// processes has no facts on this system.
type processes struct{}

func newProcesses(string) *processes { return &processes{} }

// Identify describes a process, on Linux.
func Identify(pid int) (ProcessInfo, error) {
	return ProcessInfo{PID: pid, Bytes: -1, UID: -1}, fmt.Errorf("process %d: who it is cannot be told on this system: %w", pid, errors.ErrUnsupported)
}

func (*processes) holder(pid int) ProcessInfo { return ProcessInfo{PID: pid, Bytes: -1, UID: -1} }
