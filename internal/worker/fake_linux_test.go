package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/worker"
	"github.com/voxcam/voxcam/volume"
)

// The test program is also the child, as the program itself is, and a parent that is killed.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "worker" {
		open := func(ctx context.Context, o instance.Options) (instance.Instance, error) {
			if strings.HasPrefix(o.Model, "{") {
				return openFake(ctx, o)
			}
			return instance.Open(ctx, o)
		}
		if err := worker.Serve(open, dieAtMessage()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if script := os.Getenv(parentEnv); script != "" {
		beParent(script)
	}
	os.Exit(m.Run())
}

// script says what a fake instance does. It is the name of its model.
type script struct {
	Dir      string // where instances note what they did, for the next ones
	Refuse   string // at opening
	Budget   int    // at Prepare: a budget that is too small
	Harm     []harm
	Pass     time.Duration // that a pass takes
	NoPulse  bool          // State hangs while a volume hangs
	Binds    bool
	Quick    bool // the heatmap is the volume
	OnDevice bool // it calls itself a GPU unless device is cpu
}

// harm is done at a place.
type harm struct {
	At     string // open, bind, prepare, begin, pass, result, order
	Sample string // "" for all
	Pass   int    // for pass: number
	How    string // exit, kill, panic, lost, short, hang, error, ...
	Times  int    // 0: always
	After  int    // so many times not
	CPU    bool   // on the processor, too
}

// fake explains by arithmetic. Draws add up in a state that is kept.
type fake struct {
	script  script
	options instance.Options
	spot    chan struct{} // for a volume that waits
	turn    chan struct{}
	hung    sync.Mutex

	mu    sync.Mutex
	name  string
	held  bool
	shape [4]int
}

func openFake(ctx context.Context, o instance.Options) (instance.Instance, error) {
	e := &fake{options: o, spot: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
	if err := json.Unmarshal([]byte(o.Model), &e.script); err != nil {
		return nil, err
	}
	e.name, e.held, e.shape = "cpu/fake", o.Held, o.Shape
	if e.script.OnDevice && o.Device != "cpu" {
		e.name = "cuda/fake"
	}
	e.note("open %s %s", o.Device, o.Budget)
	if e.shape != [4]int{} {
		e.note("bind %v", e.shape)
	}
	if e.held {
		e.note("held")
	}
	if err := e.harm(ctx, "open", "", 0); err != nil {
		return nil, err
	}
	if e.script.Refuse != "" {
		return nil, errors.New(e.script.Refuse)
	}
	return e, nil
}

// note writes a line for the test.
func (e *fake) note(format string, args ...any) {
	if e.script.Dir == "" {
		return
	}
	f, err := os.OpenFile(filepath.Join(e.script.Dir, "notes"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		fmt.Fprintf(f, format+"\n", args...)
		f.Close()
	}
}

func notes(t *testing.T, dir string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "notes"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// first reports whether what is named is done for one of the first so many times, by any child.
func first(dir, name string, times int) bool {
	for i := range times {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%s.%d", name, i)), os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			f.Close()
			return true
		}
	}
	return false
}

// harm does what the script has for a place.
func (e *fake) harm(ctx context.Context, at, sample string, pass int) error {
	for i, h := range e.script.Harm {
		if h.At != at || h.Sample != "" && h.Sample != sample || h.Pass != pass || e.options.Device == "cpu" && !h.CPU ||
			h.After > 0 && first(e.script.Dir, fmt.Sprint("after", i), h.After) || h.Times > 0 && !first(e.script.Dir, fmt.Sprint("harm", i), h.Times) {
			continue
		}
		if h.How == "hang" || h.How == "wait" || h.How == "stubborn" {
			e.note("harm %s at %s", h.How, at)
		}
		switch h.How {
		case "exit":
			fmt.Fprintln(os.Stderr, "the driver gives up")
			os.Exit(7)
		case "kill":
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		case "panic":
			go panic("in the driver")
			select {}
		case "lost":
			return fmt.Errorf("at %s: %w", at, cam.ErrLost)
		case "short":
			return &cam.MemoryError{Needs: 2, Free: 1, Err: errors.New("no room")}
		case "hang": // as in a driver: nothing gets it back
			if e.script.NoPulse {
				e.hung.Lock()
			}
			select {}
		case "error":
			return fmt.Errorf("no good at %s of %s", at, sample)
		case "changed":
			return fmt.Errorf("at %s: %w", at, &input.ChangedError{Path: "m.onnx"})
		case "stubborn":
			time.Sleep(500 * time.Millisecond)
		case "wait":
			<-ctx.Done()
			return context.Cause(ctx)
		}
	}
	return nil
}

func (e *fake) Info() cam.Info {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := cam.Info{Path: "fake.onnx", Classes: 3, TargetLayer: "layer", InputShape: e.shape}
	if e.script.Binds && e.shape == [4]int{} {
		i.Classes = 0
	}
	return i
}

func (e *fake) Bind(_ context.Context, shape [4]int) error {
	e.note("bind %v", shape)
	if err := e.harm(context.Background(), "bind", "", 0); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.shape = shape
	return nil
}

func (e *fake) Prepare(ctx context.Context, methods []string) error {
	e.note("prepare %v", methods)
	if e.script.Budget > 0 {
		return fmt.Errorf("for a volume: %w", &cam.BudgetError{Budget: e.script.Budget, Smallest: 2 * e.script.Budget})
	}
	return e.harm(ctx, "prepare", "", 0)
}

func (e *fake) Order(ctx context.Context, o policy.Order) (policy.Outcome, error) {
	e.note("order %s", o.Operation)
	if err := e.harm(ctx, "order", "", 0); err != nil {
		return policy.Outcome{}, err
	}
	e.mu.Lock()
	e.held = o.Operation == policy.Release || o.Operation == policy.Trim && e.held
	e.mu.Unlock()
	return policy.Outcome{Operation: o.Operation, Note: "done"}, nil
}

func (e *fake) Usage(context.Context) (backend.Usage, error) { return backend.Usage{}, nil }

func (e *fake) UseLeast(context.Context, int) (bool, error) { return false, nil }

func (e *fake) Device() instance.DeviceInfo {
	return instance.DeviceInfo{Name: e.name, Processor: e.name == "cpu/fake", Warnings: []string{"a warning"}, Notes: []string{"a note"}}
}

func (e *fake) State() instance.Snapshot {
	e.hung.Lock()
	defer e.hung.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	return instance.Snapshot{Held: e.held}
}

func (e *fake) Close() error { e.note("close"); return nil }

func (e *fake) Explain(ctx context.Context, v *volume.Volume, req cam.Request) (*cam.Result, error) {
	return explain.One(ctx, e, v, req)
}

type fakeWork struct {
	engine *fake
	volume *volume.Volume
	req    cam.Request
	leave  func()
	result *cam.Result
}

func (e *fake) Begin(ctx context.Context, v *volume.Volume, req cam.Request) (explain.Work, error) {
	if err := v.CheckFinite(); err != nil {
		return nil, err
	}
	if len(e.spot) > 0 {
		e.note("wait %s", req.SampleID)
	}
	select {
	case e.spot <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	w := &fakeWork{engine: e, volume: v, req: req, leave: sync.OnceFunc(func() { <-e.spot })}
	if err := e.harm(ctx, "begin", req.SampleID, 0); err != nil {
		w.leave()
		return nil, err
	}
	return w, nil
}

func (w *fakeWork) Drop() { w.leave() }

const drawsKey = "draws"

func (w *fakeWork) Compute(ctx context.Context) error {
	e, v, req := w.engine, w.volume, w.req
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		w.leave()
		return context.Cause(ctx)
	}
	defer w.leave()
	total := 1 + req.NSamples
	r := &cam.Result{TargetLayer: "layer", Probabilities: []float64{0.25, 0.5, 0.25}, Logits: []float32{0, 1, float32(v.Data[0])},
		Predicted: 1, TargetClass: req.Target.Class.Index, CellSize: [3]float64{1, 2, 2}, Execution: cam.Execution{Device: e.name, Level: cam.LevelWhole}}
	if r.Predicted = 1; req.Target.Class.Kind == cam.ClassPredicted {
		r.TargetClass = r.Predicted
	}
	if e.script.Quick {
		r.Methods = []cam.MethodResult{{Method: req.Methods[0], Status: cam.StatusOK, Heatmap: v.Data}}
		w.result = r
		return nil
	}
	sum, from := make([]float32, len(v.Data)), 0
	pass := func(n int) error {
		select {
		case <-time.After(e.script.Pass):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := e.harm(ctx, "pass", req.SampleID, n); err != nil {
			return err
		}
		req.Progress(n, total)
		return nil
	}
	if err := pass(1); err != nil {
		return err
	}
	w.leave()
	if kept, draws := req.Checkpoint.Latest(drawsKey); draws > 0 {
		copy(sum, kept)
		from = draws
		i := cam.Event{Time: time.Now(), Kind: cam.EventResumed, Text: fmt.Sprint(draws)}
		r.Execution.Events = append(r.Execution.Events, i)
		req.OnEvent(i)
	}
	e.note("compute %s from %d", req.SampleID, from)
	z := make([]float32, len(v.Data))
	for draw := from; draw < req.NSamples; draw++ {
		if req.Noise != nil {
			if err := req.Noise.Draw(draw, z); err != nil {
				return err
			}
		}
		for i, x := range v.Data {
			sum[i] += x*float32(1+(uint64(draw)*7+uint64(i)+req.Seed)%11) + z[i]
		}
		if err := pass(2 + draw); err != nil {
			return err
		}
		if err := req.Checkpoint.Keep(drawsKey, sum, draw+1); err != nil {
			return err
		}
	}
	for k, method := range req.Methods {
		m := cam.MethodResult{Method: method, Status: cam.StatusOK, Seconds: 0.5, HeatDims: v.Dims(), Dims: [3]int{1, 1, 2},
			Parameters: map[string]any{"n_samples": req.NSamples, "seed": req.Seed, "noise_sigma": req.NoiseLevel, "convention": req.Convention[method]},
			Map:        []float32{float32(k), sum[0]}}
		for _, x := range sum[:v.Voxels()] {
			m.Heatmap = append(m.Heatmap, x*float32(k+1))
		}
		if method == "saliency" {
			m = cam.MethodResult{Method: method, Status: cam.StatusFailed, Reason: "it always does"}
		}
		r.Methods = append(r.Methods, m)
	}
	w.result = r
	return nil
}

func (w *fakeWork) Result() (*cam.Result, error) {
	if err := w.engine.harm(context.Background(), "result", w.req.SampleID, 0); err != nil {
		return nil, err
	}
	return w.result, nil
}

// dieAtMessage kills the child at the n-th message of its life, the first time: VOXCAM_TEST_DIE is n and a folder.
func dieAtMessage() func() {
	number, dir, given := strings.Cut(os.Getenv("VOXCAM_TEST_DIE"), " ")
	if !given {
		return func() {}
	}
	var n int
	fmt.Sscan(number, &n)
	var mu sync.Mutex
	return func() {
		mu.Lock()
		defer mu.Unlock()
		if n--; n == 0 && first(dir, "message", 1) {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}
