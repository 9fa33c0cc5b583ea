package worker_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/worker"
	"github.com/voxcam/voxcam/volume"
	"github.com/voxcam/voxcam/volume/format"
)

// The program's engine gives in a child what it gives here, to the bit, also if the child is killed between two draws.
func TestEngine(t *testing.T) {
	dir := filepath.Join("..", "..", "testdata", "cases", "convs")
	v, err := format.Read(filepath.Join(dir, "volume.npy"), format.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o := engine.Options{Policy: policy.DefaultPolicy(), Options: instance.Options{Model: filepath.Join(dir, "model.torchscript.onnx"), Device: "cpu", Ahead: true,
		ModelOptions: network.ModelOptions{Shape: [4]int{v.Channels, v.Depth, v.Height, v.Width}}}}
	req := cam.Request{Methods: []string{"gradcam", "smoothgrad", "vargrad", "saliency"}, NSamples: 6, NoiseLevel: 0.15, Seed: 5, SampleID: "s"}
	here, err := engine.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	want, err := here.Explain(t.Context(), v, req)
	if err != nil {
		t.Fatal(err)
	}
	o.Worker = &worker.Options{}
	w, err := engine.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if got, want := w.Info(), here.Info(); got.SHA256 != want.SHA256 || got.TargetLayer != want.TargetLayer || got.Classes != want.Classes {
		t.Errorf("info %+v instead of %+v", got, want)
	}
	if l := w.Info().Layer; l == nil || !reflect.DeepEqual(l, here.Info().Layer) || !reflect.DeepEqual(l, want.Layer) {
		t.Errorf("the layer is %+v instead of %+v", l, want.Layer)
	}
	if err := w.Prepare(t.Context(), req.Methods); err != nil {
		t.Error(err)
	}
	for _, killed := range []bool{false, true} {
		kill := sync.OnceFunc(func() { syscall.Kill(w.PID(), syscall.SIGKILL) })
		req.Progress = func(done, total int) {
			if killed && done == total-3 {
				kill()
			}
		}
		got, err := w.Explain(t.Context(), v, req)
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range got.Methods {
			r := want.Methods[i]
			if m.Method != r.Method || m.Status != r.Status || !slices.Equal(m.Map, r.Map) || !slices.Equal(m.Heatmap, r.Heatmap) {
				t.Errorf("%s is %s %s, or its maps differ", m.Method, m.Status, m.Reason)
			}
		}
		if killed && !slices.Contains(kindsOf(got.Execution.Events), cam.EventRestart) {
			t.Errorf("the child was not killed: %v", got.Execution.Events)
		}
	}
}

// A child that takes the place of another one opens the same model, or none.
func TestEngineOfAnotherModel(t *testing.T) {
	const cases = "../../testdata/cases"
	v, err := format.Read(filepath.Join(cases, "convs", "volume.npy"), format.Options{})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "m.onnx")
	put := func(of string) {
		data, err := os.ReadFile(filepath.Join(cases, of, "model.torchscript.onnx"))
		if err == nil {
			err = errors.Join(os.WriteFile(path+".new", data, 0o600), os.Rename(path+".new", path))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put("convs")
	w, err := engine.Open(t.Context(), engine.Options{Options: instance.Options{Model: path, Device: "cpu"}, Policy: policy.DefaultPolicy(), Worker: &worker.Options{}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	digest := w.Info().SHA256
	put("pools")
	req := cam.Request{Methods: []string{"gradcam"}, SampleID: "s"}
	if _, err := w.Explain(t.Context(), v, req); err != nil {
		t.Errorf("the child has the first model open: %v", err)
	}
	req.Progress = func(int, int) { syscall.Kill(w.PID(), syscall.SIGKILL) }
	var changed *input.ChangedError
	if _, err := w.Explain(t.Context(), v, req); !errors.As(err, &changed) {
		t.Errorf("another child opened another model: %v", err)
	}
	put("convs")
	req.Progress = nil
	if _, err := w.Explain(t.Context(), v, req); err != nil {
		t.Errorf("the first model is there again: %v", err)
	}
	if w.Info().SHA256 != digest {
		t.Error("the digest is another one")
	}
}

// What the border costs: a volume of 256 MiB goes over, and a map of its size comes back.
func BenchmarkHandOver(b *testing.B) {
	o := script{Quick: true}.options()
	o.Worker = &worker.Options{}
	w, err := engine.Open(b.Context(), o)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	v := volume.New(1, 256, 512, 512)
	req := cam.Request{Methods: []string{"gradcam"}, SampleID: "s"}
	b.SetBytes(4 * int64(len(v.Data)))
	for b.Loop() {
		if _, err := w.Explain(b.Context(), v, req); err != nil {
			b.Fatal(err)
		}
	}
}
