package devmem

import (
	"errors"
	"os"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
)

// opened takes the first device of the driver at a path, with an allocator of it.
func opened(t testing.TB, path string, intercept driver.Intercept) *Allocator {
	t.Helper()
	d, err := driver.OpenIntercepted(path, intercept)
	if none := (*driver.NoDriverError)(nil); errors.As(err, &none) && path == "" {
		t.Skip("DEVICE MEMORY NOT CHECKED: VOXCAM_GPU is set and there is no driver: ", err)
	}
	must(t, err)
	reopen := func() (*driver.Context, error) { return d.Context(0) }
	c, err := reopen()
	must(t, err)
	a := New(c, Options{Reopen: reopen, Overhead: func() (int, error) { return 0, nil }})
	must(t, c.Do(a.Open))
	return a
}

// open takes a GPU if VOXCAM_GPU=1 is set, else the simulator, until the test ends, by when all is to be given back.
func open(t testing.TB) *Allocator {
	t.Helper()
	path := ""
	if os.Getenv("VOXCAM_GPU") == "" {
		path = simulator.Build(t)
	}
	a := opened(t, path, nil)
	t.Cleanup(func() {
		if allocated := a.Allocated(); allocated != 0 {
			t.Errorf("%d bytes of device memory were not given back", allocated)
		}
		must(t, a.Close())
		if held := a.Held(); held != 0 {
			t.Errorf("%d bytes of device memory were not given back to the driver", held)
		}
	})
	return a
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
