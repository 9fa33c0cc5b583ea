package executor_test

import (
	"context"
	"runtime"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/volume/format"
)

// heapAfter explains a volume n times with that many draws each and returns the live heap behind a collection.
func heapAfter(t *testing.T, m *executor.Model, n, draws int) uint64 {
	t.Helper()
	v, err := format.Read("../../testdata/cases/methods/volume.npy", format.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		r, err := m.Explain(context.Background(), v, cam.Request{
			Methods: []string{"gradcam", "gradcam++", "smoothgrad", "vargrad"}, NSamples: draws, NoiseLevel: 0.1, SampleID: "x",
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, method := range r.Methods {
			if method.Status == cam.StatusFailed {
				t.Fatal(method.Reason)
			}
		}
	}
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// Memory grows neither with the number of volumes nor with the number of draws.
func TestMemoryIsFlat(t *testing.T) {
	for _, budget := range []cam.Budget{{}, {Smallest: true}} {
		b, err := cpu.New(cpu.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		m, err := executor.Open(context.Background(), "../../testdata/cases/methods/model.torchscript.onnx", b, executor.Options{Budget: budget})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		const slack = 64 << 10
		few := heapAfter(t, m, 3, 4)
		if many := heapAfter(t, m, 50, 4); many > few+slack {
			t.Errorf("budget %+v: the heap has %d bytes after 3 volumes and %d after 53", budget, few, many)
		}
		if deep := heapAfter(t, m, 1, 64); deep > few+slack {
			t.Errorf("budget %+v: the heap has %d bytes after 4 draws and %d after 64", budget, few, deep)
		}
	}
}
