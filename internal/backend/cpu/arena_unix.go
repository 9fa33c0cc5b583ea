//go:build unix

package cpu

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// take takes memory from the system, aligned to pages. It is no part of the garbage collector's heap, which would let garbage grow
// with the arena; the system gives pages when they are first written.
func take(bytes int) ([]byte, error) {
	if bytes == 0 {
		return nil, nil
	}
	b, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("cpu: the system gives no arena of %d bytes: %w", bytes, err)
	}
	return b, nil
}

func giveBack(b []byte) error {
	if b == nil {
		return nil
	}
	return unix.Munmap(b)
}
