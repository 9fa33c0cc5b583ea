// Package conformance holds the CUDA backend to the suite that every backend must pass. It is a package of its own so that it is run beside
// the backend's other tests, which take as long.
package conformance

import (
	"errors"
	"os"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/cuda"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
)

// TestConformance runs on a GPU if VOXCAM_GPU=1 is set, else on the simulator, with fewer networks unless tests may be long.
func TestConformance(t *testing.T) {
	var o cuda.Options
	if os.Getenv("VOXCAM_GPU") == "" {
		o.Driver = simulator.Build(t)
	} else {
		o.Kernels = os.Getenv("VOXCAM_CUDA_KERNELS")
	}
	b, err := cuda.New(o)
	if none := (*driver.NoDriverError)(nil); errors.As(err, &none) {
		t.Skip("CUDA NOT CHECKED: VOXCAM_GPU is set and there is no driver: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	networks := backendtest.AllNetworks
	if !backendtest.Long() {
		networks /= 4
	}
	backendtest.Run(t, b, networks)
	if allocated := b.Allocated(); allocated != 0 {
		t.Errorf("%d bytes of device memory were not given back", allocated)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if held := b.Held(); held != 0 {
		t.Errorf("%d bytes of device memory were not given back to the driver", held)
	}
}
