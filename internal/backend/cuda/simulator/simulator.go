// Package simulator stands in for NVIDIA's driver in tests: a library with the functions of libcuda that runs the kernels on the
// processor. It is compiled from C++ when a test first needs it; where there is no compiler the test is skipped, and says so. It finds
// what a GPU leaves to chance: shared memory that was not written, barriers that not all threads reach, misaligned and unmapped addresses,
// memory that was not set, and, in lazy mode, work that does not wait for other streams. It says nothing about speed.
//
// SIMULATOR_LAZY=1 makes lazy mode the default, SIMULATOR_THREADS=n sets how many threads run blocks.
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

// checks are flags for kernels only; fiber.cpp has what they call.
var checks = []string{"-fsanitize=alignment,bounds"}

// Simulator is the library, loaded in this process. What it is told holds for all tests of the process until Reset.
type Simulator struct {
	Path                                                                                                string
	reset, setCapacity, setDevice, setVersion, setSlices, setCount, failCall, loseDevice, setLazy, used uintptr
}

// Load builds and loads the library; it is reset when the test ends. Extra are more files with kernels.
func Load(t testing.TB, extra ...string) *Simulator {
	t.Helper()
	s := &Simulator{Path: Build(t, extra...)}
	lib, err := dl.Open([]string{s.Path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = dl.Bind(lib, []dl.Symbol{
		{Name: "simulator_reset", To: &s.reset}, {Name: "simulator_set_capacity", To: &s.setCapacity},
		{Name: "simulator_set_device", To: &s.setDevice}, {Name: "simulator_set_count", To: &s.setCount}, {Name: "simulator_fail_call", To: &s.failCall},
		{Name: "simulator_set_version", To: &s.setVersion}, {Name: "simulator_set_slices", To: &s.setSlices},
		{Name: "simulator_lose_device", To: &s.loseDevice}, {Name: "simulator_set_lazy", To: &s.setLazy},
		{Name: "simulator_used", To: &s.used},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Reset()
	t.Cleanup(s.Reset)
	return s
}

// Reset takes back what the other methods set.
func (s *Simulator) Reset() { dl.Call(s.reset) }

// SetCapacity sets the memory of each device in bytes.
func (s *Simulator) SetCapacity(bytes int) { dl.Call(s.setCapacity, uintptr(bytes)) }

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

// FailCall makes the n-th call of a driver function from now, counted from 1, give that error.
func (s *Simulator) FailCall(name string, n, code int) {
	text := append([]byte(name), 0)
	dl.Call(s.failCall, uintptr(unsafe.Pointer(&text[0])), uintptr(n), uintptr(code))
}

// LoseDevice makes all calls fail until the context is closed by all its users.
func (s *Simulator) LoseDevice() { dl.Call(s.loseDevice) }

// SetLazy makes streams run as late as the program's waiting allows.
func (s *Simulator) SetLazy(lazy bool) {
	v := uintptr(0)
	if lazy {
		v = 1
	}
	dl.Call(s.setLazy, v)
}

// Used is how much memory is taken on all devices, in bytes.
func (s *Simulator) Used() int { return int(dl.Call(s.used)) }

var (
	mutex sync.Mutex // one build at a time
	built = map[string]string{}
)

// Build compiles the driver and all kernels of package kernel, and gives the path of the library. What was compiled before is kept in the
// user's cache.
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

	// All objects depend on the compiler and the processor, which show in what is defined, and on the headers.
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
	files, err := filepath.Glob(filepath.Join(kernels, "*.cu"))
	if err != nil {
		return "", err
	}
	files = append(files, extra...)
	slices.Sort(files)
	files = append(files, filepath.Join(own, "driver.cpp"), filepath.Join(own, "fiber.cpp"))

	objects := make([]string, len(files))
	failed := make([]error, len(files))
	var group sync.WaitGroup
	slots := make(chan struct{}, runtime.NumCPU())
	for i, path := range files {
		sum := sha256.New()
		sum.Write(common.Sum(nil))
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

// cacheFolder is the folder for what is compiled, without what was not used for a week.
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

// used says whether a file is there, and marks it as used now.
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
