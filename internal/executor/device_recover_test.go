package executor_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/cuda"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/executor"
)

// interceptor counts calls of the driver, and makes one fail.
type interceptor struct {
	mu    sync.Mutex
	calls int
	at    int
	code  func(call string) int
	what  string
}

func (i *interceptor) intercept(call string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.calls++; i.calls != i.at {
		return 0
	}
	i.what = fmt.Sprintf("call %d, %s", i.calls, call)
	return i.code(call)
}

func (i *interceptor) reset(at int, code func(call string) int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.calls, i.at, i.code, i.what = 0, at, code, ""
}

// failure is what a call of the driver fails with if not for good.
func failure(call string) int {
	if slices.Contains([]string{"cuMemCreate", "cuMemHostAlloc", "cuMemAddressReserve"}, call) {
		return driver.CodeOutOfMemory
	}
	return 999
}

// Calls of the driver that fail, here and there in the work on two volumes, change nothing of their results. After one that loses the
// context another model goes on.
func TestDriverFailures(t *testing.T) {
	volumes, reqs := series(t, 2), briefRequests()
	calls := &interceptor{}
	run := func(b *cuda.Backend, keep *kept) ([]*cam.Result, error) {
		m := openOn(t, b, executor.Options{Ahead: true})
		with := slices.Clone(reqs)
		with[0].Checkpoint = keep
		got, err := pair(t.Context(), m, volumes, with)
		closed := m.Close()
		if closed != nil && cuda.Class(closed) == 0 {
			t.Error(closed)
		}
		return got, err
	}
	b := openCUDA(t, cuda.Options{Intercept: calls.intercept})
	calls.reset(0, nil)
	want, err := run(b, newKept())
	if err != nil {
		t.Fatal(err)
	}
	total, step := calls.calls, 127
	if backendtest.Long() {
		step = 1
	}
	t.Logf("%d calls of the driver", total)
	check := func(got []*cam.Result, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", calls.what, err)
		}
		for i, r := range got {
			if err := same(r, want[i]); err != nil {
				t.Fatalf("%s: volume %d: %v: %+v", calls.what, i, err, r.Execution)
			}
		}
		if b.Held() != 0 {
			t.Fatalf("%s: %d bytes are held", calls.what, b.Held())
		}
	}
	for at := 1; at <= total; at += step {
		calls.reset(at, failure)
		check(run(b, newKept()))
	}
	for at := 5; at <= total; at += 4 * step {
		lost, keep := newCUDA(t, cuda.Options{Intercept: calls.intercept}), newKept()
		calls.reset(at, func(string) int { return 719 })
		if got, err := run(lost, keep); !errors.Is(err, cam.ErrLost) && len(got) < 2 {
			t.Errorf("%s: %v", calls.what, err)
		}
		calls.reset(0, nil)
		_ = lost.Close() // what is on it is gone
		check(run(b, keep))
	}
}

// A call fails again and again, a few times in each volume: passes are begun again
// with what is there, and nothing is loaded again.
func TestRepeatedDriverFailures(t *testing.T) {
	volumes, req := series(t, 1), troubleRequest
	calls := &interceptor{}
	b := openCUDA(t, cuda.Options{Intercept: calls.intercept, LaunchBlocking: true}) // without graphs, each kernel is a call
	m := openOn(t, b, executor.Options{})
	run := func() *cam.Result {
		t.Helper()
		r, err := m.Explain(t.Context(), volumes[0], req)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	want := run()
	before := calls.calls
	run()
	total := calls.calls - before // once all is loaded
	every := total/4 + 1
	calls.code = func(string) int {
		calls.at += every
		return 999
	}
	calls.at = calls.calls + every
	got := run()
	calls.at = 0
	if err := same(got, want); err != nil {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	k := tally(got)
	t.Logf("each of %d calls failed of %d that a volume takes: %v", every, total, k)
	if k[cam.EventFailed] < 3 || k[cam.EventRepeated] < 3 || k[cam.EventReloaded] > 0 {
		t.Errorf("incidents: %+v", got.Execution.Events)
	}
}

// With less and less memory on the device, a volume is explained as with all of it, or refused.
func TestDeviceWithLittleMemory(t *testing.T) {
	if os.Getenv("VOXCAM_GPU") != "" {
		t.Skip("NOT CHECKED on a GPU, whose capacity cannot be set: bench/memory_trials.py holds its memory")
	}
	s := simulator.Load(t)
	v, req := series(t, 1), briefRequests()[0]
	b := openCUDA(t, cuda.Options{})
	explainOne := func(keep *kept) (*cam.Result, error) {
		m := openOn(t, b, executor.Options{})
		if keep != nil {
			req.Checkpoint = keep
		}
		r, err := m.Explain(t.Context(), v[0], req)
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if b.Held() != 0 {
			t.Errorf("%d bytes are held", b.Held())
		}
		return r, err
	}
	want, err := explainOne(nil)
	if err != nil {
		t.Fatal(err)
	}
	u, err := b.Usage()
	if err != nil {
		t.Fatal(err)
	}
	levels := map[cam.Level]bool{}
	for free := 32 << 20; free > 0; free -= 2 << 20 {
		s.SetCapacity(u.Total - u.Free + free)
		r, err := explainOne(nil)
		var short *cam.MemoryError
		if errors.As(err, &short) {
			levels["refused"] = true
			if short.Needs <= free {
				t.Errorf("%d bytes are free and %d needed: %v", free, short.Needs, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%d bytes free: %v", free, err)
		}
		if err := same(r, want); err != nil {
			t.Errorf("%d bytes free: %v", free, err)
		}
		levels[r.Execution.Level] = true
	}
	t.Log(levels)
	for _, l := range []cam.Level{cam.LevelWhole, cam.LevelHost, "refused"} {
		if !levels[l] {
			t.Errorf("nothing gave %s: %v", l, levels)
		}
	}
}

// A GPU's memory is left and taken again between volumes, to the byte.
func TestDeviceShuttles(t *testing.T) {
	volumes, reqs := series(t, 2), briefRequests()
	b := openCUDA(t, cuda.Options{})
	var want []*cam.Result
	for _, shuttle := range []executor.Shuttle{executor.ShuttleNever, executor.ShuttleAlways} {
		m := openOn(t, b, executor.Options{Ahead: true, Shuttle: shuttle})
		for range 2 {
			got, err := pair(t.Context(), m, volumes, reqs)
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = got
			}
			checkSame(t, got, want)
			u, err := b.Usage()
			if err != nil {
				t.Fatal(err)
			}
			if shuttle == executor.ShuttleAlways && u.Reserved != 0 {
				t.Errorf("%d bytes are reserved between volumes", u.Reserved)
			}
		}
		if shuttle == executor.ShuttleAlways {
			if err := m.Release(t.Context(), nil); err != nil {
				t.Error(err)
			}
			if r, err := m.Explain(t.Context(), volumes[0], reqs[0]); err != nil {
				t.Error(err)
			} else if err := same(r, want[0]); err != nil {
				t.Error(err)
			}
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

// checkSame fails the test for volumes whose results differ.
func checkSame(t *testing.T, got, want []*cam.Result) {
	t.Helper()
	for i, r := range got {
		if err := same(r, want[i]); err != nil {
			t.Errorf("volume %d: %v", i, err)
		}
	}
}

// A budget that moves from pass to pass is held on a GPU at every pass, and changes no bit.
func TestDeviceFollowsABudget(t *testing.T) {
	volumes, reqs := series(t, 2), briefRequests()
	b := openCUDA(t, cuda.Options{})
	var want []*cam.Result
	allowed := 1 << 30
	for _, moves := range []bool{false, true} {
		m := openOn(t, b, executor.Options{Ahead: true, Allow: func(backend.Usage) cam.Budget { return cam.Budget{Bytes: allowed} }})
		m.AskAlways()
		passes := 0
		with := slices.Clone(reqs)
		with[0].Progress = func(int, int) {
			if passes++; moves { // the last three of five are draws
				allowed = []int{1 << 30, 1 << 30, 14 << 20, 10 << 20, 1 << 30}[(passes-1)%5]
			}
		}
		for range 2 {
			got, err := pair(t.Context(), m, volumes, with)
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = got
			}
			checkSame(t, got, want)
			if k := tally(got[0]); moves && (k[cam.EventSmaller] == 0 || k[cam.EventResumed] == 0) {
				t.Errorf("a budget that moves: %+v", got[0].Execution)
			}
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}
