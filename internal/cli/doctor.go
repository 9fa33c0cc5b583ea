package cli

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/backend/cuda"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/runner"
)

func newDoctor() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "List the devices to compute with, and missing libraries",
		Long: `Doctor looks for what voxcam can compute with: the processor, NVIDIA's driver and its GPUs, and cuDNN, which is optional. It
says what was found where, what is missing, and how to install it. Each GPU is tried: its context is made and the kernels are loaded.

Libraries are looked for on the loader's path, in the folders of ` + device.Libraries + ` (separated as in PATH), in CUDA installs,
and in the packages of conda, of virtual environments and of each Python on the PATH. ` + device.Driver + ` is the file of the driver,
where it is not the system's. ` + cpu.Kernels + ` chooses the processor's kernels (avx512, avx2 or go) instead of the best that it has.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return doctor(cmd.OutOrStdout(), asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, with the folders that were searched")
	return cmd
}

func doctor(w io.Writer, asJSON bool) (err error) {
	d := cuda.Diagnose(device.CUDA())
	b, err := cpu.New(cpu.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if asJSON {
		return printJSON(w, struct {
			Version string          `json:"version"`
			CPU     string          `json:"cpu"`
			Threads int             `json:"threads"`
			Auto    string          `json:"auto"` // the device of --device auto
			CUDA    *cuda.Diagnosis `json:"cuda"`
		}{runner.Version(), b.Name(), b.Threads(), auto(d), d})
	}
	t := newTable(w)
	row := func(what, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", what, fmt.Sprintf(format, args...)) }
	row("voxcam", "%s, %s/%s", runner.Version(), runtime.GOOS, runtime.GOARCH)
	row("processor", "%s, %d threads", b.Name(), b.Threads())
	library := func(what string, l cuda.LibraryInfo) {
		if l.Problem != "" {
			row(what, "%s", l.Problem)
		} else {
			row(what, "%s (%s)", l.Version, l.Path)
		}
		if len(l.Missing) > 0 {
			row("", "without %s, which some of its engines need", strings.Join(l.Missing, ", "))
		}
	}
	library("driver", d.Driver)
	for _, g := range d.GPUs {
		what := fmt.Sprintf("cuda:%d", g.Number)
		if g.Problem != "" {
			row(what, "not usable: %s", g.Problem)
			continue
		}
		slice := ""
		if g.MIG {
			slice = ", a MIG slice"
		}
		row(what, "%s%s, compute capability %s, %s free of %s", g.Name, slice, g.Capability, bytesize.Format(g.FreeBytes), bytesize.Format(g.TotalBytes))
		if g.OverheadBytes > 0 {
			row("", "a process takes %s besides its budget: context and kernels", bytesize.Format(g.OverheadBytes))
		}
	}
	if len(d.GPUs) > 0 { // without a GPU, nothing of the driver's is missing yet
		library("NVML", d.NVML)
	}
	library("cuDNN", d.Cudnn)
	if d.Cudnn.Problem != "" {
		row("", "it is optional: --precision tf32 and bf16 can be faster with it, fp32 does not use it")
	}
	row("--device auto", "%s", auto(d))
	return t.Flush()
}

// auto returns the device that --device auto chooses: the first GPU if it works.
func auto(d *cuda.Diagnosis) string {
	usable := func(g cuda.GPU) bool { return g.Problem == "" }
	switch i := slices.IndexFunc(d.GPUs, usable); {
	case i == 0:
		return "cuda:0"
	case i > 0:
		return fmt.Sprintf("cpu, because cuda:0 does not work; --device cuda:%d does", d.GPUs[i].Number)
	}
	return "cpu"
}
