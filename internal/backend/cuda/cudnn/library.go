// Package cudnn runs convolutions of channels-last volumes through the graph API of NVIDIA's cuDNN 9 ("backend API" in its reference),
// loaded at run time.
//
// A Library is the loaded files, a Handle belongs to a device's context, a Plan is one way to compute one Convolution. Descriptors are C
// objects: Close everything that has it. A Handle and its plans are used by one goroutine at a time, inside the context's Do.
package cudnn

import (
	"fmt"
	"path/filepath"
	"unsafe"

	"github.com/voxcam/voxcam/internal/dl"
)

const (
	fileName           = "libcudnn.so.9"
	oldestVersion      = 90000
	versionWithDevices = 90800 // descriptors of devices that are not there
)

// Library is cuDNN, loaded. It stays loaded until the process ends.
type Library struct {
	path    string
	version int
	cuda    int // the major version of CUDA that it was built for
	missing []string

	getVersion, getCudartVersion, getErrorString, getLastErrorString uintptr
	create, destroy, setStream                                       uintptr
	createDescriptor, destroyDescriptor, finalizeDescriptor          uintptr
	setAttribute, getAttribute, executePlan                          uintptr
}

// NotFoundError says that cuDNN was found in none of the places, or cannot be used.
type NotFoundError struct {
	File  string
	Dirs  []string // searched after the loader's own path
	Cause error
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("cuDNN 9 cannot be used: %v; install it and what it needs: pip install nvidia-cudnn-cu13 nvidia-cublas (or "+
		"nvidia-cudnn-cu12 nvidia-cublas-cu12 for drivers older than 580), or apt install cudnn9-cuda-13 from NVIDIA's repository", e.Cause)
}

func (e *NotFoundError) Unwrap() error { return e.Cause }

// Open loads cuDNN 9, from the loader's path or from the first of the folders that has it. Libraries that cuDNN loads at its first need
// (cuBLAS, NVRTC) come from the folders beside it. The error is a *NotFoundError.
func Open(dirs []string) (*Library, error) {
	fail := func(cause error) (*Library, error) { return nil, &NotFoundError{fileName, dirs, cause} }
	file, err := dl.Open([]string{fileName}, dirs)
	if err != nil {
		return fail(err)
	}
	l := &Library{path: file.Path()}
	if err := dl.Bind(file, []dl.Symbol{
		{Name: "cudnnGetVersion", To: &l.getVersion},
		{Name: "cudnnGetCudartVersion", To: &l.getCudartVersion},
		{Name: "cudnnGetErrorString", To: &l.getErrorString},
		{Name: "cudnnGetLastErrorString", To: &l.getLastErrorString},
		{Name: "cudnnCreate", To: &l.create},
		{Name: "cudnnDestroy", To: &l.destroy},
		{Name: "cudnnSetStream", To: &l.setStream},
		{Name: "cudnnBackendCreateDescriptor", To: &l.createDescriptor},
		{Name: "cudnnBackendDestroyDescriptor", To: &l.destroyDescriptor},
		{Name: "cudnnBackendFinalize", To: &l.finalizeDescriptor},
		{Name: "cudnnBackendSetAttribute", To: &l.setAttribute},
		{Name: "cudnnBackendGetAttribute", To: &l.getAttribute},
		{Name: "cudnnBackendExecute", To: &l.executePlan},
	}); err != nil {
		return fail(err)
	}
	l.version = int(dl.Call(l.getVersion))
	if l.version < oldestVersion {
		// A library with missing parts has no version.
		if l.version == 0 {
			return fail(fmt.Errorf("%s does not find the other libraries of cuDNN (libcudnn_graph.so.9 and so on), which belong beside it", l.path))
		}
		return fail(fmt.Errorf("%s is version %s, and 9.0 is the oldest that works", l.path, versionText(l.version)))
	}
	l.cuda = int(dl.Call(l.getCudartVersion)) / 1000
	if err := l.preload(dirs); err != nil {
		return fail(err)
	}
	return l, nil
}

// preload loads the libraries that cuDNN opens by name at its first need, if they lie in a folder where it does not search.
// Without cuBLASLt it would end the process (abort) at the first heuristic, so that this must be found now. Without NVRTC only the engines
// that are compiled at run time are missing.
func (l *Library) preload(dirs []string) error {
	beside := filepath.Dir(l.path)
	search := []string{beside}
	for _, name := range []string{fmt.Sprintf("cu%d", l.cuda), "cublas", "cuda_nvrtc"} {
		search = append(search, filepath.Join(beside, "..", "..", name, "lib"))
	}
	search = append(search, dirs...)
	open := func(name string) error {
		file := fmt.Sprintf("%s.so.%d", name, l.cuda)
		_, err := dl.Open([]string{file}, search)
		if err != nil {
			l.missing = append(l.missing, file)
		}
		return err
	}
	_ = open("libnvrtc") // see Missing
	if err := open("libcublasLt"); err != nil {
		return fmt.Errorf("%s needs cuBLAS of CUDA %d: %w", l.path, l.cuda, err)
	}
	_ = open("libcublas")
	return nil
}

// Version returns the library's version, as text and as the library counts (9.19.0 is 91900).
func (l *Library) Version() (string, int) { return versionText(l.version), l.version }

func versionText(v int) string {
	if v < oldestVersion { // up to 8 the major version counted thousands
		return fmt.Sprintf("%d.%d.%d", v/1000, v/100%10, v%100)
	}
	return fmt.Sprintf("%d.%d.%d", v/10000, v/100%100, v%100)
}

// Path returns the file that was loaded.
func (l *Library) Path() string { return l.path }

// Missing lists libraries that were not found and that only some engines need.
func (l *Library) Missing() []string { return l.missing }

// Handle is cuDNN in the current context of a device.
type Handle struct {
	lib    *Library
	handle uintptr
	device descriptor // instead of a handle: a device that need not be there, for making plans without running them
}

// NewHandle starts cuDNN in the current context (driver.Context.Do).
func (l *Library) NewHandle() (*Handle, error) {
	h := &Handle{lib: l}
	if err := l.check(dl.Call(l.create, uintptr(unsafe.Pointer(&h.handle))), "cudnnCreate"); err != nil {
		return nil, fmt.Errorf("starting cuDNN %s (%s): %w", versionText(l.version), l.path, err)
	}
	return h, nil
}

// SetStream sends later work to a stream (driver.Stream.Handle).
func (h *Handle) SetStream(stream uintptr) error {
	return h.lib.check(dl.Call(h.lib.setStream, h.handle, stream), "cudnnSetStream")
}

// Close gives the handle back. Plans are closed before it.
func (h *Handle) Close() error {
	if h.device != 0 {
		h.lib.release(h.device)
		h.device = 0
	}
	if h.handle == 0 {
		return nil
	}
	err := h.lib.check(dl.Call(h.lib.destroy, h.handle), "cudnnDestroy")
	h.handle = 0
	return err
}
