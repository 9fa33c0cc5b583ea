package executor_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/volume"
)

// troubleRequest asks for maps of layers, of the input and of draws with two kinds of noise.
var troubleRequest = cam.Request{
	Methods: []string{"gradcam", "saliency", "smoothgrad", "vargrad", "smoothgrad-squared"}, NSamples: 4, NoiseLevel: 0.1, SampleID: "x",
	Convention: map[string]string{"smoothgrad": "monai"},
}

// briefRequests are less to compute for two volumes.
func briefRequests() []cam.Request {
	brief := cam.Request{Methods: []string{"gradcam", "saliency", "vargrad"}, NSamples: 3, NoiseLevel: 0.1, SampleID: "x"}
	next := brief
	next.Methods = []string{"gradcam"}
	return []cam.Request{brief, next}
}

// kept is a checkpoint in memory.
type kept struct {
	mu     sync.Mutex
	states map[string][]float32
	draws  map[string]int
	keeps  int
}

func newKept() *kept { return &kept{states: map[string][]float32{}, draws: map[string]int{}} }

func (k *kept) Latest(key string) ([]float32, int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.states[key], k.draws[key]
}

func (k *kept) Keep(key string, state []float32, draws int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keeps++
	k.states[key], k.draws[key] = slices.Clone(state), draws
	return nil
}

// expected are the results for volumes without any trouble.
func expected(t testing.TB, volumes []*volume.Volume, reqs ...cam.Request) (want []*cam.Result) {
	t.Helper()
	m := openMethods(t, openCPU(t), executor.Options{})
	for i, v := range volumes {
		r, err := m.Explain(context.Background(), v, reqs[min(i, len(reqs)-1)])
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, r)
	}
	return want
}

// same compares results to the bit.
func same(got, want *cam.Result) error {
	if !reflect.DeepEqual(got.Logits, want.Logits) || got.Predicted != want.Predicted || got.TargetClass != want.TargetClass || got.CellSize != want.CellSize {
		return errors.New("other scores")
	}
	for k := range want.Methods {
		g, w := &got.Methods[k], &want.Methods[k]
		if g.Status != w.Status || g.Reason != w.Reason || !reflect.DeepEqual(g.Dims, w.Dims) || !reflect.DeepEqual(g.Parameters, w.Parameters) {
			return fmt.Errorf("%s: %s (%s) %v instead of %s (%s) %v", g.Method, g.Status, g.Reason, g.Parameters, w.Status, w.Reason, w.Parameters)
		}
		if !reflect.DeepEqual(g.Map, w.Map) || !reflect.DeepEqual(g.Heatmap, w.Heatmap) {
			return fmt.Errorf("%s: another map or heatmap", g.Method)
		}
	}
	return nil
}

// openOn opens the methods' model; the caller closes it.
func openOn(t testing.TB, b backend.Backend, opt executor.Options) *executor.Model {
	t.Helper()
	m, err := executor.Open(context.Background(), methodsCase+"/model.torchscript.onnx", b, opt)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// pair explains two volumes of which the second waits while the first is computed.
func pair(ctx context.Context, m *executor.Model, volumes []*volume.Volume, reqs []cam.Request) (results []*cam.Result, err error) {
	first, err := m.Begin(ctx, volumes[0], reqs[0])
	if err != nil {
		return nil, err
	}
	if err := first.Compute(ctx); err != nil {
		return nil, err
	}
	second, err := m.Begin(ctx, volumes[1], reqs[1])
	if err != nil {
		return nil, err
	}
	r, err := first.Result()
	if err != nil {
		second.Drop()
		return nil, err
	}
	results = append(results, r)
	if err := second.Compute(ctx); err != nil {
		return results, err
	}
	r, err = second.Result()
	return append(results, r), err
}

// Whatever call fails, once: the results are exact, nothing is left behind, and the record says what happened. When the device is lost,
// another model on another one goes on.
func TestEveryCallFailsOnce(t *testing.T) {
	volumes, inner := series(t, 2), openCPU(t)
	reqs := briefRequests()
	if backendtest.Long() {
		reqs = []cam.Request{troubleRequest, troubleRequest}
	}
	want := expected(t, volumes, reqs...)
	run := func(t testing.TB, b *limited, keep []*kept) (results []*cam.Result, err error) {
		m := openOn(t, b, executor.Options{Ahead: true})
		reqs := slices.Clone(reqs)
		for i := range reqs {
			reqs[i].Checkpoint = keep[i]
		}
		results, err = pair(t.Context(), m, volumes, reqs)
		if closed := m.Close(); closed != nil && b.Class(closed) == backend.Fault {
			t.Error(closed)
		}
		return results, err
	}
	b := newLimited(t, inner, 1<<30)
	if _, err := run(t, b, []*kept{newKept(), newKept()}); err != nil {
		t.Fatal(err)
	}
	b.clean("without trouble")
	calls := b.calls
	t.Logf("%d calls: %v", calls, b.said)
	for _, trouble := range []backend.ErrorClass{backend.NoMemory, backend.Transient, backend.Lost} {
		for n := 1; n <= calls; n++ {
			what := ""
			b := newLimited(t, inner, 1<<30)
			b.fail = func(call int, name string) backend.ErrorClass {
				if call != n {
					return backend.Fault
				}
				what = fmt.Sprintf("trouble %d at call %d, %s", trouble, n, name)
				return trouble
			}
			keep := []*kept{newKept(), newKept()}
			got, err := run(t, b, keep)
			b.clean(what)
			if trouble == backend.Lost {
				if b.lost && !errors.Is(err, cam.ErrLost) && len(got) < 2 {
					t.Errorf("%s: %v", what, err)
				}
				again := newLimited(t, inner, 1<<30)
				got, err = run(t, again, keep)
				again.clean(what)
			}
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			for i, r := range got {
				if err := same(r, want[i]); err != nil {
					t.Fatalf("%s: volume %d: %v; %+v", what, i, err, r.Execution)
				}
			}
		}
	}
}

// tally counts incidents by their kind.
func tally(r *cam.Result) map[cam.EventKind]int {
	kinds := map[cam.EventKind]int{}
	for _, i := range r.Execution.Events {
		kinds[i.Kind]++
	}
	return kinds
}

// A map that does not come back while the next volume is computed is taken again; when that fails, too, its method is computed again, and
// no other one.
func TestMapsThatDoNotComeBack(t *testing.T) {
	volumes, reqs := series(t, 2), briefRequests()
	want := expected(t, volumes, reqs...)
	for _, trouble := range []backend.ErrorClass{backend.NoMemory, backend.Transient} {
		for failures := range 4 {
			b := newLimited(t, openCPU(t), 1<<30)
			m := openOn(t, b, executor.Options{Ahead: true})
			left, maps := failures, 0
			b.fail = func(_ int, what string) backend.ErrorClass {
				if what == "take" && left > 0 {
					left--
					return trouble
				}
				return backend.Fault
			}
			b.before = func(what string) {
				if what == "layer map" {
					maps++
				}
			}
			got, err := pair(t.Context(), m, volumes, reqs)
			if err != nil {
				t.Fatalf("%d times trouble %d: %v", failures, trouble, err)
			}
			for i, r := range got {
				if err := same(r, want[i]); err != nil {
					t.Errorf("%d times trouble %d: volume %d: %v", failures, trouble, i, err)
				}
			}
			if failures < 2 && (maps != 2 || len(got[0].Execution.Events) > 0) {
				t.Errorf("%d times trouble %d: %d maps of layers were made for 2 volumes; %+v", failures, trouble, maps, got[0].Execution)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			b.clean("closed")
		}
	}
}

// Failures that do not end are given up after a try with what is there and three reloads. When they have ended, the same work goes on from what is finished.
func TestTransientFailuresThatDoNotEnd(t *testing.T) {
	v, req := series(t, 1), troubleRequest
	want := expected(t, v, req)
	b := newLimited(t, openCPU(t), 1<<30)
	m := openOn(t, b, executor.Options{})
	noises, bad := 0, false
	b.fail = func(_ int, what string) backend.ErrorClass {
		if what == "noise" {
			if noises++; noises == 3 {
				bad = true
			}
			if bad {
				return backend.Transient
			}
		}
		return backend.Fault
	}
	w, err := m.Begin(t.Context(), v[0], req)
	if err != nil {
		t.Fatal(err)
	}
	var failed *cam.TransientError
	if err := w.Compute(t.Context()); !errors.As(err, &failed) || failed.Tries != 5 {
		t.Fatalf("after 5 failures in a row: %v", err)
	}
	b.clean("after giving up")
	bad, noises = false, 100
	if err := w.Compute(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := w.Result()
	if err != nil {
		t.Fatal(err)
	}
	if err := same(r, want[0]); err != nil {
		t.Error(err)
	}
	if k := tally(r); k[cam.EventFailed] != 5 || k[cam.EventRepeated] != 1 || k[cam.EventReloaded] != 3 || k[cam.EventResumed] == 0 {
		t.Errorf("incidents: %+v", r.Execution.Events)
	}
	if n := noises - 100; n != 6 { // of 8 draws with two kinds of noise, two were finished
		t.Errorf("%d draws were made where 6 were left", n)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	b.clean("closed")
}

// From little memory up: a volume is explained exactly, with whatever level fits, or refused with what is needed. A refusal is no end: the
// same work goes on when there is more.
func TestLadder(t *testing.T) {
	v, req := series(t, 1), troubleRequest
	want := expected(t, v, req)
	inner := openCPU(t)
	steps, _ := bands(t, inner, req)
	var capacities []int
	for _, s := range steps {
		capacities = append(capacities, s.from, (s.from+s.to)/2, s.to)
	}
	levels := map[cam.Level]bool{}
	for _, capacity := range slices.Compact(capacities) {
		b := newLimited(t, inner, capacity)
		m := openOn(t, b, executor.Options{})
		w, err := m.Begin(t.Context(), v[0], req)
		if err != nil {
			t.Fatal(err)
		}
		err = w.Compute(t.Context())
		var short *cam.MemoryError
		switch {
		case errors.As(err, &short):
			if short.Needs <= capacity || short.Free > capacity {
				t.Errorf("%d bytes: needs %d, free are %d", capacity, short.Needs, short.Free)
			}
			b.clean("refused")
			b.capacity = short.Needs
			levels[levelRefused] = true
			if err := w.Compute(t.Context()); err != nil {
				t.Fatalf("with what is needed, %d bytes: %v", short.Needs, err)
			}
		case err != nil:
			t.Fatalf("%d bytes: %v", capacity, err)
		}
		r, err := w.Result()
		if err != nil {
			t.Fatal(err)
		}
		if err := same(r, want[0]); err != nil {
			t.Errorf("%d bytes: %v", capacity, err)
		}
		levels[r.Execution.Level] = true
		if k := tally(r); short == nil && k[cam.EventRefused] != k[cam.EventSmaller] {
			t.Errorf("%d bytes: incidents: %+v", capacity, r.Execution.Events)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		b.clean("closed")
	}
	for _, l := range []cam.Level{levelRefused, cam.LevelHost, cam.LevelSmallest, cam.LevelStreamed, cam.LevelWhole} {
		if !levels[l] {
			t.Errorf("no capacity gave %s: %v", l, levels)
		}
	}
}

// After the device is lost, another model on another one goes on from the draws that were kept. The lost one is asked nothing any more.
func TestLostDevice(t *testing.T) {
	v, req := series(t, 1), troubleRequest
	want := expected(t, v, req)
	for lostAt := 1; lostAt <= 8; lostAt++ {
		keep := newKept()
		req.Checkpoint = keep
		b := newLimited(t, openCPU(t), 1<<30)
		noises := 0
		b.fail = func(_ int, what string) backend.ErrorClass {
			if what == "noise" {
				if noises++; noises == lostAt {
					return backend.Lost
				}
			}
			return backend.Fault
		}
		m := openOn(t, b, executor.Options{})
		w, err := m.Begin(t.Context(), v[0], req)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Compute(t.Context()); !errors.Is(err, cam.ErrLost) {
			t.Fatalf("lost at draw %d: %v", lostAt, err)
		}
		w.Drop()
		if _, err := m.Begin(t.Context(), v[0], req); !errors.Is(err, cam.ErrLost) {
			t.Errorf("begun on a lost device: %v", err)
		}
		if err := m.Release(t.Context(), nil); !errors.Is(err, cam.ErrLost) {
			t.Errorf("released a lost device: %v", err)
		}
		if _, ok := m.Usage(); ok {
			t.Error("the usage of a lost device")
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		b.clean("closed")

		b = newLimited(t, openCPU(t), 1<<30)
		m = openOn(t, b, executor.Options{})
		r, err := m.Explain(t.Context(), v[0], req)
		if err != nil {
			t.Fatal(err)
		}
		if err := same(r, want[0]); err != nil {
			t.Errorf("lost at draw %d: %v", lostAt, err)
		}
		if done := keep.draws; lostAt == 4 && b.said["noise"] == 8 {
			t.Errorf("all draws were made again: %v were kept", done)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A state that was kept is where the same request goes on, also with fewer draws or more, but not one of more draws than are asked for; a
// place that cannot keep it any more fails no volume.
func TestCheckpoints(t *testing.T) {
	volumes, req := series(t, 1), briefRequests()[0]
	req.NSamples = 5
	keep := newKept()
	req.Checkpoint = keep
	b := newLimited(t, openCPU(t), 1<<30)
	m := openOn(t, b, executor.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	req.Progress = func(done, total int) {
		if done == total-2 { // three draws of five
			cancel()
		}
	}
	if _, err := m.Explain(ctx, volumes[0], req); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	if len(keep.draws) != 1 {
		t.Fatalf("kept: %v", keep.draws)
	}
	key, kept := "", 0
	for key, kept = range keep.draws {
		if want := "draws/0.1/score=logit of class "; kept != 3 || !strings.HasPrefix(key, want) {
			t.Errorf("kept: %v", keep.draws)
		}
	}
	req.Progress = nil
	state := slices.Clone(keep.states[key])
	for draws, made := range map[int]int{2: 2, 3: 0, 5: 2, 7: 4} {
		keep.states[key], keep.draws[key] = slices.Clone(state), kept
		b.said = map[string]int{}
		req.NSamples = draws
		req.Checkpoint = nil
		want := expected(t, volumes, req)
		req.Checkpoint = keep
		r, err := m.Explain(t.Context(), volumes[0], req)
		if err != nil {
			t.Fatal(err)
		}
		if err := same(r, want[0]); err != nil {
			t.Errorf("%d draws: %v", draws, err)
		}
		if b.said["noise"] != made || (tally(r)[cam.EventResumed] == 1) != (draws >= kept) {
			t.Errorf("%d draws after %d: %d were made, %+v", draws, kept, b.said["noise"], r.Execution)
		}
	}
	req.NSamples, req.Checkpoint = 4, full{}
	r, err := m.Explain(t.Context(), volumes[0], req)
	if err != nil || r.Methods[2].Status != cam.StatusOK || tally(r)[cam.EventFailed] != 1 {
		t.Errorf("where nothing can be kept: %v, %+v", err, r)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// full is a checkpoint without room.
type full struct{}

func (full) Latest(string) ([]float32, int)    { return nil, 0 }
func (full) Keep(string, []float32, int) error { return errors.New("no space left on device") }
