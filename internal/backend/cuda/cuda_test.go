package cuda

import (
	"errors"
	"os"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
)

// open opens a GPU if VOXCAM_GPU=1 is set, else the simulator, on which kernels run on the processor.
func open(t testing.TB, o Options) *Backend {
	t.Helper()
	if os.Getenv("VOXCAM_GPU") == "" {
		o.Driver = simulator.Build(t)
	} else {
		o.Kernels = os.Getenv("VOXCAM_CUDA_KERNELS")
	}
	b, err := New(o)
	if none := (*driver.NoDriverError)(nil); errors.As(err, &none) {
		t.Skip("CUDA NOT CHECKED: VOXCAM_GPU is set and there is no driver: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if allocated := b.Allocated(); allocated != 0 {
			t.Errorf("%d bytes of device memory were not given back", allocated)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if held := b.Held(); held != 0 {
			t.Errorf("%d bytes of device memory were not given back to the driver", held)
		}
	})
	return b
}

func TestConformance(t *testing.T) {
	networks := backendtest.AllNetworks
	if !backendtest.Long() {
		networks /= 4
	}
	backendtest.Run(t, open(t, Options{}), networks)
}
