// Package nvml asks NVIDIA's management library about a GPU from outside of CUDA: the use of its memory, and the processes that have it. It
// comes with the driver and is loaded at run time; the program works without it.
package nvml

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"

	"github.com/voxcam/voxcam/internal/dl"
)

// Library is the loaded library.
type Library struct {
	path string

	init, shutdown, driverVersion, processName, count, byIndex, byPCI, byUUID, name, uuid, pci, memory, memory2, utilization, temperature,
	power, compute3, compute2, graphics3, graphics2 uintptr
}

// Error is a call that the library refused.
type Error struct {
	Call string
	Code int    // nvmlReturn_t
	Text string // its meaning
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s (NVML error %d)", e.Call, e.Text, e.Code) }

// Codes that callers distinguish.
const (
	CodeNotSupported = 3
	CodeNoPermission = 4
	CodeNotFound     = 6
	CodeTooSmall     = 7
	CodeGPULost      = 15
)

var meanings = map[int]string{
	1:                "the library is not started",
	2:                "a parameter is wrong",
	CodeNotSupported: "this GPU does not tell that",
	CodeNoPermission: "this user may not ask that",
	CodeNotFound:     "there is no such GPU",
	CodeTooSmall:     "the answer is longer than the place for it",
	8:                "the GPU lacks external power",
	9:                "the driver is not loaded: see nvidia-smi",
	10:               "the operating system blocks the GPU's interrupts",
	12:               "the library that comes with the driver is missing: install the whole driver",
	13:               "the driver is too old for this call",
	14:               "the GPU's firmware is damaged",
	CodeGPULost:      "the GPU has fallen off the bus: restart the machine",
	16:               "the GPU needs a reset",
	17:               "the operating system refused",
	18:               "the driver's library and kernel module differ: restart the machine after the update",
	19:               "the GPU is in use",
	20:               "not enough memory",
	999:              "the driver failed without a reason",
}

// Open loads and starts the library, at path or, if that is empty, from where the system has it.
func Open(path string) (*Library, error) {
	names, dirs := []string{"libnvidia-ml.so.1"}, dl.DriverDirs()
	if path != "" {
		names, dirs = []string{path}, nil
	}
	lib, err := dl.Open(names, dirs)
	if err != nil {
		return nil, fmt.Errorf("no NVML, which comes with NVIDIA's driver: %w", err)
	}
	l := &Library{path: lib.Path()}
	err = dl.Bind(lib, []dl.Symbol{
		{Name: "nvmlInit_v2", To: &l.init},
		{Name: "nvmlShutdown", To: &l.shutdown},
		{Name: "nvmlSystemGetDriverVersion", To: &l.driverVersion},
		{Name: "nvmlSystemGetProcessName", To: &l.processName},
		{Name: "nvmlDeviceGetCount_v2", To: &l.count},
		{Name: "nvmlDeviceGetHandleByIndex_v2", To: &l.byIndex},
		{Name: "nvmlDeviceGetHandleByPciBusId_v2", To: &l.byPCI},
		{Name: "nvmlDeviceGetHandleByUUID", To: &l.byUUID},
		{Name: "nvmlDeviceGetName", To: &l.name},
		{Name: "nvmlDeviceGetUUID", To: &l.uuid},
		{Name: "nvmlDeviceGetPciInfo_v3", To: &l.pci},
		{Name: "nvmlDeviceGetMemoryInfo", To: &l.memory},
		{Name: "nvmlDeviceGetMemoryInfo_v2", To: &l.memory2, Optional: true},
		{Name: "nvmlDeviceGetUtilizationRates", To: &l.utilization},
		{Name: "nvmlDeviceGetTemperature", To: &l.temperature},
		{Name: "nvmlDeviceGetPowerUsage", To: &l.power},
		{Name: "nvmlDeviceGetComputeRunningProcesses_v3", To: &l.compute3, Optional: true},
		{Name: "nvmlDeviceGetComputeRunningProcesses_v2", To: &l.compute2, Optional: true},
		{Name: "nvmlDeviceGetGraphicsRunningProcesses_v3", To: &l.graphics3, Optional: true},
		{Name: "nvmlDeviceGetGraphicsRunningProcesses_v2", To: &l.graphics2, Optional: true},
	})
	if err != nil {
		return nil, fmt.Errorf("no NVML, which comes with NVIDIA's driver: %w", err)
	}
	if err := check("nvmlInit_v2", dl.Call(l.init)); err != nil {
		return nil, err
	}
	return l, nil
}

func check(call string, result uintptr) error {
	code := int(uint32(result))
	if code == 0 {
		return nil
	}
	text, ok := meanings[code]
	if !ok {
		text = "an error that NVIDIA's documents list under nvmlReturn_t"
	}
	return &Error{call, code, text}
}

// Path returns the library that was loaded.
func (l *Library) Path() string { return l.path }

// Close stops the library. Its devices are invalid afterwards.
func (l *Library) Close() error { return check("nvmlShutdown", dl.Call(l.shutdown)) }

// DriverVersion returns the version of the driver, like 550.54.15.
func (l *Library) DriverVersion() (string, error) {
	text := make([]byte, 80)
	err := check("nvmlSystemGetDriverVersion", dl.Call(l.driverVersion, uintptr(unsafe.Pointer(&text[0])), uintptr(len(text))))
	return cString(text), err
}

// ProcessName returns the command of a process that uses a GPU. The operating system may know more of it.
func (l *Library) ProcessName(pid int) (string, error) {
	text := make([]byte, 4096)
	err := check("nvmlSystemGetProcessName", dl.Call(l.processName, uintptr(pid), uintptr(unsafe.Pointer(&text[0])), uintptr(len(text))))
	if err != nil {
		return "", fmt.Errorf("process %d: %w", pid, err)
	}
	return cString(text), nil
}

// Device is a GPU, or a slice of one (MIG).
type Device struct {
	l      *Library
	handle uintptr
}

// Count returns the number of GPUs, including those that this user may not use. Slices do not count, nor does CUDA_VISIBLE_DEVICES.
func (l *Library) Count() (int, error) {
	var n uint32
	err := check("nvmlDeviceGetCount_v2", dl.Call(l.count, uintptr(unsafe.Pointer(&n))))
	return int(n), err
}

// ByIndex finds a GPU by its number, from 0 to Count-1, in the order of the bus: CUDA can have another one. The error has CodeNoPermission
// for one that this user may not use.
func (l *Library) ByIndex(i int) (*Device, error) {
	d := &Device{l: l}
	err := check("nvmlDeviceGetHandleByIndex_v2", dl.Call(l.byIndex, uintptr(i), uintptr(unsafe.Pointer(&d.handle))))
	if err != nil {
		return nil, fmt.Errorf("GPU %d: %w", i, err)
	}
	return d, nil
}

// ByPCI finds the GPU at a place on the bus, like 0000:3b:00.0. It cannot tell slices of a GPU apart.
func (l *Library) ByPCI(bus string) (*Device, error) {
	d, text := &Device{l: l}, append([]byte(bus), 0)
	err := check("nvmlDeviceGetHandleByPciBusId_v2", dl.Call(l.byPCI, uintptr(unsafe.Pointer(&text[0])), uintptr(unsafe.Pointer(&d.handle))))
	if err != nil {
		return nil, fmt.Errorf("GPU %s: %w", bus, err)
	}
	return d, nil
}

// ByUUID finds the GPU or the slice of that identity, like GPU-... or MIG-...
func (l *Library) ByUUID(uuid string) (*Device, error) {
	d, text := &Device{l: l}, append([]byte(uuid), 0)
	err := check("nvmlDeviceGetHandleByUUID", dl.Call(l.byUUID, uintptr(unsafe.Pointer(&text[0])), uintptr(unsafe.Pointer(&d.handle))))
	if err != nil {
		return nil, fmt.Errorf("GPU %s: %w", uuid, err)
	}
	return d, nil
}

// Name returns the name of the GPU, as sold.
func (d *Device) Name() (string, error) {
	text := make([]byte, 96)
	err := check("nvmlDeviceGetName", dl.Call(d.l.name, d.handle, uintptr(unsafe.Pointer(&text[0])), uintptr(len(text))))
	return cString(text), err
}

// UUID returns the identity of the GPU or the slice, like GPU-... or MIG-..., as CUDA has it too.
func (d *Device) UUID() (string, error) {
	text := make([]byte, 96)
	err := check("nvmlDeviceGetUUID", dl.Call(d.l.uuid, d.handle, uintptr(unsafe.Pointer(&text[0])), uintptr(len(text))))
	return cString(text), err
}

// PCIBusID returns the GPU's place on the bus, like 0000:3b:00.0, as ByPCI takes it.
func (d *Device) PCIBusID() (string, error) {
	var p struct {
		_                                  [16]byte // the place as text, as it once was
		domain, bus, device, id, subsystem uint32
		_                                  [32]byte // the place as text
	}
	err := check("nvmlDeviceGetPciInfo_v3", dl.Call(d.l.pci, d.handle, uintptr(unsafe.Pointer(&p))))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%04x:%02x:%02x.0", p.domain, p.bus, p.device), nil
}

// Temperature returns the temperature of the GPU's chip in degrees Celsius.
func (d *Device) Temperature() (int, error) {
	const chip = 0 // NVML_TEMPERATURE_GPU
	var celsius uint32
	err := check("nvmlDeviceGetTemperature", dl.Call(d.l.temperature, d.handle, chip, uintptr(unsafe.Pointer(&celsius))))
	return int(celsius), err
}

// Power returns the power draw of the GPU's board, in watts.
func (d *Device) Power() (float64, error) {
	var milliwatts uint32
	err := check("nvmlDeviceGetPowerUsage", dl.Call(d.l.power, d.handle, uintptr(unsafe.Pointer(&milliwatts))))
	return float64(milliwatts) / 1000, err
}

// Memory is the memory of a device in bytes.
type Memory struct {
	Total, Used, Free int
	Reserved          int // by the driver and the firmware; within Used where the driver is too old to tell it
}

// Memory returns the use of the memory, by all processes together.
func (d *Device) Memory() (Memory, error) {
	if d.l.memory2 != 0 {
		var m struct {
			version                     uint32
			_                           uint32
			total, reserved, free, used uint64
		}
		m.version = uint32(unsafe.Sizeof(m)) | 2<<24
		err := check("nvmlDeviceGetMemoryInfo_v2", dl.Call(d.l.memory2, d.handle, uintptr(unsafe.Pointer(&m))))
		if err == nil {
			return Memory{int(m.total), int(m.used), int(m.free), int(m.reserved)}, nil
		}
	}
	var m struct{ total, free, used uint64 }
	err := check("nvmlDeviceGetMemoryInfo", dl.Call(d.l.memory, d.handle, uintptr(unsafe.Pointer(&m))))
	return Memory{Total: int(m.total), Used: int(m.used), Free: int(m.free)}, err
}

// Utilization returns the shares of the last moments in which the GPU and its memory were busy, from 0 to 1.
func (d *Device) Utilization() (gpu, memory float64, err error) {
	var u struct{ gpu, memory uint32 }
	err = check("nvmlDeviceGetUtilizationRates", dl.Call(d.l.utilization, d.handle, uintptr(unsafe.Pointer(&u))))
	return float64(u.gpu) / 100, float64(u.memory) / 100, err
}

// Process is a process that uses a device, and its memory there.
type Process struct {
	PID   int // as the library sees it: in a container it can be another one than the process knows
	Bytes int // of memory; -1 where the system does not tell
}

// Processes lists the processes that use the device, for computing or for graphics.
func (d *Device) Processes() ([]Process, error) {
	compute, err := d.processes("nvmlDeviceGetComputeRunningProcesses", d.l.compute3, d.l.compute2)
	if err != nil {
		return nil, err
	}
	graphics, err := d.processes("nvmlDeviceGetGraphicsRunningProcesses", d.l.graphics3, d.l.graphics2)
	if err != nil {
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeNotSupported { // slices have no graphics
			return nil, err
		}
	}
	all := compute
	seen := map[int]bool{}
	for _, p := range compute {
		seen[p.PID] = true
	}
	for _, p := range graphics {
		if !seen[p.PID] { // one that does both is in both lists with the same memory
			all = append(all, p)
		}
	}
	return all, nil
}

func (d *Device) processes(call string, v3, v2 uintptr) ([]Process, error) {
	at := v3
	if at == 0 {
		at = v2 // it has the same layout
	}
	if at == 0 {
		return nil, &Error{call, 13, meanings[13]}
	}
	const unknown = ^uint64(0)
	type info struct {
		pid               uint32
		_                 uint32
		bytes             uint64
		instance, compute uint32
	}
	count := uint32(16)
	for {
		list := make([]info, count)
		err := check(call, dl.Call(at, d.handle, uintptr(unsafe.Pointer(&count)), uintptr(unsafe.Pointer(&list[0]))))
		if e, ok := errors.AsType[*Error](err); ok && e.Code == CodeTooSmall {
			count = max(count, uint32(len(list))) + 16 // there may be more by the next call
			continue
		}
		if err != nil {
			return nil, err
		}
		processes := make([]Process, count)
		for i := range processes {
			processes[i] = Process{int(list[i].pid), -1}
			if list[i].bytes != unknown {
				processes[i].Bytes = int(list[i].bytes)
			}
		}
		return processes, nil
	}
}

func cString(text []byte) string {
	text, _, _ = bytes.Cut(text, []byte{0})
	return string(text)
}
