package cam

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/parallel"
)

// The references are PyTorch's own, float32; see testdata/make.py.
func TestUpsampleAgreesWithPyTorch(t *testing.T) {
	var cases []struct {
		From, To [3]int
		Src, Dst []float32
	}
	readJSON(t, "testdata/interpolate.json", &cases)
	if len(cases) == 0 {
		t.Fatal("no cases")
	}
	for _, c := range cases {
		got, err := Upsample(c.Src, c.From, c.To)
		if err != nil {
			t.Errorf("%v to %v: %v", c.From, c.To, err)
			continue
		}
		compare(t, fmt.Sprintf("%v to %v", c.From, c.To), got, c.Dst, 2e-7)
	}
}

// direct is the definition, one voxel at a time, in float64.
func direct(src []float32, from, to [3]int, at [3]int) float64 {
	var low, high [3]int
	var share [3]float64
	for k := range at {
		x := max((float64(at[k])+0.5)*float64(from[k])/float64(to[k])-0.5, 0)
		low[k] = min(int(x), from[k]-1)
		high[k] = min(low[k]+1, from[k]-1)
		share[k] = x - float64(low[k])
	}
	sum := 0.0
	for corner := range 8 {
		w, i := 1.0, 0
		for k := range at {
			if corner>>k&1 == 1 {
				w, i = w*share[k], i*from[k]+high[k]
			} else {
				w, i = w*(1-share[k]), i*from[k]+low[k]
			}
		}
		sum += w * float64(src[i])
	}
	return sum
}

func TestUpsampleAgreesWithDefinition(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 0))
	for range 60 {
		from := [3]int{1 + rng.IntN(6), 1 + rng.IntN(6), 1 + rng.IntN(6)}
		to := [3]int{1 + rng.IntN(13), 1 + rng.IntN(13), 1 + rng.IntN(13)}
		src := make([]float32, from[0]*from[1]*from[2])
		for i := range src {
			src[i] = float32(rng.NormFloat64())
		}
		got, err := Upsample(src, from, to)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range got {
			at := [3]int{i / (to[1] * to[2]), i / to[2] % to[1], i % to[2]}
			if want := direct(src, from, to, at); math.Abs(float64(v)-want) > 4e-6 {
				t.Fatalf("%v to %v at %v: %g, want %g", from, to, at, v, want)
			}
		}
	}
}

func TestHeatmapFindings(t *testing.T) {
	cam, plain := choice(t, "gradcam", ""), choice(t, "smoothgrad", "")
	cells, volume := [3]int{1, 1, 3}, [3]int{2, 1, 7}
	third := float32(1) / 3
	for _, v := range []struct {
		name   string
		method Choice
		signed []float32
		want   Finding
		blank  bool
	}{
		{"evidence", cam, []float32{-1, 0.5, 2}, "", false},
		{"all negative", cam, []float32{-1, -2, -3}, NoEvidence, true},
		{"zero", cam, []float32{0, 0, 0}, NoEvidence, true},
		{"constant", cam, []float32{third, third, third}, Flat, true},
		{"one ulp", cam, []float32{third, math.Nextafter32(third, 1), third}, Flat, true},
		{"faint", cam, []float32{0, 1e-9, 3e-9}, Faint, false},
		{"zero gradient", plain, []float32{0, 0, 0}, Flat, true},
		{"negative is shown", plain, []float32{-3, -2, -1}, "", false},
		{"largest float32", plain, []float32{-math.MaxFloat32, 0, math.MaxFloat32}, "", false},
	} {
		to := volume
		if v.method.Name == plain.Name {
			to = cells // maps of the input have the volume's size
		}
		signed := slices.Clone(v.signed)
		got, finding, err := v.method.Heatmap(signed, cells, to)
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		if finding != v.want || (peak(got) == 0) != v.blank {
			t.Errorf("%s: finding %q, peak %g; want %q", v.name, finding, peak(got), v.want)
		}
		if len(got) != to[0]*to[1]*to[2] || slices.Min(got) != 0 || slices.Max(got) > 1 {
			t.Errorf("%s: %d values from %g to %g", v.name, len(got), slices.Min(got), slices.Max(got))
		}
		if finding == "" && slices.Max(got) < 0.999 {
			t.Errorf("%s: the largest value is %g", v.name, slices.Max(got))
		}
		if !slices.Equal(signed, v.signed) {
			t.Errorf("%s: the map was changed", v.name)
		}
	}
}

func BenchmarkHeatmap(b *testing.B) {
	from, to := [3]int{3, 4, 4}, [3]int{192, 256, 256}
	src := make([]float32, from[0]*from[1]*from[2])
	for i := range src {
		src[i] = float32(i % 7)
	}
	m, err := Lookup("gradcam")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(4 * int64(to[0]*to[1]*to[2]))
	for b.Loop() {
		if _, _, err := m.Heatmap(src, from, to); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLayerMap(b *testing.B) {
	const voxels, channels = 24 * 32 * 32, 144
	l := LayerPoint{Activation: make([]float32, voxels*channels), Gradient: make([]float32, voxels*channels), Channels: channels}
	for i := range l.Activation {
		l.Activation[i], l.Gradient[i] = float32(i%5)-1, float32(i%7)-3
	}
	for _, name := range []string{"gradcam", "gradcam++"} {
		m, err := Lookup(name)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(8 * voxels * channels)
			for b.Loop() {
				if _, err := m.Default().LayerMap(l); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Large maps are made in parts, on several processors; what comes out does not show it.
func TestHeatmapInParts(t *testing.T) {
	m, err := Lookup("gradcam")
	if err != nil {
		t.Fatal(err)
	}
	from, to := [3]int{5, 7, 9}, [3]int{97, 128, 160}
	src := make([]float32, from[0]*from[1]*from[2])
	for i := range src {
		src[i] = float32(i%11) - 3
	}
	positive := make([]float32, len(src))
	for i, v := range src {
		positive[i] = max(v, 0)
	}
	n := to[0] * to[1] * to[2]
	if n <= 4*parallel.Values {
		t.Fatal("the map has one part")
	}
	up := make([]float32, n)
	upsamplePlanes(up, positive, from, taps(from[0], to[0]), taps(from[1], to[1]), taps(from[2], to[2]))
	want := slices.Clone(up)
	scale := 1 / (float64(slices.Max(up)) - float64(slices.Min(up)) + epsilon)
	low := float64(slices.Min(up))
	for i, v := range up {
		want[i] = float32((float64(v) - low) * scale)
	}
	for _, c := range []struct {
		from [3]int
		src  []float32
	}{{from, src}, {to, up}} {
		got, finding, err := m.Heatmap(c.src, c.from, to)
		if err != nil || finding != "" {
			t.Fatal(finding, err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("from %v: the heatmap depends on the parts", c.from)
		}
	}
	up[n-5] = float32(math.NaN())
	if bad, first := countNotFinite(up); bad != 1 || first != n-5 {
		t.Errorf("%d values are not finite, the first at %d", bad, first)
	}
}
