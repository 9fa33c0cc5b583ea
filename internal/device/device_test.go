package device_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/cuda"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/device"
)

// simulated makes the simulator the driver, on a system without cuDNN.
func simulated(t *testing.T) *simulator.Simulator {
	t.Helper()
	s := simulator.Load(t)
	t.Setenv(device.Driver, s.Path)
	return s
}

// A GPU that cannot be used is refused with one line that says why and what to do. With auto the processor takes its place, with a warning,
// or silently where there just is no GPU.
func TestGPUsThatDoNotWork(t *testing.T) {
	fail := func(call string, code int) func(*testing.T, *simulator.Simulator) {
		return func(_ *testing.T, s *simulator.Simulator) { s.FailCall(call, 1, code) }
	}
	for name, c := range map[string]struct {
		device string
		set    func(t *testing.T, s *simulator.Simulator)
		says   []string
		silent bool // with auto
	}{
		"no driver": {"cuda", func(t *testing.T, _ *simulator.Simulator) { t.Setenv(device.Driver, "/absent/libcuda.so.1") },
			[]string{"no NVIDIA driver", "/absent/libcuda.so.1 was not found", "install it", "525"}, true},
		"another library": {"cuda", func(t *testing.T, _ *simulator.Simulator) { t.Setenv(device.Driver, "libm.so.6") },
			[]string{"the NVIDIA driver cannot be used", "lacks cuInit", "525 or newer is needed"}, false},
		"no GPU": {"cuda", func(_ *testing.T, s *simulator.Simulator) { s.SetCount(0) }, []string{"no GPU is visible", "nvidia-smi"}, true},
		"hidden": {"cuda", func(t *testing.T, _ *simulator.Simulator) { t.Setenv("CUDA_VISIBLE_DEVICES", "") },
			[]string{`CUDA_VISIBLE_DEVICES is set to "", which leaves no GPU`, "unset it"}, true},
		"old driver": {"cuda", func(_ *testing.T, s *simulator.Simulator) { s.SetVersion(11080) },
			[]string{"CUDA 11.8 and older", "update it", "525 or newer is needed"}, false},
		"driver older than PTX": {"cuda", func(_ *testing.T, s *simulator.Simulator) { s.SetDevice(12, 0, 8); s.SetVersion(12020) },
			[]string{"CUDA 12.2 and older", "550 for GPUs newer than"}, false},
		"driver older than its kernel module": {"cuda", fail("cuInit", driver.CodeInsufficientDriver), []string{"too old", "525 or newer is needed"}, false},
		"mismatch":                            {"cuda", fail("cuInit", 803), []string{"restart the machine"}, false},
		"refused PTX":                         {"cuda", fail("cuModuleLoadDataEx", driver.CodeUnsupportedPTX), []string{"older than the kernels", "525 or newer"}, false},
		"old GPU": {"cuda", func(_ *testing.T, s *simulator.Simulator) { s.SetDevice(6, 1, 8) },
			[]string{"compute capability 6.1", "too old", "7.0"}, false},
		"no memory": {"cuda", fail("cuDevicePrimaryCtxRetain", driver.CodeOutOfMemory), []string{"not enough memory is free", "end other programs"}, false},
		"busy":      {"cuda", fail("cuDevicePrimaryCtxRetain", 46), []string{"exclusive use by another process"}, false},
		"number":    {"cuda:7", func(_ *testing.T, s *simulator.Simulator) { s.SetCount(2) }, []string{"no GPU 7", "shows 2", "CUDA_VISIBLE_DEVICES"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := simulated(t)
			c.set(t, s)
			d, err := device.Open(c.device, "")
			if err == nil {
				t.Fatalf("%s was opened", d.Name())
			}
			for _, part := range append(c.says, device.WithoutGPU) {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the message does not say %q: %v", part, err)
				}
			}
			if strings.Contains(err.Error(), "\n") || strings.Count(err.Error(), "cuda: ") != 1 {
				t.Errorf("the message is no single line: %v", err)
			}
			if c.device != "cuda" {
				return
			}
			s.Reset()
			c.set(t, s)
			if d, err = device.Open("auto", ""); err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(d.Name(), "cpu/") || (len(d.Warnings) == 0) != c.silent {
				t.Errorf("auto is %s with the warnings %q", d.Name(), d.Warnings)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			if used := s.Used(); used != 0 {
				t.Errorf("%d bytes of the device are still taken", used)
			}
		})
	}
}

func TestChoice(t *testing.T) {
	s := simulated(t)
	s.SetCount(2)
	for name, want := range map[string]string{"": "cuda/", "auto": "cuda/", "cuda": "cuda/", "cuda:1": "cuda/", "cpu": "cpu/"} {
		d, err := device.Open(name, "")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(d.Name(), want) || len(d.Warnings)+len(d.Notes) != 0 {
			t.Errorf("%q is %s, with %q", name, d.Name(), append(d.Warnings, d.Notes...))
		}
		if free, err := d.FreeMemory(); err != nil || free <= 0 {
			t.Errorf("%q has %d bytes free: %v", name, free, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Tensor cores work without cuDNN, and are not where there are none; the user is told.
func TestPrecisions(t *testing.T) {
	s := simulated(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "libcudnn.so.9"), []byte("not a library"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(device.Libraries, dir)
	t.Setenv("XDG_CACHE_HOME", t.TempDir()) // of the choices of kernels
	for _, c := range []struct {
		major     int
		precision string
		says      string
	}{{9, "fp32", ""}, {9, "tf32", "without cuDNN"}, {8, "bf16", "without cuDNN"}, {7, "tf32", "no tensor cores"}, {7, "fp32", ""}, {9, "fp64", ""}} {
		s.SetDevice(c.major, 0, 8)
		d, err := device.Open("cuda", c.precision)
		if err != nil {
			t.Fatal(err)
		}
		notes := strings.Join(d.Notes, "\n")
		if (notes == "") != (c.says == "") || !strings.Contains(notes, c.says) {
			if d := cuda.Diagnose(device.CUDA()); d.Cudnn.Problem != "" || c.says != "without cuDNN" { // the loader may know one
				t.Errorf("%s on %d.0: the notes are %q, not %q", c.precision, c.major, notes, c.says)
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Processes that share a simulated device find it as a user's would find a GPU, and NVML tells what they take of it.
func TestSharedDevice(t *testing.T) {
	s := simulator.Share(t)
	s.SetContext(12 << 20)
	if o := device.CUDA(); o.Driver != s.Path || o.NVML != s.Path {
		t.Fatalf("the libraries are %s and %s, not %s", o.Driver, o.NVML, s.Path)
	}
	d := cuda.Diagnose(device.CUDA())
	if d.NVML.Path != s.Path || d.NVML.Problem != "" || len(d.GPUs) != 1 {
		t.Fatalf("%+v", d)
	}
	if g := d.GPUs[0]; g.Problem != "" || g.OverheadBytes != 6<<20 || g.FreeBytes > 8<<30-6<<20 { // without stacks
		t.Errorf("%+v", g)
	}
	if used := s.Used(os.Getpid()); used != 0 {
		t.Errorf("%d bytes of the device are still taken", used)
	}
}
