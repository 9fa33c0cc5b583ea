package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/worker"
	"github.com/voxcam/voxcam/volume"
)

const draws = 6
const sum = draws * (draws + 1) / 2 // of a volume that is explained undisturbed

// disturbance is what happens to one volume.
type disturbance struct {
	name      string
	set       func(w *world)
	policy    func(p *policy.Policy)
	options   func(o *Options)
	incidents []cam.EventKind
	level     cam.Level // of the result
	draws     int       // if fewer
	skipped   bool
	fails     func(error) bool
	took      time.Duration // at least, and less than a second more
	opened    string        // devices, in order
}

const (
	waited    = cam.EventWaited
	cpu       = cam.EventCPU
	restarted = cam.EventRestart
	resumed   = cam.EventResumed
	fewer     = cam.EventFewer
	skips     = cam.EventSkipped
)

// at makes an error before a draw, the first times that a device comes there.
func at(draw, times int, on string, err error) func(context.Context, string, string, int) error {
	var mu sync.Mutex
	return func(_ context.Context, device, _ string, d int) error {
		mu.Lock()
		defer mu.Unlock()
		if d != draw || device != on || times == 0 {
			return nil
		}
		times--
		return err
	}
}

// later changes what other programs have.
func (w *world) later(after time.Duration, others int) {
	go func() {
		time.Sleep(after)
		w.set(others)
	}()
}

// errTransient is what a model gives up with when its device fails again and again.
var errTransient = &cam.TransientError{Err: errors.New("cuDNN")}

func isTransient(err error) bool {
	var transient *cam.TransientError
	return errors.As(err, &transient)
}

// failForGood lets the device fail, and not open again.
func (w *world) failForGood() {
	w.draw = at(3, 1, "cuda", errTransient)
	w.broken = func(name string) error {
		if name == "cuda" && len(w.opened) > 1 {
			return errors.New("the driver is gone")
		}
		return nil
	}
}

// inProcess has instances in processes of their own.
func inProcess(o *Options) {
	o.Worker, o.BackOff = &worker.Options{}, func(int) time.Duration { return 0 }
}

var disturbances = []disturbance{
	{name: "none", set: func(*world) {}, level: cam.LevelStreamed, opened: "cuda"},
	{name: "short for a while", level: cam.LevelStreamed, incidents: []cam.EventKind{waited}, opened: "cuda",
		set: func(w *world) { w.set(79 * gib); w.later(time.Second, 0) }, took: time.Second},
	{name: "short", level: cam.LevelCPU, incidents: []cam.EventKind{waited, cpu}, opened: "cuda cpu", took: 10 * time.Second,
		set: func(w *world) { w.set(79 * gib) }},
	{name: "short in the midst", level: cam.LevelCPU, incidents: []cam.EventKind{waited, cpu, resumed}, opened: "cuda cpu", took: 10 * time.Second,
		set: func(w *world) {
			w.draw = func(_ context.Context, _, _ string, d int) error { w.set(d / 3 * 79 * gib); return nil }
		}},
	{name: "short without the processor", incidents: []cam.EventKind{waited, skips}, skipped: true, opened: "cuda", took: 10 * time.Second,
		set: func(w *world) { w.set(79 * gib) }, policy: func(p *policy.Policy) { p.CPU = false }},
	{name: "short with nothing allowed", opened: "cuda",
		set: func(w *world) { w.set(79 * gib) }, policy: func(p *policy.Policy) { *p = policy.Policy{} },
		fails: func(err error) bool { var m *cam.MemoryError; return errors.As(err, &m) && m.Needs == gib }},
	{name: "short here and there", incidents: []cam.EventKind{waited, cpu, skips}, skipped: true, opened: "cuda cpu", took: 10 * time.Second,
		set: func(w *world) { w.set(79 * gib); w.host, w.least = gib, 2*gib }},
	{name: "little on the host", level: cam.LevelCPU, incidents: []cam.EventKind{waited, cpu}, opened: "cuda cpu", took: 10 * time.Second,
		set: func(w *world) { w.set(79 * gib); w.host, w.least = 2*gib, 3*gib/2 }},
	{name: "no room for the context", level: cam.LevelCPU, incidents: []cam.EventKind{waited, cpu, cpu}, opened: "cuda*10 cpu",
		set: func(w *world) { w.set(80 * gib) }},
	{name: "no room for the context for a while", level: cam.LevelStreamed, opened: "cuda*5",
		set: func(w *world) { w.set(80 * gib); w.later(time.Second, 0) }},
	{name: "less than the share", level: cam.LevelSmallest, opened: "cuda",
		set: func(w *world) { w.set(78 * gib) }},
	{name: "lost", level: cam.LevelCPU, incidents: []cam.EventKind{cpu, resumed}, opened: "cuda cpu",
		set: func(w *world) { w.draw = at(3, 1, "cuda", fmt.Errorf("a kernel: %w", cam.ErrLost)) }},
	{name: "lost without the processor", opened: "cuda", set: func(w *world) { w.draw = at(3, 1, "cuda", cam.ErrLost) },
		policy: func(p *policy.Policy) { p.CPU = false }, fails: func(err error) bool { return errors.Is(err, cam.ErrLost) }},
	{name: "lost in a process", level: cam.LevelStreamed, incidents: []cam.EventKind{restarted, resumed}, opened: "cuda*2",
		set: func(w *world) { w.draw = at(3, 1, "cuda", cam.ErrLost) }, options: inProcess},
	{name: "lost in every process", level: cam.LevelCPU, opened: "cuda*4 cpu",
		incidents: []cam.EventKind{restarted, resumed, restarted, resumed, restarted, resumed, restarted, cpu, resumed},
		set:       func(w *world) { w.draw = at(3, 5, "cuda", cam.ErrLost) }, options: inProcess},
	{name: "failing again and again", level: cam.LevelStreamed, incidents: []cam.EventKind{restarted, resumed}, opened: "cuda*2",
		set: func(w *world) { w.draw = at(3, 1, "cuda", errTransient) }},
	{name: "failing in a new context", level: cam.LevelCPU, incidents: []cam.EventKind{restarted, resumed, cpu, resumed}, opened: "cuda*2 cpu",
		set: func(w *world) { w.draw = at(3, 2, "cuda", errTransient) }},
	{name: "failing, then lost", level: cam.LevelCPU, incidents: []cam.EventKind{restarted, resumed, cpu, resumed}, opened: "cuda*2 cpu",
		set: func(w *world) {
			failing := at(3, 1, "cuda", errTransient)
			lost := at(4, 1, "cuda", cam.ErrLost)
			w.draw = func(ctx context.Context, on, id string, d int) error {
				return errors.Join(failing(ctx, on, id, d), lost(ctx, on, id, d))
			}
		}},
	{name: "failing without the processor", incidents: []cam.EventKind{restarted, resumed}, opened: "cuda*2",
		set: func(w *world) { w.draw = at(3, 2, "cuda", errTransient) }, policy: func(p *policy.Policy) { p.CPU = false }, fails: isTransient},
	{name: "failing in a process", level: cam.LevelStreamed, incidents: []cam.EventKind{restarted, resumed, restarted, resumed}, opened: "cuda*3",
		set: func(w *world) { w.draw = at(3, 2, "cuda", errTransient) }, options: inProcess},
	{name: "no new context", level: cam.LevelCPU, incidents: []cam.EventKind{cpu, resumed}, opened: "cuda*2 cpu", set: (*world).failForGood},
	{name: "no new context in a process", level: cam.LevelCPU, incidents: []cam.EventKind{cpu, resumed}, opened: "cuda*4 cpu",
		options: inProcess, set: (*world).failForGood},
	{name: "failing, and its memory taken", level: cam.LevelStreamed, incidents: []cam.EventKind{restarted, resumed, waited}, opened: "cuda*6",
		took: time.Second,
		set: func(w *world) {
			fail := at(3, 1, "cuda", errTransient)
			w.draw = func(ctx context.Context, on, id string, d int) error {
				err := fail(ctx, on, id, d)
				if err != nil {
					w.set(80 * gib)
					w.later(time.Second, 0)
				}
				return err
			}
		}},
	{name: "a fault", opened: "cuda", set: func(w *world) { w.draw = at(3, 1, "cuda", errors.New("a bug")) },
		fails: func(err error) bool { return err.Error() == "a bug" }},
	{name: "a size that is too small", opened: "cuda", set: func(*world) {}, options: func(o *Options) { o.Budget = "1MiB" },
		fails: func(err error) bool { var b *cam.BudgetError; return errors.As(err, &b) }},
	{name: "fewer draws", level: cam.LevelCPU, incidents: []cam.EventKind{waited, cpu, fewer}, draws: 5, opened: "cuda cpu",
		took: 10 * time.Second, set: func(w *world) { w.set(79 * gib) }, policy: func(p *policy.Policy) { p.Fewer = true }},
	{name: "as many draws as there are", level: cam.LevelCPU, incidents: []cam.EventKind{cpu, fewer, resumed}, draws: 5,
		opened: "cuda cpu", set: func(w *world) { w.draw = at(5, 1, "cuda", cam.ErrLost) }, policy: func(p *policy.Policy) { p.Fewer = true }},
	{name: "the original's draws", level: cam.LevelStreamed, incidents: []cam.EventKind{fewer}, draws: 5, opened: "cuda",
		set: func(w *world) { w.set(79 * gib); w.needs = gib / 4 }, policy: func(p *policy.Policy) { p.Original = true }},
	{name: "the original's memory", skipped: true, incidents: []cam.EventKind{skips}, opened: "cuda",
		set: func(w *world) { w.set(79*gib + gib/4); w.needs = gib / 8 }, policy: func(p *policy.Policy) { p.Original = true }},
	{name: "the processor", level: cam.LevelWhole, opened: "cpu", set: func(*world) {}, options: func(o *Options) { o.Device = "cpu" }},
	{name: "no GPU", level: cam.LevelWhole, opened: "cuda auto", options: func(o *Options) { o.Device = "auto" },
		set: func(w *world) {
			w.broken = func(name string) error {
				if name == "cuda" {
					return errors.New("no GPU")
				}
				return nil
			}
		}},
	{name: "a GPU by itself", level: cam.LevelStreamed, opened: "cuda", set: func(*world) {}, options: func(o *Options) { o.Device = "auto" }},
}

func count(names []string) string {
	var out []string
	for i := 0; i < len(names); {
		j := i
		for j < len(names) && names[j] == names[i] {
			j++
		}
		if j-i > 1 {
			out = append(out, fmt.Sprintf("%s*%d", names[i], j-i))
		} else {
			out = append(out, names[i])
		}
		i = j
	}
	return strings.Join(out, " ")
}

// Whatever happens to a volume, its result is that of a volume that nothing happens to, or there is an error that says why not; and its
// record tells what happened.
func TestGoesOn(t *testing.T) {
	for _, c := range disturbances {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				o := Options{Options: instance.Options{Model: "m.onnx", Device: "cuda"}, Policy: policy.DefaultPolicy()}
				if c.policy != nil {
					c.policy(&o.Policy)
				}
				if c.options != nil {
					c.options(&o)
				}
				c.set(w)
				w.processes = o.Worker != nil
				e, err := open(t.Context(), o, w.start)
				if err != nil {
					t.Fatal(err)
				}
				var heard []cam.Event
				req := request("x", draws)
				req.OnEvent = func(i cam.Event) { heard = append(heard, i) }
				began := time.Now()
				r, err := e.Explain(t.Context(), volume.New(1, 2, 2, 2), req)
				if took := time.Since(began); took < c.took || took > c.took+time.Second {
					t.Errorf("it took %v, not %v", took, c.took)
				}
				c.check(t, w, r, err, heard)
				if got := count(w.openedDevices()); got != c.opened {
					t.Errorf("opened were %s, not %s", got, c.opened)
				}
				if err := e.Close(); err != nil {
					t.Error(err)
				}
				w.checkClosed()
			})
		})
	}
}

func (c *disturbance) check(t *testing.T, w *world, r *cam.Result, err error, heard []cam.Event) {
	t.Helper()
	if got := kinds(heard); !slices.Equal(got, c.incidents) {
		t.Errorf("incidents %v, not %v: %v", got, c.incidents, heard)
	}
	var skipped *cam.SkippedError
	switch {
	case c.skipped:
		if !errors.As(err, &skipped) || skipped.Status() != cam.StatusSkipped {
			t.Errorf("the error is %v, not that the volume was skipped", err)
		}
		return
	case c.fails != nil:
		if err == nil || errors.As(err, &skipped) || !c.fails(err) {
			t.Errorf("the error is %v", err)
		}
		return
	case err != nil:
		t.Fatal(err)
	}
	if r.Execution.Level != c.level || !slices.Equal(kinds(r.Execution.Events), c.incidents) {
		t.Errorf("the level is %q, not %q; the incidents are %v", r.Execution.Level, c.level, r.Execution.Events)
	}
	n, total := draws, 0
	if c.draws > 0 {
		n = c.draws
	}
	for _, d := range w.done {
		total += d
	}
	if total != n {
		t.Errorf("%d draws were taken for %d: %v", total, n, w.done)
	}
	for i, m := range r.Methods {
		status, reason := cam.StatusOK, ""
		if i == 1 && n < draws {
			status, reason = cam.StatusDegraded, fmt.Sprintf("%d draws instead of %d: ", n, draws)
		}
		if want := float32(n*(n+1)) / 2; m.Map[0] != want || m.Status != status || !strings.HasPrefix(m.Reason, reason) {
			t.Errorf("%s: the map is %g, not %g, with status %s %s", m.Method, m.Map[0], want, m.Status, m.Reason)
		}
	}
}

// explainAll explains volumes as a session does: one is begun while another is explained, and results are taken later.
func explainAll(t *testing.T, e *Engine, n int) (results []*cam.Result, errs []error) {
	t.Helper()
	begun, computed := make(chan explain.Work), make(chan explain.Work)
	var done sync.WaitGroup
	done.Go(func() {
		defer close(begun)
		for i := range n {
			w, err := e.Begin(t.Context(), volume.New(1, 2, 2, 2), request(fmt.Sprint(i), draws))
			if err != nil {
				t.Error(err)
				return
			}
			begun <- w
		}
	})
	done.Go(func() {
		defer close(computed)
		for w := range begun {
			if err := w.Compute(t.Context()); err != nil {
				errs = append(errs, err)
				continue
			}
			computed <- w
		}
	})
	for w := range computed {
		r, err := w.Result()
		if err != nil {
			t.Error(err)
		}
		results = append(results, r)
	}
	done.Wait()
	return results, errs
}

func openIn(t *testing.T, w *world, o Options) *Engine {
	t.Helper()
	if o.Device == "" {
		o.Device = "cuda"
	}
	if o.Policy == (policy.Policy{}) {
		o.Policy = policy.DefaultPolicy()
	}
	e, err := open(t.Context(), o, w.start)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		w.checkClosed()
	})
	return e
}

// Volumes that were brought ahead get out of the way when the one before has trouble, and nothing waits for ever.
func TestOverlap(t *testing.T) {
	for name, c := range map[string]struct {
		set    func(w *world)
		levels string
	}{
		"undisturbed": {func(*world) {}, "streamed streamed streamed streamed"},
		"failing":     {func(w *world) { w.draw = at(2, 1, "cuda", errTransient) }, "streamed streamed streamed streamed"},
		"lost":        {func(w *world) { w.draw = at(2, 1, "cuda", cam.ErrLost) }, "cpu cpu cpu cpu"},
		"short for the first": {func(w *world) {
			w.draw = func(_ context.Context, on, id string, d int) error {
				if on == "cuda" && id == "0" {
					w.set(80*gib - gib/2)
				} else if on == "cpu" && d == draws-1 {
					w.set(0)
				}
				return nil
			}
		}, "cpu streamed streamed streamed"},
		"maps lost on their way back": {func(w *world) {
			var once sync.Once
			w.result = func(id string) (err error) {
				if id == "1" {
					once.Do(func() { err = cam.ErrLost })
				}
				return err
			}
		}, "streamed streamed streamed streamed"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				c.set(w)
				e := openIn(t, w, Options{})
				results, errs := explainAll(t, e, 4)
				var levels []string
				for _, r := range results {
					levels = append(levels, string(r.Execution.Level))
					if r.Methods[1].Map[0] != sum {
						t.Errorf("a map is %g, not %d", r.Methods[1].Map[0], sum)
					}
				}
				if got := strings.Join(levels, " "); got != c.levels || len(errs) > 0 {
					t.Errorf("the levels are %s, not %s; errors %v", got, c.levels, errs)
				}
			})
		})
	}
}

// While a volume is explained, the next one is brought to the device.
func TestBeginIsAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		goOn := make(chan struct{})
		w.draw = func(_ context.Context, _, id string, d int) error {
			if id == "0" && d == 0 {
				<-goOn
			}
			return nil
		}
		e := openIn(t, w, Options{})
		first, err := e.Begin(t.Context(), volume.New(1, 2, 2, 2), request("0", draws))
		if err != nil {
			t.Fatal(err)
		}
		computed := make(chan error, 1)
		go func() { computed <- first.Compute(t.Context()) }()
		second, err := e.Begin(t.Context(), volume.New(1, 2, 2, 2), request("1", draws))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(w.begun, []string{"0@cuda", "1@cuda"}) {
			t.Errorf("begun were %v", w.begun)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { time.Sleep(time.Second); cancel() }()
		if _, err := e.Begin(ctx, volume.New(1, 2, 2, 2), request("2", draws)); !errors.Is(err, context.Canceled) {
			t.Errorf("a third place is not there, but the error is %v", err)
		}
		second.Drop()
		close(goOn)
		if err := <-computed; err != nil {
			t.Error(err)
		}
		if r, err := first.Result(); err != nil || r.Methods[1].Map[0] != sum {
			t.Errorf("%+v: %v", r, err)
		}
	})
}

// A run comes back to the device when that has what was missing, and does not wait for it again at every volume.
func TestReturnsToTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.set(79 * gib)
		e := openIn(t, w, Options{})
		ask := func(want cam.Level, within time.Duration) {
			t.Helper()
			began := time.Now()
			r, err := e.Explain(t.Context(), volume.New(1, 2, 2, 2), request("x", draws))
			if err != nil {
				t.Fatal(err)
			}
			if r.Execution.Level != want || time.Since(began) > within {
				t.Errorf("the level is %s, not %s, after %v: %v", r.Execution.Level, want, time.Since(began), r.Execution.Events)
			}
		}
		ask(cam.LevelCPU, 11*time.Second)
		ask(cam.LevelCPU, 0)
		w.set(0)
		ask(cam.LevelStreamed, 0)
		if w.open["cpu"] != 0 {
			t.Error("the model on the processor still takes memory")
		}
		// Without a context what is free is not known: it is tried at times.
		w.draw = at(2, 2, "cuda", errTransient)
		ask(cam.LevelCPU, 0)
		w.set(80 * gib)
		ask(cam.LevelCPU, 0)
		tried := len(w.openedDevices())
		time.Sleep(retry)
		ask(cam.LevelCPU, 0)
		if now := len(w.openedDevices()); now != tried+1 {
			t.Errorf("the device was tried %d times", now-tried)
		}
		w.set(0)
		ask(cam.LevelCPU, 0)
		time.Sleep(retry)
		w.broken = func(name string) error { return errors.New("the driver is being updated") }
		ask(cam.LevelCPU, 0)
		time.Sleep(retry)
		w.broken = nil
		ask(cam.LevelStreamed, 0)
	})
}

// A device without room for its context is an error where nothing else is allowed, and a warning where the processor is.
func TestOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.set(80 * gib)
		_, err := open(t.Context(), Options{Options: instance.Options{Device: "cuda"}, Policy: policy.Policy{Wait: time.Second, Skip: true}}, w.start)
		if short := (*cam.MemoryError)(nil); !errors.As(err, &short) || errors.As(err, new(*cam.SkippedError)) || !errors.Is(err, errNoRoom) {
			t.Errorf("the error is %v", err)
		}
		e := openIn(t, w, Options{})
		if warnings, _ := e.Notes(); len(warnings) != 2 || !strings.Contains(warnings[1], "no room for the context") {
			t.Errorf("the warnings are %q", warnings)
		}
		failures := 2
		w.broken = func(string) error {
			if failures--; failures >= 0 {
				return errOnce
			}
			return nil
		}
		w.set(0)
		failing, err := open(t.Context(), Options{Options: instance.Options{Device: "cuda"}}, w.start)
		if err != nil || failing.State().Name != "cuda" {
			t.Fatalf("after two failures: %v", err)
		}
		if warnings, _ := failing.Notes(); len(warnings) != 2 || !strings.Contains(warnings[0], errOnce.Error()) {
			t.Errorf("after two failures the warnings are %q", warnings)
		}
		for _, want := range []int{2, 0} { // the first volume's record tells of it
			r, err := failing.Explain(t.Context(), volume.New(1, 2, 2, 2), request("x", draws))
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Execution.Events; len(got) != want || want > 0 && got[0].Kind != cam.EventFailed {
				t.Errorf("the incidents are %v, not %d failures", got, want)
			}
		}
		if err := failing.Close(); err != nil {
			t.Error(err)
		}
		w.broken = func(string) error { return errors.New("an old driver") }
		if _, err := open(t.Context(), Options{Options: instance.Options{Device: "cuda"}, Policy: policy.DefaultPolicy()}, w.start); err == nil || err.Error() != "an old driver" {
			t.Errorf("the error is %v", err)
		}
		for _, o := range []instance.Options{{Budget: "much"}, {Shuttle: "sometimes"}} {
			if _, err := open(t.Context(), Options{Options: o}, w.start); err == nil {
				t.Errorf("%+v is taken", o)
			}
		}
	})
}
