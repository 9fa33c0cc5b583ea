package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/backend/cuda"
	"github.com/voxcam/voxcam/internal/bytesize"
)

func newDoctor() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what there is to compute with, and what is missing",
		Long: `Doctor looks for what voxcam can compute with: the processor, NVIDIA's driver and its GPUs, and cuDNN, which is optional. It says
what was found where, and what to install where something is missing. Libraries are looked for on the loader's path, in the folders of
` + librariesVariable + ` (separated as in PATH), in CUDA installs, and in the packages of conda, of virtual environments and of each Python on the PATH.

The exit code is 0 if there is something to compute with as asked for by --device in other commands: with auto, always.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return doctor(cmd.OutOrStdout(), asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func doctor(w io.Writer, asJSON bool) (err error) {
	d := cuda.Diagnose(cuda.Options{Libraries: os.Getenv(librariesVariable)})
	b, err := cpu.New(cpu.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(struct {
			Version string          `json:"version"`
			CPU     string          `json:"cpu"`
			Threads int             `json:"threads"`
			CUDA    *cuda.Diagnosis `json:"cuda"`
		}{version(), b.Name(), b.Threads(), d})
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(what, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", what, fmt.Sprintf(format, args...)) }
	row("voxcam", "%s, %s/%s", version(), runtime.GOOS, runtime.GOARCH)
	row("processor", "%s, %d threads", b.Name(), b.Threads())
	library := func(what string, l cuda.Library) {
		switch {
		case l.Problem != "":
			row(what, "not usable: %s", l.Problem)
		default:
			row(what, "%s (%s)", l.Version, l.Path)
		}
	}
	library("driver", d.Driver)
	for _, g := range d.GPUs {
		what := fmt.Sprintf("cuda:%d", g.Number)
		if g.Problem != "" {
			row(what, "%s, not usable: %s", g.Name, g.Problem)
			continue
		}
		slice := ""
		if g.MIG {
			slice = ", a MIG slice"
		}
		row(what, "%s%s, compute capability %s, %s free of %s", g.Name, slice, g.Capability, bytesize.Format(g.FreeBytes), bytesize.Format(g.TotalBytes))
		if g.OverheadBytes > 0 {
			row("", "a process takes %s besides its budget (context and kernels)", bytesize.Format(g.OverheadBytes))
		}
	}
	library("NVML", d.NVML)
	library("cuDNN", d.Cudnn)
	if d.Usable() {
		row("--device auto", "cuda:0")
	} else {
		row("--device auto", "cpu")
	}
	return t.Flush()
}
