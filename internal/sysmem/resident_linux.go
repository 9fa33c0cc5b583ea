package sysmem

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

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
