package executor_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/noise"
	"github.com/voxcam/voxcam/internal/plan"
)

// limited is the processor with memory of its own, of which others take a part, and with calls that fail when a test says so. What is
// wrong to ask of a backend.Resident fails the test: anything but closing after the device was lost, or while it is vacated, and closing
// twice.
type limited struct {
	backend.Backend
	t testing.TB

	mu        sync.Mutex
	capacity  int // bytes that others leave
	allocated int
	reserved  int
	waiting   int // bytes that Return takes again
	vacated   bool
	lost      bool   // and somebody knows
	lostBy    string // the call
	calls     int
	fail      func(call int, what string) backend.ErrorClass // of the call of that number, counted from 1; Fault is none
	before    func(what string)                              // called before each call; may be nil
	live      map[any]string                                 // what was not closed
	loaded    map[*ir.Graph]int                              // programs of each graph
	weights   int                                            // bytes of their weights
	said      map[string]int                                 // calls of each kind
}

var _ backend.Resident = (*limited)(nil)

func newLimited(t testing.TB, inner backend.Backend, capacity int) *limited {
	return &limited{
		Backend: inner, t: t, capacity: capacity, live: map[any]string{}, loaded: map[*ir.Graph]int{}, said: map[string]int{},
	}
}

// troubled is an error of a limited device.
type troubled struct {
	trouble backend.ErrorClass
	what    string
}

func (e *troubled) Error() string {
	return e.what + ": " + []string{"", "no memory", "failed", "lost"}[e.trouble]
}

// Class is the worst of all errors that are joined.
func (b *limited) Class(err error) backend.ErrorClass {
	switch e := err.(type) {
	case *troubled:
		return e.trouble
	case interface{ Unwrap() []error }:
		worst := backend.Fault
		for _, one := range e.Unwrap() {
			worst = max(worst, b.Class(one))
		}
		return worst
	}
	if inner := errors.Unwrap(err); inner != nil {
		return b.Class(inner)
	}
	return backend.Fault
}

// call counts a call, and fails it if that is to be. Mu must be held.
func (b *limited) call(what string) error {
	closing := strings.HasPrefix(what, "close")
	b.calls++
	b.said[what]++
	switch {
	case b.lost && !closing && b.lostBy != "take" && what != "take": // which may be done by somebody who has not heard of it
		b.t.Errorf("%s was called on a device that is lost", what)
		fallthrough
	case b.lost:
		return &troubled{backend.Lost, what}
	case b.vacated && !closing && what != "usage" && what != "trim" && what != "return" && what != "vacate":
		b.t.Errorf("%s was called while the device is vacated", what)
		return errors.New("vacated")
	}
	if b.fail == nil {
		return nil
	}
	switch trouble := b.fail(b.calls, what); trouble {
	case backend.Fault:
		return nil
	case backend.Lost:
		b.lost, b.lostBy = true, what
		fallthrough
	default:
		return &troubled{trouble, what}
	}
}

// do is a call.
func (b *limited) do(what string, f func() error) error {
	if b.before != nil {
		b.before(what)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.call(what); err != nil {
		return err
	}
	return f()
}

// take takes memory. Mu must be held.
func (b *limited) take(bytes int, what string) error {
	if more := b.allocated + bytes - b.reserved; more > 0 {
		if b.reserved+more > b.capacity {
			return &troubled{backend.NoMemory, what}
		}
		b.reserved += more
	}
	b.allocated += bytes
	return nil
}

// hold notes what was taken.
func (b *limited) hold(what any, name string) { b.live[what] = name }

// drop is closing something that takes so many bytes.
func (b *limited) drop(what any, bytes int, name string, closing func() error) error {
	return b.dropWeights(what, func() int { return bytes }, name, closing)
}

func (b *limited) dropWeights(what any, bytes func() int, name string, closing func() error) error {
	if b.before != nil {
		b.before("close " + name)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.live[what] == "" {
		b.t.Errorf("%s was closed twice", name)
	}
	delete(b.live, what)
	if n := bytes(); b.vacated {
		b.waiting -= n
	} else {
		b.allocated -= n
	}
	return errors.Join(b.call("close "+name), closing())
}

func (b *limited) Usage() (u backend.Usage, err error) {
	err = b.do("usage", func() error {
		free := max(0, b.capacity-b.reserved)
		u = backend.Usage{Total: b.capacity, Free: free, Allocated: b.allocated, Reserved: b.reserved, Largest: free + b.reserved - b.allocated}
		return nil
	})
	return u, err
}

func (b *limited) Trim(keep int) (freed int, err error) {
	err = b.do("trim", func() error {
		freed = max(0, b.reserved-b.allocated-keep)
		b.reserved -= freed
		return nil
	})
	return freed, err
}

func (b *limited) Vacate(keep ...backend.Field) (freed int, err error) {
	err = b.do("vacate", func() error {
		freed, b.waiting, b.allocated, b.reserved, b.vacated = b.reserved, b.allocated, 0, 0, true
		for what := range b.live {
			switch what := what.(type) {
			case *limitedField:
				kept := what.bytes == 0
				for _, k := range keep {
					kept = kept || k == what
				}
				if !kept {
					what.spoil()
				}
			case *limitedMoments:
				if what.bytes > 0 {
					b.t.Error("moments were lost")
				}
			}
		}
		return nil
	})
	return freed, err
}

func (b *limited) Return() error {
	return b.do("return", func() error {
		if !b.vacated {
			return nil
		}
		if err := b.take(b.waiting, "return"); err != nil {
			return err
		}
		b.vacated, b.waiting = false, 0
		return nil
	})
}

func (b *limited) Vacated() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.vacated
}

// limitedField is a field, on the device if it takes bytes.
type limitedField struct {
	backend.Field
	b     *limited
	bytes int
}

func (b *limited) FieldBytes(n int, where backend.Place) int {
	if where == backend.OnHost {
		return 0
	}
	return (4*n + 255) / 256 * 256
}

func (b *limited) NewField(n int, where backend.Place) (field backend.Field, err error) {
	err = b.do("field", func() error {
		inner, err := b.Backend.NewField(n, where)
		if err != nil {
			return err
		}
		f := &limitedField{inner, b, b.FieldBytes(n, where)}
		if err := b.take(f.bytes, "field"); err != nil {
			return err
		}
		b.hold(f, "field")
		field = f
		return nil
	})
	return field, err
}

func (f *limitedField) spoil() {
	bad := make([]float32, f.Len())
	for i := range bad {
		bad[i] = float32(math.NaN())
	}
	if err := f.Field.Write(bad); err != nil {
		f.b.t.Error(err)
	}
}

func (f *limitedField) Write(src []float32) error {
	return f.b.do("write", func() error { return f.Field.Write(src) })
}

func (f *limitedField) Read(dst []float32) error {
	return f.b.do("read", func() error { return f.Field.Read(dst) })
}

func (f *limitedField) Take() (values []float32, err error) {
	err = f.b.do("take", func() (err error) {
		values, err = f.Field.Take()
		return err
	})
	return values, err
}

func (f *limitedField) Close() error { return f.b.drop(f, f.bytes, "field", f.Field.Close) }

// bare is a field of the backend within.
func bare(f backend.Field) backend.Field {
	if own, ok := f.(*limitedField); ok {
		return own.Field
	}
	return f
}

func (b *limited) Upload(dst backend.Field, volume []float32, channels int) error {
	return b.do("upload", func() error { return b.Backend.Upload(bare(dst), volume, channels) })
}

func (b *limited) Copy(dst, src backend.Field) error {
	return b.do("copy", func() error { return b.Backend.Copy(bare(dst), bare(src)) })
}

func (b *limited) Perturb(dst, x backend.Field, channels int, p cam.Perturbation, z noise.Stream) error {
	return b.do("noise", func() error { return b.Backend.Perturb(bare(dst), bare(x), channels, p, z) })
}

func (b *limited) LayerMap(dst backend.Field, c cam.Choice, l backend.Layer) error {
	l.Activation, l.Gradient = bare(l.Activation), bare(l.Gradient)
	return b.do("layer map", func() error { return b.Backend.LayerMap(bare(dst), c, l) })
}

func (b *limited) InputMap(dst backend.Field, c cam.Choice, x, gradient backend.Field, channels int) error {
	return b.do("input map", func() error { return b.Backend.InputMap(bare(dst), c, bare(x), bare(gradient), channels) })
}

func (b *limited) Heatmap(dst, signed backend.Field, c cam.Choice, from, to [3]int) (finding cam.Finding, err error) {
	err = b.do("heatmap", func() (err error) {
		finding, err = b.Backend.Heatmap(bare(dst), bare(signed), c, from, to)
		return err
	})
	return finding, err
}

// limitedMoments are moments, on the device if they take bytes. A call that fails leaves them in no known state.
type limitedMoments struct {
	backend.Moments
	b     *limited
	bytes int
	bad   bool
}

func (b *limited) NewMoments(values, channels int, where backend.Place, choices ...cam.Choice) (moments backend.Moments, err error) {
	err = b.do("moments", func() error {
		inner, err := b.Backend.NewMoments(values, channels, where, choices...)
		if err != nil {
			return err
		}
		m := &limitedMoments{inner, b, b.FieldBytes(inner.Len(), where), false}
		if err := b.take(m.bytes, "moments"); err != nil {
			return err
		}
		b.hold(m, "moments")
		moments = m
		return nil
	})
	return moments, err
}

// change is a call that leaves nothing to go on with when it fails.
func (m *limitedMoments) change(what string, f func() error) error {
	err := m.b.do(what, func() error { return f() })
	m.bad = m.bad || err != nil
	return err
}

func (m *limitedMoments) look(what string, f func() error) error {
	if m.bad {
		m.b.t.Errorf("%s: of moments that are not what they should be", what)
	}
	return m.b.do(what, f)
}

func (m *limitedMoments) Add(gradient backend.Field, share float64) error {
	return m.change("add", func() error { return m.Moments.Add(bare(gradient), share) })
}

func (m *limitedMoments) Load(src []float32, draws int) error {
	return m.change("load moments", func() error { return m.Moments.Load(src, draws) })
}

func (m *limitedMoments) Save(dst []float32) error {
	return m.look("save moments", func() error { return m.Moments.Save(dst) })
}

func (m *limitedMoments) Map(dst backend.Field, c cam.Choice, x backend.Field, baseline float32) error {
	return m.look("draw map", func() error { return m.Moments.Map(bare(dst), c, bare(x), baseline) })
}

func (m *limitedMoments) Close() error { return m.b.drop(m, m.bytes, "moments", m.Moments.Close) }

// ArenaBytes counts what steps compute with, too: programs that share an arena share it.
func (b *limited) ArenaBytes(p *plan.Plan) (int, error) {
	arena, err := b.Backend.ArenaBytes(p)
	if err != nil {
		return 0, err
	}
	scratch, err := b.Backend.ScratchBytes(p)
	return arena + scratch, err
}

func (b *limited) ScratchBytes(*plan.Plan) (int, error) { return 0, nil }

// limitedArena is an arena.
type limitedArena struct {
	backend.Arena
	b *limited
}

func (b *limited) NewArena(bytes int) (arena backend.Arena, err error) {
	err = b.do("arena", func() error {
		if err := b.take(bytes, "arena"); err != nil {
			return err
		}
		inner, err := b.Backend.NewArena(bytes)
		if err != nil {
			return err
		}
		a := &limitedArena{inner, b}
		b.hold(a, "arena")
		arena = a
		return nil
	})
	return arena, err
}

func (a *limitedArena) Close() error { return a.b.drop(a, a.Bytes(), "arena", a.Arena.Close) }

// limitedProgram is a program.
type limitedProgram struct {
	backend.Program
	b     *limited
	graph *ir.Graph
}

// weigh is what the weights of all programs take.
func (b *limited) weigh() int {
	var graphs []*ir.Graph
	for g, n := range b.loaded {
		if n > 0 {
			graphs = append(graphs, g)
		}
	}
	if len(graphs) == 0 {
		return 0
	}
	bytes, err := b.Backend.WeightBytes(graphs...)
	if err != nil {
		b.t.Error(err)
	}
	return bytes
}

func (b *limited) Load(ctx context.Context, p *plan.Plan, a backend.Arena) (program backend.Program, err error) {
	err = b.do("load", func() error {
		b.loaded[p.Graph]++
		weights := b.weigh()
		if err := b.take(weights-b.weights, "load"); err != nil {
			b.loaded[p.Graph]--
			return err
		}
		inner, err := b.Backend.Load(ctx, p, a.(*limitedArena).Arena)
		if err != nil {
			return err
		}
		b.weights = weights
		l := &limitedProgram{inner, b, p.Graph}
		b.hold(l, "program")
		program = l
		return nil
	})
	return program, err
}

func (p *limitedProgram) Close() error {
	return p.b.dropWeights(p, func() int {
		p.b.loaded[p.graph]--
		was := p.b.weights
		p.b.weights = p.b.weigh()
		return was - p.b.weights
	}, "program", p.Program.Close)
}

func (p *limitedProgram) Run(ctx context.Context, from, to int) error {
	return p.b.do("run", func() error { return p.Program.Run(ctx, from, to) })
}

func (p *limitedProgram) Bind(v *ir.Value, f backend.Field) error {
	return p.b.do("bind", func() error { return p.Program.Bind(v, bare(f)) })
}

func (p *limitedProgram) Write(v *ir.Value, data []float32) error {
	return p.b.do("program write", func() error { return p.Program.Write(v, data) })
}

func (p *limitedProgram) Read(v *ir.Value, dst []float32) error {
	return p.b.do("program read", func() error { return p.Program.Read(v, dst) })
}

// clean checks that nothing is left.
func (b *limited) clean(what string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.live) > 0 || b.allocated != 0 || b.waiting != 0 || !b.lost && b.reserved != 0 {
		b.t.Errorf("%s: left behind: %v, %d bytes allocated, %d reserved, %d waiting", what, fmt.Sprint(b.live), b.allocated, b.reserved, b.waiting)
	}
}
