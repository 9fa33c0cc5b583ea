package phantom

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

func generate(t *testing.T, p Params) *Phantom {
	t.Helper()
	ph, err := Generate(p)
	if err != nil {
		t.Fatal(err)
	}
	return ph
}

// TestBytes pins one phantom of each grade: the demonstration model was trained on exactly these drawings, and they must be
// the same on a processor that fuses multiply and add (GOAMD64=v3 go test).
func TestBytes(t *testing.T) {
	want := [Grades]string{
		Normal:       "2d39c24754093d24",
		Early:        "e41085270b413e01",
		Intermediate: "e72739dbdb1960cc",
		Advanced:     "ef4818a71be46ded",
	}
	for g, sum := range want {
		h := sha256.New()
		for seed := range uint64(6) {
			p := generate(t, Params{Seed: seed, Grade: Grade(g)})
			h.Write(p.Image)
			h.Write(p.Mask)
		}
		if got := hex.EncodeToString(h.Sum(nil))[:16]; got != sum {
			t.Errorf("%v: image and mask hash to %s, want %s", Grade(g), got, sum)
		}
	}
}

func TestRepeatsAndVaries(t *testing.T) {
	a := generate(t, Params{Seed: 1, Grade: Advanced})
	b := generate(t, Params{Seed: 1, Grade: Advanced})
	c := generate(t, Params{Seed: 2, Grade: Advanced})
	if !bytes.Equal(a.Image, b.Image) || !bytes.Equal(a.Mask, b.Mask) {
		t.Error("the same parameters gave different phantoms")
	}
	if bytes.Equal(a.Image, c.Image) || bytes.Equal(a.Mask, c.Mask) {
		t.Error("different seeds gave the same phantom")
	}
}

// TestLesions checks that the masks hold what the grades promise, in the default and in an odd size.
func TestLesions(t *testing.T) {
	for _, dims := range [][3]int{DefaultDims, {17, 48, 50}} {
		var mean [Grades]float64
		const seeds = 20
		for g := range Grades {
			for seed := range uint64(seeds) {
				p := generate(t, Params{Seed: seed, Grade: Grade(g), Dims: dims})
				n := 0
				for _, m := range p.Mask {
					n += int(m)
				}
				if (n == 0) != (Grade(g) == Normal) {
					t.Errorf("%v, seed %d, %v: %d lesion voxels", Grade(g), seed, dims, n)
				}
				mean[g] += float64(n) / seeds
			}
		}
		if mean[Intermediate] < 3*mean[Early] {
			t.Errorf("%v: mean lesion volume %.0f voxels for intermediate, %.0f for early: want at least three times as much",
				dims, mean[Intermediate], mean[Early])
		}
	}
}

// TestLayers finds the order of brightness that an OCT has, in the mean over the A-scans of normal eyes.
func TestLayers(t *testing.T) {
	for seed := range uint64(5) {
		p := generate(t, Params{Seed: seed, Grade: Normal})
		band := func(lo, hi int) float64 {
			sum, n := 0.0, 0
			for d := range p.Dims[0] {
				for h := lo; h < hi; h++ {
					for w := range p.Dims[2] {
						sum += float64(p.Image[(d*p.Dims[1]+h)*p.Dims[2]+w])
						n++
					}
				}
			}
			return sum / float64(n)
		}
		vitreous, brightest, sclera := band(0, 8), 0.0, band(60, 64)
		for h := 30; h < 52; h++ {
			brightest = max(brightest, band(h, h+1))
		}
		if vitreous > 40 || brightest < 2*vitreous || sclera > brightest {
			t.Errorf("seed %d: vitreous %.0f, brightest plane %.0f, sclera %.0f", seed, vitreous, brightest, sclera)
		}
	}
}

func TestRefuses(t *testing.T) {
	for _, p := range []Params{
		{Grade: -1},
		{Grade: 4},
		{Dims: [3]int{32, 64, 15}},
		{Dims: [3]int{0, 64, 64}},
		{Dims: [3]int{32, 1 << 11, 64}},
	} {
		if _, err := Generate(p); err == nil {
			t.Errorf("%+v: no error", p)
		}
	}
}

func TestDilate(t *testing.T) {
	dims := [3]int{5, 6, 7}
	mask := make([]uint8, 5*6*7)
	mask[(2*6+3)*7+3] = 1
	count := func(radius float64) (n int) {
		for _, m := range Dilate(mask, dims, radius) {
			n += int(m)
		}
		return n
	}
	for _, c := range []struct {
		radius float64
		voxels int
	}{{0, 1}, {1, 7}, {1.5, 19}, {2, 33}} { // lattice points within a ball
		if got := count(c.radius); got != c.voxels {
			t.Errorf("radius %g: %d voxels, want %d", c.radius, got, c.voxels)
		}
	}
	corner := make([]uint8, len(mask))
	corner[0] = 1
	grown := Dilate(corner, dims, 1)
	for _, v := range [][3]int{{0, 0, 0}, {1, 0, 0}, {0, 1, 0}, {0, 0, 1}} {
		if !Marked(grown, dims, v) {
			t.Errorf("corner: %v is not marked", v)
		}
	}
	if Marked(grown, dims, [3]int{0, 0, 6}) || Marked(grown, dims, [3]int{1, 1, 0}) {
		t.Error("corner: marks beyond the ball")
	}
}

func TestPeak(t *testing.T) {
	heat := make([]float32, 2*3*4)
	heat[1*12+2*4+1], heat[23] = 5, 5
	if got := Peak(heat, [3]int{2, 3, 4}); got != [3]int{1, 2, 1} {
		t.Errorf("peak at %v", got)
	}
}

func TestPointedAt(t *testing.T) {
	p := &Phantom{Params: Params{Dims: [3]int{4, 4, 8}}, Mask: make([]uint8, 128)}
	p.Mask[1*32+1*8+1] = 1
	for w, want := range []bool{true, true, true, true, false, false} {
		heat := make([]float32, 128)
		heat[1*32+1*8+w] = 1
		if got := p.PointedAt(heat, 2); got != want {
			t.Errorf("maximum %d voxels away: %v, want %v", w-1, got, want)
		}
	}
}

func BenchmarkGenerate(b *testing.B) {
	for i := range b.N {
		if _, err := Generate(Params{Seed: uint64(i), Grade: Grade(i % Grades)}); err != nil {
			b.Fatal(err)
		}
	}
}
