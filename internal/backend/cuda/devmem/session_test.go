package devmem

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/tensor"
)

// counting returns values that tell their places.
func counting(n int, from float32) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = from + float32(i%1024)
	}
	return x
}

// filler writes values as the bytes of a constant.
func filler(values []float32) func([]byte) {
	return func(dst []byte) {
		for i, v := range values {
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
		}
	}
}

var errOther = errors.New("something else is in the memory")

// session uses an allocator as a backend does: constants of two programs, one of which they share, values that go up and down, and memory
// that is vacated in between. Whatever fails, all that it took is closed.
func session(a *Allocator) (err error) {
	var closers []func() error
	defer func() {
		for _, c := range slices.Backward(closers) {
			err = errors.Join(err, c())
		}
	}()
	pool := a.NewConstantPool()
	first, second := tensor.Floats(nil), tensor.Floats(nil)
	weights := counting(100, 5)
	var shared *Constant
	var kept int
	for i := range 2 {
		var blocks []*Block
		err := a.Do(func() (err error) {
			constants := pool.Constants()
			shared = constants.Add(ConstantKey{first, "shared"}, 4*len(weights), filler(weights))
			if i == 1 {
				constants.Add(ConstantKey{second, "own"}, 1000, func([]byte) {})
			}
			if want := []int{512, 1024}[i]; constants.Bytes() != want {
				return errors.New("constants of the pool are counted as new ones")
			}
			blocks, err = constants.Upload()
			return err
		})
		if err != nil {
			return err
		}
		kept += len(blocks)
		closers = append(closers, func() error { return pool.Release(blocks) })
	}
	if kept != 3 {
		return errors.New("a program does not use the blocks that it needs")
	}
	up, down := a.NewTransferQueue(), a.NewTransferQueue()
	closers = append(closers, func() error { return a.End(slices.Concat(up.Ends(), down.Ends())...) })
	values := counting(TransferBytes/4+3, 1) // two parts
	m, err := a.Allocate(4*len(values), "values")
	if err != nil {
		return err
	}
	closers = append(closers, m.Close)
	scratch, err := a.Allocate(1, "scratch")
	if err != nil {
		return err
	}
	closers = append(closers, scratch.Close)
	if err := up.ToDevice(m.At(), values, nil); err != nil {
		return err
	}
	if _, err := a.Vacate(m); err != nil {
		return err
	}
	if up.ToDevice(m.At(), values, nil) == nil || a.CopyToHost(make([]float32, 1), m.At()) == nil {
		return errors.New("memory is used that was vacated")
	}
	if err := a.Return(); err != nil {
		return err
	}
	if m.Lost() || !scratch.Lost() {
		return errors.New("it is not known which contents are lost")
	}
	got := make([]float32, len(values))
	if err := down.ToHost(got, m.At(), nil); err != nil {
		return err
	}
	constant := make([]float32, len(weights))
	if err := a.CopyToHost(constant, shared.At()); err != nil {
		return err
	}
	if !slices.Equal(got, values) || !slices.Equal(constant, weights) {
		return errOther
	}
	return nil
}

// Each call of the driver fails once in a session: it says so or does without, the next one succeeds, and closing gives everything back.
func TestEachCallFails(t *testing.T) {
	sim := simulator.Load(t)
	whole := &simulator.Watch{}
	a := opened(t, sim.Path, whole.Intercept)
	begun := len(whole.Calls)
	must(t, session(a))
	must(t, session(a))
	must(t, a.Close())
	if uneven := whole.Balance(simulator.Opposites); uneven != nil || sim.Used() != 0 {
		t.Fatalf("%d bytes are left; %q", sim.Used(), uneven)
	}
	step := max(1, (len(whole.Calls)-begun)/30)
	if backendtest.Long() {
		step = 1
	}
	for i := begun; i < len(whole.Calls); i += step {
		failed := "" // transfers have goroutines of their own, so that it may be another call than in the whole session
		w := &simulator.Watch{Refuse: func(k int, call string) int {
			if k == i {
				failed = call
				return simulator.CodeFor(call)
			}
			return 0
		}}
		a := opened(t, sim.Path, w.Intercept)
		for range 2 {
			if err := session(a); err != nil {
				if c := Class(err); errors.Is(err, errOther) || c != backend.NoMemory && c != backend.Transient {
					t.Errorf("call %d (%s) is of class %d: %v", i, failed, c, err)
				}
				if _, err := a.Trim(0); err != nil || a.Allocated() != 0 || a.Held() != 0 {
					t.Errorf("call %d (%s): %d bytes are allocated and %d held: %v", i, failed, a.Allocated(), a.Held(), err)
				}
				must(t, a.Return())
			}
		}
		must(t, a.Close())
		if uneven := w.Balance(simulator.Opposites); uneven != nil || sim.Used() != 0 || sim.Handles() != 0 || a.Held() != 0 {
			t.Errorf("call %d (%s): %d bytes are left; %q", i, failed, sim.Used(), uneven)
		}
	}
}

// What a context refuses to give back to the end is given back in another one, unless it was lost with all that was in it.
func TestCloseAgainstRefusals(t *testing.T) {
	sim := simulator.Load(t)
	refusing := false
	contexts := 0
	w := &simulator.Watch{Refuse: func(_ int, call string) int {
		if call == "cuDevicePrimaryCtxRetain" {
			contexts++
			refusing = false
		}
		if refusing && call == "cuMemRelease" {
			return 999
		}
		return 0
	}}
	a := opened(t, sim.Path, w.Intercept)
	m, err := a.Allocate(1, "a test")
	must(t, err)
	must(t, m.Close())
	refusing = true
	if err := a.Close(); err != nil || contexts != 2 || a.Held() != 0 || sim.Used() != 0 {
		t.Errorf("%d contexts were made, %d bytes are held and %d used: %v", contexts, a.Held(), sim.Used(), err)
	}
	lost := opened(t, sim.Path, nil)
	_, err = lost.Allocate(1, "a test")
	must(t, err)
	sim.LoseDevice()
	if err := lost.Close(); Class(err) != backend.Lost || lost.Held() != 0 || lost.Allocated() != 0 || sim.Used() != 0 {
		t.Errorf("%d bytes are held and %d used: %v", lost.Held(), sim.Used(), err)
	}
}

// A copy waits for the event, also where streams run as late as they may.
func TestTransfersWait(t *testing.T) {
	sim := simulator.Load(t)
	sim.SetLazy(true)
	a := opened(t, sim.Path, nil)
	first, second := counting(1000, 1), counting(1000, 7)
	x, err := a.Allocate(4*len(first), "a test")
	must(t, err)
	y, err := a.Allocate(4*len(first), "a test")
	must(t, err)
	q := a.NewTransferQueue()
	must(t, q.ToDevice(x.At(), first, nil))
	var used *driver.Event
	must(t, a.Do(func() (err error) {
		if used, err = a.context.NewEvent(false); err != nil {
			return err
		}
		return errors.Join(a.Stream().Copy(y.At(), x.At(), 4*len(first)), used.Record(a.Stream()))
	}))
	must(t, q.ToDevice(x.At(), second, used))
	got := make([]float32, len(first))
	must(t, q.ToHost(got, y.At(), nil))
	if !slices.Equal(got, first) {
		t.Error("memory was written before the copy of it was made")
	}
	must(t, errors.Join(x.Close(), y.Close(), a.Close(append(q.Ends(), used.Close)...)))
}
