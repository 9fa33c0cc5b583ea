package cuda

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/backend/hostmem"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/noise"
	"github.com/voxcam/voxcam/internal/tensor"
)

// random are n values around zero.
func random(n int, seed uint64) []float32 {
	r := rand.New(rand.NewPCG(seed, 1))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// put is a field of the backend that holds values, and the same on the host.
func put(t *testing.T, b *Backend, values []float32, where backend.Place) (device, onHost backend.Field) {
	t.Helper()
	f, err := b.NewField(len(values), where)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := f.Write(values); err != nil {
		t.Fatal(err)
	}
	return f, hostmem.Wrap(values)
}

// empty is a pair of fields to be written.
func empty(t *testing.T, b *Backend, n int, where backend.Place) (device, onHost backend.Field) {
	t.Helper()
	device, _ = put(t, b, make([]float32, n), where)
	onHost, err := hostmem.NewField(n)
	if err != nil {
		t.Fatal(err)
	}
	return device, onHost
}

// alike compares fields; limit is relative to the largest magnitude, 0 asks for the same bits.
func alike(t *testing.T, what string, device, onHost backend.Field, limit float64) {
	t.Helper()
	got, err := device.Take()
	if err != nil {
		t.Fatal(err)
	}
	want, err := onHost.Take()
	if err != nil {
		t.Fatal(err)
	}
	top := 0.0
	for _, v := range want {
		top = max(top, math.Abs(float64(v)))
	}
	for i := range want {
		same := math.Float32bits(got[i]) == math.Float32bits(want[i])
		if limit > 0 {
			same = math.Abs(float64(got[i])-float64(want[i])) <= limit*top
		}
		if !same {
			t.Fatalf("%s: value %d of %d is %v, and %v on the host; the largest is %v", what, i, len(want), got[i], want[i], top)
		}
	}
}

var attributionPlaces = map[string]backend.Place{"device": backend.OnDevice, "host": backend.OnHost}

func TestUpload(t *testing.T) {
	b := open(t, Options{})
	for place, where := range attributionPlaces {
		for _, shape := range [][2]int{{1, 35}, {2, 36}, {3, 100_003}} { // the last in more than one piece
			volume := random(shape[0]*shape[1], 1)
			got, want := empty(t, b, len(volume), where)
			for _, f := range []struct {
				a backend.Attribution
				f backend.Field
			}{{b, got}, {hostmem.Attribution{}, want}} {
				if err := f.a.Upload(f.f, volume, shape[0]); err != nil {
					t.Fatal(err)
				}
			}
			alike(t, fmt.Sprint(place, shape), got, want, 0)
			other, _ := empty(t, b, len(volume), backend.OnDevice)
			if err := b.Copy(other, got); err != nil {
				t.Fatal(err)
			}
			alike(t, fmt.Sprint("copy of ", place, shape), other, want, 0)
		}
	}
}

// Noise is the same bits as on the processor, and with it the uniforms behind it.
func TestNoiseOnTheDevice(t *testing.T) {
	b := open(t, Options{})
	for place, where := range attributionPlaces {
		for _, shape := range [][2]int{{1, 4096}, {1, 37}, {3, 64}, {2, 27}, {5, 3}} {
			x, noisy := random(shape[0]*shape[1], 2), cam.Perturbation{Fraction: 1, Sigma: 0.15}
			z, err := noise.New(0x123456789abcdef, "a sample", 41)
			if err != nil {
				t.Fatal(err)
			}
			at, onHost := put(t, b, x, where)
			got, want := empty(t, b, len(x), where)
			if err := b.Perturb(got, at, shape[0], noisy, z); err != nil {
				t.Fatal(err)
			}
			if err := (hostmem.Attribution{}).Perturb(want, onHost, shape[0], noisy, z); err != nil {
				t.Fatal(err)
			}
			alike(t, fmt.Sprint(place, shape), got, want, 0)
		}
	}
}

// Points of a path are the same bits as on the processor, with noise and without.
func TestPathPointsOnTheDevice(t *testing.T) {
	b := open(t, Options{})
	z, err := noise.New(7, "a sample", 3)
	if err != nil {
		t.Fatal(err)
	}
	for place, where := range attributionPlaces {
		for _, shape := range [][2]int{{1, 4096}, {1, 37}, {3, 64}, {2, 27}} {
			x := random(shape[0]*shape[1], 2)
			x[0], x[5] = float32(math.Copysign(0, -1)), 1e30 // signs of zeros stay, and rounding is that of each operation
			at, onHost := put(t, b, x, where)
			got, want := empty(t, b, len(x), where)
			for _, p := range []cam.Perturbation{
				{}, {Baseline: -0.7}, {Baseline: 0.3, Fraction: 0.1}, {Fraction: 0.9876543}, {Fraction: 1}, {Baseline: 3, Fraction: 1},
				{Baseline: -1, Fraction: 0.5, Sigma: 0.2},
			} {
				if err := errors.Join(b.Perturb(got, at, shape[0], p, z), hostmem.Attribution{}.Perturb(want, onHost, shape[0], p, z)); err != nil {
					t.Fatal(err)
				}
				alike(t, fmt.Sprint(place, shape, p), got, want, 0)
			}
		}
	}
}

// choices are all conventions of all methods.
func choices(t *testing.T, want func(cam.Choice) bool) (all []cam.Choice) {
	t.Helper()
	for _, name := range cam.Methods() {
		m, err := cam.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, convention := range m.Conventions {
			if c := (cam.Choice{Method: m, Convention: convention}); want(c) {
				all = append(all, c)
			}
		}
	}
	return all
}

func gathering(c cam.Choice) bool { return c.Convention.Sampling() != cam.Once }
func atLayer(c cam.Choice) bool   { return c.Convention.Kind() == cam.AtLayer }
func atInput(c cam.Choice) bool   { return !gathering(c) && !atLayer(c) }

// Every formula has kernels: nothing is computed on the host without need.
func TestFormulasHaveKernels(t *testing.T) {
	b := open(t, Options{})
	var kernels []string
	for _, c := range choices(t, func(cam.Choice) bool { return true }) {
		if f, ok := layerFormulas[c.Key()]; ok {
			kernels = append(kernels, "layer_map_"+f.each)
			for _, sum := range f.sums {
				kernels = append(kernels, "layer_sum_"+sum)
			}
			if f.principal {
				kernels = append(kernels, "layer_covariance")
			}
		} else if name := voxelFormulas[c.Key()]; name != "" {
			kernels = append(kernels, "voxel_"+name)
		} else {
			t.Errorf("%s has no kernel", c.Key())
		}
	}
	if err := b.context.Do(func() error {
		for _, name := range kernels {
			if _, err := b.lookup(name); err != nil {
				t.Error(err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestMomentsOnTheDevice(t *testing.T) {
	b := open(t, Options{})
	all := choices(t, gathering)
	sets := [][]cam.Choice{all}
	for _, c := range all {
		sets = append(sets, []cam.Choice{c})
	}
	for place, where := range attributionPlaces {
		for _, set := range sets {
			const voxels, channels, draws = 331, 2, 5
			got, err := b.NewMoments(voxels*channels, channels, where, set...)
			if err != nil {
				t.Fatal(err)
			}
			want, err := hostmem.Attribution{}.NewMoments(voxels*channels, channels, where, set...)
			if err != nil {
				t.Fatal(err)
			}
			for draw := range draws {
				g, onHost := put(t, b, random(voxels*channels, uint64(draw)), backend.OnDevice)
				if err := errors.Join(got.Add(g, 1/float64(draw+1)), want.Add(onHost, 1/float64(draw+1))); err != nil {
					t.Fatal(err)
				}
			}
			x, xHost := put(t, b, random(voxels*channels, 99), where)
			for _, c := range set {
				for _, to := range attributionPlaces {
					m, onHost := empty(t, b, voxels, to)
					if err := errors.Join(got.Map(m, c, x, 0.5), want.Map(onHost, c, xHost, 0.5)); err != nil {
						t.Fatal(err)
					}
					alike(t, place+" "+c.Key(), m, onHost, 1e-7)
				}
			}
			if err := got.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestInputMapsOnTheDevice(t *testing.T) {
	b := open(t, Options{})
	const voxels, channels = 1001, 3
	for place, where := range attributionPlaces {
		for _, c := range choices(t, atInput) {
			x, xHost := put(t, b, random(voxels*channels, 1), where)
			g, gHost := put(t, b, random(voxels*channels, 2), backend.OnDevice)
			got, want := empty(t, b, voxels, backend.OnDevice)
			if err := errors.Join(b.InputMap(got, c, x, g, channels), hostmem.Attribution{}.InputMap(want, c, xHost, gHost, channels)); err != nil {
				t.Fatal(err)
			}
			alike(t, place+" "+c.Key(), got, want, 1e-7)
		}
	}
}

// layerCases are layers in the layouts that importers meet.
var layerCases = []struct {
	shape  tensor.Shape
	axes   string
	voxels int
}{
	{tensor.Shape{1, 3, 4, 5, 70}, "NDHWC", 60},
	{tensor.Shape{1, 9, 3, 4, 5}, "NCDHW", 60},
	{tensor.Shape{1, 61, 33}, "N(1+D3*H4*W5)C", 60},
	{tensor.Shape{3, 27, 8}, "D(2+H5*-W5)C", 75},
	{tensor.Shape{61, 1, 8}, "(1+W5*H4*D3)NC", 60},
	{tensor.Shape{1, 9, 12, 11, 5}, "NDHWC", 9 * 12 * 11},
	{tensor.Shape{1, 1, 1, 1, 2048}, "NDHWC", 1},
}

func layoutOf(shape tensor.Shape, text string) (backend.Layout, error) {
	axes, err := ir.ParseAxes(text, shape)
	if err != nil {
		return backend.Layout{}, err
	}
	return backend.NewLayout(shape, axes)
}

func TestLayerMapsOnTheDevice(t *testing.T) {
	b := open(t, Options{})
	for place, where := range attributionPlaces {
		for _, l := range layerCases {
			layout, err := layoutOf(l.shape, l.axes)
			if err != nil {
				t.Fatal(err)
			}
			a, aHost := put(t, b, random(l.shape.Elements(), 1), where)
			g, gHost := put(t, b, random(l.shape.Elements(), 2), where)
			for _, c := range choices(t, atLayer) {
				got, want := empty(t, b, l.voxels, backend.OnDevice)
				err := errors.Join(
					b.LayerMap(got, c, backend.Layer{Activation: a, Gradient: g, Layout: layout, Score: 3.5}),
					hostmem.Attribution{}.LayerMap(want, c, backend.Layer{Activation: aHost, Gradient: gHost, Layout: layout, Score: 3.5}),
				)
				if err != nil {
					t.Fatal(err)
				}
				alike(t, fmt.Sprintf("%s, %s of %v", place, c.Key(), l.shape), got, want, 1e-6)
			}
		}
	}
}

// What is not finite is refused with the words of the host.
func TestNotFiniteOnTheDevice(t *testing.T) {
	b := open(t, Options{})
	layout, err := layoutOf(tensor.Shape{1, 2, 3, 4, 5}, "NDHWC")
	if err != nil {
		t.Fatal(err)
	}
	good, bad := random(120, 1), random(120, 2)
	bad[77] = float32(math.Inf(1))
	huge := random(120, 3)
	for i := range huge {
		huge[i] = math.MaxFloat32
	}
	for _, pair := range [][2][]float32{{good, bad}, {bad, good}, {huge, huge}} {
		a, aHost := put(t, b, pair[0], backend.OnDevice)
		g, gHost := put(t, b, pair[1], backend.OnDevice)
		got, want := empty(t, b, 24, backend.OnDevice)
		for _, c := range choices(t, func(c cam.Choice) bool { return !gathering(c) }) {
			var one, other error
			if atLayer(c) {
				one = b.LayerMap(got, c, backend.Layer{Activation: a, Gradient: g, Layout: layout})
				other = hostmem.Attribution{}.LayerMap(want, c, backend.Layer{Activation: aHost, Gradient: gHost, Layout: layout})
			} else {
				one, other = b.InputMap(got, c, a, g, 5), hostmem.Attribution{}.InputMap(want, c, aHost, gHost, 5)
			}
			if fmt.Sprint(one) != fmt.Sprint(other) {
				t.Errorf("%s: %v; on the host: %v", c.Key(), one, other)
			}
		}
	}
}

func TestHeatmapsOnTheDevice(t *testing.T) {
	b := open(t, Options{})
	all := map[string]cam.Choice{}
	for _, c := range choices(t, func(cam.Choice) bool { return true }) {
		all[c.Key()] = c
	}
	values := map[string]func(n int) []float32{
		"random":      func(n int) []float32 { return random(n, 5) },
		"negative":    func(n int) []float32 { return scaled(random(n, 5), -1, -9) },
		"constant":    func(n int) []float32 { return scaled(random(n, 5), 0, 2) },
		"almost":      func(n int) []float32 { return scaled(random(n, 5), 1e-8, 2) },
		"faint":       func(n int) []float32 { return scaled(random(n, 5), 1e-10, 0) },
		"one channel": func(n int) []float32 { x := make([]float32, n); x[n/2] = 1; return x },
	}
	for _, sizes := range [][2][3]int{
		{{2, 3, 4}, {8, 12, 16}}, {{3, 4, 5}, {7, 9, 11}}, {{1, 1, 1}, {4, 4, 4}}, {{4, 5, 6}, {4, 5, 6}}, {{5, 6, 7}, {5, 12, 3}},
		{{8, 4, 4}, {2, 16, 130}},
	} {
		for what, make := range values {
			for _, key := range []string{"gradcam/original", "saliency/original"} {
				for _, where := range attributionPlaces {
					from, to := sizes[0], sizes[1]
					signed, signedHost := put(t, b, make(from[0]*from[1]*from[2]), where)
					got, want := empty(t, b, to[0]*to[1]*to[2], where)
					if from == to {
						got = signed
					}
					one, err := b.Heatmap(got, signed, all[key], from, to)
					if err != nil {
						t.Fatal(err)
					}
					other, err := hostmem.Attribution{}.Heatmap(want, signedHost, all[key], from, to)
					if err != nil {
						t.Fatal(err)
					}
					if one != other {
						t.Errorf("%s of %v to %v, %s: finding %q, on the host %q", what, from, to, key, one, other)
					}
					alike(t, fmt.Sprint(what, sizes, key), got, want, 1e-6)
				}
			}
		}
	}
}

// scaled is a*x + b.
func scaled(x []float32, a, b float32) []float32 {
	for i := range x {
		x[i] = a*x[i] + b
	}
	return x
}

// activation is a layer [1, D, H, W, C] whose channels vary together, around means of their own, and little apart from that.
func activation(shape tensor.Shape, seed uint64) []float32 {
	channels := shape[4]
	x, common, means := random(shape.Elements(), seed), random(shape.Elements()/channels, seed+1), random(channels, seed+2)
	for i := range x {
		x[i] = 0.3*x[i] + common[i/channels] + 20*means[i%channels]
	}
	return x
}

// The principal component of a layer is found from sums that the device makes, in blocks of one tile and of more; where there is none,
// the answer is that of the host.
func TestPrincipalOnTheDevice(t *testing.T) {
	b := open(t, Options{})
	c := choices(t, func(c cam.Choice) bool { return c.Name == "eigencam" })[0]
	for _, l := range []struct {
		shape  tensor.Shape
		values func(tensor.Shape) []float32
		fails  bool
	}{
		{shape: tensor.Shape{1, 31, 30, 36, 3}}, // chunks of more than a tile
		{shape: tensor.Shape{1, 8, 9, 10, 33}},
		{shape: tensor.Shape{1, 4, 4, 4, 300}},
		{shape: tensor.Shape{1, 2, 2, 2, 1}},
		{tensor.Shape{1, 4, 4, 4, 5}, func(s tensor.Shape) []float32 { return scaled(random(s.Elements(), 1), 0, 3) }, false}, // a map of zeros
		{tensor.Shape{1, 1, 2, 2, 2}, func(tensor.Shape) []float32 { return []float32{1, 0, -1, 0, 0, 1, 0, -1} }, true},      // two of the same variance
	} {
		if l.values == nil {
			l.values = func(s tensor.Shape) []float32 { return activation(s, 3) }
		}
		layout, err := layoutOf(l.shape, "NDHWC")
		if err != nil {
			t.Fatal(err)
		}
		a, aHost := put(t, b, l.values(l.shape), backend.OnDevice)
		got, want := empty(t, b, layout.Voxels, backend.OnDevice)
		one := b.LayerMap(got, c, backend.Layer{Activation: a, Gradient: a, Layout: layout})
		other := hostmem.Attribution{}.LayerMap(want, c, backend.Layer{Activation: aHost, Gradient: aHost, Layout: layout})
		if fmt.Sprint(one) != fmt.Sprint(other) || (one != nil) != l.fails {
			t.Errorf("%v: %v; on the host: %v", l.shape, one, other)
		}
		if !l.fails {
			alike(t, fmt.Sprint(l.shape), got, want, 1e-7)
		}
	}
}

// Of what methods compute on the device nothing but sums and statistics leaves it.
func TestNothingLeavesTheDevice(t *testing.T) {
	if os.Getenv("VOXCAM_GPU") != "" {
		t.Skip("the simulator counts calls")
	}
	sim := simulator.Load(t)
	b := open(t, Options{})
	const voxels, channels = 64, 2
	layout, err := layoutOf(tensor.Shape{1, 4, 4, 4, channels}, "NDHWC")
	if err != nil {
		t.Fatal(err)
	}
	x, _ := put(t, b, activation(tensor.Shape{1, 4, 4, 4, channels}, 1), backend.OnDevice)
	point, _ := empty(t, b, voxels*channels, backend.OnDevice)
	signed, _ := empty(t, b, voxels, backend.OnDevice)
	copies := func(what string, most int, compute func() error) {
		t.Helper()
		before := sim.Calls("cuMemcpyDtoHAsync_v2")
		if err := compute(); err != nil {
			t.Fatal(err)
		}
		if n := sim.Calls("cuMemcpyDtoHAsync_v2") - before; n > most || n == 0 && most > 0 {
			t.Errorf("%s: %d copies to the host, want %d at most", what, n, most)
		}
	}
	copies("a point of a path", 0, func() error {
		return b.Perturb(point, x, channels, cam.Perturbation{Baseline: 1, Fraction: 0.25}, noise.Stream{})
	})
	for _, c := range choices(t, func(cam.Choice) bool { return true }) {
		switch {
		case gathering(c):
			m, err := b.NewMoments(voxels*channels, channels, backend.OnDevice, c)
			if err != nil {
				t.Fatal(err)
			}
			copies(c.Key(), 1, func() error {
				return errors.Join(m.Add(x, 1), m.Add(point, 0.5), m.Map(signed, c, x, 1), m.Close())
			})
		case atLayer(c):
			copies(c.Key(), 2+2*(channels+1), func() error {
				return b.LayerMap(signed, c, backend.Layer{Activation: x, Gradient: point, Layout: layout})
			})
		default:
			copies(c.Key(), 1, func() error { return b.InputMap(signed, c, x, point, channels) })
		}
	}
}
