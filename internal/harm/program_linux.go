package harm

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/voxcam/voxcam/internal/cli"
)

// Names under which tests start their own binary, to be another program.
const (
	program     = "voxcam"
	programOnce = "voxcam-harmed-once"
)

// Faults is the variable of the environment with the calls that fail in a process on the simulator.
const Faults = "SIMULATOR_FAULTS"

// Variables of programOnce: the worker that makes the file onceMark has the faults of onceFaults.
const (
	onceMark   = "VOXCAM_TEST_ONCE"
	onceFaults = "VOXCAM_TEST_FAULTS"
)

// Main runs a package's tests or, in a process that one of them started, the program.
func Main(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case program:
		cli.Main()
	case programOnce:
		harmedOnce()
	default:
		os.Exit(m.Run())
	}
}

// harmedOnce is the program; only the first of its workers has faults.
func harmedOnce() {
	if mark := os.Getenv(onceMark); os.Getenv("VOXCAM_WORKER") != "" && os.Getenv(Faults) == "" {
		if file, err := os.OpenFile(mark, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err == nil {
			file.Close()
			self, err := os.Executable()
			if err == nil { // the simulator reads the environment that a process begins with
				err = syscall.Exec(self, os.Args, append(os.Environ(), Faults+"="+os.Getenv(onceFaults)))
			}
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	cli.Main()
}
