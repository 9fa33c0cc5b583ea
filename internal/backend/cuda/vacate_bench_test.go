package cuda

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/voxcam/voxcam/internal/backend"
)

// BenchmarkVacate brings 200 MB of weights to the host and back, beside an arena of 1 GiB and fields of 64 MiB, of which the first is
// kept, with VOXCAM_GPU=1 on a GPU. On the simulator it is a sixteenth of each, and says nothing about speed. The first time, which takes
// the pinned memory, is told apart.
//
//	VOXCAM_GPU=1 go test -run '^$' -bench Vacate -benchtime 20x ./internal/backend/cuda
func BenchmarkVacate(t *testing.B) {
	scale := 16
	if os.Getenv("VOXCAM_GPU") != "" {
		scale = 1
	}
	for _, c := range []struct {
		name                  string
		weights, arena, field int
		kept                  bool
	}{
		{"weights", 200e6, 0, 0, false},
		{"weights+arena", 200e6, 1 << 30, 0, false},
		{"weights+arena+fields", 200e6, 1 << 30, 64 << 20, false},
		{"weights+arena+fields,one kept", 200e6, 1 << 30, 64 << 20, true},
	} {
		t.Run(c.name, func(t *testing.B) {
			b := open(t, Options{})
			check := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			weights, err := b.memory.Allocate(c.weights/scale, "weights")
			check(err)
			weights.MarkConstant()
			defer func() { check(weights.Close()) }()
			arena, err := b.memory.Allocate(c.arena/scale, "an arena")
			check(err)
			defer func() { check(arena.Close()) }()
			var kept []backend.Field
			for i := range 2 {
				if c.field == 0 {
					break
				}
				f, err := b.NewField(c.field/scale/4, backend.OnDevice)
				check(err)
				defer func() { check(f.Close()) }()
				if i == 0 && c.kept {
					kept = append(kept, f)
				}
			}
			var out, back []float64 // ms
			for i := range t.N + 1 {
				start := time.Now()
				_, err := b.Vacate(kept...)
				check(err)
				gone := time.Now()
				check(b.Return())
				if i == 0 {
					t.ReportMetric(gone.Sub(start).Seconds()*1e3, "ms-out-first")
					continue
				}
				out = append(out, gone.Sub(start).Seconds()*1e3)
				back = append(back, time.Since(gone).Seconds()*1e3)
			}
			slices.Sort(out)
			slices.Sort(back)
			t.ReportMetric(out[len(out)/2], "ms-out")
			t.ReportMetric(back[len(back)/2], "ms-back")
			t.ReportMetric(out[len(out)-1], "ms-out-worst")
			t.ReportMetric(back[len(back)-1], "ms-back-worst")
		})
	}
}
