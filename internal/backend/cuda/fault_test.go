package cuda

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/cam"
	"github.com/voxcam/voxcam/internal/noise"
	"github.com/voxcam/voxcam/internal/plan"
)

// watch counts the calls that reach the driver, and refuses some.
type watch struct {
	mu     sync.Mutex
	calls  []string
	passed map[string]int
	refuse func(i int, call string) int // of call i, counted from 0
}

func (w *watch) intercept(call string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := len(w.calls)
	w.calls = append(w.calls, call)
	if w.refuse != nil {
		if code := w.refuse(i, call); code != 0 {
			return code
		}
	}
	w.passed[call]++
	return 0
}

// pairs are calls that take something, and those that give it back.
var opposites = [][2]string{
	{"cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2"}, {"cuMemCreate", "cuMemRelease"},
	{"cuMemAddressReserve", "cuMemAddressFree"}, {"cuMemHostAlloc", "cuMemFreeHost"}, {"cuStreamCreate", "cuStreamDestroy_v2"},
	{"cuEventCreate", "cuEventDestroy_v2"}, {"cuModuleLoadDataEx", "cuModuleUnload"}, {"cuStreamBeginCapture_v2", "cuStreamEndCapture"},
	{"cuStreamEndCapture", "cuGraphDestroy"}, {"cuGraphInstantiateWithFlags", "cuGraphExecDestroy"},
}

// balance names the pairs of calls that were not made equally often.
func (w *watch) balance(pairs [][2]string) (uneven []string) {
	for _, p := range pairs {
		if taken, given := w.passed[p[0]], w.passed[p[1]]; taken != given {
			uneven = append(uneven, fmt.Sprintf("%d of %s and %d of %s", taken, p[0], given, p[1]))
		}
	}
	return uneven
}

// taking are the calls that fail for want of memory, with whatever they are asked.
var taking = []string{
	"cuMemCreate", "cuMemAddressReserve", "cuMemHostAlloc", "cuStreamCreate", "cuEventCreate", "cuModuleLoadDataEx", "cuGraphInstantiateWithFlags",
}

func codeFor(call string) int {
	if slices.Contains(taking, call) {
		return driver.CodeOutOfMemory
	}
	return 999
}

// session is a bit of all that a backend is asked in a session.
type session struct {
	plan    *plan.Plan
	sample  *backendtest.Sample
	choices []cam.Choice
	noise   noise.Stream
}

func newSession(t *testing.T) *session {
	t.Helper()
	s := &session{}
	var err error
	for seed := range backendtest.AllNetworks { // the first with weights and values of its caller
		s.sample = backendtest.Networks().Example(seed)
		if len(backendtest.External(s.sample.Graph)) > 0 && len(s.sample.Graph.Outputs) == 1 && seed > 0 {
			break
		}
	}
	plans, err := backendtest.Plans(s.sample.Graph)
	must(t, err)
	s.plan = plans["external"]
	s.choices, err = cam.Choose([]string{"vargrad"}, nil)
	must(t, err)
	s.noise, err = noise.New(1, "x", 0)
	must(t, err)
	return s
}

// run gives what the session computes. Whatever fails, all that it took is closed.
func (s *session) run(b *Backend) (out []float32, err error) {
	var closers []func() error
	defer func() {
		for _, c := range slices.Backward(closers) {
			err = errors.Join(err, c())
		}
	}()
	ctx := context.Background()
	a, err := b.newArena(3 * b.granularity)
	if err != nil {
		return nil, err
	}
	closers = append(closers, a.Close)
	twice, err := a.memory.double(b.granularity, 2*b.granularity)
	if err != nil {
		return nil, err
	}
	closers = append(closers, twice.close)
	program, err := b.Load(ctx, s.plan, nil)
	if err != nil {
		return nil, err
	}
	closers = append(closers, program.Close)
	var kept []backend.Field
	field := func(n int, where backend.Place) (backend.Field, error) {
		f, err := b.NewField(n, where)
		if err == nil {
			closers = append(closers, f.Close)
			kept = append(kept, f)
		}
		return f, err
	}
	const n = 5000
	x, err := field(n, backend.OnDevice)
	if err != nil {
		return nil, err
	}
	noisy, err := field(n, backend.OnDevice)
	if err != nil {
		return nil, err
	}
	aside, err := field(n, backend.OnHost)
	if err != nil {
		return nil, err
	}
	for i, v := range backendtest.External(s.plan.Graph) {
		if !s.plan.Buffers[s.plan.BufferOf()[v]].External {
			continue
		}
		f, err := field(v.Shape().Elements(), []backend.Place{backend.OnDevice, backend.OnHost}[i%2])
		if err == nil {
			err = program.Bind(v, f)
		}
		if err != nil {
			return nil, err
		}
	}
	m, err := b.NewMoments(n, 1, backend.OnDevice, s.choices...)
	if err != nil {
		return nil, err
	}
	closers = append(closers, m.Close)
	values := counting(n, 1)
	if err := b.Upload(x, values, 2); err != nil {
		return nil, err
	}
	var scores []float32
	state := make([]float32, m.Len())
	for draw := range 3 {
		for _, v := range s.plan.Graph.Inputs {
			data := make([]float32, v.Shape().Elements())
			for i, x := range s.sample.Data[v] {
				data[i] = float32(x)
			}
			if err := program.Write(v, data); err != nil {
				return nil, err
			}
		}
		for range 2 {
			if err := program.Run(ctx, 0, len(s.plan.Steps)); err != nil {
				return nil, err
			}
		}
		y := s.plan.Graph.Outputs[0]
		values := make([]float32, y.Shape().Elements())
		if err := program.Read(y, values); err != nil {
			return nil, err
		}
		scores = append(scores, values...)
		if err := b.AddNoise(noisy, x, 1, s.noise, float32(draw)); err != nil {
			return nil, err
		}
		if err := m.Add(noisy); err != nil {
			return nil, err
		}
		if draw == 1 {
			continue
		}
		if err := m.Save(state); err != nil {
			return nil, err
		}
		if _, err := b.Vacate(kept...); err != nil {
			return nil, err
		}
		if err := b.Return(); err != nil {
			return nil, err
		}
		if err := m.Load(state, m.Draws()); err != nil {
			return nil, err
		}
	}
	if err := m.Map(noisy, s.choices[0]); err != nil {
		return nil, err
	}
	if err := b.Copy(aside, noisy); err != nil {
		return nil, err
	}
	if out, err = aside.Take(); err != nil {
		return nil, err
	}
	if _, err := b.Usage(); err != nil {
		return nil, err
	}
	return append(out, scores...), nil
}

// Each call of the driver fails once: the work fails and says why or does without it, and then succeeds on the same backend; closing
// gives everything back.
func TestEachCallFails(t *testing.T) {
	sim := simulator.Load(t)
	s := newSession(t)
	o := Options{Driver: sim.Path}
	counted := &watch{passed: map[string]int{}}
	o.Intercept = counted.intercept
	b, err := New(o)
	must(t, err)
	want, err := s.run(b)
	must(t, err)
	first := slices.Clone(counted.calls)
	again, err := s.run(b)
	must(t, err)
	must(t, b.Close())
	if !slices.Equal(want, again) || sim.Used() != 0 {
		t.Fatal("without faults: the second session gives something else, or memory is left")
	}
	if uneven := counted.balance(opposites); uneven != nil {
		t.Fatal(uneven)
	}
	for _, p := range opposites {
		if counted.passed[p[0]] == 0 {
			t.Errorf("the session does not call %s", p[0])
		}
	}

	// Without VOXCAM_LONG the first calls of each function fail, and of the others some.
	seen := map[string]int{}
	step := len(first)/60 + 1
	for i, call := range first {
		if seen[call]++; seen[call] > 1 && i%step != 0 && !backendtest.Long() {
			continue
		}
		failed := ""
		w := &watch{passed: map[string]int{}}
		w.refuse = func(k int, call string) int {
			if k == i {
				failed = call // which may be another: transfers have goroutines of their own
				return codeFor(call)
			}
			return 0
		}
		o.Intercept = w.intercept
		b, err := New(o)
		if err != nil {
			if b, err = New(o); err != nil {
				t.Fatalf("call %d (%s): opening again: %v", i, failed, err)
			}
		}
		got, err := s.run(b)
		switch {
		case err == nil && !slices.Equal(got, want):
			t.Errorf("call %d (%s): the results are others", i, failed)
		case err != nil && Trouble(err) != map[bool]backend.Trouble{true: backend.NoMemory, false: backend.Transient}[codeFor(failed) == driver.CodeOutOfMemory]:
			t.Errorf("call %d (%s) is trouble %d: %v", i, failed, Trouble(err), err)
		}
		if err != nil {
			if _, err := b.Trim(0); err != nil {
				t.Errorf("call %d (%s): trimming: %v", i, failed, err)
			}
			if b.Allocated() != 0 || b.Held() != 0 {
				t.Errorf("call %d (%s): %d bytes are allocated and %d held after %v", i, failed, b.Allocated(), b.Held(), err)
			}
			if b.Vacated() {
				must(t, b.Return())
			}
			if got, err := s.run(b); err != nil || !slices.Equal(got, want) {
				t.Errorf("call %d (%s): the second session: %v", i, failed, err)
			}
		}
		if err := b.Close(); err != nil {
			t.Errorf("call %d (%s): closing: %v", i, failed, err)
		}
		if uneven := w.balance(opposites); uneven != nil || sim.Used() != 0 {
			t.Errorf("call %d (%s): %d bytes of the device are left; %q", i, failed, sim.Used(), uneven)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d calls of %d functions", len(first), len(seen))
}
