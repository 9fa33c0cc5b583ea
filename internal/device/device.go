// Package device opens devices by the names that users give them: the processor, or a GPU.
package device

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/backend/cuda"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/option"
	"github.com/voxcam/voxcam/internal/sysmem"
)

// Variables of the environment. They are for machines with libraries in unusual places, for tests, and for developers of kernels.
const (
	Libraries = "VOXCAM_CUDA_LIBRARIES" // folders with NVIDIA's libraries, separated as in PATH, before the usual places
	Driver    = "VOXCAM_CUDA_DRIVER"    // the file of the driver, libcuda.so.1, instead of the system's
	NVML      = "VOXCAM_NVML"           // the file of the management library, libnvidia-ml.so.1, instead of the system's
	Kernels   = "VOXCAM_CUDA_KERNELS"   // a folder of compiled kernels, instead of those in the program
	Fault     = "VOXCAM_CUDA_FAULT"     // calls of the driver that are to fail, for tests (driver.ParseFaults)
)

// CUDA describes the GPUs of the environment.
func CUDA() cuda.Options {
	return cuda.Options{Driver: os.Getenv(Driver), NVML: os.Getenv(NVML), Libraries: os.Getenv(Libraries), Kernels: os.Getenv(Kernels), Cudnn: true,
		Fault: os.Getenv(Fault)}
}

// Device is a backend that its user closes.
type Device struct {
	backend.Backend
	Warnings, Notes []string // for the user

	close func() error
	free  func() (int, error)
	uuid  string
}

// Close gives the device back. Models on it must have been closed.
func (d *Device) Close() error { return d.close() }

// FreeMemory returns the bytes that a budget can be a share of.
func (d *Device) FreeMemory() (int, error) { return d.free() }

// UUID is the identity of a GPU, like GPU-... or MIG-...; empty for the processor.
func (d *Device) UUID() string { return d.uuid }

// Class returns the class of the error with which a device did not open: backend.NoMemory if its memory was short, so that a later call
// may find it open.
func Class(err error) backend.ErrorClass { return cuda.Class(err) }

// Defaults of Options. A processor computes in the default precision only.
const (
	DefaultName      = "auto"
	DefaultPrecision = "fp32"
)

// precisions by name.
var precisions = []struct {
	name  string
	value cuda.Precision
}{{DefaultPrecision, cuda.Float32}, {"tf32", cuda.TF32}, {"bf16", cuda.BFloat16}, {"fp64", cuda.Float64}}

type openFunc func(number int, o Options) (*Device, error)

// kinds of devices.
var kinds = []struct {
	name string
	open openFunc
}{
	{DefaultName, openAuto},
	{"cpu", openCPU},
	{"cuda", openCUDA},
}

// Options say which device is opened, and how it computes.
type Options struct {
	// Name is auto (a GPU if there is one, else the processor), cpu, cuda, or cuda:N for GPU N; "" is auto.
	Name string
	// Precision is the number format of products in convolutions and matrix products: fp32, or on a GPU tf32, bf16 or fp64; "" is fp32.
	Precision string
	// LaunchBlocking waits for each step on a GPU, so that an error names the one that failed.
	LaunchBlocking bool
	// Threads are those of the processor; 0 is all.
	Threads int
}

// Open opens a device by its name and precision, as in Options.
func Open(name, precision string) (*Device, error) {
	return Options{Name: name, Precision: precision}.Open()
}

// mostThreads bounds Options.Threads: more than any machine has processors.
const mostThreads = 4096

// rules are those of Options.
var rules = []option.Rule[Options]{
	{Option: "precision", Check: func(o Options) error { _, err := parsePrecision(o.Precision); return err }},
	{Option: "device", Check: func(o Options) error { _, _, err := find(o.Name); return err }},
	{Option: "threads", Check: func(o Options) error {
		switch {
		case o.Threads < 0:
			return fmt.Errorf("is %d; it must be at least 0", o.Threads)
		case o.Threads > mostThreads:
			return fmt.Errorf("is %d; it must be at most %d, and 0 stands for all", o.Threads, mostThreads)
		}
		return nil
	}},
}

// Check returns all that is wrong with the options, each a *cam.OptionError, joined. That there is such a device only Open knows.
func (o Options) Check() error { return option.CheckAll(rules, o, cam.NewOptionError) }

// CheckOption is Check for one option: device, precision or threads. The error begins with the value.
func (o Options) CheckOption(name string) error { return option.CheckOne(rules, name, o) }

// Open opens the device.
func (o Options) Open() (*Device, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.Precision == "" {
		o.Precision = DefaultPrecision
	}
	open, number, err := find(o.Name)
	if err != nil {
		return nil, err
	}
	return open(number, o)
}

// Precisions are the names of precisions that Open knows. The first is DefaultPrecision.
func Precisions() []string {
	var names []string
	for _, p := range precisions {
		names = append(names, p.name)
	}
	return names
}

func parsePrecision(name string) (cuda.Precision, error) {
	if name == "" {
		name = DefaultPrecision
	}
	for _, p := range precisions {
		if p.name == name {
			return p.value, nil
		}
	}
	return 0, fmt.Errorf("%q is not known: choose from %s", name, strings.Join(Precisions(), ", "))
}

// find looks for the kind of a device by its name, and takes the number of "cuda:1" from it.
func find(name string) (open openFunc, number int, err error) {
	kind, text, numbered := strings.Cut(name, ":")
	if kind == "" && !numbered {
		kind = DefaultName
	}
	if numbered {
		if number, err = strconv.Atoi(text); err != nil || number < 0 || kind != "cuda" {
			return nil, 0, fmt.Errorf("%q is not known: a number stands behind cuda: only, as in cuda:0", name)
		}
	}
	for _, k := range kinds {
		if k.name == kind {
			return k.open, number, nil
		}
	}
	return nil, 0, fmt.Errorf("%q is not known: choose from auto, cpu, cuda, cuda:N", name)
}

func openCPU(_ int, o Options) (*Device, error) {
	if o.Precision != DefaultPrecision {
		return nil, fmt.Errorf("precision %s needs a GPU: the processor computes in %s", o.Precision, DefaultPrecision)
	}
	b, err := cpu.New(cpu.Options{Threads: o.Threads})
	if err != nil {
		return nil, err
	}
	return &Device{Backend: b, close: b.Close, free: sysmem.Free}, nil
}

// WithoutGPU is the advice in the error of a GPU that was asked for and cannot be opened.
const WithoutGPU = "device cpu computes without a GPU"

// openCUDA opens a GPU that was asked for.
func openCUDA(number int, o Options) (*Device, error) {
	d, err := tryCUDA(number, o)
	if err != nil {
		return nil, fmt.Errorf("%w; %s", err, WithoutGPU)
	}
	return d, nil
}

// openAuto opens the first GPU, or the processor. Without a GPU it says nothing; about a GPU that does not work it warns.
func openAuto(_ int, o Options) (*Device, error) {
	d, gpu := tryCUDA(0, o)
	if gpu == nil {
		return d, nil
	}
	d, err := openCPU(0, o)
	if absent(gpu) {
		return d, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w; the GPU is not used: %w", err, gpu)
	}
	d.Warnings = append(d.Warnings, fmt.Sprintf("the GPU is not used: %v", gpu))
	return d, nil
}

func tryCUDA(number int, o Options) (*Device, error) {
	c := CUDA()
	c.Device, c.LaunchBlocking = number, o.LaunchBlocking
	var err error
	if c.Precision, err = parsePrecision(o.Precision); err != nil {
		return nil, err
	}
	b, err := cuda.New(c)
	if err != nil {
		return nil, err
	}
	d := &Device{Backend: b, close: b.Close, free: b.FreeMemory, uuid: b.UUID()}
	if note := b.Note(); note != "" {
		d.Notes = append(d.Notes, note)
	}
	return d, nil
}

// absent reports whether an error says that there is no GPU, or no driver for one.
func absent(err error) bool {
	var none *driver.NoDriverError
	var refused *driver.Error
	return errors.As(err, &none) && none.Found == "" || errors.As(err, &refused) && refused.Code == driver.CodeNoDevice
}
