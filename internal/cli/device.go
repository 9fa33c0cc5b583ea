package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/backend/cuda"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/bytesize"
)

// deviceFlags say where and how precisely it is computed.
type deviceFlags struct {
	device    string
	precision string
}

// librariesVariable names a folder with NVIDIA's libraries, before the usual places.
const librariesVariable = "VOXCAM_CUDA_LIBRARIES"

// kernelsVariable names an archive of kernels to use instead of those in the program, for those who change them.
const kernelsVariable = "VOXCAM_CUDA_KERNELS"

func (f *deviceFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.device, "device", "auto", "where to compute: auto (a GPU if there is one), cpu, cuda, or cuda:N for GPU N")
	fl.StringVar(&f.precision, "precision", "fp32", "factors of products on a GPU: fp32, or faster and less exact tf32, bf16")
}

// device is a backend and what the command line asks of it besides.
type device struct {
	backend.Backend
	close func() error
	free  func() (int, error) // bytes that a budget can share
	note  string              // for the user
}

// precisions by name. The first is what a processor computes in.
var precisions = []struct {
	name  string
	value cuda.Precision
}{{"fp32", cuda.Float32}, {"tf32", cuda.TF32}, {"bf16", cuda.BFloat16}}

// devices lists the kinds of devices, the best first.
var devices = []struct {
	name string
	open func(number int, precision string) (*device, error)
}{
	{"cuda", openCUDA},
	{"cpu", openCPU},
}

func openCPU(number int, precision string) (*device, error) {
	if number > 0 {
		return nil, usage(fmt.Errorf("--device cpu:%d: there is one processor", number))
	}
	if precision != precisions[0].name {
		return nil, usage(fmt.Errorf("--precision %s needs a GPU: the processor computes in %s", precision, precisions[0].name))
	}
	b, err := cpu.New(cpu.Options{})
	if err != nil {
		return nil, err
	}
	return &device{Backend: b, close: b.Close, free: bytesize.FreeMemory}, nil
}

func openCUDA(number int, precision string) (*device, error) {
	o := cuda.Options{Device: number, Libraries: os.Getenv(librariesVariable), Kernels: os.Getenv(kernelsVariable), Cudnn: true}
	for _, p := range precisions {
		if p.name == precision {
			o.Precision = p.value
		}
	}
	b, err := cuda.New(o)
	if err != nil {
		return nil, err
	}
	return &device{Backend: b, close: b.Close, free: b.FreeMemory, note: b.Note()}, nil
}

// open opens the device. With auto, a machine without a GPU is computed on its processor; a GPU that does not work is told of.
func (f *deviceFlags) open(stderr io.Writer) (*device, error) {
	precision := f.precision
	if precision == "" {
		precision = precisions[0].name
	}
	if !slices.ContainsFunc(precisions, func(p struct {
		name  string
		value cuda.Precision
	}) bool {
		return p.name == precision
	}) {
		return nil, usage(fmt.Errorf("--precision %s: choose from fp32, tf32, bf16", precision))
	}
	name, number, err := splitDevice(f.device)
	if err != nil {
		return nil, err
	}
	if name == "auto" {
		d, err := openCUDA(0, precision)
		if err == nil {
			return d, nil
		}
		if !noGPU(err) {
			fmt.Fprintln(stderr, "voxcam: warning: the GPU is not used:", err)
		}
		return openCPU(0, precision)
	}
	for _, d := range devices {
		if d.name == name {
			opened, err := d.open(number, precision)
			if err != nil && noGPU(err) {
				err = fmt.Errorf("%w; voxcam doctor says what was looked for, and --device cpu does without", err)
			}
			return opened, usage(err)
		}
	}
	return nil, usage(fmt.Errorf("--device %s: choose from auto, cpu, cuda, cuda:N", f.device))
}

// splitDevice takes "cuda:1" apart.
func splitDevice(text string) (name string, number int, err error) {
	name, n, numbered := strings.Cut(text, ":")
	if name == "" {
		name = "auto"
	}
	if !numbered {
		return name, 0, nil
	}
	if number, err = strconv.Atoi(n); err != nil || number < 0 || name == "auto" {
		return "", 0, usage(fmt.Errorf("--device %s: a number expected behind the colon, such as cuda:0", text))
	}
	return name, number, nil
}

// noGPU reports whether an error says that there is no GPU, or no driver for one: nothing to warn of on a machine without.
func noGPU(err error) bool {
	var none *driver.NoDriverError
	var failed *driver.Error
	return errors.As(err, &none) || errors.As(err, &failed) && failed.Code == driver.CodeNoDevice
}
