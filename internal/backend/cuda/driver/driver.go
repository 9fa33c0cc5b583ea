// Package driver is NVIDIA's driver library (libcuda) as typed Go, loaded at run time. It covers what the backend needs: devices, virtual
// memory, streams, events, kernels and graphs. One Driver serves any number of goroutines.
//
// Open, Devices and Context.Do can be called from anywhere. Everything else belongs to a context and is called inside that context's Do.
package driver

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"

	"github.com/voxcam/voxcam/internal/dl"
)

// Driver is the loaded library.
type Driver struct {
	procs
	path string
}

// DeviceInfo describes a GPU, or a slice of one (MIG).
type DeviceInfo struct {
	Ordinal         int    // as counted by this process: CUDA_VISIBLE_DEVICES chooses and orders
	Name            string // as sold
	UUID            string // GPU-... or MIG-...
	PCIBusID        string // 0000:3b:00.0
	Major, Minor    int    // compute capability
	TotalBytes      int
	Multiprocessors int
	L2Bytes         int
	SharedPerBlock  int  // the most a kernel can ask for, in bytes
	MIG             bool // a slice of a GPU
}

// NoDriverError says that this system has no NVIDIA driver, or none that could be loaded.
type NoDriverError struct {
	Tried []string // names and paths
	Found string   // a library that is there, but broken or too old; "" where there is none
	Cause error
}

func (e *NoDriverError) Error() string {
	if e.Found != "" {
		return fmt.Sprintf("the NVIDIA driver cannot be used: %v", e.Cause)
	}
	return fmt.Sprintf("no NVIDIA driver: %v", e.Cause)
}

func (e *NoDriverError) Unwrap() error { return e.Cause }

// Open loads the driver's library, at path or, if that is empty, from the system's place, and starts it. It gives a *NoDriverError
// where there is none, and an *Error with CodeNoDevice where there is a driver but no device that this process may see.
func Open(path string) (*Driver, error) { return OpenIntercepted(path, nil) }

// OpenIntercepted is Open for tests that make calls fail; a nil interceptor lets all through.
func OpenIntercepted(path string, intercept Intercept) (*Driver, error) {
	names, dirs := []string{"libcuda.so.1"}, dl.DriverDirs()
	if path != "" {
		names, dirs = []string{path}, nil
	}
	lib, err := dl.Open(names, dirs)
	if err != nil {
		tried := append([]string{}, names...)
		for _, dir := range dirs {
			tried = append(tried, dir+"/"+names[0])
		}
		none := &NoDriverError{Tried: tried, Cause: err}
		if missing, ok := errors.AsType[*dl.MissingError](err); ok {
			none.Found = missing.Found
		}
		return nil, none
	}
	d := &Driver{path: lib.Path()}
	if err := d.bind(lib, intercept); err != nil {
		return nil, &NoDriverError{[]string{lib.Path()}, lib.Path(), err}
	}
	if err := d.init.call(0); err != nil {
		return nil, err
	}
	return d, nil
}

// Path returns the library that was loaded.
func (d *Driver) Path() string { return d.path }

// Version returns the newest version of CUDA that the driver supports: 12040 is 12.4.
func (d *Driver) Version() (int, error) {
	var v int32
	err := d.driverGetVersion.call(uintptr(unsafe.Pointer(&v)))
	return int(v), err
}

// Devices lists the devices that this process may see.
func (d *Driver) Devices() ([]DeviceInfo, error) {
	var n int32
	if err := d.deviceGetCount.call(uintptr(unsafe.Pointer(&n))); err != nil {
		return nil, err
	}
	devices := make([]DeviceInfo, n)
	for i := range devices {
		info, err := d.describe(i)
		if err != nil {
			return nil, fmt.Errorf("device %d: %w", i, err)
		}
		devices[i] = info
	}
	return devices, nil
}

// Numbers of CUdevice_attribute.
const (
	attributeMultiprocessors = 16
	attributeL2Bytes         = 38
	attributeMajor           = 75
	attributeMinor           = 76
	attributeSharedOptIn     = 97
	attributeVirtualMemory   = 102
)

func (d *Driver) describe(ordinal int) (DeviceInfo, error) {
	info := DeviceInfo{Ordinal: ordinal}
	device, err := d.device(ordinal)
	if err != nil {
		return info, err
	}
	text := make([]byte, 256)
	if err := d.deviceGetName.call(uintptr(unsafe.Pointer(&text[0])), uintptr(len(text)), uintptr(device)); err != nil {
		return info, err
	}
	info.Name = cString(text)
	clear(text)
	if err := d.deviceGetPCIBusID.call(uintptr(unsafe.Pointer(&text[0])), uintptr(len(text)), uintptr(device)); err != nil {
		return info, err
	}
	info.PCIBusID = cString(text)

	// The first form of the call knows whole GPUs only, the second also slices: they differ in a slice.
	var whole, part [16]byte
	if err := d.deviceGetUUID.call(uintptr(unsafe.Pointer(&whole)), uintptr(device)); err != nil {
		return info, err
	}
	part = whole
	if d.deviceGetUUID2.at != 0 {
		if err := d.deviceGetUUID2.call(uintptr(unsafe.Pointer(&part)), uintptr(device)); err != nil {
			return info, err
		}
	}
	info.MIG = part != whole
	kind := "GPU"
	if info.MIG {
		kind = "MIG"
	}
	info.UUID = fmt.Sprintf("%s-%x-%x-%x-%x-%x", kind, part[0:4], part[4:6], part[6:8], part[8:10], part[10:16])

	var total uintptr
	if err := d.deviceTotalMem.call(uintptr(unsafe.Pointer(&total)), uintptr(device)); err != nil {
		return info, err
	}
	info.TotalBytes = int(total)
	for _, a := range []struct {
		number int
		to     *int
	}{
		{attributeMajor, &info.Major}, {attributeMinor, &info.Minor}, {attributeMultiprocessors, &info.Multiprocessors},
		{attributeL2Bytes, &info.L2Bytes}, {attributeSharedOptIn, &info.SharedPerBlock},
	} {
		if *a.to, err = d.attribute(device, a.number); err != nil {
			return info, err
		}
	}
	return info, nil
}

func (d *Driver) device(ordinal int) (int32, error) {
	var device int32
	err := d.deviceGet.call(uintptr(unsafe.Pointer(&device)), uintptr(ordinal))
	return device, err
}

func (d *Driver) attribute(device int32, number int) (int, error) {
	var v int32
	err := d.deviceGetAttribute.call(uintptr(unsafe.Pointer(&v)), uintptr(number), uintptr(device))
	return int(v), err
}

// Context takes the device's primary context: the one that NVIDIA's other libraries use too.
func (d *Driver) Context(ordinal int) (*Context, error) {
	device, err := d.device(ordinal)
	if err != nil {
		return nil, fmt.Errorf("device %d: %w", ordinal, err)
	}
	virtual, err := d.attribute(device, attributeVirtualMemory)
	if err != nil {
		return nil, fmt.Errorf("device %d: %w", ordinal, err)
	}
	if virtual == 0 {
		return nil, fmt.Errorf("device %d: it has no virtual memory management (%w)", ordinal, errors.ErrUnsupported)
	}
	c := &Context{d: d, device: device}
	if err := d.devicePrimaryCtxRetain.call(uintptr(unsafe.Pointer(&c.handle)), uintptr(device)); err != nil {
		return nil, fmt.Errorf("device %d: %w", ordinal, err)
	}
	return c, nil
}

func cString(text []byte) string {
	text, _, _ = bytes.Cut(text, []byte{0})
	return string(text)
}
