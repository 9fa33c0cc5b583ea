package engine

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend/cuda"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/volume"
	"github.com/voxcam/voxcam/volume/format"
)

// rig is an engine on the simulator, with a small network that all methods work on.
type rig struct {
	*simulator.Simulator
	options Options
	volume  *volume.Volume
	request cam.Request
	t       *testing.T
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{Simulator: simulator.Load(t), t: t}
	t.Setenv(device.Driver, r.Path)
	const folder = "../../testdata/cases/methods"
	text, err := os.ReadFile(filepath.Join(folder, "case.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Target string `json:"target_layer"`
	}
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	if r.volume, err = format.Read(filepath.Join(folder, "volume.npy"), format.Options{}); err != nil {
		t.Fatal(err)
	}
	r.options = Options{Policy: policy.DefaultPolicy(), Options: instance.Options{ModelOptions: network.ModelOptions{TargetLayer: c.Target},
		Model: filepath.Join(folder, "model.torchscript.onnx"), Device: "cuda", Ahead: true}}
	r.options.Policy.Wait = 0
	r.request = cam.Request{Methods: []string{"gradcam", "saliency", "smoothgrad", "vargrad"}, NSamples: 6, NoiseLevel: 0.1, Seed: 5, SampleID: "x"}
	return r
}

func (r *rig) open() *Engine {
	r.t.Helper()
	e, err := Open(r.t.Context(), r.options)
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

// close closes an engine, which must leave nothing behind.
func (r *rig) close(e *Engine) {
	r.t.Helper()
	if err := e.Close(); err != nil {
		r.t.Error(err)
	}
	if used := r.Used(); used != 0 {
		r.t.Errorf("%d bytes of the device are still taken", used)
	}
}

func (r *rig) explain(e *Engine, req cam.Request) *cam.Result {
	r.t.Helper()
	res, err := e.Explain(r.t.Context(), r.volume, req)
	if err != nil {
		r.t.Fatal(err)
	}
	return res
}

// same compares heatmaps with those of an undisturbed run: to the last bit on the same device, nearly on the processor.
func same(t *testing.T, got, want *cam.Result, tolerance float64) {
	t.Helper()
	for i, m := range got.Methods {
		w := want.Methods[i]
		if m.Status != w.Status || len(m.Heatmap) != len(w.Heatmap) || len(m.Map) != len(w.Map) {
			t.Errorf("%s is %s (%s), not %s", m.Method, m.Status, m.Reason, w.Status)
			continue
		}
		if e := max(worst(m.Heatmap, w.Heatmap), worst(m.Map, w.Map)); !(e <= tolerance) {
			t.Errorf("%s is %.1e of the maximum off", m.Method, e)
		}
	}
}

// worst is the largest difference, as a share of the largest value.
func worst(got, want []float32) (e float64) {
	top := 0.0
	for i := range got {
		e = max(e, math.Abs(float64(got[i])-float64(want[i])))
		top = max(top, math.Abs(float64(want[i])))
	}
	return e / top
}

// once calls f when so many passes are done the first time.
func once(passes int, f func()) func(int) {
	var first sync.Once
	return func(done int) {
		if done == passes {
			first.Do(f)
		}
	}
}

// Whatever becomes of the simulated device's memory and of its context, results are those of a device that one has for oneself.
func TestSimulatedDevice(t *testing.T) {
	r := newRig(t)
	e := r.open()
	want := r.explain(e, r.request)
	needs := e.State().Usage.Reserved
	if want.Execution.Level != cam.LevelWhole || len(want.Execution.Events) != 0 || needs == 0 {
		t.Fatalf("undisturbed: %+v", want.Execution)
	}
	if st := e.State(); st.UUID == "" || len(st.Plans) != 2 || st.Arena == 0 || st.Level != cam.LevelWhole {
		t.Errorf("the state is %+v", st)
	}
	r.close(e)
	const large = 1 << 30

	for name, c := range map[string]struct {
		set       func()
		progress  func(done int)
		levels    []cam.Level
		tolerance float64
		has       cam.EventKind
		lost      bool // by this process, until it ends
	}{
		"less than whole tensors": {set: func() { r.SetCapacity(needs * 3 / 4) }, levels: []cam.Level{cam.LevelStreamed, cam.LevelSmallest, cam.LevelHost}, tolerance: 1e-5},
		"next to nothing":         {set: func() { r.SetCapacity(2 << 20) }, levels: []cam.Level{cam.LevelCPU}, tolerance: 1e-4, has: cpu},
		"no context":              {set: func() { r.SetContext(large); r.SetCapacity(large / 2) }, levels: []cam.Level{cam.LevelCPU}, tolerance: 1e-4, has: cpu},
		"competition": {set: func() { r.CompeteEach(50, 1, 0, 2*needs) }, tolerance: 1e-4,
			levels: []cam.Level{cam.LevelWhole, cam.LevelStreamed, cam.LevelSmallest, cam.LevelHost, cam.LevelCPU}},
		"lost at a draw": {progress: once(5, r.LoseDevice), levels: []cam.Level{cam.LevelCPU}, tolerance: 1e-4, has: cpu, lost: true},
		"lost at first":  {progress: once(1, r.LoseDevice), levels: []cam.Level{cam.LevelCPU}, tolerance: 1e-4, has: cpu, lost: true},
		"taken away in the midst": {progress: func(done int) {
			if done == 4 {
				r.SetCapacity(2 << 20)
			}
		}, levels: []cam.Level{cam.LevelCPU}, tolerance: 1e-4, has: cpu},
		"ever less, and more again": {progress: func(done int) {
			r.SetCapacity([]int{large, needs, needs * 3 / 4, needs / 2, needs, large, needs / 2, large, large, large}[done])
		}, levels: []cam.Level{cam.LevelWhole, cam.LevelStreamed, cam.LevelSmallest, cam.LevelHost, cam.LevelCPU}, tolerance: 1e-4},
	} {
		t.Run(name, func(t *testing.T) {
			r.Reset()
			r.t = t
			if c.set != nil {
				c.set()
			}
			e := r.open()
			req := r.request
			if c.progress != nil {
				req.Progress = func(done, _ int) { c.progress(done) }
			}
			got := r.explain(e, req)
			same(t, got, want, c.tolerance)
			x := got.Execution
			if !slices.Contains(c.levels, x.Level) || c.has != "" && !slices.Contains(kinds(x.Events), c.has) {
				t.Errorf("the level is %s, and what happened: %v", x.Level, x.Events)
			}
			if c.lost {
				calls := r.Calls("cuDevicePrimaryCtxRetain")
				next := r.explain(e, r.request)
				same(t, next, want, c.tolerance)
				if tried := r.Calls("cuDevicePrimaryCtxRetain") - calls; tried != 0 || r.Used() != 0 {
					t.Errorf("contexts were asked for %d times; %d bytes are still taken", tried, r.Used())
				}
				r.close(e)
				r.Reset() // as another process
				e = r.open()
			}
			// The device is used again by the next volume.
			r.Reset()
			e.tried = time.Time{}
			next := r.explain(e, r.request)
			same(t, next, want, 1e-5)
			if next.Execution.Level == cam.LevelCPU {
				t.Errorf("with all memory: %+v", next.Execution)
			}
			r.close(e)
		})
	}
}

// Orders give back what they say, by the driver's figures, and take nothing from the result.
func TestSimulatedOrders(t *testing.T) {
	r := newRig(t)
	e := r.open()
	defer func() { r.close(e) }()
	want := r.explain(e, r.request)
	for _, o := range []policy.Operation{policy.Release, policy.Resume, policy.Trim, policy.Defragment, policy.Restart} {
		outcome := make(chan policy.Outcome, 1)
		req := r.request
		ask := func() {
			out, err := e.Order(context.WithoutCancel(t.Context()), policy.Order{Operation: o})
			if err != nil {
				t.Errorf("%s: %v", o, err)
			}
			outcome <- out
		}
		req.Progress = func(done, _ int) {
			if done == 3 {
				go ask()
				if o == policy.Restart || o == policy.Release { // which come between two passes
					time.Sleep(10 * time.Millisecond)
				}
			}
		}
		got := r.explain(e, req)
		out := <-outcome
		same(t, got, want, 1e-5)
		if gave := out.Freed() > 0; gave != (o == policy.Release || o == policy.Restart) {
			t.Errorf("%s: %+v, which is %d bytes", o, out, out.Freed())
		}
		if o == policy.Release && got.Execution.Level == cam.LevelWhole {
			t.Errorf("after %s: %+v", o, got.Execution)
		}
	}
}

// Volumes that follow one another, each brought to the device while the one before is explained, beside a program that takes and gives
// memory all the time, and in the end a lost context, all get their maps.
func TestSimulatedCompetition(t *testing.T) {
	const volumes = 8
	r := newRig(t)
	e := r.open()
	want := r.explain(e, r.request)
	needs := e.State().Usage.Reserved
	r.close(e)
	r.Reset()
	r.SetContext(1 << 20)
	r.CompeteEach(60, 7, 0, needs+1<<20)
	e = r.open()
	begun := make(chan explain.Work)
	go func() {
		defer close(begun)
		for range volumes {
			w, err := e.Begin(t.Context(), r.volume, r.request)
			if err != nil {
				t.Error(err)
				return
			}
			begun <- w
		}
	}()
	var results sync.WaitGroup
	levels, happened := map[cam.Level]int{}, map[cam.EventKind]int{}
	n := 0
	for w := range begun {
		if n++; n == volumes-1 {
			r.LoseAfter(300)
		}
		if err := w.Compute(t.Context()); err != nil {
			t.Error(err)
			continue
		}
		results.Wait()
		results.Go(func() {
			got, err := w.Result()
			if err != nil {
				t.Error(err)
				return
			}
			same(t, got, want, 1e-4)
			levels[got.Execution.Level]++
			for _, k := range kinds(got.Execution.Events) {
				happened[k]++
			}
		})
	}
	results.Wait()
	t.Log(levels, happened)
	if happened[cam.EventRefused] == 0 || happened[cam.EventFailed]+happened[cpu] == 0 {
		t.Errorf("the competition is too weak: %v, %v", levels, happened)
	}
	r.close(e)
}

// Any call of the driver may fail: a volume is explained all the same, and nothing is left on the device.
func TestSimulatedFailures(t *testing.T) {
	r := newRig(t)
	r.request.Methods, r.request.NSamples = []string{"gradcam", "smoothgrad"}, 3
	r.options.Policy.Wait = time.Minute // which nothing must take
	var calls atomic.Int64
	fails, code := 0, 0
	p := instance.Standard()
	p.Device = func(o device.Options) (*instance.Machine, error) {
		if o.Name == "cpu" {
			return instance.Standard().Device(o)
		}
		b, err := cuda.New(cuda.Options{Driver: r.Path, Intercept: func(string) int {
			if int(calls.Add(1)) == fails {
				return code
			}
			return 0
		}})
		if err != nil {
			return nil, err
		}
		return &instance.Machine{Backend: b, Free: b.FreeMemory, Close: b.Close}, nil
	}
	run := func() (*cam.Result, int) {
		calls.Store(0)
		e, err := open(t.Context(), r.options, p.Open)
		if err != nil {
			t.Fatalf("with the error %d at call %d: %v", code, fails, err)
		}
		res := r.explain(e, r.request)
		_ = e.Close() // says so if the call was one of these
		if used := r.Used(); used != 0 {
			t.Errorf("%d bytes of the device are still taken", used)
		}
		return res, int(calls.Load())
	}
	want, total := run()
	for _, code = range []int{driver.CodeOutOfMemory, 999, 719} {
		for fails = 1; fails <= total; fails += 1 + total/6 {
			began := time.Now()
			res, _ := run()
			same(t, res, want, 1e-4) // that of the processor, where the device is lost
			if t.Failed() || time.Since(began) > 30*time.Second {
				t.Fatalf("that was with the error %d at call %d of %d, in %v: %v", code, fails, total, time.Since(began), res.Execution)
			}
		}
	}
}
