package simulator_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/nvml"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
)

const piece = 2 << 20

// What one process has the others cannot take, until it gives it back or ends.
func TestProcessesShareMemory(t *testing.T) {
	s := simulator.Share(t)
	s.SetCapacity(10 * piece)
	a, b := start(t), start(t)
	a.want("ok", "context")
	b.want("ok", "context")
	a.want("ok", "create %d", 6*piece)
	b.want(strconv.Itoa(4*piece), "free")
	b.want("refused 2", "create %d", 5*piece)
	b.want("ok", "create %d", 4*piece)
	a.want("0", "free")
	if s.Used(a.pid()) != 6*piece || s.Used(b.pid()) != 4*piece || s.Free() != 0 || s.Refusals() != 1 || s.Simulator.Used() != 0 {
		t.Errorf("%d and %d are used, %d free, %d refused", s.Used(a.pid()), s.Used(b.pid()), s.Free(), s.Refusals())
	}
	b.want("ok", "release")
	a.want(strconv.Itoa(4*piece), "free")

	// One that was killed has nothing, also while its parent has not looked.
	if err := a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	a.zombie()
	b.want("ok", "create %d", 10*piece)
	a.wait()
	if s.Used(a.pid()) != 0 || s.Free() != 0 {
		t.Errorf("%d are used, %d free", s.Used(a.pid()), s.Free())
	}
	c := start(t)
	c.want("ok", "context")
	c.want("refused 2", "create %d", piece)
	b.kill()
	if s.Free() != 10*piece {
		t.Errorf("%d free", s.Free())
	}
}

func TestContextsTakeMemory(t *testing.T) {
	s := simulator.Share(t)
	s.SetCapacity(10 * piece)
	s.SetContext(4 * piece)
	a, b, c := start(t), start(t), start(t)
	a.want("ok", "context")
	b.want("ok", "context")
	c.want("refused 2", "context")
	a.want("ok", "close")
	c.want("ok", "context")
	c.want(strconv.Itoa(2*piece), "free")
	c.want("refused 2", "create %d", 3*piece)
	if s.Used(a.pid()) != 0 || s.Used(b.pid()) != 4*piece || s.Free() != 2*piece {
		t.Errorf("%d and %d are used, %d free", s.Used(a.pid()), s.Used(b.pid()), s.Free())
	}
}

// The devices outlive a process that is killed while it has the lock.
func TestKilledAtAnyTime(t *testing.T) {
	s := simulator.Share(t)
	for i := range 20 {
		c := start(t)
		c.want("ok", "context")
		c.want("ok", "create %d", piece)
		c.want("ok", "busy")
		time.Sleep(time.Duration(i) * 100 * time.Microsecond) // any moment will do
		c.kill()
		if used := s.Used(c.pid()); used != 0 {
			t.Fatalf("%d are used", used)
		}
	}
	if s.Free() != 8<<30 {
		t.Errorf("%d free", s.Free())
	}
}

// NVML tells of all processes, without a context of its own, and of the same devices as the driver.
func TestNVML(t *testing.T) {
	s := simulator.Share(t)
	s.SetCount(2)
	s.SetCapacity(20 * piece)
	s.SetReserved(1000)
	s.SetContext(piece)
	c, other := start(t), start(t)
	c.want("ok", "context")
	c.want("ok", "create %d", 3*piece)
	if got := s.TakeAs(other.pid(), "another program", 0, 5*piece); got != 5*piece {
		t.Errorf("it got %d", got)
	}
	if got := s.Take(40 * piece); got != 11*piece {
		t.Errorf("they got %d", got)
	}
	s.Take(2 * piece)
	s.TakeAs(other.pid(), "another program", 1, 7*piece)

	l, err := nvml.Open(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	if n, err := l.Count(); err != nil || n != 2 {
		t.Error(n, err)
	}
	d, err := l.ByIndex(0)
	if err != nil {
		t.Fatal(err)
	}
	m, err := d.Memory()
	if want := (nvml.Memory{Total: 20*piece + 1000, Used: 11 * piece, Free: 9 * piece, Reserved: 1000}); err != nil || m != want {
		t.Errorf("%+v, not %+v: %v", m, want, err)
	}
	p, err := d.Processes()
	want := []nvml.Process{{PID: c.pid(), Bytes: 4 * piece}, {PID: other.pid(), Bytes: 5 * piece}}
	if err != nil || !slices.Equal(p, want) {
		t.Error(p, want, err)
	}
	if name, err := l.ProcessName(other.pid()); err != nil || name != "another program" {
		t.Error(name, err)
	}
	if name, err := l.ProcessName(c.pid()); err != nil || name != os.Args[0] {
		t.Error(name, err)
	}
	if _, err := d.Temperature(); err != nil {
		t.Error(err)
	}
	if _, err := d.Power(); err != nil {
		t.Error(err)
	}

	lib, err := driver.Open(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	for _, sliced := range []bool{false, true} {
		if sliced {
			s.SetSlices()
		}
		infos, err := lib.Devices()
		if err != nil {
			t.Fatal(err)
		}
		for i, info := range infos {
			byUUID, err := l.ByUUID(info.UUID)
			if err != nil {
				t.Fatal(err)
			}
			byPCI, err := l.ByPCI(info.PCIBusID)
			if err != nil {
				t.Fatal(err)
			}
			uuid, err := byUUID.UUID()
			bus, busErr := byPCI.PCIBusID()
			if err != nil || busErr != nil || uuid != info.UUID || bus != info.PCIBusID {
				t.Errorf("%s %s is %s %s: %v, %v", info.UUID, info.PCIBusID, uuid, bus, err, busErr)
			}
			used := []int{11 * piece, 7 * piece}[i]
			if m, err := byUUID.Memory(); err != nil || m.Used != used {
				t.Errorf("device %d: %+v, %v", i, m, err)
			}
			if _, err := byUUID.Processes(); err != nil {
				t.Error(err)
			}
		}
	}

	c.kill()
	other.kill()
	if p, err := d.Processes(); err != nil || len(p) != 0 {
		t.Error(p, err)
	}
	if s.Free() != 18*piece {
		t.Errorf("%d free", s.Free())
	}
}

// A device works when kernels run.
func TestUtilization(t *testing.T) {
	probe, err := filepath.Abs("../driver/testdata/probe.cu")
	if err != nil {
		t.Fatal(err)
	}
	s := simulator.Share(t, probe)
	l, err := nvml.Open(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	d, err := l.ByIndex(0)
	if err != nil {
		t.Fatal(err)
	}
	use := func(want float64) {
		t.Helper()
		if gpu, memory, err := d.Utilization(); err != nil || gpu != want || memory != want {
			t.Error(gpu, memory, err)
		}
	}
	use(0)
	on(t, s.Simulator, func(c *driver.Context) error {
		m, err := c.LoadModule([]byte("any"))
		must(t, err)
		f, err := m.Function("probe_scale")
		must(t, err)
		stream, err := c.NewStream()
		must(t, err)
		p := &struct {
			at driver.Ptr
			by float32
			n  int32
		}{}
		must(t, stream.Launch(f, [3]uint32{1, 1, 1}, [3]uint32{32, 1, 1}, 0, unsafe.Pointer(p), 16))
		use(1)
		use(0)
		must(t, stream.Close())
		return m.Unload()
	})
	must(t, l.Close())
}

// The competitor leaves what it should of what others do not have, and does the same again.
func TestCompetition(t *testing.T) {
	const low, high, moves = 3 * piece, 9 * piece, 60
	run := func(seed uint64) (free []int) {
		s := simulator.Share(t)
		defer s.Reset()
		s.SetCapacity(20 * piece)
		s.CompeteEach(7, seed, low, high)
		c := start(t)
		c.want("ok", "context")
		held := 0
		for i := range moves {
			c.tell("free 7") // of three calls each
			n := s.Free()
			free = append(free, n)
			if n < low || n > high {
				t.Errorf("move %d: %d are free beside %d", i, n, held)
			}
			if i%15 == 14 {
				c.want("ok", "create %d", 2*piece) // which stays ours
				held += 2 * piece
			}
			if s.Used(c.pid()) != held {
				t.Fatalf("%d of %d are left", s.Used(c.pid()), held)
			}
		}
		took, gave := s.Moves()
		if took < moves/4 || gave < moves/4 || took+gave < moves {
			t.Errorf("it took %d times and gave %d times", took, gave)
		}
		s.Rest()
		if s.Free() != 20*piece-held {
			t.Errorf("%d are free", s.Free())
		}
		return free
	}
	first := run(1)
	if again := run(1); !slices.Equal(first, again) {
		t.Errorf("%v and then %v", first, again)
	}
	if other := run(2); slices.Equal(first, other) {
		t.Error("the seed does not matter")
	}
}

// What happens to one process does not happen to others.
func TestFaultsOfTheEnvironment(t *testing.T) {
	simulator.Share(t)
	a, b := start(t, "SIMULATOR_FAULTS=cuMemCreate:2:2,lose:40:700"), start(t)
	for _, c := range []*child{a, b} {
		c.want("ok", "context")
		c.want("ok", "create %d", piece)
	}
	a.want("refused 2", "create %d", piece)
	b.want("ok", "create %d", piece)
	lost := slices.ContainsFunc(make([]int, 40), func(int) bool { return a.tell("free") == "refused 700" })
	if !lost {
		t.Error("the device was not lost")
	}
	a.want("refused 700", "create %d", piece)
	b.want("ok", "create %d", piece)
	a.want("ok", "close")
	a.want("refused 700", "context")
	next := start(t)
	next.want("ok", "context")
	next.want("ok", "create %d", piece)
}

func TestHang(t *testing.T) {
	s := simulator.Share(t)
	c, other := start(t, "SIMULATOR_FAULTS=hang:cuMemGetInfo_v2:1"), start(t)
	c.want("ok", "context")
	c.want("ok", "create %d", piece)
	c.want("ok", "hang")
	c.want("ok", "release")
	other.want("ok", "context")
	other.want(strconv.Itoa(8<<30), "free")
	if err := c.to.Close(); err != nil { // by which it ends
		t.Fatal(err)
	}
	c.zombie()
	c.wait()
	if !c.cmd.ProcessState.Success() {
		t.Errorf("%v: %s", c.cmd.ProcessState, c.errors)
	}
	if s.Used(c.pid()) != 0 {
		t.Error("it has memory")
	}
}

func TestWrongEnvironment(t *testing.T) {
	simulator.Share(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("not a device"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"SIMULATOR_FAULTS=cuMemCreate:x:2", "SIMULATOR_FAULTS=cuMemCreate:1", "SIMULATOR_FAULTS=lose", "SIMULATOR_DEVICE=" + file} {
		c := start(t, v)
		c.zombie()
		c.wait()
		name, _, _ := strings.Cut(v, "=")
		if c.cmd.ProcessState.Success() || !strings.Contains(c.errors.String(), name) {
			t.Errorf("%s: %v, %s", v, c.cmd.ProcessState, c.errors)
		}
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "not a device" {
		t.Errorf("the file is %q: %v", data, err)
	}
}
