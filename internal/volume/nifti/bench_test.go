package nifti

import (
	"io"
	"math"
	"testing"

	"github.com/voxcam/voxcam/volume"
)

// counter counts what is written.
type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

var _ io.Writer = (*counter)(nil)

// BenchmarkWrite writes a heatmap of the original's size: smooth, as up-sampling leaves it.
func BenchmarkWrite(b *testing.B) {
	dims := [3]int{192, 256, 256}
	data := make([]float32, dims[0]*dims[1]*dims[2])
	for i := range data {
		d, h, w := float64(i/65536), float64(i/256%256), float64(i%256)
		data[i] = float32(max(0, math.Sin(d/20)*math.Sin(h/30)*math.Cos(w/25)))
	}
	b.SetBytes(int64(4 * len(data)))
	var n counter
	for b.Loop() {
		n = 0
		if err := Write(&n, dims, data, volume.Identity()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/float64(4*len(data)), "size")
}
