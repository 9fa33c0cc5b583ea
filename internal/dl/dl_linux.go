//go:build linux && (amd64 || arm64) && !nogpu

package dl

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/ebitengine/purego"
)

// Why a library or a symbol is not there is kept by thread, and asked for by a second call.

func open(path string) (uintptr, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_GLOBAL)
}

func symbol(handle uintptr, name string) (uintptr, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return purego.Dlsym(handle, name)
}

// Call calls a C function whose parameters are integers and pointers, and gives the integer it returns. Pointers into Go's memory are
// converted in the argument list (uintptr(unsafe.Pointer(p))); C must not keep them.
//
//go:uintptrescapes
func Call(at uintptr, args ...uintptr) uintptr {
	r, _, _ := purego.SyscallN(at, args...)
	return r
}

// CallSlice is Call without an allocation for the arguments. Memory that pointers among them point to is on the heap, and the caller keeps
// it alive.
func CallSlice(at uintptr, args []uintptr) uintptr {
	r, _, _ := purego.SyscallN(at, args...)
	return r
}

// locate finds the path of a library that the loader found by its name, from the kernel's list of mapped files.
func locate(_ uintptr, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return name
	}
	stem, _, _ := strings.Cut(filepath.Base(name), ".so")
	for line := range strings.Lines(string(maps)) {
		if i := strings.IndexByte(line, '/'); i >= 0 {
			path := strings.TrimSpace(line[i:])
			if strings.HasPrefix(filepath.Base(path), stem+".so") {
				return path
			}
		}
	}
	return name
}
