package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/volume/npy"
	"github.com/voxcam/voxcam/internal/worker"
	"github.com/voxcam/voxcam/volume"
)

func (s script) options() engine.Options {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return engine.Options{Options: instance.Options{Model: string(text), Device: "auto"}, Policy: policy.DefaultPolicy()}
}

// start opens an engine with a fake in a worker process, and checks in the end that nothing is left of it.
func start(t *testing.T, s script, set worker.Options, changes ...func(*engine.Options)) *engine.Engine {
	t.Helper()
	e, err := tryStart(t, s, set, changes...)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func tryStart(t *testing.T, s script, set worker.Options, changes ...func(*engine.Options)) (*engine.Engine, error) {
	t.Helper()
	files, routines := openFiles(t), runtime.NumGoroutine()
	if set.Pulse == 0 {
		set.Pulse = 20 * time.Millisecond
	}
	o := s.options()
	o.Worker, o.BackOff = &set, func(int) time.Duration { return 0 }
	for _, change := range changes {
		change(&o)
	}
	e, err := engine.Open(t.Context(), o)
	t.Cleanup(func() {
		if e != nil && e.PID() != 0 {
			if used := blocks(t); used > 0 {
				t.Errorf("%d blocks of shared memory are left", used)
			}
		}
		for i := range 2 {
			if e == nil {
				break
			}
			if err := e.Close(); err != nil {
				t.Errorf("closed %d times: %v", i+1, err)
			}
		}
		for range 100 { // what was started by others ends soon
			if openFiles(t) <= files && runtime.NumGoroutine() <= routines {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		all := make([]byte, 1<<20)
		t.Errorf("%d files and %d goroutines instead of %d and %d:\n%s", openFiles(t), runtime.NumGoroutine(), files, routines,
			all[:runtime.Stack(all, true)])
	})
	return e, err
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// blocks returns the memory that this process's files of shared memory take, in blocks of 512 bytes.
func blocks(t *testing.T) (n int64) {
	const open = "/proc/self/fd"
	entries, err := os.ReadDir(open)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		path := filepath.Join(open, entry.Name())
		if name, err := os.Readlink(path); err != nil || !strings.Contains(name, "voxcam-parent") {
			continue
		}
		if info, err := os.Stat(path); err == nil {
			n += info.Sys().(*syscall.Stat_t).Blocks
		}
	}
	return n
}

func newVolume(n int) *volume.Volume {
	v := volume.New(2, 8, 16, 40)
	for i := range v.Data {
		v.Data[i] = float32((i*(n+3))%17) / 8
	}
	return v
}

func request(n, draws int) cam.Request {
	return cam.Request{Methods: []string{"gradcam", "smoothgrad", "saliency"}, NSamples: draws, NoiseLevel: 1, Seed: 1<<63 + uint64(n),
		SampleID: fmt.Sprint("s", n), Convention: map[string]string{"smoothgrad": "captum"}}
}

// nowhere keeps nothing.
type nowhere struct{}

func (nowhere) Latest(string) ([]float32, int)    { return nil, 0 }
func (nowhere) Keep(string, []float32, int) error { return nil }

// truth is what a fake in this process says.
func truth(t *testing.T, n, draws int) *cam.Result {
	t.Helper()
	e, err := openFake(t.Context(), script{}.options().Options)
	if err != nil {
		t.Fatal(err)
	}
	req := request(n, draws)
	req.Checkpoint, req.Progress, req.OnEvent = nowhere{}, func(int, int) {}, func(cam.Event) {}
	r, err := e.Explain(t.Context(), newVolume(n), req)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// same compares results but for how they came about.
func same(t *testing.T, got, want *cam.Result) {
	t.Helper()
	if len(got.Methods) != len(want.Methods) {
		t.Errorf("%d methods instead of %d", len(got.Methods), len(want.Methods))
		return
	}
	for i := range got.Methods {
		g, w := got.Methods[i], want.Methods[i]
		if !slices.Equal(g.Map, w.Map) || !slices.Equal(g.Heatmap, w.Heatmap) {
			t.Errorf("the maps of %s differ", g.Method)
		}
		g.Map, g.Heatmap, w.Map, w.Heatmap = nil, nil, nil, nil
		if !reflect.DeepEqual(g, w) {
			t.Errorf("result %+v instead of %+v", g, w)
		}
	}
	g, w := *got, *want
	g.Execution, w.Execution, g.Methods, w.Methods = cam.Execution{}, cam.Execution{}, nil, nil
	if !reflect.DeepEqual(g, w) {
		t.Errorf("result %+v instead of %+v", g, w)
	}
}

// runAll explains volumes as a session does: one is begun while another is explained, and the results of a third are fetched.
func runAll(ctx context.Context, w *engine.Engine, volumes, draws int) ([]*cam.Result, []error) {
	results, errs := make([]*cam.Result, volumes), make([]error, volumes)
	type part struct {
		n    int
		work explain.Work
	}
	begun, computed := make(chan part), make(chan part)
	var all sync.WaitGroup
	all.Go(func() {
		defer close(begun)
		for n := range volumes {
			k, err := w.Begin(ctx, newVolume(n), request(n, draws))
			if errs[n] = err; err == nil {
				begun <- part{n, k}
			}
		}
	})
	all.Go(func() {
		defer close(computed)
		for p := range begun {
			if errs[p.n] = p.work.Compute(ctx); errs[p.n] == nil {
				computed <- p
			}
		}
	})
	all.Go(func() {
		for p := range computed {
			results[p.n], errs[p.n] = p.work.Result()
		}
	})
	all.Wait()
	return results, errs
}

func checkAll(t *testing.T, results []*cam.Result, errs []error, draws int) {
	t.Helper()
	for n, r := range results {
		if errs[n] != nil {
			t.Errorf("volume %d: %v", n, errs[n])
		} else {
			same(t, r, truth(t, n, draws))
		}
	}
}

// kindsOf are the kinds of incidents, but for that draws were taken up.
func kindsOf(incidents []cam.Event) (out []cam.EventKind) {
	for _, i := range incidents {
		if i.Kind != cam.EventResumed {
			out = append(out, i.Kind)
		}
	}
	return out
}

func TestUndisturbed(t *testing.T) {
	w := start(t, script{Binds: true}, worker.Options{})
	pid := w.PID()
	if w.Info().Classes != 0 || w.PID() == os.Getpid() || w.PID() == 0 {
		t.Errorf("info %+v, process %d", w.Info(), w.PID())
	}
	if err := w.Bind(t.Context(), [4]int{2, 8, 16, 40}); err != nil || w.Info().Classes != 3 {
		t.Errorf("bound: %v, %+v", err, w.Info())
	}
	results, errs := runAll(t.Context(), w, 5, 3)
	checkAll(t, results, errs, 3)
	var passes []int
	req := request(1, 3)
	req.Progress = func(done, total int) { passes = append(passes, done, total) }
	r, err := w.Explain(t.Context(), newVolume(1), req)
	if err != nil {
		t.Fatal(err)
	}
	same(t, r, truth(t, 1, 3))
	if want := []int{1, 4, 2, 4, 3, 4, 4, 4}; !reflect.DeepEqual(passes, want) {
		t.Errorf("progress %v", passes)
	}
	if warnings, notes := w.Notes(); len(warnings) != 1 || len(notes) != 1 {
		t.Errorf("notes %v %v", warnings, notes)
	}
	if out, err := w.Order(t.Context(), policy.Order{Operation: policy.Trim}); err != nil || out.Note != "done" {
		t.Errorf("order %v, %v", out, err)
	}
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2} {
		if err := syscall.Kill(w.PID(), signal); err != nil { // they are for the parent
			t.Error(err)
		}
	}
	if s := w.State(); s.State != "idle" || s.Device != "auto" {
		t.Errorf("state %+v", s)
	}
	k, err := w.Begin(t.Context(), newVolume(0), request(0, 1))
	if err != nil {
		t.Fatal(err)
	}
	k.Drop()
	if _, err := w.Explain(t.Context(), newVolume(1), request(1, 1)); err != nil {
		t.Errorf("after one that was dropped: %v", err)
	}
	if w.PID() != pid {
		t.Error("the child ended meanwhile")
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if _, err := w.Begin(t.Context(), newVolume(0), request(0, 1)); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("begun when closed: %v", err)
	}
	if err := w.Prepare(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("prepared when closed: %v", err)
	}
}

// A child that ends at any message leaves no trace in the results.
func TestEndAtEveryMessage(t *testing.T) {
	for n, hit := 1, true; hit; n++ {
		dir := t.TempDir()
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Setenv("VOXCAM_TEST_DIE", fmt.Sprint(n, " ", dir))
			w := start(t, script{}, worker.Options{Pulse: time.Hour})
			if err := w.Bind(t.Context(), [4]int{2, 8, 16, 40}); err != nil {
				t.Error(err)
			}
			if err := w.Prepare(t.Context(), []string{"gradcam"}); err != nil {
				t.Error(err)
			}
			results, errs := runAll(t.Context(), w, 2, 2)
			checkAll(t, results, errs, 2)
			_, err := os.Stat(filepath.Join(dir, "message.0"))
			hit = err == nil
		})
		if n > 300 {
			t.Fatal("there is no end of messages")
		}
	}
}

func TestKilledAtRandom(t *testing.T) {
	const volumes, draws, kills = 10, 20, 50
	w := start(t, script{Pass: 2 * time.Millisecond}, worker.Options{}, func(o *engine.Options) { o.Restarts = kills })
	done := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		random := rand.New(rand.NewPCG(1, 2))
		killed := 0 // the process that was killed last: each one counts once, however long the next takes to start
		for n := 0; n < kills; {
			select {
			case <-done:
				return
			case <-time.After(time.Duration(random.IntN(25)) * time.Millisecond):
			}
			if pid := w.PID(); pid != 0 && pid != killed {
				syscall.Kill(pid, syscall.SIGKILL)
				killed = pid
				n++
			}
		}
	})
	results, errs := runAll(t.Context(), w, volumes, draws)
	close(done)
	killer.Wait()
	checkAll(t, results, errs, draws)
	restarts := 0
	for _, r := range results {
		for _, i := range r.Execution.Events {
			if i.Kind == cam.EventRestart {
				restarts++
			}
		}
	}
	if restarts < 5 {
		t.Errorf("only %d restarts", restarts)
	}
	t.Logf("%d restarts", restarts)
}

// A result that is lost with a child that was killed while it did nothing is computed again, and its record tells why.
func TestKilledBeforeTheResultIsFetched(t *testing.T) {
	for range 20 {
		w := start(t, script{}, worker.Options{})
		k, err := w.Begin(t.Context(), newVolume(1), request(1, 2))
		if err == nil {
			err = k.Compute(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		killed := w.PID()
		syscall.Kill(killed, syscall.SIGKILL)
		for w.PID() == killed {
			time.Sleep(time.Millisecond)
		}
		r, err := k.Result()
		if err != nil {
			t.Fatal(err)
		}
		same(t, r, truth(t, 1, 2))
		if got := kindsOf(r.Execution.Events); !slices.Equal(got, []cam.EventKind{cam.EventRestart}) {
			t.Fatalf("the record has %v", r.Execution.Events)
		}
	}
}

// What children do to end, the next one makes good; it goes on from the draws that were kept, and the result tells the story.
func TestRestarts(t *testing.T) {
	for _, c := range []struct {
		harm harm
		want string
		from string // the second time
	}{
		{harm{At: "pass", Pass: 5, How: "exit"}, "exit code 7; it said: the driver gives up", "from 3"},
		{harm{At: "pass", Pass: 5, How: "kill"}, "signal killed", "from 3"},
		{harm{At: "pass", Pass: 5, How: "panic"}, "exit code 2; it said: panic: in the driver", "from 3"},
		{harm{At: "pass", Pass: 5, How: "lost"}, "the device is lost", "from 3"},
		{harm{At: "pass", Pass: 1, How: "exit"}, "exit code 7", "from 0"},
		{harm{At: "begin", How: "exit"}, "exit code 7", "from 0"},
		{harm{At: "result", How: "exit"}, "exit code 7", "from 6"},
		{harm{At: "result", How: "lost"}, "the device is lost", "from 6"},
	} {
		t.Run(c.harm.At+" "+c.harm.How, func(t *testing.T) {
			dir := t.TempDir()
			c.harm.Times, c.harm.Sample = 1, "s1"
			w := start(t, script{Dir: dir, Harm: []harm{c.harm}}, worker.Options{})
			if err := errors.Join(w.Bind(t.Context(), [4]int{2, 8, 16, 40}), w.Prepare(t.Context(), []string{"gradcam"})); err != nil {
				t.Fatal(err)
			}
			results, errs := runAll(t.Context(), w, 3, 6)
			checkAll(t, results, errs, 6)
			said := strings.Join(notes(t, dir), "\n")
			if again := said[max(0, strings.LastIndex(said, "compute s1")):]; strings.Count(said, "bind [2 8 16 40]") != 2 ||
				!strings.HasPrefix(again, "compute s1 "+c.from) {
				t.Errorf("children did\n%s", said)
			}
			incidents := results[1].Execution.Events
			if len(incidents) == 0 || incidents[0].Kind != cam.EventRestart || !strings.Contains(incidents[0].Text, c.want) {
				t.Errorf("incidents %v", incidents)
			}
			if resumed := len(incidents) == 2 && incidents[1].Kind == cam.EventResumed; resumed != (c.from != "from 0") {
				t.Errorf("incidents %v", incidents)
			}
		})
	}
}

// A volume that children end over goes to the processor, or fails; the others do not hear of it.
func TestPoison(t *testing.T) {
	for _, c := range []struct {
		name      string
		harm      []harm
		device    string
		forbidden bool
		want      string // error; "" for none
		children  int
	}{
		{name: "device", harm: []harm{{At: "pass", Pass: 2, How: "exit"}}, children: 6},
		{name: "begin", harm: []harm{{At: "begin", How: "kill"}}, children: 6},
		{name: "result", harm: []harm{{At: "result", How: "kill"}}, children: 6},
		{name: "killed on both", harm: []harm{{At: "pass", Pass: 2, How: "kill"}, {At: "pass", Pass: 2, How: "kill", CPU: true, Times: 2}}, children: 8},
		{name: "both", harm: []harm{{At: "pass", Pass: 2, How: "exit", CPU: true}}, children: 6,
			want: "5 worker processes ended over this volume, the last one on the processor: exit code 7; it said: the driver gives up"},
		{name: "refused", harm: []harm{{At: "pass", Pass: 2, How: "exit"}, {At: "pass", Pass: 2, How: "error", CPU: true}}, children: 6,
			want: "on the processor, after 4 worker processes ended over this volume: no good at pass of s1"},
		{name: "forbidden", harm: []harm{{At: "pass", Pass: 2, How: "exit"}}, forbidden: true, children: 5,
			want: "4 worker processes ended over this volume, and the policy does not allow the processor; the last one: exit code 7"},
		{name: "cpu", harm: []harm{{At: "pass", Pass: 2, How: "exit", CPU: true}}, device: "cpu", children: 5,
			want: "4 worker processes ended over this volume, the last one: exit code 7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for i := range c.harm {
				c.harm[i].Sample = "s1"
			}
			s := script{Dir: dir, Harm: c.harm, OnDevice: c.device == ""}
			w := start(t, s, worker.Options{OOMKills: func() int { return 0 }}, func(o *engine.Options) {
				if o.Policy.CPU = !c.forbidden; c.device != "" {
					o.Device = c.device
				}
				o.Precision = "tf32"
			})
			results, errs := runAll(t.Context(), w, 4, 2)
			if c.want != "" {
				if errs[1] == nil || !strings.HasPrefix(errs[1].Error(), c.want) {
					t.Errorf("error %v", errs[1])
				}
				results[1], errs[1] = truth(t, 1, 2), nil
			} else if e := results[1].Execution; e.Level != cam.LevelCPU || e.Device != "cpu/fake" || len(e.Events) < 5 ||
				!slices.Equal(slices.Compact(kindsOf(e.Events))[:2], []cam.EventKind{"restarted", "cpu"}) {
				t.Errorf("execution %+v", e)
			}
			checkAll(t, results, errs, 2)
			opened := 0
			for _, n := range notes(t, dir) {
				if strings.HasPrefix(n, "open") {
					opened++
				}
			}
			if opened < c.children || opened > c.children+1 { // one more if it is not clear at once over which volume they end
				t.Errorf("%d children instead of %d", opened, c.children)
			}
			for n, r := range results {
				if n != 1 && len(kindsOf(r.Execution.Events)) > 1 {
					t.Errorf("volume %d: %v", n, r.Execution.Events)
				}
			}
		})
	}
}

// A child that does not get on is ended; one that only waits is not.
func TestWatchdog(t *testing.T) {
	const limit = 600 * time.Millisecond
	for _, c := range []struct {
		name string
		harm []harm
		s    script
	}{
		{name: "pass", harm: []harm{{At: "pass", Pass: 2, How: "hang", Sample: "s1", Times: 1}}},
		{name: "begin", harm: []harm{{At: "begin", How: "hang", Sample: "s1", Times: 1}}, s: script{NoPulse: true}},
		{name: "bind", harm: []harm{{At: "bind", How: "hang", Times: 1}}, s: script{NoPulse: true}},
		{name: "open", harm: []harm{{At: "open", How: "hang", Times: 1}}},
		{name: "on the processor", s: script{Pass: 2 * limit}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.s.Dir, c.s.Harm = t.TempDir(), c.harm
			c.s.OnDevice = c.harm != nil
			o := c.s.options()
			o.Worker = &worker.Options{PassTimeout: limit, Pulse: limit / 10}
			w, err := engine.Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if err := w.Bind(t.Context(), [4]int{2, 8, 16, 40}); err != nil {
				t.Fatal(err)
			}
			r, err := w.Explain(t.Context(), newVolume(1), request(1, 1))
			if err != nil {
				t.Fatal(err)
			}
			same(t, r, truth(t, 1, 1))
			incidents := r.Execution.Events
			if restarted := len(incidents) > 0 && strings.Contains(incidents[0].Text, "no progress for 600ms"); restarted != (c.name == "pass" || c.name == "begin") {
				t.Errorf("incidents %v", incidents)
			}
		})
	}
}

// A worker is closed whatever its child does, and whoever waits.
func TestClosedAtWork(t *testing.T) {
	for _, h := range []harm{{At: "pass", Pass: 2, How: "hang"}, {At: "pass", Pass: 2, How: "wait"}, {At: "result", How: "hang"},
		{At: "begin", How: "hang"}, {At: "prepare", How: "hang"}} {
		dir := t.TempDir()
		w := start(t, script{Dir: dir, Harm: []harm{h}}, worker.Options{Grace: 50 * time.Millisecond})
		done := make(chan error)
		go func() {
			err := w.Prepare(t.Context(), []string{"gradcam"})
			if err == nil {
				_, err = w.Explain(t.Context(), newVolume(1), request(1, 3))
			}
			done <- err
		}()
		await(t, dir, "harm")
		w.Close()
		if err := <-done; err == nil || !strings.Contains(err.Error(), "closed") {
			t.Errorf("%+v: who waited got %v", h, err)
		}
	}
}

// A call that children end over fails in the end; what happens is told at once.
func TestCalls(t *testing.T) {
	w := start(t, script{Dir: t.TempDir(), Harm: []harm{{At: "order", How: "exit"}, {At: "pass", Pass: 2, How: "exit", Times: 2}}}, worker.Options{})
	_, err := w.Order(t.Context(), policy.Order{Operation: policy.Trim})
	if err == nil || !strings.Contains(err.Error(), "4 worker processes ended over this, the last one: exit code 7; it said: the driver gives up") {
		t.Errorf("order: %v", err)
	}
	var told []cam.Event
	req := request(1, 2)
	req.OnEvent = func(i cam.Event) { told = append(told, i) }
	r, err := w.Explain(t.Context(), newVolume(1), req)
	if err != nil {
		t.Fatal(err)
	}
	same(t, r, truth(t, 1, 2))
	if got := r.Execution.Events; len(got) != 2 || !reflect.DeepEqual(got, told) {
		t.Errorf("told %v of %v", told, got)
	}
}

// Cancelling ends the work, not the child.
func TestCancelled(t *testing.T) {
	dir := t.TempDir()
	w := start(t, script{Dir: dir, Pass: time.Millisecond, Harm: []harm{{At: "pass", Pass: 2, How: "wait", Sample: "s1"}}}, worker.Options{})
	pid := w.PID()
	reason := errors.New("the user has gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	k, err := w.Begin(ctx, newVolume(1), request(1, 5))
	if err != nil {
		t.Fatal(err)
	}
	next := make(chan error)
	waiting, stop := context.WithCancel(t.Context())
	req := request(1, 5)
	req.Progress = func(int, int) {}
	go func() {
		second, err := w.Begin(t.Context(), newVolume(2), request(2, 5))
		if err != nil {
			next <- err
			return
		}
		_, err = w.Begin(waiting, newVolume(3), request(3, 5)) // the place is taken by the second
		second.Drop()
		next <- err
	}()
	done := make(chan error)
	go func() { done <- k.Compute(ctx) }()
	await(t, dir, "wait s3")
	stop()
	if err := <-next; !errors.Is(err, context.Canceled) {
		t.Errorf("who waited got %v", err)
	}
	cancel(reason)
	if err := <-done; !errors.Is(err, reason) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := w.Begin(ctx, newVolume(1), request(1, 5)); !errors.Is(err, reason) {
		t.Errorf("begun too late: %v", err)
	}
	r, err := w.Explain(t.Context(), newVolume(4), request(4, 5))
	if err != nil {
		t.Fatal(err)
	}
	same(t, r, truth(t, 4, 5))
	if w.PID() != pid {
		t.Error("the child did not survive")
	}
}

// Errors cross the border with their text, and with what callers look for in them.
func TestErrors(t *testing.T) {
	w := start(t, script{Budget: 5 << 20, Harm: []harm{{At: "pass", Pass: 1, How: "error"}}}, worker.Options{})
	var budget *cam.BudgetError
	err := w.Prepare(t.Context(), nil)
	if want := (&cam.BudgetError{Budget: 5 << 20, Smallest: 10 << 20}); !errors.As(err, &budget) || *budget != *want || err.Error() != want.Error() {
		t.Errorf("prepared: %v", err)
	}
	v := newVolume(1)
	v.Data[3] = float32(nan())
	var bad *volume.NonFiniteError
	if _, err := w.Explain(t.Context(), v, request(1, 1)); !errors.As(err, &bad) || bad.First != [4]int{0, 0, 0, 3} {
		t.Errorf("a volume with a NaN: %v", err)
	}
	if _, err := w.Explain(t.Context(), newVolume(1), request(1, 1)); err == nil || err.Error() != "no good at pass of s1" {
		t.Errorf("a volume that fails: %v", err)
	}
	req := request(1, 1)
	req.Noise = noNoise{}
	if _, err := w.Explain(t.Context(), newVolume(1), req); err == nil || !strings.Contains(err.Error(), "in a file") {
		t.Errorf("draws that are nowhere: %v", err)
	}
}

func nan() float64 { zero := 0.0; return zero / zero }

type noNoise struct{}

func (noNoise) Draw(int, []float32) error { return nil }
func (noNoise) Len() int                  { return 1 }

func TestStartFails(t *testing.T) {
	if _, err := tryStart(t, script{Refuse: "no layer of that name"}, worker.Options{}); err == nil || err.Error() != "no layer of that name" {
		t.Errorf("refused: %v", err)
	}
	dir := t.TempDir()
	_, err := tryStart(t, script{Dir: dir, Harm: []harm{{At: "open", How: "panic"}}}, worker.Options{})
	if err == nil || !strings.Contains(err.Error(), "while it opened the model: exit code 2; it said: panic: in the driver") || len(notes(t, dir)) != 3 {
		t.Errorf("ended three times: %v", err)
	}
	t.Run("ended twice", func(t *testing.T) {
		start(t, script{Dir: t.TempDir(), Harm: []harm{{At: "open", How: "kill", Times: 2}}}, worker.Options{})
	})
	if _, err := tryStart(t, script{}, worker.Options{Command: []string{filepath.Join(t.TempDir(), "none")}}); err == nil {
		t.Error("a program that is not there was started")
	}
	if _, err := tryStart(t, script{}, worker.Options{Noise: worker.Noise{Path: filepath.Join(t.TempDir(), "none.npy")}}); err == nil {
		t.Error("draws that are not there were opened")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o := script{}.options()
	o.Worker = &worker.Options{}
	if _, err := engine.Open(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// While no child can be started, each volume is explained on the processor.
func TestNothingStarts(t *testing.T) {
	for _, how := range []string{"error", "exit"} {
		dir := t.TempDir()
		harm := []harm{{At: "pass", Pass: 2, How: "exit", Sample: "s0", Times: 1}, {At: "open", How: how, After: 1, Times: 5}}
		w := start(t, script{Dir: dir, Harm: harm, OnDevice: true}, worker.Options{})
		results, errs := runAll(t.Context(), w, 5, 2)
		checkAll(t, results, errs, 2)
		var devices []string
		for _, r := range results {
			devices = append(devices, r.Execution.Device)
		}
		if got := strings.Join(devices, " "); got != "cpu/fake cpu/fake cpu/fake cuda/fake cuda/fake" {
			t.Errorf("%s: computed on %s", how, got)
		}
	}
}

// While the model's file holds another one than it did, no child can be started: each volume fails with that reason, and is tried when its
// turn comes.
func TestModelReplaced(t *testing.T) {
	dir := t.TempDir()
	w := start(t, script{Dir: dir, Harm: []harm{{At: "pass", Pass: 2, How: "exit", Sample: "s1", Times: 1}, {At: "open", How: "changed", After: 1, Times: 2}}},
		worker.Options{})
	results, errs := runAll(t.Context(), w, 4, 2)
	fails := 0
	for i, err := range errs {
		var changed *input.ChangedError
		if errors.As(err, &changed) {
			fails++
		} else if err != nil || results[i] == nil {
			t.Errorf("volume %d: %v", i, err)
		}
	}
	if fails != 2 {
		t.Errorf("%d volumes fail", fails)
	}
	if n := len(slices.DeleteFunc(notes(t, dir), func(line string) bool { return !strings.HasPrefix(line, "open") })); n != 4 {
		t.Errorf("%d processes were started", n)
	}
}

// Injected draws are read by the child.
func TestNoise(t *testing.T) {
	path := filepath.Join(t.TempDir(), "noise.npy")
	v := newVolume(1)
	z := make([]float32, 2*len(v.Data))
	for i := range z {
		z[i] = float32(i % 13)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(npy.Write(f, []int{2, 2, 8, 16, 40}, z), f.Close()); err != nil {
		t.Fatal(err)
	}
	draws, err := npy.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer draws.Close()
	var changed *input.ChangedError
	if _, err := tryStart(t, script{}, worker.Options{Noise: worker.Noise{Path: path, SHA256: strings.Repeat("0", 64)}}); !errors.As(err, &changed) {
		t.Errorf("another file of draws: %v", err)
	}
	w := start(t, script{}, worker.Options{Noise: worker.Noise{Path: path, SHA256: draws.SHA256()}})
	req := request(1, 2)
	req.Noise = draws
	got, err := w.Explain(t.Context(), v, req)
	if err != nil {
		t.Fatal(err)
	}
	e, err := openFake(t.Context(), script{}.options().Options)
	if err != nil {
		t.Fatal(err)
	}
	req.Checkpoint, req.Progress, req.OnEvent = nowhere{}, func(int, int) {}, func(cam.Event) {}
	want, err := e.Explain(t.Context(), v, req)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, want)
}

// What was to be released stays so in the next child.
func TestHeld(t *testing.T) {
	dir := t.TempDir()
	w := start(t, script{Dir: dir, Harm: []harm{{At: "pass", Pass: 1, How: "kill", Times: 1}}}, worker.Options{})
	for _, o := range []policy.Order{{Operation: policy.Release, For: time.Nanosecond}, {Operation: policy.Release}, {Operation: policy.Trim}} {
		if _, err := w.Order(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	if !w.State().Held {
		t.Error("nothing is held")
	}
	if _, err := w.Explain(t.Context(), newVolume(1), request(1, 1)); err != nil {
		t.Fatal(err)
	}
	if said := strings.Join(notes(t, dir), ";"); !strings.Contains(said, "order trim;open auto ;held;compute s1") {
		t.Errorf("children did %s", said)
	}
}

// A child on the processor that the system kills for want of memory is followed by one that takes less.
func TestLessMemory(t *testing.T) {
	dir := t.TempDir()
	killed := 0
	w := start(t, script{Dir: dir, Harm: []harm{{At: "pass", Pass: 1, How: "kill", Times: 2, CPU: true}}},
		worker.Options{OOMKills: func() int { killed++; return killed }}, func(o *engine.Options) { o.Budget = "6MiB" })
	r, err := w.Explain(t.Context(), newVolume(1), request(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Join(notes(t, dir), ";")
	if want := "open auto 6MiB;open auto 3145728;open auto min;compute s1 from 0"; said != want {
		t.Errorf("children did %s instead of %s", said, want)
	}
	if i := r.Execution.Events; len(i) != 2 || !strings.Contains(i[0].Text, "short of memory") || !strings.Contains(i[0].Text, "3145728") {
		t.Errorf("incidents %v", i)
	}
}

// parentEnv has the test program start a worker, print its process, and have it hang.
const parentEnv = "VOXCAM_TEST_PARENT"

func beParent(text string) {
	var s script
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		panic(err)
	}
	os.Unsetenv(parentEnv)
	o := s.options()
	o.Worker = &worker.Options{}
	w, err := engine.Open(context.Background(), o)
	if err != nil {
		panic(err)
	}
	req := request(1, 1)
	req.Progress = func(int, int) { fmt.Println(w.PID()) }
	w.Explain(context.Background(), newVolume(1), req)
}

// When its parent is killed, the child ends, also in a call that does not return.
func TestParentGone(t *testing.T) {
	text, err := json.Marshal(script{NoPulse: true, Harm: []harm{{At: "pass", Pass: 2, How: "hang"}}})
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentEnv+"="+string(text))
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	child, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(child)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	parent.Wait()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(child), Events: unix.POLLIN}}, 5000); n != 1 || err != nil {
		t.Errorf("the child lives: %d, %v", n, err)
	}
}

// await waits until a fake has noted something.
func await(t *testing.T, dir, what string) {
	t.Helper()
	for range 1000 {
		if text, err := os.ReadFile(filepath.Join(dir, "notes")); err == nil && strings.Contains(string(text), what) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("no fake noted %q", what)
}
