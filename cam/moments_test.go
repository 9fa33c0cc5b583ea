package cam

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/parallel"
)

func allDrawChoices() (choices []Choice) {
	everyChoice(noisy, func(_ string, c Choice) { choices = append(choices, c) })
	return choices
}

func randomDraws(seed uint64, n, size int) [][]float32 {
	rng := rand.New(rand.NewPCG(seed, 0))
	base := make([]float64, size)
	for i := range base {
		base[i] = rng.NormFloat64()
	}
	draws := make([][]float32, n)
	for k := range draws {
		draws[k] = make([]float32, size)
		for i := range base {
			draws[k][i] = float32(base[i] + 0.1*rng.NormFloat64())
		}
	}
	return draws
}

// Each way of handing over the same draws gives the same maps, to rounding of the float32 state; slabs give the same bits.
func TestMomentsOrderChunksAndMerge(t *testing.T) {
	const channels, voxels, n = 2, 30, 50
	draws := randomDraws(1, n, channels*voxels)
	choices := allDrawChoices()
	want := momentsOf(t, draws, channels, choices...)

	reversed := slices.Clone(draws)
	slices.Reverse(reversed)

	slabs, err := NewMoments(voxels, channels, choices...)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(2, 0))
	for _, g := range draws {
		cuts := []int{0, len(g)}
		for range rng.IntN(5) {
			cuts = append(cuts, rng.IntN(len(g)+1))
		}
		slices.Sort(cuts)
		for _, k := range rng.Perm(len(cuts) - 1) {
			if err := slabs.AddSlab(cuts[k], g[cuts[k]:cuts[k+1]]); err != nil {
				t.Fatal(err)
			}
		}
	}

	merged := momentsOf(t, draws[:7], channels, choices...)
	empty, err := NewMoments(voxels, channels, choices...)
	if err != nil {
		t.Fatal(err)
	}
	one, rest := momentsOf(t, draws[7:8], channels, choices...), momentsOf(t, draws[8:], channels, choices...)
	for _, part := range []*Moments{one, empty, rest} {
		if err := merged.Merge(part); err != nil {
			t.Fatal(err)
		}
	}
	if err := empty.Merge(want); err != nil {
		t.Fatal(err)
	}

	for what, m := range map[string]*Moments{
		"reversed": momentsOf(t, reversed, channels, choices...), "slabs": slabs, "merged": merged, "into empty": empty,
	} {
		if m.Draws() != n {
			t.Errorf("%s: %d draws, want %d", what, m.Draws(), n)
		}
		everyChoice(noisy, func(name string, c Choice) {
			a, err := c.PointsMap(Gathered{Moments: want})
			if err != nil {
				t.Fatal(err)
			}
			b, err := c.PointsMap(Gathered{Moments: m})
			if err != nil {
				t.Fatal(err)
			}
			tolerance := 2e-6
			if what == "slabs" {
				tolerance = 0
			}
			compare(t, what+": "+name, b, a, tolerance)
		})
	}
}

// The variance of values far from zero is what a sum of squares would lose.
func TestVarianceFarFromZero(t *testing.T) {
	draws := make([][]float32, 100)
	mean, m2 := 0.0, 0.0
	for k := range draws {
		draws[k] = []float32{1000 + float32(k%7)}
		mean += float64(draws[k][0]) / float64(len(draws))
	}
	for _, d := range draws {
		m2 += (float64(d[0]) - mean) * (float64(d[0]) - mean)
	}
	c := choice(t, "vargrad", "")
	got, err := c.PointsMap(Gathered{Moments: momentsOf(t, draws, 1, c)})
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "variance", got, []float64{m2 / 99}, 1e-4)
}

func TestMomentsKeepWhatIsNeeded(t *testing.T) {
	for _, v := range []struct {
		methods []string // method or method/convention
		arrays  int64
	}{
		{[]string{"smoothgrad"}, 1},
		{[]string{"vargrad"}, 2},
		{[]string{"smoothgrad", "vargrad"}, 2},
		{[]string{"smoothgrad-squared"}, 1},
		{[]string{"smoothgrad", "vargrad", "smoothgrad-squared"}, 2}, // squares follow from mean and variance
		{[]string{"smoothgrad", "smoothgrad-squared"}, 2},
	} {
		var choices []Choice
		for _, name := range v.methods {
			choices = append(choices, choice(t, name, ""))
		}
		if got, want := MomentsBytes(10, 3, choices...), v.arrays*10*3*4; got != want {
			t.Errorf("%v: %d bytes, want %d", v.methods, got, want)
		}
		m, err := NewMoments(10, 3, choices...)
		if err != nil {
			t.Fatal(err)
		}
		held := 0
		for _, a := range [][]float32{m.mean, m.m2, m.abs, m.square} {
			held += 4 * len(a)
		}
		if want := MomentsBytes(10, 3, choices...); int64(held) != want {
			t.Errorf("%v: holds %d bytes, said %d", v.methods, held, want)
		}
		g := make([]float32, 30)
		if allocs := testing.AllocsPerRun(20, func() {
			if err := m.Add(g); err != nil {
				t.Fatal(err)
			}
		}); allocs > 0 {
			t.Errorf("%v: %g allocations a draw, want none", v.methods, allocs)
		}
	}
	m, err := NewMoments(4, 1, choice(t, "smoothgrad", ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := choice(t, "vargrad", "").PointsMap(Gathered{Moments: m}); err == nil {
		t.Error("a variance came from moments without it")
	}
}

func TestMomentsRefuse(t *testing.T) {
	c := choice(t, "vargrad", "")
	m := momentsOf(t, randomDraws(3, 3, 8), 2, c)
	before, err := c.PointsMap(Gathered{Moments: m})
	if err != nil {
		t.Fatal(err)
	}
	bad := make([]float32, 8)
	bad[5] = float32(math.NaN())
	if err := m.Add(bad); !errors.Is(err, ErrNotFinite) {
		t.Errorf("NaN: %v", err)
	}
	for what, err := range map[string]error{
		"short":          m.Add(make([]float32, 7)),
		"behind the end": m.AddSlab(4, make([]float32, 5)),
		"negative":       m.AddSlab(-1, make([]float32, 2)),
		"overflow":       m.AddSlab(math.MaxInt, make([]float32, 2)),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	after, err := c.PointsMap(Gathered{Moments: m})
	if err != nil || !slices.Equal(before, after) {
		t.Errorf("a refused draw changed the moments: %v", err)
	}

	if err := m.AddSlab(2, make([]float32, 3)); err != nil {
		t.Fatal(err)
	}
	for _, first := range []int{0, 1, 2, 4} {
		if err := m.AddSlab(first, make([]float32, 3)); err == nil {
			t.Errorf("a slab at %d overlaps and is accepted", first)
		}
	}
	if _, err := c.PointsMap(Gathered{Moments: m}); err == nil {
		t.Error("a map of an incomplete draw")
	}
	if err := m.Merge(m); err == nil {
		t.Error("an incomplete draw was merged")
	}
	other := momentsOf(t, randomDraws(3, 3, 8), 2, choice(t, "smoothgrad", ""))
	if err := other.Merge(momentsOf(t, randomDraws(3, 3, 8), 2, c)); err == nil {
		t.Error("moments for different methods were merged")
	}
	if err := other.Merge(momentsOf(t, randomDraws(3, 3, 6), 2, choice(t, "smoothgrad", ""))); err == nil {
		t.Error("moments of different sizes were merged")
	}
	if _, err := c.PointsMap(Gathered{Moments: momentsOf(t, randomDraws(3, 1, 8), 2, c)}); err == nil {
		t.Error("a variance of one draw with divisor n - 1")
	}
}

func BenchmarkMoments(b *testing.B) {
	const size = 1 << 20
	g := make([]float32, size)
	smooth, err := Choose([]string{"smoothgrad", "vargrad"}, nil)
	if err != nil {
		b.Fatal(err)
	}
	m, err := NewMoments(size, 1, smooth...)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(4 * size)
	for b.Loop() {
		if err := m.Add(g); err != nil {
			b.Fatal(err)
		}
	}
}

// Moments that were saved and loaded go on as if nothing had been.
func TestMomentsGoOnFromASavedState(t *testing.T) {
	const channels, voxels, n = 2, 30, 9
	draws := randomDraws(3, n, channels*voxels)
	choices := allDrawChoices()
	want := momentsOf(t, draws, channels, choices...)
	half := momentsOf(t, draws[:4], channels, choices...)
	state := make([]float32, half.StateLen())
	if err := half.Save(state); err != nil {
		t.Fatal(err)
	}
	got := momentsOf(t, draws[5:], channels, choices...) // of something else
	if err := got.Load(state, 4); err != nil {
		t.Fatal(err)
	}
	for _, g := range draws[4:] {
		if err := got.Add(g); err != nil {
			t.Fatal(err)
		}
	}
	for i, a := range got.kept() {
		if !slices.Equal(a, want.kept()[i]) {
			t.Errorf("array %d differs", i)
		}
	}
	if got.Draws() != n {
		t.Errorf("%d draws", got.Draws())
	}
	if err := got.Load(state[1:], 4); err == nil {
		t.Error("a state of another size is taken")
	}
}

// Gradients so large that several processors take part give what one gives.
func TestMomentsOfLargeGradients(t *testing.T) {
	const size = 2*parallel.Values + 12345
	rng := rand.New(rand.NewPCG(5, 0))
	choices := allDrawChoices()
	whole, err := NewMoments(size, 1, choices...)
	if err != nil {
		t.Fatal(err)
	}
	slabs, err := NewMoments(size, 1, choices...)
	if err != nil {
		t.Fatal(err)
	}
	g := make([]float32, size)
	for range 3 {
		for i := range g {
			g[i] = float32(rng.NormFloat64())
		}
		if err := whole.Add(g); err != nil {
			t.Fatal(err)
		}
		for at := 0; at < size; at += 100_000 { // too short to be shared out
			if err := slabs.AddSlab(at, g[at:min(size, at+100_000)]); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, a := range whole.kept() {
		if !slices.Equal(a, slabs.kept()[i]) {
			t.Errorf("array %d differs", i)
		}
	}
	g[parallel.Values+7], g[2*parallel.Values+1] = float32(math.NaN()), float32(math.Inf(1))
	if err := whole.Add(g); !errors.Is(err, ErrNotFinite) || !strings.Contains(err.Error(), fmt.Sprintf("2 values of the gradient are %v, the first is value %d", ErrNotFinite, parallel.Values+7)) {
		t.Error(err)
	}
}
