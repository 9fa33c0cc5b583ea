package cuda

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/invariants"
	"github.com/voxcam/voxcam/internal/noise"
	"github.com/voxcam/voxcam/internal/plan"
)

// session is a bit of all that a backend is asked in a session.
type session struct {
	plan    *plan.Plan
	sample  *backendtest.Example
	choices []cam.Choice
	layer   cam.Choice
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
	s.choices, err = cam.Choose([]string{"vargrad", "eigencam"}, nil)
	must(t, err)
	s.choices, s.layer = s.choices[:1], s.choices[1]
	s.noise, err = noise.New(1, "x", 0)
	must(t, err)
	return s
}

// run returns the results of the session. Whatever fails, all that it took is closed.
func (s *session) run(b *Backend) (out []float32, err error) {
	var closers []func() error
	defer func() {
		for _, c := range slices.Backward(closers) {
			err = errors.Join(err, c())
		}
	}()
	ctx := context.Background()
	a, err := b.newArena(3 * b.memory.Granularity())
	if err != nil {
		return nil, err
	}
	closers = append(closers, a.Close)
	twice, err := a.memory.Double(b.memory.Granularity(), 2*b.memory.Granularity())
	if err != nil {
		return nil, err
	}
	closers = append(closers, twice.Close)
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
		if err := b.Perturb(noisy, x, 1, cam.Perturbation{Baseline: 1, Fraction: 1 / float32(draw+1), Sigma: float32(draw)}, s.noise); err != nil {
			return nil, err
		}
		if err := m.Add(noisy, 1/float64(draw+1)); err != nil {
			return nil, err
		}
		if draw != 1 {
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
	if err := m.Map(noisy, s.choices[0], x, 0); err != nil {
		return nil, err
	}
	if err := b.Copy(aside, noisy); err != nil {
		return nil, err
	}
	if out, err = aside.Take(); err != nil {
		return nil, err
	}
	layout := backend.Layout{Voxels: 20, Channels: 3, Size: [3]int{1, 1, 20}, Stride: [3]int{60, 60, 3}, ChannelStride: 1}
	signed, err := field(layout.Voxels, backend.OnDevice)
	if err != nil {
		return nil, err
	}
	if err := b.LayerMap(signed, s.layer, backend.Layer{Activation: noisy, Gradient: noisy, Layout: layout}); err != nil {
		return nil, err
	}
	values, err = signed.Take()
	if err != nil {
		return nil, err
	}
	out = append(out, values...)
	if _, err := b.Usage(); err != nil {
		return nil, err
	}
	return append(out, scores...), nil
}

// simulated are options for a simulator that may fail, with kernels that are quick to load: it has its own.
func simulated(t *testing.T) (*simulator.Simulator, Options) {
	t.Helper()
	sim := simulator.Load(t)
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "any.zip"))
	must(t, err)
	archive := zip.NewWriter(f)
	entry, err := archive.Create("sm_90a") // the simulated GPU is a 9.0
	must(t, err)
	_, err = entry.Write([]byte{1})
	must(t, errors.Join(err, archive.Close(), f.Close()))
	return sim, Options{Driver: sim.Path, Kernels: dir}
}

// Each call of the driver fails once: the work fails and says why or does without it, and then succeeds on the same backend; closing
// gives everything back.
func TestEachCallFails(t *testing.T) {
	sim, o := simulated(t)
	s := newSession(t)
	counted := &simulator.Watch{}
	o.Intercept = counted.Intercept
	b, err := New(o)
	must(t, err)
	want, err := s.run(b)
	must(t, err)
	first := slices.Clone(counted.Calls)
	again, err := s.run(b)
	must(t, err)
	must(t, b.Close())
	if !slices.Equal(want, again) || sim.Used() != 0 {
		t.Fatal("without faults: the second session gives something else, or memory is left")
	}
	if uneven := counted.Balance(simulator.Opposites); uneven != nil {
		t.Fatal(uneven)
	}
	for _, p := range simulator.Opposites {
		if graphs := strings.Contains(p[0], "Capture") || strings.Contains(p[0], "Graph"); counted.Passed[p[0]] == 0 && !(graphs && invariants.Enabled) {
			t.Errorf("the session does not call %s", p[0])
		}
	}

	// Without VOXCAM_LONG the first calls of each function fail, and of the others some.
	seen := map[string]int{}
	step := len(first)/25 + 1
	for i, call := range first {
		if seen[call]++; seen[call] > 1 && i%step != 0 && !backendtest.Long() {
			continue
		}
		failed := ""
		w := &simulator.Watch{}
		w.Refuse = func(k int, call string) int {
			if k == i {
				failed = call // which may be another: transfers have goroutines of their own
				return simulator.CodeFor(call)
			}
			return 0
		}
		o.Intercept = w.Intercept
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
		case err != nil && Class(err) != map[bool]backend.ErrorClass{true: backend.NoMemory, false: backend.Transient}[simulator.CodeFor(failed) == driver.CodeOutOfMemory]:
			t.Errorf("call %d (%s) is of class %d: %v", i, failed, Class(err), err)
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
		if uneven := w.Balance(simulator.Opposites); uneven != nil || sim.Used() != 0 {
			t.Errorf("call %d (%s): %d bytes of the device are left; %q", i, failed, sim.Used(), uneven)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d calls of %d functions", len(first), len(seen))
}

// A kernel is in one of several modules. That looking into the one that has it fails for once does not mean that no other has it.
func TestLookingForKernels(t *testing.T) {
	_, o := simulated(t)
	w := &simulator.Watch{}
	o.Intercept = w.Intercept
	b, err := New(o)
	must(t, err)
	defer func() { must(t, b.Close()) }()
	var codes []int // of the lookups to come
	w.Refuse = func(_ int, call string) (code int) {
		if call == "cuModuleGetFunction" && len(codes) > 0 {
			code, codes = codes[0], codes[1:]
		}
		return code
	}
	b.kernels.modules = append(b.kernels.modules, b.kernels.modules[0]) // as if there were two
	defer func() { b.kernels.modules = b.kernels.modules[:1] }()
	look := func(fails ...int) error {
		codes = fails
		clear(b.kernels.functions)
		return b.do(func() error {
			_, err := b.kernels.function("attribution_clear")
			return err
		})
	}
	if err := look(999, driver.CodeNotFound); err == nil || Class(err) != backend.Transient {
		t.Errorf("the module that has it fails: class %v: %v", Class(err), err)
	}
	must(t, look(driver.CodeNotFound))
	if err := look(driver.CodeNotFound, driver.CodeNotFound); err == nil || Class(err) != backend.Fault {
		t.Errorf("none has it: class %v: %v", Class(err), err)
	}
}

// The context is lost at some point of a session: all can be closed, the memory is given back, and after that this process gets no other
// context. Another process does, which Reset stands for.
func TestLost(t *testing.T) {
	sim, o := simulated(t)
	s := newSession(t)
	whole := &simulator.Watch{}
	o.Intercept = whole.Intercept
	b, err := New(o)
	must(t, err)
	opened := len(whole.Calls)
	want, err := s.run(b)
	must(t, err)
	must(t, b.Close())
	for i := opened; i < len(whole.Calls); i += max(1, (len(whole.Calls)-opened)/20) {
		w := &simulator.Watch{}
		w.Refuse = func(k int, _ string) int {
			if k == i {
				sim.LoseDevice()
			}
			return 0
		}
		o.Intercept = w.Intercept
		b, err := New(o)
		must(t, err)
		_, err = s.run(b)
		if err != nil && b.Class(err) != backend.Lost {
			t.Errorf("call %d is of class %d: %v", i, b.Class(err), err)
		}
		_, _ = b.Usage() // fails, and says nothing else
		_, _ = b.Trim(0)
		_ = b.Close()
		if sim.Used() != 0 || sim.Host() != 0 || sim.Handles() != 0 || b.Held() != 0 || b.Allocated() != 0 {
			t.Errorf("call %d: %d bytes of the device and %d of the host are left, %d handles; held are %d", i, sim.Used(), sim.Host(), sim.Handles(), b.Held())
		}
		if w.Passed["cuDevicePrimaryCtxRetain"] != w.Passed["cuDevicePrimaryCtxRelease_v2"] {
			t.Errorf("call %d: the context is not given back", i)
		}
		if _, err := New(o); Class(err) != backend.Lost {
			t.Errorf("call %d: another backend: %v", i, err)
		}
		sim.Reset()
	}
	for range 2 {
		b, err := New(o)
		must(t, err)
		got, err := s.run(b)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("a new backend: %v", err)
		}
		must(t, b.Close())
		must(t, b.Close())
	}
	if sim.Used() != 0 {
		t.Errorf("%d bytes of the device are left", sim.Used())
	}
}

// Where the memory has become less, Return takes none of it, and works once there is enough.
func TestReturnWithoutMemory(t *testing.T) {
	sim, o := simulated(t)
	b, err := New(o)
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) }) // after its fields
	fields := []backend.Field{newField(t, b, 2<<20, backend.OnDevice), newField(t, b, 3<<20, backend.OnDevice)}
	values := counting(2<<20, 3)
	must(t, fields[0].Write(values))
	all := b.Held()
	_, err = b.Vacate(fields[0])
	must(t, err)
	for less := b.memory.Granularity(); less <= all; less += b.memory.Granularity() {
		sim.SetCapacity(all - less)
		err = b.Return()
		if Class(err) != backend.NoMemory || !b.Vacated() || b.Held() != 0 || b.Allocated() != 0 || sim.Used() != 0 {
			t.Fatalf("%d bytes too little: vacated %v, %d bytes held, %v", less, b.Vacated(), b.Held(), err)
		}
	}
	sim.SetCapacity(all)
	must(t, b.Return())
	if got, err := fields[0].Take(); err != nil || !slices.Equal(got, values) {
		t.Error("the field holds something else: ", err)
	}
	// What fails to be saved stays where it is.
	sim.FailCall("cuMemcpyDtoHAsync_v2", 1, 999)
	if _, err := b.Vacate(fields...); Class(err) != backend.Transient || b.Vacated() {
		t.Errorf("vacated %v: %v", b.Vacated(), err)
	}
	if got, err := fields[0].Take(); err != nil || !slices.Equal(got, values) {
		t.Error("the field holds something else: ", err)
	}
}

// Without pinned memory weights and fields are kept in any.
func TestVacateWithoutPinnedMemory(t *testing.T) {
	_, o := simulated(t)
	pinned := true
	o.Intercept = func(call string) int {
		if call == "cuMemHostAlloc" && !pinned {
			return driver.CodeOutOfMemory
		}
		return 0
	}
	b, err := New(o)
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) }) // after its fields
	f := newField(t, b, 1<<20, backend.OnDevice)
	values := counting(1<<20, 3)
	must(t, f.Write(values)) // by the transfer queues, which have pinned memory of their own
	must(t, f.Read(values))
	pinned = false
	_, err = b.Vacate(f)
	must(t, err)
	must(t, b.Return())
	if got, err := f.Take(); err != nil || !slices.Equal(got, values) {
		t.Error("the field holds something else: ", err)
	}
}

// What the driver refuses to take when the memory is vacated is still held, and given back by Trim.
func TestVacateRefused(t *testing.T) {
	for _, call := range []string{"cuMemUnmap", "cuMemRelease"} {
		t.Run(call, func(t *testing.T) {
			sim, o := simulated(t)
			b, err := New(o)
			must(t, err)
			t.Cleanup(func() { must(t, b.Close()) })
			f := newField(t, b, 1<<20, backend.OnDevice)
			values := counting(1<<20, 3)
			must(t, f.Write(values))
			sim.FailCall(call, 1, 999)
			freed, err := b.Vacate(f)
			if err == nil || !b.Vacated() || b.Held() == 0 || b.Held() != sim.Used() {
				t.Errorf("vacated %v, %d bytes freed, %d held: %v", b.Vacated(), freed, b.Held(), err)
			}
			left := b.Held()
			if freed, err := b.Trim(0); err != nil || freed != left || b.Held() != 0 {
				t.Errorf("%d bytes freed of %d: %v", freed, left, err)
			}
			must(t, b.Return())
			if got, err := f.Take(); err != nil || !slices.Equal(got, values) {
				t.Errorf("the field holds something else: %v", err)
			}
		})
	}
}

// With LaunchBlocking an error names the step that failed; without, the stretch that was waited for.
func TestLaunchBlocking(t *testing.T) {
	for _, blocking := range []bool{false, true} {
		_, o := simulated(t)
		o.LaunchBlocking = blocking
		armed := false
		n := 0
		o.Intercept = func(call string) int {
			if !armed || call != "cuStreamSynchronize" {
				return 0
			}
			if n++; n == 2 || !blocking {
				return 700
			}
			return 0
		}
		b, err := New(o)
		must(t, err)
		s := newSession(t)
		program, err := b.Load(context.Background(), plan.Make(s.plan.Graph), nil)
		must(t, err)
		for _, v := range s.plan.Graph.Inputs {
			must(t, program.Write(v, make([]float32, v.Shape().Elements())))
		}
		armed = true
		for range 3 { // no graphs either
			n = 0
			err = program.Run(context.Background(), 0, len(program.(*Program).steps))
			if got := strings.Contains(fmt.Sprint(err), "cuda: step "); err == nil || got != blocking {
				t.Errorf("blocking %v: %v", blocking, err)
			}
		}
		armed = false
		must(t, errors.Join(program.Close(), b.Close()))
	}
}

// An arena whose pieces went to another program while large ones were exchanged is an error for its programs, and can be closed.
func TestBrokenArena(t *testing.T) {
	_, o := simulated(t)
	greedy := false
	o.Intercept = func(call string) int {
		if greedy && call == "cuMemCreate" {
			return 2
		}
		return 0
	}
	b, err := New(o)
	must(t, err)
	s := newSession(t)
	p := plan.Make(s.plan.Graph)
	a, err := b.newArena((16 + 4) * b.memory.Granularity())
	must(t, err)
	program, err := b.Load(context.Background(), p, a)
	must(t, err)
	greedy = true
	if _, err := a.memory.Double(8*b.memory.Granularity(), b.memory.Granularity()); b.Class(err) != backend.NoMemory {
		t.Error(err)
	}
	if err := program.Run(context.Background(), 0, len(p.Steps)); !errors.Is(err, errClosed) {
		t.Errorf("running in it: %v", err)
	}
	if _, err := b.Load(context.Background(), p, a); err == nil {
		t.Error("loading into it is not an error")
	}
	must(t, errors.Join(program.Close(), a.Close(), b.Close()))
}

// The option Fault makes calls fail.
func TestFaultOption(t *testing.T) {
	sim, o := simulated(t)
	o.Fault = "cuMemCreate:2:2"
	b, err := New(o)
	must(t, err)
	if _, err := b.NewArena(4 << 20); b.Class(err) != backend.NoMemory || b.Held() != b.memory.Granularity() {
		t.Errorf("the second piece was taken: %v", err)
	}
	must(t, b.Close())
	if o.Fault = "nonsense"; sim.Used() != 0 {
		t.Error("memory is left")
	}
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Error(err)
	}
}
