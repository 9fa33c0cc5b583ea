package driver

import (
	"errors"
	"fmt"
)

// Codes that callers distinguish.
const (
	CodeOutOfMemory        = 2
	CodeDeinitialized      = 4
	CodeInsufficientDriver = 35
	CodeDeviceUnavailable  = 46
	CodeNoDevice           = 100
	CodeInvalidImage       = 200
	CodeInvalidContext     = 201
	CodeNoBinary           = 209
	CodeInvalidPTX         = 218
	CodeUnsupportedPTX     = 222
	CodeIllegalState       = 401
	CodeNotFound           = 500
	CodeNotReady           = 600
	CodeCaptureInvalidated = 901
)

// Error is a call that the driver refused, or the failure of earlier work that the call was the first to report.
type Error struct {
	Call string // the function of the library
	Code int    // CUresult
	Name string // of the code, as NVIDIA's documents have it
	Text string // its meaning and a remedy
}

func (e *Error) Error() string {
	name := e.Name
	if name == "" {
		name = "CUDA error"
	}
	return fmt.Sprintf("%s: %s (%s, %d)", e.Call, e.Text, name, e.Code)
}

// Sticky says that the context is lost: every later call in this process fails too.
func (e *Error) Sticky() bool {
	switch e.Code {
	case 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721:
		return true
	}
	return false
}

// Gone reports whether there is nothing to call any more, though no work failed: the context, the driver or the service between was closed,
// or the device is not available. Another context or process may find it again.
func (e *Error) Gone() bool {
	switch e.Code {
	case CodeDeinitialized, CodeDeviceUnavailable, CodeInvalidContext, 805, 806, 810:
		return true
	}
	return false
}

// IsOutOfMemory says that the device, or the host where pinned memory was asked for, had no room.
func IsOutOfMemory(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == CodeOutOfMemory
}

// IsNotFound says that something has no such name: a kernel is not in a module.
func IsNotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == CodeNotFound
}

func newError(call string, code int) *Error {
	if m, ok := meanings[code]; ok {
		return &Error{call, code, m.name, m.text}
	}
	return &Error{call, code, "", "the driver gave an error that NVIDIA's documents list under CUresult"}
}

// meanings are the codes that this package can meet.
var meanings = map[int]struct{ name, text string }{
	1:   {"CUDA_ERROR_INVALID_VALUE", "a parameter is out of its range"},
	2:   {"CUDA_ERROR_OUT_OF_MEMORY", "not enough memory is free: end other programs on the GPU or set a smaller memory budget"},
	3:   {"CUDA_ERROR_NOT_INITIALIZED", "the driver is not started"},
	4:   {"CUDA_ERROR_DEINITIALIZED", "the driver is shutting down"},
	34:  {"CUDA_ERROR_STUB_LIBRARY", "the library is the stub for linking, not the driver: take the toolkit's stubs folder off the library path"},
	35:  {"CUDA_ERROR_INSUFFICIENT_DRIVER", "the driver is too old: update it"},
	46:  {"CUDA_ERROR_DEVICE_UNAVAILABLE", "the device is busy or in exclusive use by another process"},
	100: {"CUDA_ERROR_NO_DEVICE", "no GPU is visible: see nvidia-smi, and whether CUDA_VISIBLE_DEVICES hides it"},
	101: {"CUDA_ERROR_INVALID_DEVICE", "there is no device of this number: nvidia-smi -L lists them, CUDA_VISIBLE_DEVICES may hide some"},
	102: {"CUDA_ERROR_DEVICE_NOT_LICENSED", "the virtual GPU has no licence"},
	200: {"CUDA_ERROR_INVALID_IMAGE", "the kernels' image is damaged"},
	201: {"CUDA_ERROR_INVALID_CONTEXT", "no context is current in this thread"},
	205: {"CUDA_ERROR_MAP_FAILED", "memory could not be mapped"},
	206: {"CUDA_ERROR_UNMAP_FAILED", "memory could not be unmapped"},
	208: {"CUDA_ERROR_ALREADY_MAPPED", "the addresses are mapped already"},
	209: {"CUDA_ERROR_NO_BINARY_FOR_GPU", "the kernels were not compiled for this GPU: update the program or the driver"},
	211: {"CUDA_ERROR_NOT_MAPPED", "the addresses are not mapped"},
	214: {"CUDA_ERROR_ECC_UNCORRECTABLE", "the GPU's memory has an uncorrectable error: see nvidia-smi -q -d ECC"},
	218: {"CUDA_ERROR_INVALID_PTX", "the driver cannot compile the kernels: update it"},
	220: {"CUDA_ERROR_NVLINK_UNCORRECTABLE", "a link between GPUs has an uncorrectable error: the process must start again"},
	221: {"CUDA_ERROR_JIT_COMPILER_NOT_FOUND", "the driver's compiler (libnvidia-ptxjitcompiler) is missing: install the whole driver"},
	222: {"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the driver is older than the kernels: update it"},
	226: {"CUDA_ERROR_CONTAINED", "the GPU's memory had an error that was kept to this process, which must start again"},
	304: {"CUDA_ERROR_OPERATING_SYSTEM", "the operating system refused: in a container, see whether the GPU's device files are there"},
	400: {"CUDA_ERROR_INVALID_HANDLE", "the object is closed or was never made"},
	401: {"CUDA_ERROR_ILLEGAL_STATE", "the object is not in a state for this call"},
	500: {"CUDA_ERROR_NOT_FOUND", "no function of this name"},
	600: {"CUDA_ERROR_NOT_READY", "the work is not finished"},
	700: {"CUDA_ERROR_ILLEGAL_ADDRESS", "a kernel used memory that is not mapped: a bug; the process must start again"},
	701: {"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "the kernel needs more registers or shared memory than the GPU has"},
	702: {"CUDA_ERROR_LAUNCH_TIMEOUT", "a kernel ran longer than the system allows on a GPU with a display: use another GPU"},
	709: {"CUDA_ERROR_CONTEXT_IS_DESTROYED", "the context is closed"},
	710: {"CUDA_ERROR_ASSERT", "a kernel found an error: a bug; the process must start again"},
	714: {"CUDA_ERROR_HARDWARE_STACK_ERROR", "the GPU reports a damaged stack: the process must start again"},
	715: {"CUDA_ERROR_ILLEGAL_INSTRUCTION", "the GPU met an illegal instruction: the process must start again"},
	716: {"CUDA_ERROR_MISALIGNED_ADDRESS", "a kernel used a misaligned address: a bug; the process must start again"},
	717: {"CUDA_ERROR_INVALID_ADDRESS_SPACE", "a kernel used an address of the wrong kind: a bug; the process must start again"},
	718: {"CUDA_ERROR_INVALID_PC", "a kernel jumped astray: a bug; the process must start again"},
	719: {"CUDA_ERROR_LAUNCH_FAILED", "a kernel failed: a bug, or the GPU is faulty; the process must start again"},
	721: {"CUDA_ERROR_TENSOR_MEMORY_LEAK", "a kernel left tensor memory behind: a bug; the process must start again"},
	800: {"CUDA_ERROR_NOT_PERMITTED", "the driver does not permit this here"},
	801: {"CUDA_ERROR_NOT_SUPPORTED", "the GPU or its driver does not support this"},
	802: {"CUDA_ERROR_SYSTEM_NOT_READY", "the system is not ready: see whether nvidia-fabricmanager runs"},
	803: {"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "the driver's library and kernel module differ: restart the machine after the update"},
	804: {"CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", "the compatibility library does not support this GPU: take it off the library path"},
	805: {"CUDA_ERROR_MPS_CONNECTION_FAILED", "the multi-process service (MPS) does not answer"},
	806: {"CUDA_ERROR_MPS_RPC_FAILURE", "the multi-process service (MPS) was lost: the process must start again"},
	810: {"CUDA_ERROR_MPS_CLIENT_TERMINATED", "the multi-process service (MPS) ended this process's part: the process must start again"},
	900: {"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "the call is not allowed while a stream is captured"},
	901: {"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "an earlier error spoilt the capture"},
	906: {"CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "the call would wait for a stream that is captured"},
	908: {"CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "the capture was begun in another thread"},
	999: {"CUDA_ERROR_UNKNOWN", "the driver failed without a reason: see the kernel's log, reload its module or restart the machine"},
}
