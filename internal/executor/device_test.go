package executor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/backend/cuda"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/volume/format"
)

// openCPU opens the processor with two threads on any machine: the least that works depends on how many there are.
func openCPU(t testing.TB) backend.Backend {
	t.Helper()
	b, err := cpu.New(cpu.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// openCUDA opens a GPU if VOXCAM_GPU=1 is set, else the simulator.
func openCUDA(t testing.TB, o cuda.Options) *cuda.Backend {
	t.Helper()
	b := newCUDA(t, o)
	t.Cleanup(func() {
		if held := b.Held(); held != 0 {
			t.Errorf("%d bytes of device memory were not given back", held)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// newCUDA is openCUDA for a caller who closes it.
func newCUDA(t testing.TB, o cuda.Options) *cuda.Backend {
	t.Helper()
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
	return b
}

// All methods give the same on a GPU as on the processor, with everything on the device, and with as little there as possible.
func TestDeviceGivesTheSame(t *testing.T) {
	const folder = "../../testdata/cases/methods"
	methods := cam.Methods()
	ask := func(t *testing.T, b backend.Backend, budget cam.Budget, convention map[string]string) *cam.Result {
		t.Helper()
		r, err := explainWith(b, folder, budget, cam.Request{
			Methods: methods, NSamples: 3, NoiseLevel: 0.1, Seed: 5, SampleID: "x", Convention: convention,
		})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	device := openCUDA(t, cuda.Options{})
	for _, convention := range []map[string]string{
		nil, {"gradcam++": "paper", "smoothgrad": "captum", "vargrad": "captum"}, {"gradcam++": "monai", "smoothgrad": "monai"},
	} {
		want := ask(t, openCPU(t), cam.Budget{}, convention)
		for name, budget := range map[string]cam.Budget{"whole": {}, "large": {Bytes: 1 << 30}, "smallest": {Smallest: true}} {
			got := ask(t, device, budget, convention)
			if e := worst(got.Logits, want.Logits); !(e <= 1e-5) {
				t.Errorf("%s: logits are %.1e of the maximum off", name, e)
			}
			for i, m := range got.Methods {
				w := want.Methods[i]
				what := fmt.Sprint(name, ", ", m.Method, ", ", m.Parameters["convention"])
				if m.Status != w.Status || m.Reason != w.Reason {
					t.Errorf("%s: %s (%s), on the processor %s (%s)", what, m.Status, m.Reason, w.Status, w.Reason)
					continue
				}
				if e := worst(m.Map, w.Map); !(e <= 1e-4) {
					t.Errorf("%s: the map is %.1e of the maximum off", what, e)
				}
				if e := worst(m.Heatmap, w.Heatmap); !(e <= 1e-4) {
					t.Errorf("%s: the heatmap is %.1e of the maximum off", what, e)
				}
			}
		}
	}
}

// A budget bounds what the device holds, wherever fields must lie for it; the least that a refusal names is enough.
func TestBudgetHoldsOnTheDevice(t *testing.T) {
	const folder = "../../testdata/cases/methods"
	device := openCUDA(t, cuda.Options{})
	req := cam.Request{Methods: []string{"gradcam", "saliency", "vargrad"}, NSamples: 2, NoiseLevel: 0.1, SampleID: "x"}
	_, err := explainWith(device, folder, cam.Budget{Bytes: 1}, req)
	var small *cam.BudgetError
	if !errors.As(err, &small) {
		t.Fatalf("a budget of a byte: %v", err)
	}
	want, err := explainWith(device, folder, cam.Budget{}, req)
	if err != nil {
		t.Fatal(err)
	}
	for more := 0; more <= 20<<20; more += 4 << 20 {
		budget := small.Smallest + more
		most := 0
		req.Progress = func(int, int) { most = max(most, device.Held()) }
		got, err := explainWith(device, folder, cam.Budget{Bytes: budget}, req)
		if err != nil {
			t.Fatalf("%d bytes more than the least: %v", more, err)
		}
		if most > budget {
			t.Errorf("the device held %d bytes within a budget of %d", most, budget)
		}
		for i, m := range got.Methods {
			if e := worst(m.Heatmap, want.Methods[i].Heatmap); m.Status != want.Methods[i].Status || !(e <= 1e-5) {
				t.Errorf("%d bytes more than the least, %s: %s %s, heatmap %.1e of the maximum off", more, m.Method, m.Status, m.Reason, e)
			}
		}
	}
}

// explainWith explains the volume of a golden case.
func explainWith(b backend.Backend, folder string, budget cam.Budget, req cam.Request) (r *cam.Result, err error) {
	var c goldenCase
	text, err := os.ReadFile(filepath.Join(folder, "case.json"))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, err
	}
	v, err := format.Read(filepath.Join(folder, "volume.npy"), format.Options{})
	if err != nil {
		return nil, err
	}
	m, err := executor.Open(context.Background(), filepath.Join(folder, "model.torchscript.onnx"), b, executor.Options{ModelOptions: network.ModelOptions{TargetLayer: c.Target}, Budget: budget})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	req.Target.Class = cam.Class{Kind: cam.ClassIndex, Index: c.Class}
	return m.Explain(context.Background(), v, req)
}
