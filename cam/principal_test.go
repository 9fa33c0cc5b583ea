package cam

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/parallel"
)

// An activation of one pattern and noise: the map is the pattern, centred, with the sign with which the mean of A over channels correlates.
func TestEigenCAMFindsThePattern(t *testing.T) {
	for _, shape := range [][2]int{{7, 3}, {40, 1}, {3, 50}, {parallel.Values/4 + 3, 2}} {
		voxels, channels := shape[0], shape[1]
		rng := rand.New(rand.NewPCG(uint64(voxels), 1))
		pattern, weights := make([]float64, voxels), make([]float64, channels)
		for i := range pattern {
			pattern[i] = rng.NormFloat64()
		}
		for k := range weights {
			weights[k] = rng.NormFloat64()
		}
		a := make([]float32, voxels*channels)
		for i := range a {
			a[i] = float32(100 + pattern[i/channels]*weights[i%channels] + 1e-4*rng.NormFloat64())
		}
		m, err := choice(t, "eigencam", "").LayerMap(LayerPoint{Activation: a, Channels: channels})
		if err != nil {
			t.Fatal(err)
		}
		mean, total, length := 0.0, 0.0, 0.0
		for _, p := range pattern {
			mean += p / float64(voxels)
		}
		for _, w := range weights {
			total += w
			length += w * w
		}
		factor := math.Copysign(math.Sqrt(length), total)
		want := make([]float64, voxels)
		for i, p := range pattern {
			want[i] = factor * (p - mean)
		}
		compare(t, "pattern", m, want, 1e-3)
	}
}

// A layer that is constant has no component, and two of the same variance have none that is first.
func TestEigenCAMWithoutAFirstComponent(t *testing.T) {
	c := choice(t, "eigencam", "")
	for _, a := range [][]float32{{0, 0, 0, 0}, {3, 4, 3, 4}, {1e6, 1, 1e6 + 0.0625, 1}} {
		m, err := c.LayerMap(LayerPoint{Activation: a, Channels: 2})
		if err != nil || m[0] != 0 || m[1] != 0 {
			t.Errorf("%v: %v, %v", a, m, err)
		}
	}
	_, err := c.LayerMap(LayerPoint{Activation: []float32{1, 0, -1, 0, 0, 1, 0, -1}, Channels: 2})
	if err == nil || !strings.Contains(err.Error(), "almost the same variance") {
		t.Errorf("two components alike: %v", err)
	}
}
