package cli

import (
	"context"
	"os"
	"testing"
)

// TestMain lets the binary of these tests be the worker of the runs that they start: it is the program then.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "worker" {
		os.Exit(Run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}
