package hostmem

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/noise"
	"github.com/voxcam/voxcam/internal/parallel"
)

// What is made in parts, on several processors, is what is made in one go.
func TestParts(t *testing.T) {
	const channels, voxels, sigma = 3, parallel.Values + 1001, 0.25
	rng := rand.New(rand.NewPCG(1, 2))
	volume := make([]float32, channels*voxels)
	for i := range volume {
		volume[i] = rng.Float32()
	}
	x, noisy := View(make([]float32, len(volume))), View(make([]float32, len(volume)))
	if err := (Attribution{}).Upload(x, volume, channels); err != nil {
		t.Fatal(err)
	}
	for i, got := range x.Values() {
		if want := volume[i%channels*voxels+i/channels]; got != want {
			t.Fatalf("value %d is %g, want %g", i, got, want)
		}
	}
	z, err := noise.New(5, "sample", 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := (Attribution{}).Perturb(noisy, x, channels, cam.Perturbation{Fraction: 1, Sigma: sigma}, z); err != nil {
		t.Fatal(err)
	}
	want := make([]float32, len(volume))
	z.AddToSlab(want, x.Values(), sigma, noise.Slab{Channels: channels, Voxels: voxels})
	if !slices.Equal(noisy.Values(), want) {
		t.Error("the noise depends on the parts that it is made in")
	}
	// A point on a path, with noise and without, is made of the same values wherever the parts end.
	for _, p := range []cam.Perturbation{{Baseline: -2, Fraction: 0.3}, {Baseline: 0.5, Fraction: 0}, {Baseline: 1, Fraction: 0.75, Sigma: sigma}, {Fraction: 1}} {
		for i, v := range x.Values() {
			if want[i] = v; p.Fraction != 1 {
				want[i] = p.Baseline + float32(p.Fraction*(v-p.Baseline))
			}
		}
		if p.Sigma != 0 {
			z.AddToSlab(want, want, p.Sigma, noise.Slab{Channels: channels, Voxels: voxels})
		}
		if err := (Attribution{}).Perturb(noisy, x, channels, p, z); err != nil || !slices.Equal(noisy.Values(), want) {
			t.Errorf("%+v is another point in parts: %v", p, err)
		}
	}
	if err := (Attribution{}).Copy(noisy, x); err != nil || !slices.Equal(noisy.Values(), x.Values()) {
		t.Errorf("a copy differs: %v", err)
	}
}
