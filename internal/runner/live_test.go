package runner

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/session"
)

// fakeDevice says a state, and hears orders.
type fakeDevice struct {
	Engine
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
	list []session.Notice
	more chan struct{}
}

func (e *events) Notify(event session.Notice) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, event)
	e.more <- struct{}{}
}

func newTestRunning(t *testing.T) (*Live, *events) {
	t.Helper()
	heard := &events{more: make(chan struct{}, 1000)}
	l := NewLive("net.onnx", "auto", heard)
	t.Cleanup(func() { l.Close() })
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
	l.SetEngine(&fakeDevice{state: engine.State{Device: "cuda:1", Name: "cuda/H200", UUID: "GPU-1", Usage: backend.Usage{Free: 5}, Budget: 7,
		Level: cam.LevelStreamed, Arena: 3, Held: true, Until: until, State: engine.StateComputing, Plans: []network.PassState{{Pass: "input", Bytes: 3}}}})
	for _, e := range []session.Notice{
		{Kind: session.NoticeStart, Session: "s", Dir: "out", Total: 6},
		{Kind: session.NoticeBegin, Sample: "a", Split: "val"},
		{Kind: session.NoticeSample, Sample: "a", Split: "val", Status: cam.StatusOK, Done: 1, Total: 6},
		{Kind: session.NoticeSample, Sample: "b", Split: "val", Status: cam.StatusSkipped, Done: 2, Total: 6},
		{Kind: session.NoticeSample, Sample: "c", Split: "val", Status: cam.StatusFailed, Done: 3, Total: 6, Left: 12},
		{Kind: session.NoticeBegin, Sample: "d", Split: "val"},
		{Kind: session.NoticePass, Sample: "d", Split: "val", Passes: 4, PassesTotal: 9},
	} {
		l.Notify(e)
	}
	for range mostIncidents {
		l.Notify(session.Notice{Kind: session.NoticeDevice, Device: cam.Event{Kind: cam.EventSmaller}})
	}
	l.Notify(session.Notice{Kind: session.NoticeDevice, Device: cam.Event{Kind: cam.EventCPU}})
	s, err = l.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(s.Dir, "/out") || s.Started.IsZero() || len(s.Events) != mostIncidents || s.Events[mostIncidents-1].Kind != cam.EventCPU {
		t.Errorf("%+v", s)
	}
	if len(s.Plans) != 1 || s.Plans[0] != (network.PassState{Pass: "input", Bytes: 3}) {
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
	l.Notify(session.Notice{Kind: session.NoticeEnd})
	if s, _ := l.Status(t.Context()); s.Sample != "" || s.Done != 3 {
		t.Errorf("%+v", s)
	}
}

// Figures have the host's memory always, and a GPU's where there is one.
func TestFiguresOfSession(t *testing.T) {
	l, _ := newTestRunning(t)
	if _, err := l.Figures(t.Context()); err == nil {
		t.Error("figures without a device")
	}
	device := &fakeDevice{state: engine.State{Usage: backend.Usage{Reserved: 9}, Level: cam.LevelWhole, State: engine.StateIdle}}
	l.SetEngine(device)
	f, err := l.Figures(t.Context())
	if err != nil || f.Resident < 1<<20 || f.HostAvailable < 1<<20 || f.GPUTotal != 0 || f.Reserved != 0 || f.Level != cam.LevelWhole {
		t.Errorf("%+v, %v", f, err)
	}
	device.state.UUID, device.state.Usage = "GPU-unknown", backend.Usage{Total: 100, Free: 60, Reserved: 30, Allocated: 20, Overhead: 5}
	f, err = l.Figures(t.Context())
	if err != nil || f.GPUTotal != 100 || f.GPUFree != 60 || f.GPUUsed != 40 || f.Reserved != 30 || f.Allocated != 20 || f.Overhead != 5 {
		t.Errorf("%+v, %v", f, err)
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
