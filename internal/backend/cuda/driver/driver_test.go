package driver_test

import (
	"errors"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
)

// bench is the simulator with a context, a stream, kernels and some memory. Its methods fail the test for errors.
type bench struct {
	*testing.T
	*driver.Context
	sim    *simulator.Simulator
	driver *driver.Driver
	stream *driver.Stream
	module *driver.Module
	at     driver.Ptr // mapped memory
	bytes  int
}

// on runs f inside the context.
func on(t *testing.T, f func(b *bench)) {
	t.Helper()
	probe, err := filepath.Abs("testdata/probe.cu")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, sim: simulator.Load(t, probe)}
	if b.driver, err = driver.Open(b.sim.Path); err != nil {
		t.Fatal(err)
	}
	if b.Context, err = b.driver.Context(0); err != nil {
		t.Fatal(err)
	}
	defer func() { b.must(b.Context.Close()) }()
	err = b.Do(func() error {
		b.stream = get(b.NewStream())(b)
		b.module = get(b.LoadModule([]byte("any")))(b)
		b.bytes = get(b.Granularity())(b)
		b.at = get(b.ReserveAddress(b.bytes, 0))(b)
		h := get(b.CreatePhysical(b.bytes))(b)
		b.must(b.open(b.at, b.bytes, h))
		b.must(b.Release(h)) // it stays while it is mapped
		defer func() {
			b.sim.Reset() // a device that was lost on purpose too gives its memory back
			b.must(b.Unmap(b.at, b.bytes))
			b.must(b.FreeAddress(b.at, b.bytes))
			b.must(b.stream.Close())
			b.must(b.module.Unload())
		}()
		f(b)
		return nil
	})
	b.must(err)
	if used := b.sim.Used(); used != 0 {
		t.Errorf("%d bytes of the device are still taken", used)
	}
}

// open maps memory for use.
func (b *bench) open(at driver.Ptr, bytes int, h driver.Physical) error {
	if err := b.Map(at, bytes, h); err != nil {
		return err
	}
	return b.Allow(at, bytes)
}

func (b *bench) must(err error) {
	if err != nil {
		b.Helper()
		b.Fatal(err)
	}
}

// get is must for a call with a result.
func get[V any](v V, err error) func(b *bench) V {
	return func(b *bench) V {
		b.Helper()
		b.must(err)
		return v
	}
}

// launch runs a kernel and gives the error that waiting for it gives.
func launch[P any](b *bench, name string, grid, threads, shared int, p P) error {
	b.Helper()
	f := get(b.module.Function(name))(b)
	b.must(b.stream.Launch(f, [3]uint32{uint32(grid), 1, 1}, [3]uint32{uint32(threads), 1, 1}, shared, unsafe.Pointer(&p), int(unsafe.Sizeof(p))))
	return b.stream.Synchronize()
}

// put copies numbers to the device.
func put[V any](b *bench, at driver.Ptr, v []V) {
	b.Helper()
	b.must(b.stream.CopyToDevice(at, unsafe.Pointer(&v[0]), len(v)*int(unsafe.Sizeof(v[0]))))
	b.must(b.stream.Synchronize())
}

// take copies numbers from the device.
func take[V any](b *bench, at driver.Ptr, n int) []V {
	b.Helper()
	v := make([]V, n)
	b.must(b.stream.CopyToHost(unsafe.Pointer(&v[0]), at, n*int(unsafe.Sizeof(v[0]))))
	b.must(b.stream.Synchronize())
	return v
}

func refused(err error, code int) bool {
	e, ok := errors.AsType[*driver.Error](err)
	return ok && e.Code == code
}

func TestDevices(t *testing.T) {
	on(t, func(b *bench) {
		devices := get(b.driver.Devices())(b)
		if len(devices) != 1 {
			t.Fatalf("%d devices", len(devices))
		}
		d := devices[0]
		want := driver.DeviceInfo{Name: "Simulator", UUID: "GPU-73696d75-6c61-7465-6420-646576696365", PCIBusID: "0000:00:00.0", Major: 9,
			TotalBytes: 8 << 30, Multiprocessors: 8, L2Bytes: 50 << 20, SharedPerBlock: 227 << 10}
		if d != want {
			t.Errorf("got  %+v\nwant %+v", d, want)
		}
		if v := get(b.driver.Version())(b); v != 12040 {
			t.Errorf("version %d", v)
		}
		if _, err := b.driver.Context(1); !refused(err, 101) {
			t.Errorf("a context of a device that is not there: %v", err)
		}
	})
}

func TestOpenWithoutDriver(t *testing.T) {
	_, err := driver.Open("/no/such/libcuda.so.1")
	missing, ok := errors.AsType[*driver.NoDriverError](err)
	if !ok || !slices.Equal(missing.Tried, []string{"/no/such/libcuda.so.1"}) || !strings.Contains(err.Error(), "/no/such/libcuda.so.1") {
		t.Errorf("a path where nothing is: %v", err)
	}
	if _, err = driver.Open("libm.so.6"); err == nil {
		t.Fatal("another library passes for the driver")
	}
	if _, ok := errors.AsType[*driver.NoDriverError](err); !ok || !strings.Contains(err.Error(), "cuMemCreate") {
		t.Errorf("another library: %v", err)
	}
}

func TestTwoDevices(t *testing.T) {
	on(t, func(b *bench) {
		b.sim.SetCount(2)
		b.sim.SetCapacity(4 * b.bytes)
		devices := get(b.driver.Devices())(b)
		if len(devices) != 2 || devices[0].UUID == devices[1].UUID || devices[0].PCIBusID == devices[1].PCIBusID {
			t.Fatalf("%+v", devices)
		}
		second := get(b.driver.Context(1))(b)
		b.must(second.Do(func() error {
			h := get(second.CreatePhysical(2 * b.bytes))(b)
			free, _, err := second.MemInfo()
			b.must(err)
			if free != 2*b.bytes {
				t.Errorf("the second has %d bytes free", free)
			}
			return second.Release(h)
		}))
		free, _, err := b.MemInfo() // the first is current again
		b.must(err)
		if free != 3*b.bytes {
			t.Errorf("the first has %d bytes free", free)
		}
		b.must(second.Close())
	})
}

func TestNoDevice(t *testing.T) {
	s := simulator.Load(t)
	s.SetCount(0)
	if _, err := driver.Open(s.Path); !refused(err, driver.CodeNoDevice) {
		t.Error(err)
	}
	s.SetCount(1)
	t.Setenv("CUDA_VISIBLE_DEVICES", "")
	if _, err := driver.Open(s.Path); !refused(err, driver.CodeNoDevice) {
		t.Error(err)
	}
}

func TestOpenFails(t *testing.T) {
	s := simulator.Load(t)
	s.FailCall("cuInit", 1, driver.CodeNoDevice)
	_, err := driver.Open(s.Path)
	if !refused(err, driver.CodeNoDevice) || !strings.Contains(err.Error(), "CUDA_VISIBLE_DEVICES") {
		t.Error(err)
	}
}

func TestOneMemoryAtTwoAddresses(t *testing.T) {
	on(t, func(b *bench) {
		n := b.bytes
		at := get(b.ReserveAddress(2*n, 0))(b)
		h := get(b.CreatePhysical(n))(b)
		b.must(b.open(at, n, h))
		if err := b.Map(at, n, h); !refused(err, 1) {
			t.Errorf("mapping twice at one address: %v", err)
		}
		b.must(b.open(at+driver.Ptr(n), n, h))
		put(b, at+256, []float32{1, 2, 3})
		if got := take[float32](b, at+driver.Ptr(n)+256, 3); !slices.Equal(got, []float32{1, 2, 3}) {
			t.Error(got)
		}
		if err := b.FreeAddress(at, 2*n); !refused(err, 1) {
			t.Errorf("giving back addresses that are mapped: %v", err)
		}
		if used := b.sim.Used(); used != 2*n {
			t.Errorf("%d bytes are taken", used)
		}
		b.must(b.Unmap(at, 2*n))
		b.must(b.Release(h))
		if err := b.stream.Fill8(at, 0, 1); !refused(err, 1) {
			t.Errorf("writing where nothing is mapped: %v", err)
		}
		b.must(b.FreeAddress(at, 2*n))
	})
}

func TestMemoryRunsOut(t *testing.T) {
	on(t, func(b *bench) {
		b.sim.SetCapacity(3 * b.bytes)
		free, total, err := b.MemInfo()
		b.must(err)
		if free != 2*b.bytes || total != 3*b.bytes {
			t.Errorf("%d of %d bytes free", free, total)
		}
		_, err = b.CreatePhysical(4 * b.bytes)
		if !driver.IsOutOfMemory(err) || !strings.Contains(err.Error(), "cuMemCreate") {
			t.Error(err)
		}
	})
}

func TestFillAndCopy(t *testing.T) {
	on(t, func(b *bench) {
		b.must(b.stream.Fill32(b.at, 7, 4))
		b.must(b.stream.Fill8(b.at+4, 1, 4))
		b.must(b.stream.Copy(b.at+64, b.at, 16))
		if got := take[uint32](b, b.at+64, 4); !slices.Equal(got, []uint32{7, 0x01010101, 7, 7}) {
			t.Error(got)
		}
	})
}

func TestKernels(t *testing.T) {
	on(t, func(b *bench) {
		type scale struct {
			at driver.Ptr
			by float32
			n  int32
		}
		v := make([]float32, 1000)
		for i := range v {
			v[i] = float32(i)
		}
		put(b, b.at, v)
		b.must(launch(b, "probe_scale", 4, 256, 0, scale{b.at, 2, 999}))
		for i, got := range take[float32](b, b.at, len(v)) {
			if want := v[i] * 2; i < 999 && got != want || i == 999 && got != v[i] {
				t.Fatalf("%d: %v", i, got)
			}
		}

		type sum struct {
			in, out driver.Ptr
			n, _    int32
		}
		put(b, b.at, v)
		b.must(launch(b, "probe_sum", 10, 256, 0, sum{b.at, b.at + 4096, 100, 0}))
		for i, got := range take[float32](b, b.at+4096, 10) {
			if want := float32(4950 + 10000*i); got != want {
				t.Errorf("sum %d is %v, not %v", i, got, want)
			}
		}

		type reverse struct {
			at   driver.Ptr
			n, _ int32
		}
		words := make([]int32, 20000)
		for i := range words {
			words[i] = int32(i)
		}
		put(b, b.at, words)
		f := get(b.module.Function("probe_reverse"))(b)
		p := &reverse{b.at, int32(len(words)), 0}
		large := [3]uint32{1024, 1, 1}
		if err := b.stream.Launch(f, [3]uint32{1, 1, 1}, large, 80000, unsafe.Pointer(p), 16); !refused(err, 1) {
			t.Errorf("much shared memory without asking: %v", err)
		}
		b.must(f.SetDynamicShared(80000))
		b.must(b.stream.Launch(f, [3]uint32{1, 1, 1}, large, 80000, unsafe.Pointer(p), 16))
		slices.Reverse(words)
		if !slices.Equal(take[int32](b, b.at, len(words)), words) {
			t.Error("the numbers are not reversed")
		}
		if n := get(f.Occupancy(1024, 80000))(b); n != 2 {
			t.Errorf("%d blocks on a multiprocessor", n)
		}
		if f.Name() != "probe_reverse" || f.MaxThreads() != 1024 || f.Registers() != 32 {
			t.Error(f.Name(), f.MaxThreads(), f.Registers())
		}
		if err := b.stream.Launch(f, large, large, 0, unsafe.Pointer(p), 12); err == nil || !strings.Contains(err.Error(), "16 bytes") {
			t.Errorf("parameters of another size: %v", err)
		}
	})
}

func TestWarp(t *testing.T) {
	on(t, func(b *bench) {
		const threads = 40
		b.must(b.stream.Fill32(b.at, 0, threads*8))
		// Lanes that are not there cannot be read: the second warp has 8 threads.
		type params struct{ at driver.Ptr }
		if err := launch(b, "probe_warp", 1, 32, 0, params{b.at}); err != nil {
			t.Fatal(err)
		}
		got := take[int32](b, b.at, 32*8)
		for lane := range 32 {
			up, down := lane-3, lane+3
			if up < 0 {
				up = lane
			}
			if down/8 != lane/8 {
				down = lane
			}
			if lane < 8 {
				up += 700
			}
			want := []int32{int32(up), int32(down), int32(lane ^ 5), int32(-0x55555556), 1, 0, 11}
			if row := got[lane*8 : lane*8+7]; !slices.Equal(row, want) {
				t.Errorf("lane %d: got %v, want %v", lane, row, want)
			}
		}
		if got[7] != 32 {
			t.Errorf("%d atomic additions", got[7])
		}
	})
}

func TestWrongKernels(t *testing.T) {
	type wrong struct {
		at     driver.Ptr
		how, _ int32
	}
	for how, want := range []int{719, 700, 716, 719, 0, 719, 700} {
		on(t, func(b *bench) {
			shared := 0
			if how == 6 {
				shared = 128
			}
			b.must(b.stream.Fill32(b.at, 0, 64))
			err := launch(b, "probe_wrong", 1, 64, shared, wrong{b.at, int32(how), 0})
			if want != 0 {
				e, ok := errors.AsType[*driver.Error](err)
				if !ok || e.Code != want || !e.Sticky() {
					t.Errorf("case %d: %v", how, err)
				}
				if err := b.stream.Fill8(b.at, 0, 1); !refused(err, want) {
					t.Errorf("case %d: the next call: %v", how, err)
				}
				return
			}
			b.must(err)
			if v := take[float32](b, b.at, 64); v[0] != 1 || !math.IsNaN(float64(v[40])) {
				t.Errorf("shared memory that was not written: %v", v)
			}
		})
	}
}

func TestEvents(t *testing.T) {
	on(t, func(b *bench) {
		e, f := get(b.NewEvent(true))(b), get(b.NewEvent(true))(b)
		b.must(e.Record(b.stream))
		b.must(b.stream.Fill8(b.at, 0, 1<<20))
		b.must(f.Record(b.stream))
		b.must(f.Synchronize())
		if done := get(f.Query())(b); !done {
			t.Error("the event is not over")
		}
		if s := get(f.Elapsed(e))(b); s <= 0 || s > 10 {
			t.Errorf("%v s", s)
		}
		untimed := get(b.NewEvent(false))(b)
		b.must(untimed.Record(b.stream))
		if _, err := untimed.Elapsed(e); !refused(err, 400) {
			t.Errorf("the time of an event without: %v", err)
		}
		for _, e := range []*driver.Event{e, f, untimed} {
			b.must(e.Close())
		}
	})
}

// TestLazy holds the simulator to its promise: what does not wait is late.
func TestLazy(t *testing.T) {
	on(t, func(b *bench) {
		other := get(b.NewStream())(b)
		host := get(b.AllocHost(16))(b)
		done := get(b.NewEvent(false))(b)
		b.must(b.stream.Fill32(b.at, 1, 4))
		b.sim.SetLazy(true)
		for _, waits := range []bool{false, true} {
			clear(host.Bytes())
			b.must(b.stream.Fill32(b.at, 2, 4))
			b.must(done.Record(b.stream))
			if done := get(done.Query())(b); done && !waits {
				t.Error("the event is over")
			}
			b.must(b.stream.Fill32(b.at, 3, 4))
			b.must(done.Record(b.stream))
			if waits {
				b.must(other.Wait(done))
			}
			b.must(other.CopyToHost(host.Pointer(), b.at, 16))
			if host.Bytes()[0] != 0 {
				t.Error("the copy did not wait for synchronisation")
			}
			b.must(other.Synchronize())
			if got := host.Bytes()[0]; waits != (got == 3) {
				t.Errorf("waits %v: %d", waits, got)
			}
			b.must(b.stream.Synchronize())
		}
		b.must(host.Free())
		b.must(done.Close())
		b.must(other.Close())
	})
}

func TestGraph(t *testing.T) {
	on(t, func(b *bench) {
		type scale struct {
			at driver.Ptr
			by float32
			n  int32
		}
		put(b, b.at, []float32{1, 2, 3})
		f := get(b.module.Function("probe_scale"))(b)
		other := get(b.NewStream())(b)
		fork, join := get(b.NewEvent(false))(b), get(b.NewEvent(false))(b)
		p := &scale{b.at, 3, 3}
		b.must(b.stream.BeginCapture())
		b.must(b.stream.Launch(f, [3]uint32{1, 1, 1}, [3]uint32{32, 1, 1}, 0, unsafe.Pointer(p), 16))
		p.by = 0 // it was read
		b.must(fork.Record(b.stream))
		b.must(other.Wait(fork))
		b.must(other.Copy(b.at+64, b.at, 12))
		b.must(join.Record(other))
		b.must(b.stream.Wait(join))
		if err := b.stream.Synchronize(); !refused(err, 900) {
			t.Errorf("waiting for a stream that is captured: %v", err)
		}
		g := get(b.stream.EndCapture())(b)
		x := get(g.Instantiate())(b)
		b.must(g.Close())
		if got := take[float32](b, b.at, 3); got[0] != 1 {
			t.Error("a capture ran")
		}
		b.must(x.Launch(b.stream))
		b.must(x.Launch(b.stream))
		b.must(x.Close())
		if got := take[float32](b, b.at+64, 3); !slices.Equal(got, []float32{9, 18, 27}) {
			t.Error(got)
		}
		b.must(fork.Close())
		b.must(join.Close())
		b.must(other.Close())
	})
}

func TestFailures(t *testing.T) {
	on(t, func(b *bench) {
		b.sim.FailCall("cuMemCreate", 2, driver.CodeOutOfMemory)
		h := get(b.CreatePhysical(b.bytes))(b)
		if _, err := b.CreatePhysical(b.bytes); !driver.IsOutOfMemory(err) {
			t.Errorf("the second call: %v", err)
		}
		b.must(b.Release(h))

		b.sim.FailCall("cuMemSetAccess", 1, 1)
		at, h := get(b.ReserveAddress(b.bytes, 0))(b), get(b.CreatePhysical(b.bytes))(b)
		if err := b.open(at, b.bytes, h); !refused(err, 1) {
			t.Errorf("mapping: %v", err)
		}
		b.must(b.Unmap(at, b.bytes))
		b.must(b.FreeAddress(at, b.bytes))
		b.must(b.Release(h))

		if _, err := b.LoadModule(nil); !refused(err, driver.CodeInvalidImage) {
			t.Errorf("an empty image: %v", err)
		}
		if _, err := b.LoadModule([]byte{0}); !refused(err, driver.CodeInvalidImage) || !strings.Contains(err.Error(), "the simulator takes") {
			t.Errorf("a bad image: %v", err)
		}
		if _, err := b.module.Function("none"); !refused(err, driver.CodeNotFound) || !strings.Contains(err.Error(), "kernel none") {
			t.Errorf("a kernel that is not there: %v", err)
		}
		b.sim.LoseDevice()
		if err := b.Synchronize(); !refused(err, 719) {
			t.Errorf("a device that is lost: %v", err)
		}
	})
}

// An interceptor hears of each call by its name, and what it refuses does not reach the library.
func TestIntercept(t *testing.T) {
	s := simulator.Load(t)
	var calls []string
	refuse := ""
	d, err := driver.OpenIntercepted(s.Path, func(call string) int {
		calls = append(calls, call)
		if call == refuse {
			return driver.CodeOutOfMemory
		}
		return 0
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Version(); err != nil || !slices.Equal(calls, []string{"cuInit", "cuDriverGetVersion"}) {
		t.Error(calls, err)
	}
	refuse = "cuDevicePrimaryCtxRetain"
	if _, err := d.Context(0); !driver.IsOutOfMemory(err) || !strings.Contains(err.Error(), refuse) {
		t.Error(err)
	}
}

func TestDo(t *testing.T) {
	on(t, func(b *bench) {
		b.sim.FailCall("cuCtxSetCurrent", 1, 201)
		failed := make(chan error)
		go func() { // in another thread: this one is locked
			failed <- b.Do(func() error { return nil })
		}()
		if err := <-failed; err != nil && !refused(err, 201) { // a thread that had the context has it still
			t.Error(err)
		}
		if err := b.Do(func() error { return b.Do(b.Synchronize) }); err != nil {
			t.Errorf("nested: %v", err)
		}
	})
}

func TestLaunchDoesNotAllocate(t *testing.T) {
	on(t, func(b *bench) {
		type scale struct {
			at driver.Ptr
			by float32
			n  int32
		}
		f := get(b.module.Function("probe_scale"))(b)
		p := &scale{b.at, 1, 0}
		n := testing.AllocsPerRun(100, func() {
			b.must(b.stream.Launch(f, [3]uint32{1, 1, 1}, [3]uint32{32, 1, 1}, 0, unsafe.Pointer(p), 16))
		})
		if n != 0 {
			t.Errorf("%v allocations for a launch", n)
		}
	})
}
