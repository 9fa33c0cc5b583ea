package sysmem

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Total returns the memory of the machine in bytes; 0 if it is not known.
func Total() int {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return 0
	}
	return int(uint64(info.Totalram) * uint64(info.Unit))
}

// Resident returns the bytes of the machine's memory that a process has. For other processes it is an error where the system does not tell.
func Resident(pid int) (int, error) {
	path := filepath.Join("/proc", strconv.Itoa(pid), "statm")
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	var size, pages int
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return pages * os.Getpagesize(), nil
}
