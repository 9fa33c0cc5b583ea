package worker

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/voxcam/voxcam/internal/instance"
)

// What a child needs of the system is tried before one is started.
func TestUsable(t *testing.T) {
	if err := Usable(); err != nil {
		t.Error(err)
	}
	noShared := func(string) (*os.File, error) { return nil, syscall.ENOSYS }
	noPunch := func(*os.File, region) error { return syscall.EOPNOTSUPP }
	noPair := func() (_, _ *os.File, err error) { return nil, nil, syscall.EPERM }
	for want, err := range map[error]error{
		syscall.ENOSYS: usable(noShared, punch, newPair), syscall.EOPNOTSUPP: usable(newShared, noPunch, newPair),
		syscall.EPERM: usable(newShared, punch, noPair),
	} {
		if !errors.Is(err, want) {
			t.Errorf("%v instead of %v", err, want)
		}
	}
}

// A system without processes to give is told from an engine that refuses.
func TestNoProcess(t *testing.T) {
	_, err := Start(t.Context(), instance.Options{}, Options{Command: []string{"/absent/voxcam"}})
	if !errors.Is(err, ErrNoProcess) || !strings.Contains(err.Error(), "the worker process cannot be started: ") {
		t.Error(err)
	}
}

// A child that does not know what it is must not start children of its own.
func TestWorkersStartNoWorkers(t *testing.T) {
	t.Setenv(inside, "1")
	if w, err := Start(t.Context(), instance.Options{}, Options{Command: []string{"/absent"}}); err == nil || !strings.Contains(err.Error(), "a worker would start a worker") {
		t.Errorf("%v, %v", w, err)
	}
}
