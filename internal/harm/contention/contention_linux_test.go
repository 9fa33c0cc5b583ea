// Package contention holds tests of runs that share a GPU's memory with other programs, give it back, and take it again.
package contention

import (
	"testing"

	"github.com/voxcam/voxcam/internal/harm"
)

func TestMain(m *testing.M) { harm.Main(m) }
