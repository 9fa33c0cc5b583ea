package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/session"
	"github.com/voxcam/voxcam/internal/worker"
)

// fakeDevice says a state, and hears orders.
type fakeDevice struct {
	worker.Engine
	state  engine.State
	orders chan policy.Order
	err    error
}

func (f *fakeDevice) State() engine.State { return f.state }
func (f *fakeDevice) PID() int            { return 4711 }
func (f *fakeDevice) Order(_ context.Context, o policy.Order) (policy.Outcome, error) {
	f.orders <- o
	return policy.Outcome{Operation: o.Operation, Before: backend.Usage{Reserved: 3 << 20}, After: backend.Usage{Reserved: 1 << 20}, Note: "so it is"}, f.err
}

// events are those that an observer heard.
type events struct {
	mu   sync.Mutex
	list []session.Event
	more chan struct{}
}

func (e *events) Event(event session.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, event)
	e.more <- struct{}{}
}

func newTestRunning(t *testing.T) (*running, *events) {
	t.Helper()
	heard := &events{more: make(chan struct{}, 1000)}
	l := newRunning("net.onnx", "auto", heard)
	t.Cleanup(func() { l.close() })
	return l, heard
}

// What the session tells and what its device says of itself make one status.
func TestStatusOfSession(t *testing.T) {
	l, heard := newTestRunning(t)
	s, err := l.Status(t.Context())
	if err != nil || s.PID != os.Getpid() || s.Model != "net.onnx" || s.State != engine.StateStarting || s.Worker != 0 || s.Plans == nil {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := l.Order(t.Context(), policy.Order{Operation: policy.Trim}); err == nil {
		t.Error("an order without a device")
	}
	until := time.Now().Add(time.Minute)
	l.computes(&fakeDevice{state: engine.State{Device: "cuda:1", Name: "cuda/H200", UUID: "GPU-1", Usage: backend.Usage{Free: 5}, Budget: 7,
		Level: cam.LevelStreamed, Arena: 3, Held: true, Until: until, State: engine.StateComputing, Plans: []explain.PassState{{Pass: "input", Bytes: 3}}}})
	for _, e := range []session.Event{
		{Kind: session.EventStart, Session: "s", Dir: "out", Total: 6},
		{Kind: session.EventBegin, Sample: "a", Split: "val"},
		{Kind: session.EventSample, Sample: "a", Split: "val", Status: cam.StatusOK, Done: 1, Total: 6},
		{Kind: session.EventSample, Sample: "b", Split: "val", Status: cam.StatusSkipped, Done: 2, Total: 6},
		{Kind: session.EventSample, Sample: "c", Split: "val", Status: cam.StatusFailed, Done: 3, Total: 6, Left: 12},
		{Kind: session.EventBegin, Sample: "d", Split: "val"},
		{Kind: session.EventPass, Sample: "d", Split: "val", Passes: 4, PassesTotal: 9},
	} {
		l.Event(e)
	}
	for range mostIncidents {
		l.Event(session.Event{Kind: session.EventExecution, Execution: cam.Event{Kind: cam.EventSmaller}})
	}
	l.Event(session.Event{Kind: session.EventExecution, Execution: cam.Event{Kind: cam.EventCPU}})
	s, err = l.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(s.Dir, "/out") || s.Started.IsZero() || len(s.Events) != mostIncidents || s.Events[mostIncidents-1].Kind != cam.EventCPU {
		t.Errorf("%+v", s)
	}
	if len(s.Plans) != 1 || s.Plans[0] != (explain.PassState{Pass: "input", Bytes: 3}) {
		t.Errorf("%+v", s.Plans)
	}
	s.Dir, s.Started, s.Events, s.Plans = "", time.Time{}, nil, nil
	want := control.Status{PID: os.Getpid(), Worker: 4711, Session: "s", Model: "net.onnx", Device: "cuda:1 (cuda/H200)", UUID: "GPU-1", Usage: backend.Usage{Free: 5},
		Budget: 7, Level: cam.LevelStreamed, Arena: 3, Held: true, Until: until, State: engine.StateComputing, Sample: "d", Split: "val", Passes: 4, PassesTotal: 9,
		Done: 3, Total: 6, OK: 1, Failed: 1, Skipped: 1, LeftSeconds: 12}
	if a, b := mustJSON(t, s), mustJSON(t, want); a != b {
		t.Errorf("got  %s\nwant %s", a, b)
	}
	if len(heard.list) != 7+mostIncidents+1 {
		t.Errorf("%d events were passed on", len(heard.list))
	}
	l.Event(session.Event{Kind: session.EventEnd})
	if s, _ := l.Status(t.Context()); s.Sample != "" || s.Done != 3 {
		t.Errorf("%+v", s)
	}
}

// Figures have the host's memory always, and a GPU's where there is one.
func TestFiguresOfSession(t *testing.T) {
	l, _ := newTestRunning(t)
	if _, err := l.figures(t.Context()); err == nil {
		t.Error("figures without a device")
	}
	device := &fakeDevice{state: engine.State{Usage: backend.Usage{Reserved: 9}, Level: cam.LevelWhole, State: engine.StateIdle}}
	l.computes(device)
	f, err := l.figures(t.Context())
	if err != nil || f.Resident < 1<<20 || f.HostAvailable < 1<<20 || f.GPUTotal != 0 || f.Reserved != 0 || f.Level != cam.LevelWhole {
		t.Errorf("%+v, %v", f, err)
	}
	device.state.UUID, device.state.Usage = "GPU-unknown", backend.Usage{Total: 100, Free: 60, Reserved: 30, Allocated: 20, Overhead: 5}
	f, err = l.figures(t.Context())
	if err != nil || f.GPUTotal != 100 || f.GPUFree != 60 || f.GPUUsed != 40 || f.Reserved != 30 || f.Allocated != 20 || f.Overhead != 5 {
		t.Errorf("%+v, %v", f, err)
	}
}

// Signals are orders, and what came of them is told.
func TestSignalsAreOrders(t *testing.T) {
	l, heard := newTestRunning(t)
	device := &fakeDevice{orders: make(chan policy.Order, 1)}
	l.computes(device)
	stop := l.listen(t.Context(), nil)
	order := func(s syscall.Signal) policy.Order {
		t.Helper()
		send(t, s)
		o := <-device.orders
		<-heard.more
		return o
	}
	if o := order(syscall.SIGUSR1); o != (policy.Order{Operation: policy.Release, For: time.Minute}) {
		t.Errorf("%+v", o)
	}
	device.err = errors.New("no")
	if o := order(syscall.SIGUSR2); o.Operation != policy.Resume {
		t.Errorf("%+v", o)
	}
	stop()
	if e := heard.list[0]; e.Kind != session.EventNote || e.Reason != "signal user defined signal 1: release: gave back 2 MiB; so it is" {
		t.Errorf("%+v", e)
	}
	if e := heard.list[1]; e.Kind != session.EventWarning || !strings.HasSuffix(e.Reason, "resume: no") {
		t.Errorf("%+v", e)
	}
}

// Where they stop a run, the first of them ends its context, and says so.
func TestSignalsThatStop(t *testing.T) {
	l, heard := newTestRunning(t)
	l.computes(&fakeDevice{}) // which an order would make panic
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	end := l.listen(ctx, cancel)
	send(t, syscall.SIGUSR2)
	<-ctx.Done()
	end()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) || err.Error() != "stopped by the signal user defined signal 2" {
		t.Error(err)
	}
	if e := heard.list[0]; e.Kind != session.EventWarning || !strings.Contains(e.Reason, "user defined signal 2: the run stops") {
		t.Errorf("%+v", e)
	}
}

// A program ends with the first signal that asks for it; what nohup has it ignore does not.
func TestInterruptible(t *testing.T) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP) // so that it is not ignored, as when the test runs under nohup
	signal.Stop(hangup)
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGXCPU} {
		ctx, stop := Interruptible(t.Context())
		send(t, s)
		<-ctx.Done()
		stop()
		if err := context.Cause(ctx); !errors.Is(err, context.Canceled) || err.Error() != fmt.Sprintf("stopped by the signal %v", s) {
			t.Error(err)
		}
	}
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	ctx, stop := Interruptible(t.Context())
	defer stop()
	send(t, syscall.SIGHUP)
	send(t, syscall.SIGTERM)
	<-ctx.Done()
	if err := context.Cause(ctx); err.Error() != "stopped by the signal terminated" {
		t.Error(err)
	}
}

func send(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), s); err != nil {
		t.Fatal(err)
	}
}

func TestUserSignals(t *testing.T) {
	for _, c := range []struct {
		setting, variable string
		stop              bool
		system            string
	}{
		{"auto", "", false, ""}, {"auto", "HOME", false, ""}, {"auto", "SLURM_JOB_ID", true, "Slurm"}, {"auto", "PBS_JOBID", true, "PBS"},
		{"auto", "LSB_JOBID", true, "LSF"}, {"auto", "SGE_TASK_ID", true, "Grid Engine"},
		{"memory", "SLURM_JOB_ID", false, ""}, {"stop", "", true, ""}, {"stop", "LSB_JOBID", true, ""},
	} {
		getenv := func(name string) string {
			if name == c.variable {
				return "7"
			}
			return ""
		}
		if stop, system := userSignalsStop(c.setting, getenv); stop != c.stop || system != c.system {
			t.Errorf("%s in %s: %v, %q", c.setting, c.variable, stop, system)
		}
	}
}

// A policy is that of its name, but for what was said besides.
func TestPolicyOfConfiguration(t *testing.T) {
	yes, no := true, false
	for name, tc := range map[string]struct {
		change func(*dataset.Memory)
		want   policy.Policy
	}{
		"default":  {func(*dataset.Memory) {}, policy.DefaultPolicy()},
		"original": {func(m *dataset.Memory) { m.Policy = "original" }, policy.Policy{Original: true, Wait: 10 * time.Second, Fewer: true, Skip: true}},
		"besides": {func(m *dataset.Memory) {
			m.Policy, m.CPU, m.Fewer, m.Skip, m.Wait = "original", &yes, &no, &no, time.Second
		},
			policy.Policy{Original: true, CPU: true, Wait: time.Second}},
	} {
		m := dataset.Defaults().Memory
		tc.change(&m)
		if got, err := policyOf(&m); err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
