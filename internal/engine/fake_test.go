package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/worker"
	"github.com/voxcam/voxcam/volume"
)

const gib = 1 << 30

// world is a machine with a GPU that has memory, and models that need some of it. A volume's map is the sum of its draws, so that a draw
// that is left out or done twice shows.
type world struct {
	t       *testing.T
	total   int // of the GPU
	context int // what a context takes
	needs   int // what the smallest plan takes
	host    int // what the machine has free
	least   int // what the smallest plan on the processor takes

	processes bool         // instances are in processes of their own
	last      *fakeProcess // that was started

	mu     sync.Mutex
	others int // what other programs have
	open   map[string]int
	opened []string                                                         // devices, in order
	draw   func(ctx context.Context, on string, sample string, d int) error // before each draw; may be nil
	result func(sample string) error                                        // of Work.Result; may be nil
	broken func(name string) error                                          // of a device that is opened; may be nil
	done   map[string]int                                                   // draws by device
	begun  []string                                                         // samples that were begun ahead, by what
}

func newWorld(t *testing.T) *world {
	return &world{t: t, total: 80 * gib, context: gib / 2, needs: gib, host: 16 * gib, least: gib,
		open: map[string]int{}, done: map[string]int{}}
}

func (w *world) set(others int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.others = others
}

var (
	errNoRoom = errors.New("no room for the context")
	errOnce   = errors.New("a call failed")
)

// start opens instances in this world.
func (w *world) start(ctx context.Context, o instance.Options) (instance.Instance, error) {
	x, err := w.parts().Open(ctx, o)
	if err != nil || !w.processes {
		return x, err
	}
	w.last = &fakeProcess{x, make(chan struct{})}
	return w.last, nil
}

// errEnds ends a call during which the process ends.
var errEnds = &worker.DiedError{Reason: "its end"}

// kill ends the process that was started last.
func (w *world) kill() error {
	close(w.last.gone)
	return errEnds
}

// fakeProcess is an instance as if it were in a process of its own.
type fakeProcess struct {
	instance.Instance
	gone chan struct{}
}

func (p *fakeProcess) Gone() <-chan struct{}   { return p.gone }
func (p *fakeProcess) Died() *worker.DiedError { return errEnds }
func (p *fakeProcess) Interrupt()              {}
func (p *fakeProcess) PID() int                { return 1 }
func (p *fakeProcess) Order(ctx context.Context, o policy.Order) (policy.Outcome, error) {
	select {
	case <-p.gone:
		return policy.Outcome{}, errEnds
	default:
		return p.Instance.Order(ctx, o)
	}
}
func (p *fakeProcess) End(reason string) *worker.DiedError {
	close(p.gone)
	return &worker.DiedError{Reason: reason}
}

func (w *world) parts() instance.Parts {
	return instance.Parts{
		Device: func(o device.Options) (*instance.Machine, error) {
			name := o.Name
			w.mu.Lock()
			defer w.mu.Unlock()
			w.opened = append(w.opened, name)
			if w.broken != nil {
				if err := w.broken(name); err != nil {
					return nil, err
				}
			}
			if name == "auto" || name == "cpu" {
				name = "cpu"
				w.open[name]++
				return &instance.Machine{Backend: &fakeCPU{name: name}, Free: func() (int, error) { return w.host, nil }, Close: w.closer(name)}, nil
			}
			if w.total-w.others < w.context {
				return nil, fmt.Errorf("opening: %w", errNoRoom)
			}
			w.open[name]++
			g := &fakeGPU{fakeCPU: fakeCPU{name: name}, world: w}
			return &instance.Machine{Backend: g, UUID: "GPU-1", Free: func() (int, error) { return 0, errors.New("nobody asks") }, Close: w.closer(name)}, nil
		},
		Model: func(_ context.Context, _ string, b backend.Backend, o executor.Options) (instance.Model, error) {
			m := &fakeModel{world: w, on: b.Name(), options: o, slot: make(chan struct{}, 1)}
			m.gpu, _ = b.(*fakeGPU)
			return m, nil
		},
		Class: func(err error) backend.ErrorClass {
			switch {
			case errors.Is(err, errNoRoom):
				return backend.NoMemory
			case errors.Is(err, errOnce):
				return backend.Transient
			}
			return backend.Fault
		},
	}
}

func (w *world) closer(name string) func() error {
	return func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.open[name]--
		return nil
	}
}

type fakeCPU struct {
	backend.Backend
	name string
}

func (b *fakeCPU) Name() string { return b.name }

type fakeGPU struct {
	fakeCPU
	world *world
	took  int
	lost  bool
}

func (g *fakeGPU) Usage() (backend.Usage, error) {
	w := g.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if g.lost {
		return backend.Usage{}, cam.ErrLost
	}
	free := w.total - w.others - w.context - g.took
	return backend.Usage{Total: w.total, Free: free, Reserved: g.took, Allocated: g.took, Largest: free, Overhead: w.context}, nil
}
func (g *fakeGPU) Trim(int) (int, error)                { return 0, nil }
func (g *fakeGPU) Vacate(...backend.Field) (int, error) { return 0, nil }
func (g *fakeGPU) Return() error                        { return nil }
func (g *fakeGPU) Vacated() bool                        { return false }
func (g *fakeGPU) Class(error) backend.ErrorClass       { return backend.Fault }

// fakeModel explains like executor.Model: one volume waits ahead, one is explained.
type fakeModel struct {
	world   *world
	on      string
	gpu     *fakeGPU // nil on the processor
	options executor.Options
	slot    chan struct{}
	mu      sync.Mutex
	closed  bool
}

func (m *fakeModel) Info() cam.Info {
	return cam.Info{Path: "m.onnx", Classes: 2, TargetLayer: "layer"}
}
func (m *fakeModel) Bind(_ context.Context, _ [4]int) error { return nil }
func (m *fakeModel) Prepare(context.Context, []string) error {
	_, err := m.fit()
	return err
}
func (m *fakeModel) Close() error {
	m.slot <- struct{}{}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	if m.gpu != nil {
		m.world.mu.Lock()
		m.gpu.took = 0
		m.world.mu.Unlock()
	}
	return nil
}

func (m *fakeModel) Trim(int) (int, error) { return 0, nil }

func (m *fakeModel) State() network.State {
	return network.State{Level: cam.LevelStreamed, Arena: 1}
}

// Release gives the memory back between two draws, and takes the least again.
func (m *fakeModel) Release(_ context.Context, meanwhile func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gpu != nil {
		m.world.mu.Lock()
		m.gpu.took = 0
		m.world.mu.Unlock()
	}
	return meanwhile()
}

// fit takes memory within what is allowed.
func (m *fakeModel) fit() (cam.Level, error) {
	w := m.world
	if m.gpu == nil {
		b := m.options.Allow(backend.Usage{})
		if b.Smallest {
			return cam.LevelSmallest, nil
		}
		if b.Bytes > 0 && b.Bytes < w.least {
			return "", &cam.BudgetError{Budget: b.Bytes, Smallest: w.least}
		}
		return cam.LevelWhole, nil
	}
	u, err := m.gpu.Usage()
	if err != nil {
		return "", err
	}
	b := m.options.Allow(u)
	level := cam.LevelStreamed
	if b.Smallest {
		b.Bytes, level = w.needs, cam.LevelSmallest
	}
	if b.Bytes < w.needs {
		small := &cam.BudgetError{Budget: b.Bytes, Smallest: w.needs}
		return "", &cam.MemoryError{Needs: w.needs, Free: b.Bytes, Err: small}
	}
	if u.Available() < w.needs {
		return "", &cam.MemoryError{Needs: w.needs, Free: u.Available(), Err: errors.New("refused")}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	m.gpu.took = min(b.Bytes, u.Available())
	return level, nil
}

type fakeWork struct {
	model  *fakeModel
	req    cam.Request
	leave  sync.Once
	ctx    context.Context // which Result would go on with
	result *cam.Result
}

func (m *fakeModel) Begin(ctx context.Context, v *volume.Volume, req cam.Request) (explain.Work, error) {
	if err := v.CheckFinite(); err != nil {
		return nil, err
	}
	select {
	case m.slot <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	m.world.mu.Lock()
	m.world.begun = append(m.world.begun, req.SampleID+"@"+m.on)
	m.world.mu.Unlock()
	return &fakeWork{model: m, req: req}, nil
}

func (m *fakeModel) Explain(context.Context, *volume.Volume, cam.Request) (*cam.Result, error) {
	panic("an engine begins")
}

func (f *fakeWork) left() { f.leave.Do(func() { <-f.model.slot }) }
func (f *fakeWork) Drop() { f.left() }

func (f *fakeWork) Compute(ctx context.Context) error {
	m, w := f.model, f.model.world
	defer f.left()
	f.ctx = ctx
	level, err := m.fit()
	if err != nil {
		return err
	}
	f.left()
	sum, from := float32(0), 0
	if c := f.req.Checkpoint; c != nil {
		if state, draws := c.Latest("k"); draws > 0 {
			sum, from = state[0], draws
			f.req.OnEvent(cam.Event{Kind: cam.EventResumed})
		}
	}
	for d := from; d < f.req.NSamples; d++ {
		m.mu.Lock()
		closed := m.closed
		m.mu.Unlock()
		if closed {
			w.t.Error("a model is closed while it explains")
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if w.draw != nil {
			if err := w.draw(ctx, m.on, f.req.SampleID, d); err != nil {
				if m.gpu != nil && errors.Is(err, cam.ErrLost) {
					w.mu.Lock()
					m.gpu.lost = true
					w.mu.Unlock()
				}
				return err
			}
		}
		if _, err := m.fit(); err != nil {
			return err
		}
		sum += float32(d + 1)
		w.mu.Lock()
		w.done[m.on]++
		w.mu.Unlock()
		if f.req.Checkpoint != nil {
			if err := f.req.Checkpoint.Keep("k", []float32{sum}, d+1); err != nil {
				return err
			}
		}
	}
	f.result = &cam.Result{Execution: cam.Execution{Device: m.on, Level: level}}
	for _, name := range f.req.Methods {
		f.result.Methods = append(f.result.Methods, cam.MethodResult{Method: name, Status: cam.StatusOK, Map: []float32{sum}})
	}
	return nil
}

func (f *fakeWork) Result() (*cam.Result, error) {
	if err := f.ctx.Err(); err != nil {
		return nil, err
	}
	if f.model.world.result != nil {
		if err := f.model.world.result(f.req.SampleID); err != nil {
			return nil, err
		}
	}
	return f.result, nil
}

// request asks for methods, of which smoothgrad draws.
func request(id string, draws int) cam.Request {
	return cam.Request{Methods: []string{"gradcam", "smoothgrad"}, NSamples: draws, NoiseLevel: 0.1, SampleID: id}
}

func kinds(incidents []cam.Event) (k []cam.EventKind) {
	for _, i := range incidents {
		k = append(k, i.Kind)
	}
	return k
}

// checkClosed reports devices that are still open.
func (w *world) checkClosed() {
	w.t.Helper()
	for name, n := range w.open {
		if n != 0 {
			w.t.Errorf("%d devices %s are still open", n, name)
		}
	}
}

func (w *world) openedDevices() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.opened)
}
