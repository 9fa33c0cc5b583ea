package cli

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/device"
)

// deviceFlags say where and how precisely it is computed.
type deviceFlags struct {
	device    string
	precision string
}

func (f *deviceFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.device, "device", device.DefaultName, "where to compute: auto (a GPU if there is one), cpu, cuda, or cuda:N for GPU N")
	fl.StringVar(&f.precision, "precision", device.DefaultPrecision, "how products are computed on a GPU: fp32, tf32 and bf16 (faster, less exact), or fp64 (sums in float64, slow)")
}

// open opens the device, and prints its warnings and notes.
func (f *deviceFlags) open(stderr io.Writer) (*device.Device, error) {
	d, err := device.Open(f.device, f.precision)
	if err != nil {
		return nil, usage(err)
	}
	printNotes(stderr, cam.Info{Warnings: d.Warnings, Notes: d.Notes})
	return d, nil
}
