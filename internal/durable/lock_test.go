package durable

import (
	"strings"
	"syscall"
	"testing"
)

// Where a file system has no locks, the error says what to do.
func TestNoLocks(t *testing.T) {
	for _, cause := range []error{syscall.ENOLCK, syscall.ENOSYS, syscall.EOPNOTSUPP} {
		if text := (&Error{Path: "s/.lock", Err: cause}).Error(); !strings.Contains(text, "choose an output folder on another one") {
			t.Error(text)
		}
	}
}
