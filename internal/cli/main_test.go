package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
)

// TestMain lets the binary of these tests be the worker of the runs that they start: it is the program then. Sessions of the tests are not
// seen by other programs on the machine, nor theirs by the tests.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "worker" {
		os.Exit(Run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(runAlone(m))
}

func runAlone(m *testing.M) int {
	dir, err := os.MkdirTemp("", "vc") // sockets have short paths
	if err == nil {
		defer os.RemoveAll(dir)
		err = errors.Join(os.Setenv("XDG_RUNTIME_DIR", dir), os.Setenv("TMPDIR", dir))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
