package simulator

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"github.com/voxcam/voxcam/internal/dl"
)

// Shared is the library with devices that several processes share. Its methods, and those of Simulator that set devices, hold for all of
// them; those that make calls fail, and count them, are of this process.
type Shared struct {
	*Simulator
	File string // the devices
}

// Share makes devices that this process shares with those that it starts until the test ends: they find them through the environment,
// with VOXCAM_CUDA_DRIVER and VOXCAM_NVML for the program. This process must not use a device at that time.
func Share(t testing.TB, extra ...string) *Shared {
	t.Helper()
	s := &Shared{Load(t, extra...), filepath.Join(t.TempDir(), "devices")}
	if err := s.enter(s.File); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.enter(""); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("SIMULATOR_DEVICE", s.File)
	t.Setenv("VOXCAM_CUDA_DRIVER", s.Path)
	t.Setenv("VOXCAM_NVML", s.Path)
	return s
}

// enter makes the devices of a file those of this process, or its own ones if there is no file.
func (s *Shared) enter(file string) error {
	switch code := syscall.Errno(int32(dl.Call(s.join, uintptr(unsafe.Pointer(cString(file)))))); code {
	case 0:
		return nil
	case syscall.EBUSY:
		return errors.New("the simulator cannot change its devices: this process has a context or memory that was not given back")
	default:
		return fmt.Errorf("the simulator's devices %s: %w", file, code)
	}
}

// Used returns the bytes that a process has on all devices, with its contexts and those that TakeAs gave it; 0 for one that has ended.
func (s *Shared) Used(pid int) int { return int(dl.Call(s.usedBy, uintptr(pid))) }

// SetCapacity sets the memory of each device in bytes. Memory that is taken stays taken.
func (s *Simulator) SetCapacity(bytes int) { dl.Call(s.setCapacity, uintptr(bytes)) }

// SetReserved sets the bytes of each device that the driver keeps: NVML counts them to the total, beside the capacity.
func (s *Simulator) SetReserved(bytes int) { dl.Call(s.setReserved, uintptr(bytes)) }

// SetContext sets the bytes that each context takes that is made from now on.
func (s *Simulator) SetContext(bytes int) { dl.Call(s.setContext, uintptr(bytes)) }

// SetDevice sets the compute capability and the number of multiprocessors.
func (s *Simulator) SetDevice(major, minor, multiprocessors int) {
	dl.Call(s.setDevice, uintptr(major), uintptr(minor), uintptr(multiprocessors))
}

// SetVersion sets the newest version of CUDA that the driver supports, 12040 for 12.4.
func (s *Simulator) SetVersion(version int) { dl.Call(s.setVersion, uintptr(version)) }

// SetSlices makes the devices slices of a GPU (MIG).
func (s *Simulator) SetSlices() { dl.Call(s.setSlices, 1) }

// SetCount sets how many devices there are, up to 4. The driver looks at it when it is opened.
func (s *Simulator) SetCount(n int) { dl.Call(s.setCount, uintptr(n)) }

// Free returns the bytes that are free on the first device.
func (s *Simulator) Free() int { return int(dl.Call(s.free, 0)) }

// Refusals returns the number of calls of cuMemCreate, of any process, that were refused for want of memory.
func (s *Simulator) Refusals() int { return int(dl.Call(s.refusals)) }

// Take sets the bytes that invisible programs, as those in other containers, have on the first device. They get at most as many as there
// is room for; it returns how many.
func (s *Simulator) Take(bytes int) int {
	s.t.Helper()
	return s.takeAs(0, "", 0, bytes)
}

// TakeAs does the same, on one of the devices, for a process that lives: NVML lists it, by that name, and when it ends its memory is free.
func (s *Simulator) TakeAs(pid int, name string, device, bytes int) int {
	s.t.Helper()
	if pid <= 0 {
		s.t.Fatalf("%d is no process", pid)
	}
	return s.takeAs(pid, name, device, bytes)
}

func (s *Simulator) takeAs(pid int, name string, device, bytes int) int {
	s.t.Helper()
	got := int(dl.Call(s.take, uintptr(device), uintptr(bytes), uintptr(pid), uintptr(unsafe.Pointer(cString(name)))))
	switch got {
	case -1:
		s.t.Fatalf("process %d has ended, or there is no device %d", pid, device)
	case -2:
		s.t.Fatal("too many processes use the simulator's devices")
	}
	return got
}

// pace is the number of driver calls between two moves of a competitor, unless a test says otherwise.
const pace = 100

// Compete begins a competition on the first device, or replaces it: at each 100th driver call, of any process, a competitor takes or gives
// memory so that a random number of bytes from low to high is free (or all that the processes leave, if that is less). The numbers follow
// from the seed and the number of calls alone.
func (s *Simulator) Compete(seed uint64, low, high int) { s.CompeteEach(pace, seed, low, high) }

// CompeteEach is Compete with a move at each n-th driver call.
func (s *Simulator) CompeteEach(n int, seed uint64, low, high int) {
	s.t.Helper()
	if n < 1 || low < 0 || high < low {
		s.t.Fatalf("no competition: a move each %d calls that leaves %d to %d bytes free", n, low, high)
	}
	dl.Call(s.compete, uintptr(seed), uintptr(low), uintptr(high), uintptr(n))
}

// Rest ends a competition: the competitor's memory is free.
func (s *Simulator) Rest() { dl.Call(s.compete, 0, 0, 0, 0) }

// Moves returns the number of times that the competitor took memory, and gave some back.
func (s *Simulator) Moves() (took, gave int) {
	return int(dl.Call(s.moves, 0)), int(dl.Call(s.moves, 1))
}
