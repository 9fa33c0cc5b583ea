package cuda

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/op"
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

func TestEveryOperationHasABuilder(t *testing.T) {
	builders := makeBuilders()
	for _, o := range op.All {
		if builders[o] == nil {
			t.Errorf("no builder for %s: write one in a file of internal/backend/cuda and name it in that file's table", o.Name)
		}
	}
	if len(builders) != len(op.All) {
		t.Errorf("%d builders for %d operations", len(builders), len(op.All))
	}
	for _, rows := range [][]op.Binary{op.Binaries, op.Compares} {
		for _, r := range rows {
			if pairFunctions[r.Name][0].kernel == "" {
				t.Errorf("no kernel for %s: add a row to pairFunctions in internal/backend/cuda/binary.go, and its function to kernel/binary.cu", r.Name)
			}
		}
	}
}

// A kernel that a builder names is in the sources.
func TestEveryKernelIsThere(t *testing.T) {
	read := func(pattern string) (text string) {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %v, %d files", pattern, err, len(paths))
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			text += string(data)
		}
		return text
	}
	kernels := read("kernel/*.cu")
	for _, call := range regexp.MustCompile(`\.kernel\("(\w+)"\)`).FindAllStringSubmatch(read("*.go"), -1) {
		if !regexp.MustCompile(`KERNEL\(\w+, ` + call[1] + `,`).MatchString(kernels) {
			t.Errorf("no kernel %s: write it in a file of internal/backend/cuda/kernel and run go generate there", call[1])
		}
	}
}

// A context keeps no memory for stacks that no kernel has; they are there when a kernel that has some is found, before it is launched.
func TestStacks(t *testing.T) {
	if os.Getenv("VOXCAM_GPU") == "" {
		sim, o := simulated(t)
		sim.SetContext(64 << 20)
		b, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		if used := sim.Used(); used != 32<<20 {
			t.Errorf("the context has %d bytes", used)
		}
		if err := b.Close(); err != nil || sim.Used() != 0 {
			t.Errorf("%d bytes are left: %v", sim.Used(), err)
		}
		return
	}
	b := open(t, Options{})
	err := b.context.Do(func() error {
		least, _, err := b.context.MemInfo()
		if err != nil {
			return err
		}
		f, err := b.kernels.function("stem_c1_k7_s2_n64")
		if err != nil {
			return err
		}
		some, _, err := b.context.MemInfo()
		if err != nil {
			return err
		}
		if b.kernels.stack != f.Stack() {
			t.Errorf("stacks of %d bytes for a kernel of %d", b.kernels.stack, f.Stack())
		}
		if err := b.context.SetStack(1024); err != nil { // as in a new context
			return err
		}
		most, _, err := b.context.MemInfo()
		if most >= some {
			t.Errorf("%d bytes are free without stacks, %d with the driver's", some, most)
		}
		t.Logf("stacks of %d bytes take %d, those of a new context %d", f.Stack(), least-some, least-most)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
