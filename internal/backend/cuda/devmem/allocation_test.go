package devmem

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
)

// doubling takes memory that begins with a large piece, sees a part of it twice, and vacates it: what is written at one address is read at
// the others, before and after.
func doubling(a *Allocator) (err error) {
	unit := a.granularity
	m, err := a.Allocate((largeUnits+4)*unit, "a test")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	twice, err := m.Double(unit, 2*unit)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, twice.Close()) }()
	values, got := make([]float32, 2*unit/4), make([]float32, 2*unit/4)
	for i := range values {
		values[i] = 1 + float32(i%1024)
	}
	for round := range 2 {
		if err := a.CopyToDevice(m.at+driver.Ptr(unit), values); err != nil {
			return err
		}
		for _, at := range []int{0, 2 * unit} {
			if err := a.CopyToHost(got, twice.at+driver.Ptr(at)); err != nil {
				return err
			}
			if !slices.Equal(got, values) {
				return errors.New("the memory shows something else at the second addresses")
			}
		}
		if round > 0 {
			break
		}
		if _, err := a.Vacate(); err != nil {
			return err
		}
		if err := a.Return(); err != nil {
			return err
		}
	}
	return nil
}

// Large pieces are exchanged for small ones where a part is seen twice, whatever call fails on the way.
func TestDoublingExchangesLargePieces(t *testing.T) {
	sim := simulator.Load(t)
	counted := &simulator.Watch{}
	a := opened(t, sim.Path, counted.Intercept)
	begun := len(counted.Calls)
	must(t, doubling(a))
	calls := counted.Calls[begun:]
	must(t, a.Close())
	step := max(1, len(calls)/20)
	if backendtest.Long() {
		step = 1
	}
	for i := 0; i < len(calls); i += step {
		w := &simulator.Watch{}
		w.Refuse = func(k int, call string) int {
			if k == begun+i {
				return simulator.CodeFor(call)
			}
			return 0
		}
		a := opened(t, sim.Path, w.Intercept)
		if err := doubling(a); err != nil {
			if Class(err) != backend.NoMemory && Class(err) != backend.Transient {
				t.Errorf("call %d (%s): %v", i, calls[i], err)
			}
			must(t, a.Return())
			if err := doubling(a); err != nil {
				t.Errorf("call %d (%s), the second time: %v", i, calls[i], err)
			}
		}
		must(t, a.Close())
		if uneven := w.Balance(simulator.Opposites); uneven != nil || sim.Used() != 0 || a.Held() != 0 {
			t.Errorf("call %d (%s): %d bytes are left; %q", i, calls[i], sim.Used(), uneven)
		}
	}
}

// What is closed is enough for anything of the same size or less: the driver is asked for nothing more, and no more is held than was ever
// in use.
func TestLessThanBeforeIsThere(t *testing.T) {
	a := opened(t, simulator.Load(t).Path, nil)
	r := rand.New(rand.NewPCG(3, 4))
	const most = 60
	var live []*Allocation
	units := 0
	for range 2000 {
		if n := 1 + r.IntN(1+r.IntN(40)); units+n <= most {
			m, err := a.Allocate(n*a.granularity, "a test")
			must(t, err)
			live, units = append(live, m), units+n
			continue
		}
		k := r.IntN(len(live))
		units -= live[k].bytes / a.granularity
		must(t, live[k].Close())
		live = slices.Delete(live, k, k+1)
		if a.Held() > most*a.granularity {
			t.Fatalf("%d units are held", a.Held()/a.granularity)
		}
	}
	for _, keep := range []int{50, 49, 33, 20, 16, 7, 0} {
		for len(live) > 0 {
			must(t, live[0].Close())
			live = live[1:]
		}
		held := a.Held()
		freed, err := a.Trim(keep*a.granularity + 1)
		must(t, err)
		if a.Held() != keep*a.granularity || freed != held-a.Held() {
			t.Errorf("%d units are kept of %d, %d bytes freed", a.Held()/a.granularity, keep, freed)
		}
	}
	must(t, a.Close())
}
