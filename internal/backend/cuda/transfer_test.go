package cuda

import (
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/devmem"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/noise"
)

// lazily makes streams of the simulator run as late as the program's waiting allows.
func lazily(t *testing.T) {
	t.Helper()
	if os.Getenv("VOXCAM_GPU") == "" {
		simulator.Load(t).SetLazy(true)
	}
}

func counting(n int, from float32) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = from + float32(i%1024)
	}
	return x
}

// Reads and writes of a field come after all work that was enqueued for it; a field longer than all staging buffers comes through.
func TestTransfersWait(t *testing.T) {
	lazily(t)
	b := open(t, Options{})
	stream, err := noise.New(1, "x", 0)
	if err != nil {
		t.Fatal(err)
	}
	n := (devmem.TransferBuffers+1)*devmem.TransferBytes/4 + 5
	x, dst := newField(t, b, n, backend.OnDevice), newField(t, b, n, backend.OnDevice)
	first, second := counting(n, 1), counting(n, 2)
	got := make([]float32, n)
	for range 2 {
		must(t, x.Write(first))
		must(t, dst.Write(second))
		must(t, b.Perturb(dst, x, 1, cam.Perturbation{Fraction: 1}, stream)) // a copy that is not waited for
		must(t, x.Write(second))
		must(t, dst.Read(got))
		if !slices.Equal(got, first) {
			t.Fatal("a field was read before, or its source written before it was used")
		}
		must(t, b.Copy(dst, x))
		must(t, x.Write(first))
		must(t, dst.Read(got))
		if !slices.Equal(got, second) {
			t.Fatal("a copy was read too early, or its source written too early")
		}
	}
}

// Volumes with channels are interleaved piece by piece, and fields in pinned memory are copied as they are.
func TestCopyWithPinnedMemory(t *testing.T) {
	lazily(t)
	b := open(t, Options{})
	const channels, voxels = 3, devmem.TransferBytes/8 + 7
	volume, want := counting(channels*voxels, 1), make([]float32, channels*voxels)
	for c := range channels {
		for v := range voxels {
			want[v*channels+c] = volume[c*voxels+v]
		}
	}
	device, pinned := newField(t, b, len(volume), backend.OnDevice), newField(t, b, len(volume), backend.OnHost)
	back := newField(t, b, len(volume), backend.OnHost)
	for _, to := range []backend.Field{device, pinned} {
		must(t, b.Upload(to, volume, channels))
		got, err := to.Take()
		if must(t, err); !slices.Equal(got, want) {
			t.Fatal("another volume")
		}
	}
	must(t, device.Write(volume))
	must(t, b.Copy(device, pinned))
	must(t, b.Copy(back, device))
	if got, err := back.Take(); err != nil || !slices.Equal(got, want) {
		t.Fatal("another copy", err)
	}
}

// Fields go up and down on many goroutines while another one works on the device.
func TestTransfersOverlap(t *testing.T) {
	lazily(t)
	b := open(t, Options{})
	const n = devmem.TransferBytes/4*2 + 3
	x, y := newField(t, b, n, backend.OnDevice), newField(t, b, n, backend.OnDevice)
	first := counting(n, 1)
	must(t, x.Write(first))
	var group sync.WaitGroup
	group.Go(func() {
		for range 20 {
			if err := b.Copy(y, x); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range 4 {
		f := newField(t, b, n, backend.OnDevice)
		group.Go(func() {
			for k := range 5 {
				data := counting(n, float32(10*i+k))
				if err := b.Upload(f, data, 1); err != nil {
					t.Error(err)
				}
				if got, err := f.Take(); err != nil || !slices.Equal(got, data) {
					t.Error("another field came back", err)
				}
			}
		})
	}
	group.Wait()
	if got, err := y.Take(); err != nil || !slices.Equal(got, first) {
		t.Error("another copy", err)
	}
}

func newField(t *testing.T, b *Backend, n int, where backend.Place) backend.Field {
	t.Helper()
	f, err := b.NewField(n, where)
	must(t, err)
	t.Cleanup(func() { must(t, f.Close()) })
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
