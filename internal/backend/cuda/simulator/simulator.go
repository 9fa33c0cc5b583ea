// Package simulator stands in for NVIDIA's driver in tests: a library with the functions of libcuda that runs the kernels on the
// processor. It is compiled from C++ when a test first needs it; without a compiler the test is skipped, and says so. It finds
// faults that a GPU hides by chance: shared memory that was not written, barriers that not all threads reach, misaligned and unmapped addresses,
// memory that was not set, and, in lazy mode, work that does not wait for other streams. It says nothing about speed.
//
// The same library has the functions of NVML, for the same devices.
//
// A process has the devices for itself (Load), or shares them with others through a file (Share): then memory is refused when it does not
// fit beside that of all of them, and the memory of a process is free when it has ended, however it ended. Other programs
// that only take memory can be imitated: Take and TakeAs set their memory, Compete changes it at random, in steps that are counted in driver
// calls.
//
// Calls can be made to fail, or not to return, and devices to be lost, in this process by methods, in others by the environment. Only that
// process is affected. A process that has lost its devices does not get them back, as on a GPU: another one can use them.
//
// Variables of the environment, which are read when a process first uses the library:
//
//	SIMULATOR_DEVICE=file   the devices that processes share; the first makes the file
//	SIMULATOR_CONTEXT=n     bytes that a context takes beside what is asked for; without it 0; for all processes, by the one that makes the devices
//	SIMULATOR_FAULTS=list   calls that fail in this process: faults with commas between them
//	    cuMemCreate:3:2     the third call of that function gives error 2; any:3:2 is the third call of any function
//	    every:1000:999      each 1000th call gives error 999
//	    lose:500            at the 500th call the device is lost, with error 719; lose:500:700 is with error 700
//	    hang:cuMemMap:2     the second call of that function, or of any, does not return
//	SIMULATOR_LAZY=1        lazy mode is the default
//	SIMULATOR_THREADS=n     number of threads that run blocks
package simulator

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/voxcam/voxcam/internal/dl"
)

//go:embed library
var sources embed.FS

// flags of the compiler. Multiplications and additions stay apart, as they do in Go on amd64.
var flags = []string{
	"-std=c++17", "-O2", "-march=native", "-fPIC", "-fvisibility=hidden", "-DSIMULATOR", "-ffp-contract=off", "-fno-strict-aliasing", "-fwrapv",
	"-U_FORTIFY_SOURCE", "-pthread",
}

// checks are flags for kernels only; fiber.cpp has the functions that they call.
var checks = []string{"-fsanitize=alignment,bounds"}

// Simulator is the library, loaded in this process. Its settings hold for all tests of the process until Reset.
type Simulator struct {
	Path string
	t    testing.TB
	controls
}

// controls are the functions of the library that are not NVIDIA's.
type controls struct {
	reset, setLazy, loseDevice, fault, calls, host, handles, join uintptr

	setCapacity, setReserved, setContext, setDevice, setVersion, setSlices, setCount uintptr
	take, compete, moves, usedBy, free, refusals                                     uintptr
}

// Load builds and loads the library; it is reset when the test ends. Extra are more files with kernels.
func Load(t testing.TB, extra ...string) *Simulator {
	t.Helper()
	s := &Simulator{Path: Build(t, extra...), t: t}
	lib, err := dl.Open([]string{s.Path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = dl.Bind(lib, []dl.Symbol{
		{Name: "simulator_reset", To: &s.reset}, {Name: "simulator_set_lazy", To: &s.setLazy},
		{Name: "simulator_lose_device", To: &s.loseDevice}, {Name: "simulator_fault", To: &s.fault},
		{Name: "simulator_calls", To: &s.calls}, {Name: "simulator_host", To: &s.host}, {Name: "simulator_handles", To: &s.handles},
		{Name: "simulator_join", To: &s.join}, {Name: "simulator_set_capacity", To: &s.setCapacity},
		{Name: "simulator_set_reserved", To: &s.setReserved}, {Name: "simulator_set_context", To: &s.setContext},
		{Name: "simulator_set_device", To: &s.setDevice}, {Name: "simulator_set_version", To: &s.setVersion},
		{Name: "simulator_set_slices", To: &s.setSlices}, {Name: "simulator_set_count", To: &s.setCount},
		{Name: "simulator_take", To: &s.take}, {Name: "simulator_compete", To: &s.compete}, {Name: "simulator_moves", To: &s.moves},
		{Name: "simulator_used_by", To: &s.usedBy}, {Name: "simulator_free", To: &s.free}, {Name: "simulator_refusals", To: &s.refusals},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Reset()
	t.Cleanup(s.Reset)
	return s
}

// Reset takes back the settings of the other methods, and begins to count anew. Shared devices stay as they are.
func (s *Simulator) Reset() { dl.Call(s.reset) }

// SetLazy makes streams run as late as the program's waiting allows.
func (s *Simulator) SetLazy(lazy bool) {
	v := uintptr(0)
	if lazy {
		v = 1
	}
	dl.Call(s.setLazy, v)
}

// Used returns the bytes that this process has on all devices, with its contexts.
func (s *Simulator) Used() int { return int(dl.Call(s.usedBy, 0)) }

// Host returns the bytes of pinned memory of this process.
func (s *Simulator) Host() int { return int(dl.Call(s.host)) }

// Handles returns the number of streams, events, modules, graphs and executable graphs that this process has not given back.
func (s *Simulator) Handles() int { return int(dl.Call(s.handles)) }

// Count returns the number of driver calls of this process since Reset.
func (s *Simulator) Count() int { return s.Calls("") }

// Calls returns the number of calls of one function of the driver.
func (s *Simulator) Calls(name string) int {
	return int(dl.Call(s.calls, uintptr(unsafe.Pointer(cString(name)))))
}

// FailCall makes the n-th call of a driver function from now, counted from 1, give that error. An n of 0 takes it back, here and below.
func (s *Simulator) FailCall(name string, n, code int) { s.faults("%s:%d:%d", name, n, code) }

// FailAny makes the n-th call of any function from now give that error.
func (s *Simulator) FailAny(n, code int) { s.faults("any:%d:%d", n, code) }

// FailEvery makes each n-th call give that error.
func (s *Simulator) FailEvery(n, code int) { s.faults("every:%d:%d", n, code) }

// Hang makes the n-th call of a driver function from now, or of any, not return.
func (s *Simulator) Hang(name string, n int) { s.faults("hang:%s:%d", name, n) }

// LoseAfter makes the n-th call from now find the device lost.
func (s *Simulator) LoseAfter(n int) { s.faults("lose:%d", n) }

// LoseDevice makes all calls in contexts fail, and contexts be refused, until Reset. The memory of a context is free when all its users
// have closed it.
func (s *Simulator) LoseDevice() { dl.Call(s.loseDevice) }

func (s *Simulator) faults(format string, args ...any) {
	s.t.Helper()
	text := fmt.Sprintf(format, args...)
	if int32(dl.Call(s.fault, uintptr(unsafe.Pointer(cString(text))))) != 0 {
		s.t.Fatalf("%s is no fault", text)
	}
}

// cString returns a text with the zero byte that C ends it with.
func cString(text string) *byte { return &append([]byte(text), 0)[0] }

var (
	mutex sync.Mutex // one build at a time
	built = map[string]string{}
)

// Build compiles the driver and all kernels of package kernel, and returns the path of the library. Compiled files are kept in
// the user's cache.
func Build(t testing.TB, extra ...string) string {
	t.Helper()
	mutex.Lock()
	defer mutex.Unlock()
	key := strings.Join(extra, "\x00")
	if path, ok := built[key]; ok {
		return path
	}
	if runtime.GOOS != "linux" {
		t.Skip("CUDA KERNELS NOT CHECKED: the simulator runs on Linux only")
	}
	compiler, err := exec.LookPath("g++")
	if err != nil {
		t.Skip("CUDA KERNELS NOT CHECKED: there is no g++ to build the simulator with")
	}
	path, err := build(t, compiler, extra)
	if err != nil {
		t.Fatalf("building the simulator: %v", err)
	}
	built[key] = path
	return path
}

func build(t testing.TB, compiler string, extra []string) (string, error) {
	kernels, err := kernelFolder()
	if err != nil {
		return "", err
	}
	cache, err := cacheFolder(t)
	if err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(cache, "lock")) // the tests of other packages, which need the same
	if err != nil {
		return "", err
	}
	defer unlock()
	version, err := exec.Command(compiler, append(slices.Clone(flags), "-E", "-dM", "-x", "c++", "/dev/null")...).Output()
	if err != nil {
		return "", err
	}
	scratch, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(scratch) }() // pruned otherwise
	if err := os.CopyFS(scratch, sources); err != nil {
		return "", err
	}
	own := filepath.Join(scratch, "library")

	// All objects depend on the compiler and the processor, which show in the predefined macros, and on the headers.
	headers, err := filepath.Glob(filepath.Join(kernels, "*.cuh"))
	if err != nil {
		return "", err
	}
	common := sha256.New()
	fmt.Fprintf(common, "%s %q %q\n", version, flags, checks)
	for _, path := range append(headers, filepath.Join(own, "simulator.h"), filepath.Join(own, "fiber.h")) {
		if err := hashFile(common, path); err != nil {
			return "", err
		}
	}
	// The other headers are not for kernels.
	rest := sha256.New()
	for _, name := range []string{"faults.h", "shared.h"} {
		if err := hashFile(rest, filepath.Join(own, name)); err != nil {
			return "", err
		}
	}
	files, err := filepath.Glob(filepath.Join(kernels, "*.cu"))
	if err != nil {
		return "", err
	}
	files = append(files, extra...)
	slices.Sort(files)
	for _, name := range []string{"driver.cpp", "fiber.cpp", "nvml.cpp", "shared.cpp"} {
		files = append(files, filepath.Join(own, name))
	}

	objects := make([]string, len(files))
	failed := make([]error, len(files))
	var group sync.WaitGroup
	slots := make(chan struct{}, runtime.NumCPU())
	for i, path := range files {
		sum := sha256.New()
		sum.Write(common.Sum(nil))
		if filepath.Dir(path) == own {
			sum.Write(rest.Sum(nil))
		}
		if err := hashFile(sum, path); err != nil {
			return "", err
		}
		objects[i] = filepath.Join(cache, hex.EncodeToString(sum.Sum(nil)[:16])+".o")
		if used(objects[i]) {
			continue
		}
		args := append(slices.Clone(flags), "-I", own, "-I", kernels)
		source := path
		if filepath.Ext(path) == ".cu" {
			// The words of one file of kernels are not those of another, as each is a program of its own for the GPU.
			args = append(args, checks...)
			source = filepath.Join(scratch, fmt.Sprintf("kernels%d.cpp", i))
			text := fmt.Sprintf("#include \"simulator.h\"\nnamespace {\n#include %q\n}\n", path)
			if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
				return "", err
			}
		}
		temporary := filepath.Join(scratch, fmt.Sprintf("%d.o", i))
		args = append(args, "-c", source, "-o", temporary)
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			failed[i] = run(compiler, args)
			if failed[i] == nil {
				failed[i] = os.Rename(temporary, objects[i])
			}
		})
	}
	group.Wait()
	if err := errors.Join(failed...); err != nil {
		return "", err
	}

	sum := sha256.New()
	fmt.Fprintf(sum, "%s %q", version, objects)
	library := filepath.Join(cache, hex.EncodeToString(sum.Sum(nil)[:16])+".so")
	if used(library) {
		return library, nil
	}
	temporary := filepath.Join(scratch, "library.so")
	args := append([]string{"-shared", "-pthread", "-Wl,-z,defs", "-o", temporary}, objects...)
	if err := run(compiler, args); err != nil {
		return "", err
	}
	return library, os.Rename(temporary, library)
}

// kernelFolder finds the sources of the kernels from the folder of the test.
func kernelFolder() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "internal", "backend", "cuda", "kernel"), nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("the test runs outside of the module's folder")
		}
		dir = up
	}
}

// cacheFolder returns the folder for compiled objects, after removing those that were not used for a week.
func cacheFolder(t testing.TB) (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return t.TempDir(), nil //nolint:nilerr // then it is compiled each time
	}
	dir = filepath.Join(dir, "voxcam", "simulator")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return t.TempDir(), nil //nolint:nilerr // the same
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if e.Name() == "lock" {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > 7*24*time.Hour {
			_ = os.RemoveAll(filepath.Join(dir, e.Name())) // another process may have been faster
		}
	}
	return dir, nil
}

// used reports whether a file exists, and marks it as used now.
func used(path string) bool {
	now := time.Now()
	return os.Chtimes(path, now, now) == nil
}

func hashFile(to interface{ Write([]byte) (int, error) }, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	fmt.Fprintf(to, "%s %d\n", filepath.Base(path), len(data))
	_, err = to.Write(data)
	return err
}

func run(program string, args []string) error {
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(program), err, bytes.TrimSpace(out))
	}
	return nil
}
