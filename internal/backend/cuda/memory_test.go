package cuda

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/plan"
)

// doubling takes memory that begins with a large piece, sees a part of it twice, and vacates it: what is written at one address is read at
// the others, before and after.
func doubling(b *Backend) (err error) {
	unit := b.granularity
	m, err := b.take((largeUnits+4)*unit, "a test")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	a, err := m.double(unit, 2*unit)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	values, got := counting(2*unit/4, 1), make([]float32, 2*unit/4)
	for round := range 2 {
		if err := b.copyToDevice(m.at+driver.Ptr(unit), values); err != nil {
			return err
		}
		for _, at := range []int{0, 2 * unit} {
			if err := b.copyToHost(got, a.at+driver.Ptr(at)); err != nil {
				return err
			}
			if !slices.Equal(got, values) {
				return errors.New("the memory shows something else at the second addresses")
			}
		}
		if round > 0 {
			break
		}
		if _, err := b.Vacate(); err != nil {
			return err
		}
		if err := b.Return(); err != nil {
			return err
		}
	}
	return nil
}

// Large pieces are exchanged for small ones where a part is seen twice, whatever call fails on the way.
func TestDoublingExchangesLargePieces(t *testing.T) {
	sim, o := simulated(t)
	counted := &watch{passed: map[string]int{}}
	o.Intercept = counted.intercept
	b, err := New(o)
	must(t, err)
	opened := len(counted.calls)
	must(t, doubling(b))
	calls := counted.calls[opened:]
	must(t, b.Close())
	step := max(1, len(calls)/20)
	if backendtest.Long() {
		step = 1
	}
	for i := 0; i < len(calls); i += step {
		w := &watch{passed: map[string]int{}}
		w.refuse = func(k int, call string) int {
			if k == opened+i {
				return codeFor(call)
			}
			return 0
		}
		o.Intercept = w.intercept
		b, err := New(o)
		must(t, err)
		if err := doubling(b); err != nil {
			if b.Trouble(err) != backend.NoMemory && b.Trouble(err) != backend.Transient {
				t.Errorf("call %d (%s): %v", i, calls[i], err)
			}
			must(t, b.Return())
			if err := doubling(b); err != nil {
				t.Errorf("call %d (%s), the second time: %v", i, calls[i], err)
			}
		}
		must(t, b.Close())
		if uneven := w.balance(opposites); uneven != nil || sim.Used() != 0 || b.Held() != 0 {
			t.Errorf("call %d (%s): %d bytes are left; %q", i, calls[i], sim.Used(), uneven)
		}
	}
}

// An arena whose pieces went to somebody else while large ones were exchanged is an error for its programs, and can be closed.
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
	a, err := b.newArena((largeUnits + 4) * b.granularity)
	must(t, err)
	program, err := b.Load(context.Background(), p, a)
	must(t, err)
	greedy = true
	if _, err := a.memory.double(8*b.granularity, b.granularity); b.Trouble(err) != backend.NoMemory {
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

// What is closed is enough for anything of the same size or less: the driver is asked for nothing more, and no more is held than was ever
// in use.
func TestLessThanBeforeIsThere(t *testing.T) {
	_, o := simulated(t)
	b, err := New(o)
	must(t, err)
	r := rand.New(rand.NewPCG(3, 4))
	const most = 60
	var live []*memory
	units := 0
	for range 2000 {
		if n := 1 + r.IntN(1+r.IntN(40)); units+n <= most {
			m, err := b.take(n*b.granularity, "a test")
			must(t, err)
			live, units = append(live, m), units+n
			continue
		}
		k := r.IntN(len(live))
		units -= live[k].bytes / b.granularity
		must(t, live[k].close())
		live = slices.Delete(live, k, k+1)
		if b.Held() > most*b.granularity {
			t.Fatalf("%d units are held", b.Held()/b.granularity)
		}
	}
	for _, keep := range []int{50, 49, 33, 20, 16, 7, 0} {
		for len(live) > 0 {
			must(t, live[0].close())
			live = live[1:]
		}
		held := b.Held()
		freed, err := b.Trim(keep*b.granularity + 1)
		must(t, err)
		if b.Held() != keep*b.granularity || freed != held-b.Held() {
			t.Errorf("%d units are kept of %d, %d bytes freed", b.Held()/b.granularity, keep, freed)
		}
	}
	must(t, b.Close())
}
