package executor_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/volume"
	"github.com/voxcam/voxcam/volume/format"
)

const methodsCase = "../../testdata/cases/methods"

// overlapRequest asks for maps of layers, of the input and of draws, with heatmaps on both pictures.
var overlapRequest = cam.Request{
	Methods: []string{"gradcam", "gradcam++", "saliency", "smoothgrad", "vargrad"}, NSamples: 2, NoiseLevel: 0.1, SampleID: "x",
}

// series are volumes of the methods' case, no two alike.
func series(t testing.TB, n int) []*volume.Volume {
	t.Helper()
	var out []*volume.Volume
	for i := range n {
		v, err := format.Read(methodsCase+"/volume.npy", format.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for k := range v.Data {
			v.Data[k] *= 1 + float32((i*31+k)%17)/8
		}
		out = append(out, v)
	}
	return out
}

func openMethods(t testing.TB, b backend.Backend, opt executor.Options) *executor.Model {
	t.Helper()
	m, err := executor.Open(context.Background(), methodsCase+"/model.torchscript.onnx", b, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// overlap explains volumes as a run over a data set does: one is begun, one computed, and one awaited at a time.
func overlap(ctx context.Context, m *executor.Model, volumes []*volume.Volume, req cam.Request) ([]*cam.Result, error) {
	type step struct {
		work explain.Work
		err  error
	}
	begun, computed := make(chan step), make(chan step)
	go func() {
		defer close(begun)
		for _, v := range volumes {
			w, err := m.Begin(ctx, v, req)
			begun <- step{w, err}
		}
	}()
	go func() {
		defer close(computed)
		for s := range begun {
			if s.err == nil {
				s.err = s.work.Compute(ctx)
			}
			computed <- s
		}
	}()
	var results []*cam.Result
	var errs []error
	for s := range computed {
		if s.err != nil {
			errs = append(errs, s.err)
			continue
		}
		r, err := s.work.Result()
		results, errs = append(results, r), append(errs, err)
	}
	return results, errors.Join(errs...)
}

// Volumes that overlap give what they give one by one, to the bit, wherever the budget lets them wait.
func TestOverlapGivesTheSame(t *testing.T) {
	volumes := series(t, 3) // one comes back, one is computed, one waits
	for _, lazy := range []bool{false, true} {
		t.Run(fmt.Sprint("lazy ", lazy), func(t *testing.T) {
			if os.Getenv("VOXCAM_GPU") == "" {
				simulator.Load(t).SetLazy(lazy) // what is enqueued runs when something waits for it
			}
			backends := map[string]backend.Backend{"cuda": openCUDA(t, cuda.Options{})}
			if !lazy {
				backends["cpu"] = openCPU(t)
			}
			for name, b := range backends {
				var want []*cam.Result
				alone := openMethods(t, b, executor.Options{})
				for _, v := range volumes {
					r, err := alone.Explain(t.Context(), v, overlapRequest)
					if err != nil {
						t.Fatal(err)
					}
					want = append(want, r)
				}
				for _, budget := range []cam.Budget{{}, {Bytes: 1 << 30}, {Bytes: leastBudget(t, b)}, {Smallest: true}} {
					what := fmt.Sprintf("%s, budget %+v", name, budget)
					m := openMethods(t, b, executor.Options{Ahead: true, Budget: budget})
					got, err := overlap(t.Context(), m, volumes, overlapRequest)
					if err != nil {
						t.Fatalf("%s: %v", what, err)
					}
					for i, r := range got {
						for k := range r.Methods {
							g, w := &r.Methods[k], &want[i].Methods[k]
							if g.Status != w.Status || g.Reason != w.Reason || !reflect.DeepEqual(g.Dims, w.Dims) {
								t.Errorf("%s: volume %d, %s: %s (%s) instead of %s", what, i, g.Method, g.Status, g.Reason, w.Status)
							}
							if !reflect.DeepEqual(g.Map, w.Map) || !reflect.DeepEqual(g.Heatmap, w.Heatmap) {
								t.Errorf("%s: volume %d, %s: another map or heatmap", what, i, g.Method)
							}
						}
					}
				}
			}
		})
	}
}

// leastBudget is the smallest budget for the overlapping request, or a small one where no budget is too small.
func leastBudget(t *testing.T, b backend.Backend) int {
	t.Helper()
	var small *cam.BudgetError
	t.Run("least", func(t *testing.T) {
		m := openMethods(t, b, executor.Options{Budget: cam.Budget{Bytes: 1}})
		if _, err := m.Explain(t.Context(), series(t, 1)[0], overlapRequest); !errors.As(err, &small) {
			t.Fatalf("a budget of a byte: %v", err)
		}
	})
	return small.Smallest
}

// What overlaps is within the budget, and takes no more for many volumes than for a few.
func TestOverlapIsBounded(t *testing.T) {
	b := openCUDA(t, cuda.Options{})
	least := leastBudget(t, b)
	volumes := series(t, 8)
	for _, budget := range []int{least, least + 12<<20, 1 << 30} {
		t.Run(fmt.Sprint(budget), func(t *testing.T) {
			m := openMethods(t, b, executor.Options{Ahead: true, Budget: cam.Budget{Bytes: budget}})
			var heap [2]uint64
			for i, n := range []int{2, len(volumes)} {
				most := 0
				req := overlapRequest
				req.Progress = func(int, int) { most = max(most, b.Held()) }
				if _, err := overlap(t.Context(), m, volumes[:n], req); err != nil {
					t.Fatal(err)
				}
				if most > budget {
					t.Errorf("the device held %d bytes within a budget of %d", most, budget)
				}
				runtime.GC()
				var s runtime.MemStats
				runtime.ReadMemStats(&s)
				heap[i] = s.HeapAlloc
			}
			if heap[1] > heap[0]+256<<10 {
				t.Errorf("the heap has %d bytes after 2 volumes and %d after %d", heap[0], heap[1], len(volumes))
			}
		})
	}
}

// A run that is stopped while a volume waits, is computed or comes back leaves the model usable, and waits for betweenVolumes.
func TestOverlapStops(t *testing.T) {
	volumes := series(t, 4)
	for name, b := range map[string]backend.Backend{"cpu": openCPU(t), "cuda": openCUDA(t, cuda.Options{})} {
		m := openMethods(t, b, executor.Options{Ahead: true})
		for stop := range 12 {
			ctx, cancel := context.WithCancel(t.Context())
			passes := 0
			req := overlapRequest
			req.Progress = func(int, int) {
				if passes++; passes > stop {
					cancel()
				}
			}
			first, err := m.Begin(ctx, volumes[0], req)
			if err != nil {
				t.Fatal(err)
			}
			second := make(chan error)
			go func() {
				w, err := m.Begin(ctx, volumes[1], req)
				if err == nil {
					w.Drop()
				}
				second <- err
			}()
			if err := first.Compute(ctx); err == nil {
				if _, err := first.Result(); err != nil {
					t.Error(err)
				}
			} else if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
			if err := <-second; err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: the second volume: %v", name, err)
			}
			cancel()
		}
		// Nobody has left the place where volumes wait: a second one gives up with its context.
		w, err := m.Begin(t.Context(), volumes[0], overlapRequest)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := m.Begin(ctx, volumes[1], overlapRequest); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: begun without a place: %v", name, err)
		}
		w.Drop()
		if _, err := m.Explain(t.Context(), volumes[2], overlapRequest); err != nil {
			t.Errorf("%s: after all that: %v", name, err)
		}
	}
}
