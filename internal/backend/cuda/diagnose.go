package cuda

import (
	"errors"
	"fmt"
	"os"

	"github.com/voxcam/voxcam/internal/backend/cuda/cudnn"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/nvml"
	"github.com/voxcam/voxcam/internal/dl"
)

// Library is what became of a library of NVIDIA's.
type Library struct {
	Path    string `json:"path,omitempty"`
	Version string `json:"version,omitempty"`
	Problem string `json:"problem,omitempty"` // why it cannot be used, and what to do
}

// GPU is a device that the driver shows.
type GPU struct {
	Number        int    `json:"number"`
	Name          string `json:"name"`
	UUID          string `json:"uuid"`
	Capability    string `json:"compute_capability"`
	MIG           bool   `json:"mig"`
	TotalBytes    int    `json:"total_bytes"`
	FreeBytes     int    `json:"free_bytes"`
	OverheadBytes int    `json:"overhead_bytes,omitempty"` // of the process beside arenas: context and kernels; 0 if not known
	Problem       string `json:"problem,omitempty"`
}

// Diagnosis is what there is of NVIDIA's on a machine.
type Diagnosis struct {
	Driver Library  `json:"driver"`
	NVML   Library  `json:"nvml"`
	Cudnn  Library  `json:"cudnn"`
	GPUs   []GPU    `json:"gpus"`
	Dirs   []string `json:"searched"` // for libraries that the loader does not find
}

// Usable reports whether something can be computed on a GPU.
func (d *Diagnosis) Usable() bool {
	for _, g := range d.GPUs {
		if g.Problem == "" {
			return true
		}
	}
	return false
}

// Diagnose looks for the driver, the GPUs and the libraries, and tries each GPU. It changes nothing.
func Diagnose(o Options) *Diagnosis {
	d := &Diagnosis{Dirs: dl.NVIDIADirs(o.Libraries)}
	if l, err := cudnn.Open(d.Dirs); err != nil {
		d.Cudnn.Problem = err.Error()
	} else {
		d.Cudnn.Path = l.Path()
		d.Cudnn.Version, _ = l.Version()
	}
	if l, err := nvml.Open(""); err != nil {
		d.NVML.Problem = err.Error()
	} else {
		d.NVML.Path = l.Path()
		if d.NVML.Version, err = l.DriverVersion(); err != nil {
			d.NVML.Problem = err.Error()
		}
		if err := l.Close(); err != nil {
			d.NVML.Problem = err.Error()
		}
	}
	lib, err := driver.Open(o.Driver)
	if err != nil {
		d.Driver.Problem = err.Error()
		return d
	}
	d.Driver.Path = lib.Path()
	if v, err := lib.Version(); err == nil {
		d.Driver.Version = fmt.Sprintf("for CUDA %d.%d and older", v/1000, v%1000/10)
	}
	devices, err := lib.Devices()
	if err != nil {
		d.Driver.Problem = err.Error()
		return d
	}
	for _, info := range devices {
		d.GPUs = append(d.GPUs, diagnoseGPU(o, info))
	}
	return d
}

func diagnoseGPU(o Options, info driver.DeviceInfo) GPU {
	g := GPU{Number: info.Ordinal, Name: info.Name, UUID: info.UUID, MIG: info.MIG, TotalBytes: info.TotalBytes,
		Capability: fmt.Sprintf("%d.%d", info.Major, info.Minor)}
	o.Device, o.Cudnn = info.Ordinal, false
	b, err := New(o)
	if err != nil {
		g.Problem = err.Error()
		return g
	}
	if g.FreeBytes, err = b.FreeMemory(); err == nil {
		g.OverheadBytes, err = b.Overhead()
		if errors.Is(err, errNoNVML) {
			err = nil
		}
	}
	if err = errors.Join(err, b.Close()); err != nil {
		g.Problem = err.Error()
	}
	return g
}

// errNoNVML says that what the process takes cannot be measured.
var errNoNVML = errors.New("cuda: NVML does not tell what this process takes")

// Overhead is the device memory of this process beside what the backend has taken: the context, kernels and libraries, as NVML measures it.
func (b *Backend) Overhead() (int, error) {
	used, err := b.ProcessMemory()
	return max(0, used-b.Held()), err
}

// ProcessMemory is all device memory of this process, as NVML measures it. Other contexts of the process count too.
func (b *Backend) ProcessMemory() (bytes int, err error) {
	l, err := nvml.Open("")
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNoNVML, err)
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	device, err := l.ByUUID(b.device.UUID)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNoNVML, err)
	}
	processes, err := device.Processes()
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNoNVML, err)
	}
	for _, p := range processes {
		if p.PID == os.Getpid() {
			bytes += int(p.Bytes)
		}
	}
	if bytes == 0 {
		return 0, errNoNVML
	}
	return bytes, nil
}
