package cuda

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/voxcam/voxcam/internal/backend/cuda/cudnn"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/kernel"
	"github.com/voxcam/voxcam/internal/backend/cuda/nvml"
	"github.com/voxcam/voxcam/internal/dl"
)

// Versions of CUDA that a driver must support: machine code of one major version runs on all drivers of that version, while PTX needs
// the minor version that it was compiled for (package kernel).
const (
	leastVersion    = 12000
	leastVersionPTX = 12040
)

// driverNeeded says the same in the numbers that drivers go by.
const driverNeeded = "NVIDIA's driver 525 or newer is needed, and 550 for GPUs newer than compute capability 9.0"

// supported returns the reason why a GPU cannot be used under a driver, or nil.
func supported(version int, d driver.DeviceInfo) error {
	text := fmt.Sprintf("%s (compute capability %d.%d)", d.Name, d.Major, d.Minor)
	switch {
	case d.Major < kernel.MinMajor:
		return fmt.Errorf("%s is too old: compute capability %d.0 (Volta) is the least that works", text, kernel.MinMajor)
	case version < leastVersion, version < leastVersionPTX && (d.Major > 9 || d.Major == 9 && d.Minor > 0):
		return fmt.Errorf("%s has a driver that knows CUDA %s and older: update it; %s", text, versionText(version), driverNeeded)
	}
	return nil
}

func versionText(v int) string { return fmt.Sprintf("%d.%d", v/1000, v%1000/10) }

// explained adds to an error of the driver the likely reason.
func explained(err error) error {
	var none *driver.NoDriverError
	if errors.As(err, &none) {
		if none.Found != "" {
			return fmt.Errorf("%w; %s", err, driverNeeded)
		}
		return fmt.Errorf("%w; install it, version 525 or newer, or make it visible in a container (docker run --gpus all)", err)
	}
	var refused *driver.Error
	if !errors.As(err, &refused) {
		return err
	}
	switch refused.Code {
	case driver.CodeNoDevice:
		if visible, set := os.LookupEnv("CUDA_VISIBLE_DEVICES"); set {
			return fmt.Errorf("CUDA_VISIBLE_DEVICES is set to %q, which leaves no GPU; unset it, or name one of nvidia-smi -L (%w)", visible, err)
		}
	case driver.CodeInsufficientDriver, driver.CodeNoBinary, driver.CodeInvalidPTX, driver.CodeUnsupportedPTX:
		return fmt.Errorf("%w; %s", err, driverNeeded)
	}
	return err
}

// Note returns a remark for the user about the backend's way of computing, or "".
func (b *Backend) Note() string {
	switch {
	case !b.onTensorCores():
	case b.device.Major < 8:
		return fmt.Sprintf("%s has no tensor cores for tf32 and bf16: it computes in fp32", b.device.Name)
	case b.tuner != nil && b.tuner.missing != nil && b.options.Cudnn:
		return "convolutions on tensor cores run with this program's own kernels, without cuDNN, which can be faster"
	}
	return ""
}

// LibraryInfo describes a library of NVIDIA's, or the reason why it cannot be used.
type LibraryInfo struct {
	Path    string `json:"path,omitempty"`
	Version string `json:"version,omitempty"`
	Problem string `json:"problem,omitempty"` // the reason why it cannot be used, and a remedy
	// Missing are libraries that some parts of it need.
	Missing []string `json:"missing,omitempty"`
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

// Diagnosis lists NVIDIA's libraries and GPUs on a machine.
type Diagnosis struct {
	Driver LibraryInfo `json:"driver"`
	NVML   LibraryInfo `json:"nvml"`
	Cudnn  LibraryInfo `json:"cudnn"`
	GPUs   []GPU       `json:"gpus"`
	Dirs   []string    `json:"searched"` // for libraries that the loader does not find
}

// Diagnose looks for the driver, the GPUs and the libraries, and tries each GPU. It changes nothing.
func Diagnose(o Options) *Diagnosis {
	d := &Diagnosis{Dirs: dl.NVIDIADirs(o.Libraries), GPUs: []GPU{}}
	if l, err := cudnn.Open(d.Dirs); err != nil {
		d.Cudnn.Problem = err.Error()
	} else {
		d.Cudnn.Path = l.Path()
		d.Cudnn.Version, _ = l.Version()
		d.Cudnn.Missing = l.Missing()
	}
	if l, err := nvml.Open(o.NVML); err != nil {
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
		d.Driver.Problem = explained(err).Error()
		return d
	}
	d.Driver.Path = lib.Path()
	if v, err := lib.Version(); err == nil {
		d.Driver.Version = fmt.Sprintf("for CUDA %s and older", versionText(v))
	}
	devices, err := lib.Devices()
	if err != nil {
		d.Driver.Problem = explained(err).Error()
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

// meter is NVML, opened once: that takes long.
type meter struct {
	mu      sync.Mutex
	library *nvml.Library
	device  *nvml.Device
}

func (m *meter) open(path, uuid string) (*nvml.Device, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.device != nil {
		return m.device, nil
	}
	l, err := nvml.Open(path)
	if err != nil {
		return nil, err
	}
	d, err := l.ByUUID(uuid)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	m.library, m.device = l, d
	return d, nil
}

func (m *meter) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.library == nil {
		return nil
	}
	l := m.library
	m.library, m.device = nil, nil
	return l.Close()
}

// errNoNVML says that the memory of the process cannot be measured.
var errNoNVML = errors.New("cuda: NVML does not tell what this process takes")

// Overhead returns the device memory of this process that the backend does not hold: context, kernels and libraries, by NVML.
func (b *Backend) Overhead() (int, error) {
	used, err := b.ProcessMemory()
	return max(0, used-b.Held()), err
}

// ProcessMemory returns all device memory of this process, as NVML measures it. Other contexts of the process count too.
func (b *Backend) ProcessMemory() (bytes int, err error) {
	device, err := b.meter.open(b.options.NVML, b.device.UUID)
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
