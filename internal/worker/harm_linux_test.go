package worker_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/worker"
)

// A volume that leaves a process that lives goes on from the draws that were kept there: in the next process after an order to restart, and
// on the processor.
func TestDrawsAreHandedOver(t *testing.T) {
	const draws = 6
	for _, c := range []struct {
		name  string
		harm  []harm
		order bool
	}{
		{name: "restart", order: true},
		{name: "processor", harm: []harm{{At: "pass", Pass: 5, How: "short"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			w := start(t, script{Dir: dir, Harm: c.harm, OnDevice: true, Pass: 5 * time.Millisecond}, worker.Options{},
				func(o *engine.Options) { o.Policy.Wait = time.Millisecond })
			var ordered sync.WaitGroup
			order := sync.OnceFunc(func() {
				ordered.Go(func() {
					if _, err := w.Order(t.Context(), policy.Order{Operation: policy.Restart}); err != nil {
						t.Error(err)
					}
				})
			})
			req := request(1, draws)
			req.Progress = func(done, _ int) {
				if c.order && done == 4 {
					order()
				}
			}
			r, err := w.Explain(t.Context(), newVolume(1), req)
			if err != nil {
				t.Fatal(err)
			}
			ordered.Wait()
			same(t, r, truth(t, 1, draws))
			said := strings.Join(notes(t, dir), "\n")
			last := said[strings.LastIndex(said, "compute"):]
			if strings.Count(said, "compute") < 2 || strings.HasPrefix(last, "compute s1 from 0") {
				t.Errorf("children did\n%s", said)
			}
		})
	}
}

// A pass that takes too long to make room for an order is left to its process, which ends; the volume goes on in another one.
func TestPassThatDoesNotStop(t *testing.T) {
	dir := t.TempDir()
	w := start(t, script{Dir: dir, OnDevice: true, Harm: []harm{{At: "pass", Pass: 4, How: "stubborn", Times: 1}}}, worker.Options{Grace: 20 * time.Millisecond})
	var ordered sync.WaitGroup
	ordered.Go(func() {
		await(t, dir, "harm stubborn at pass")
		if _, err := w.Order(t.Context(), policy.Order{Operation: policy.Restart}); err != nil {
			t.Error(err)
		}
	})
	r, err := w.Explain(t.Context(), newVolume(1), request(1, 6))
	if err != nil {
		t.Fatal(err)
	}
	ordered.Wait()
	same(t, r, truth(t, 1, 6))
	if said := strings.Join(notes(t, dir), "\n"); !strings.Contains(said, "compute s1 from 2") {
		t.Errorf("children did\n%s", said)
	}
}

// That processes end while they open the model on the processor fails the volume in the end.
func TestProcessorDoesNotOpen(t *testing.T) {
	dir := t.TempDir()
	w := start(t, script{Dir: dir, OnDevice: true, Harm: []harm{{At: "pass", Pass: 2, How: "exit", Times: 1}, {At: "open", How: "kill", CPU: true, After: 1, Times: 6}}},
		worker.Options{})
	_, err := w.Explain(t.Context(), newVolume(1), request(1, 2))
	if err == nil || !strings.Contains(err.Error(), "the processor cannot take the device's place: the worker process has ended while it opened the model: signal killed") {
		t.Errorf("error %v", err)
	}
	r, err := w.Explain(t.Context(), newVolume(2), request(2, 2))
	if err != nil {
		t.Fatal(err)
	}
	same(t, r, truth(t, 2, 2))
	if got := r.Execution.Level; got == cam.LevelCPU {
		t.Errorf("level %s", got)
	}
}

// memo is a checkpoint of the caller's.
type memo struct {
	mu     sync.Mutex
	states map[string]worker.SavedState
}

func (m *memo) Latest(key string) ([]float32, int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.states[key]
	return slices.Clone(s.Values), s.Points
}

func (m *memo) Keep(key string, values []float32, points int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.states == nil {
		m.states = map[string]worker.SavedState{}
	}
	m.states[key] = worker.SavedState{Values: slices.Clone(values), Points: points}
	return nil
}

// Whatever ends at any moment, and whatever is asked for meanwhile, each volume that is not cancelled gets its result, and nothing is left behind.
func TestEverythingAtOnce(t *testing.T) {
	const volumes, draws = 24, 8
	seed := uint64(1)
	if text := os.Getenv("VOXCAM_SEED"); text != "" {
		fmt.Sscan(text, &seed)
	}
	harm := []harm{{At: "pass", Pass: 3, How: "short", Times: 4}, {At: "pass", Pass: 4, How: "lost", Times: 2}, {At: "result", How: "lost", Times: 2},
		{At: "result", How: "short", Times: 2}, {At: "begin", How: "kill", Times: 2, CPU: true}, {At: "order", How: "exit", Times: 1, CPU: true},
		{At: "pass", Pass: 5, How: "exit", Times: 3, CPU: true}, {At: "result", How: "exit", Times: 2, CPU: true}, {At: "open", How: "kill", After: 3, Times: 1}}
	w := start(t, script{Dir: t.TempDir(), OnDevice: true, Pass: time.Millisecond, Harm: harm}, worker.Options{}, func(o *engine.Options) {
		o.Restarts, o.Policy.Wait = 1000, 5*time.Millisecond
	})
	done := make(chan struct{})
	var others sync.WaitGroup
	often := func(n uint64, most int, do func(*rand.Rand)) {
		others.Go(func() {
			for random := rand.New(rand.NewPCG(seed, n)); ; do(random) {
				select {
				case <-done:
					return
				case <-time.After(time.Duration(random.IntN(most)) * time.Millisecond):
				}
			}
		})
	}
	killed := 0
	often(1, 80, func(*rand.Rand) {
		if pid := w.PID(); pid != 0 && pid != killed {
			killed = pid
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	often(2, 30, func(random *rand.Rand) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(200))*time.Millisecond)
		defer cancel()
		operations := []policy.Operation{policy.Release, policy.Resume, policy.Trim, policy.Restart, policy.Defragment}
		_, _ = w.Order(ctx, policy.Order{Operation: operations[random.IntN(len(operations))], For: time.Duration(random.IntN(20)) * time.Millisecond})
	})
	often(3, 5, func(*rand.Rand) { w.State(); w.Info(); w.Notes() })
	often(4, 60, func(*rand.Rand) {
		if err := w.Bind(t.Context(), [4]int{2, 8, 16, 40}); err != nil {
			t.Errorf("bound: %v", err)
		}
	})

	type part struct {
		n      int
		ctx    context.Context
		cancel context.CancelFunc
		work   explain.Work
		told   *[]cam.Event
	}
	begun, computed := make(chan part), make(chan part)
	check := func(p part, r *cam.Result, err error) {
		if err != nil {
			if p.ctx.Err() == nil {
				t.Errorf("volume %d: %v", p.n, err)
			}
			return
		}
		same(t, r, truth(t, p.n, draws))
		if !slices.Equal(r.Execution.Events, *p.told) {
			t.Errorf("volume %d: told\n%v\nof\n%v", p.n, *p.told, r.Execution.Events)
		}
	}
	random := rand.New(rand.NewPCG(seed, 0))
	var all sync.WaitGroup
	all.Go(func() {
		defer close(begun)
		for n := range volumes {
			p := part{n: n, told: new([]cam.Event)}
			p.ctx, p.cancel = context.WithCancel(t.Context())
			defer p.cancel()
			req := request(n, draws)
			req.OnEvent = func(i cam.Event) { *p.told = append(*p.told, i) }
			switch random.IntN(6) {
			case 0:
				time.AfterFunc(time.Duration(random.IntN(30))*time.Millisecond, p.cancel)
			case 1:
				req.Checkpoint = &memo{}
			}
			var err error
			if p.work, err = w.Begin(p.ctx, newVolume(n), req); err != nil {
				check(p, nil, err)
			} else if random.IntN(6) == 0 {
				p.work.Drop()
			} else {
				begun <- p
			}
		}
	})
	all.Go(func() {
		defer close(computed)
		for p := range begun {
			if err := p.work.Compute(p.ctx); err != nil {
				check(p, nil, err)
			} else {
				computed <- p
			}
		}
	})
	all.Go(func() {
		for p := range computed {
			r, err := p.work.Result()
			check(p, r, err)
		}
	})
	all.Wait()
	close(done)
	others.Wait()
	results, errs := runAll(t.Context(), w, 3, draws)
	checkAll(t, results, errs, draws)
}

// An engine is closed whatever goes on: all that wait return, and nothing is left.
func TestClosedAtAnyTime(t *testing.T) {
	harm := []harm{{At: "pass", Pass: 2, How: "hang", Times: 1, After: 4}, {At: "pass", Pass: 3, How: "kill", CPU: true, Times: 2}, {At: "pass", Pass: 2, How: "short", Times: 2},
		{At: "result", How: "lost", Times: 2}}
	for n := range 12 {
		w := start(t, script{Dir: t.TempDir(), OnDevice: true, Pass: time.Millisecond, Harm: harm}, worker.Options{Grace: 50 * time.Millisecond},
			func(o *engine.Options) { o.Policy.Wait = 5 * time.Millisecond })
		var all sync.WaitGroup
		all.Go(func() {
			results, errs := runAll(t.Context(), w, 12, 3)
			for i, err := range errs {
				switch {
				case err == nil && results[i] != nil:
					same(t, results[i], truth(t, i, 3))
				case err != nil && !strings.Contains(err.Error(), "closed"):
					t.Errorf("volume %d: %v", i, err)
				}
			}
		})
		for _, o := range []policy.Operation{policy.Restart, policy.Release, policy.Restart} {
			all.Go(func() {
				if _, err := w.Order(t.Context(), policy.Order{Operation: o}); err != nil && !strings.Contains(err.Error(), "closed") {
					t.Errorf("%s: %v", o, err)
				}
			})
		}
		time.Sleep(time.Duration(n*n) * time.Millisecond)
		all.Go(func() {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		})
		all.Wait()
	}
}
