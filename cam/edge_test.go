package cam

import (
	"math"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/parallel"
)

// Volumes of several pieces, and of several channels, give each voxel what it alone gives.
func TestInputMapInPieces(t *testing.T) {
	const channels, voxels = 2, 2*piece + 5
	p := InputPoint{Input: make([]float32, channels*voxels), Gradient: make([]float32, channels*voxels), Channels: channels}
	for i := range p.Input {
		p.Input[i], p.Gradient[i] = float32(i%13)-6, float32(i%7)-3
	}
	for name, of := range map[string]func(x, g float64) float64{
		"saliency":         func(_, g float64) float64 { return math.Abs(g) },
		"input-x-gradient": func(x, g float64) float64 { return x * g },
	} {
		m, err := choice(t, name, "").InputMap(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(m) != voxels {
			t.Fatalf("%s: %d voxels", name, len(m))
		}
		for v, got := range m {
			want := 0.0
			for i := v * channels; i < (v+1)*channels; i++ {
				want += of(float64(p.Input[i]), float64(p.Gradient[i]))
			}
			if float64(got) != want {
				t.Fatalf("%s: voxel %d is %v, want %v", name, v, got, want)
			}
		}
	}
}

// The same for draws.
func TestDrawMapInPieces(t *testing.T) {
	const channels, voxels = 2, 2*piece + 5
	g := make([]float32, channels*voxels)
	for i := range g {
		g[i] = float32(i%11) - 5
	}
	c := choice(t, "smoothgrad", "")
	m, err := c.PointsMap(Gathered{Moments: momentsOf(t, [][]float32{g}, channels, c)})
	if err != nil {
		t.Fatal(err)
	}
	for v, got := range m {
		if want := math.Abs(float64(g[2*v])) + math.Abs(float64(g[2*v+1])); float64(got) != want {
			t.Fatalf("voxel %d is %v, want %v", v, got, want)
		}
	}
}

// What is not finite is named by its voxel and channel, also in a part of a large map that another goroutine looks at.
func TestNotFiniteIsNamed(t *testing.T) {
	nan := float32(math.NaN())
	for _, c := range []struct {
		size     int
		bad      []int
		gradient bool
		want     string
	}{
		{12, []int{7, 11}, false, "2 of 12 values of the activation are not finite, the first at voxel 2, channel 1"},
		{12, []int{7}, true, "1 of 12 values of the gradient by the activation are not finite, the first at voxel 2, channel 1"},
		{3 << 18, []int{1<<18 + 4, 2<<18 + 1}, false, "2 of 786432 values of the activation are not finite, the first at voxel 87382, channel 2"},
	} {
		l := LayerPoint{Activation: make([]float32, c.size), Gradient: make([]float32, c.size), Channels: 3}
		values := l.Activation
		if c.gradient {
			values = l.Gradient
		}
		for _, i := range c.bad {
			values[i] = nan
		}
		if _, err := choice(t, "gradcam", "").LayerMap(l); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
	if parallel.Values != 1<<18 {
		t.Error("the large map is not of three parts")
	}
}

// Constants of a denominator have the sign of the formula, which shows where the rest of it is as small.
func TestDenominators(t *testing.T) {
	m, err := choice(t, "xgradcam", "").LayerMap(LayerPoint{Activation: []float32{1e-6}, Gradient: []float32{1}, Channels: 1})
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "xgradcam", m, []float64{1e-6 / 1.1e-6 * 1e-6}, 1e-6)
	for convention, constant := range map[string]float64{"original": 1e-8, "pytorch-grad-cam": 1e-6, "monai": 1e-7} {
		// One voxel of one channel, A = 1e-3 and g = 1e-4, where both conventions have A g^3 in the denominator.
		const a, g = 1e-3, 1e-4
		m, err := choice(t, "gradcam++", convention).LayerMap(LayerPoint{Activation: []float32{a}, Gradient: []float32{g}, Channels: 1})
		if err != nil {
			t.Fatal(err)
		}
		compare(t, "gradcam++ "+convention, m, []float64{g * g / (2*g*g + a*g*g*g + constant) * g * a}, 1e-6)
	}
}

func TestScoreFactor(t *testing.T) {
	for _, c := range []struct{ peak, score, want float64 }{
		{0, 2, math.Exp(2)}, {1, 2, math.Exp(2)}, {math.Inf(1), 2, math.Exp(2)}, {4, 1000, math.MaxFloat32 / 8}, {1e-3, 1000, math.MaxFloat32 / 2e-3},
	} {
		if got := ScoreFactor(c.peak, c.score); math.Abs(got/c.want-1) > 1e-12 {
			t.Errorf("a map up to %v with a score of %v is multiplied by %v, want %v", c.peak, c.score, got, c.want)
		}
	}
}

// Moments keep the mean, what the variance needs, absolute values and squares, and no more than the choices ask for.
func TestKept(t *testing.T) {
	for _, c := range []struct {
		choices [][2]string
		want    [4]bool // mean, m2, abs, square
	}{
		{[][2]string{{"smoothgrad", "original"}}, [4]bool{true, false, false, false}},
		{[][2]string{{"smoothgrad", "captum"}}, [4]bool{false, false, true, false}},
		{[][2]string{{"smoothgrad", "monai"}}, [4]bool{false, false, false, true}},
		{[][2]string{{"smoothgrad-squared", "original"}}, [4]bool{false, false, false, true}},
		{[][2]string{{"vargrad", "original"}}, [4]bool{true, true, false, false}},
		{[][2]string{{"vargrad", "captum"}, {"smoothgrad", "monai"}}, [4]bool{true, true, false, false}},
		{[][2]string{{"smoothgrad", "original"}, {"smoothgrad", "captum"}, {"smoothgrad-squared", "original"}}, [4]bool{true, false, true, true}},
		{nil, [4]bool{}},
	} {
		var choices []Choice
		for _, name := range c.choices {
			choices = append(choices, choice(t, name[0], name[1]))
		}
		var got [4]bool
		if got[0], got[1], got[2], got[3] = Kept(choices...); got != c.want {
			t.Errorf("%v keeps %v, want %v", c.choices, got, c.want)
		}
		arrays := 0
		for _, kept := range c.want {
			if kept {
				arrays++
			}
		}
		if got := MomentsBytes(10, 3, choices...); got != int64(arrays*120) {
			t.Errorf("%v takes %d bytes", c.choices, got)
		}
		m, err := NewMoments(10, 3, choices...)
		if err != nil {
			t.Fatal(err)
		}
		if m.StateLen() != arrays*30 {
			t.Errorf("%v has a state of %d values", c.choices, m.StateLen())
		}
		if err := m.Load(make([]float32, arrays*30), 0); err != nil || m.Draws() != 0 {
			t.Errorf("a state of no draws: %v", err)
		}
		if err := m.Load(make([]float32, arrays*30), -1); err == nil {
			t.Error("a state of less than no draws was loaded")
		}
	}
}

// A map is made of moments that have all that it needs, whatever they were made for.
func TestDrawMapsNeedTheirMoments(t *testing.T) {
	draws := randomDraws(5, 3, 8)
	everyChoice(noisy, func(madeFor string, owner Choice) {
		m := momentsOf(t, draws, 2, owner)
		everyChoice(noisy, func(name string, c Choice) {
			needs, has := keepOf([]Choice{c}), keepOf([]Choice{owner})
			if has&keepM2 != 0 { // which gives the square, too
				has |= keepMean | keepSquare
			}
			if _, err := c.PointsMap(Gathered{Moments: m}); (err == nil) != (needs&^has == 0) {
				t.Errorf("%s of moments for %s: %v", name, madeFor, err)
			}
		})
	})
}

// Moments that were gathered elsewhere give the maps of those gathered here; what does not fit together is refused.
func TestMomentsOf(t *testing.T) {
	choices := allDrawChoices()
	m := momentsOf(t, randomDraws(6, 4, 12), 3, choices...)
	same, err := MomentsOf(4, 3, m.mean, m.m2, m.abs, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range choices {
		want, err := c.PointsMap(Gathered{Moments: m})
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.PointsMap(Gathered{Moments: same})
		if err != nil {
			t.Fatal(err)
		}
		compare(t, c.Name, got, want, 0)
	}
	long, short := make([]float32, 12), make([]float32, 9)
	for name, c := range map[string]struct {
		channels              int
		mean, m2, abs, square []float32
	}{
		"another size of m2":     {3, long, short, nil, nil},
		"another size of abs":    {3, nil, long, short, nil},
		"another size of square": {3, nil, nil, short, long},
		"a part of a voxel":      {5, long, nil, nil, nil},
		"no channels":            {0, long, nil, nil, nil},
		"less than no channels":  {-3, long, nil, nil, nil},
	} {
		if _, err := MomentsOf(4, c.channels, c.mean, c.m2, c.abs, c.square); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, channels := range []int{1, 12} {
		if m, err := MomentsOf(4, channels, nil, nil, nil, long); err != nil || m.size != 12 {
			t.Errorf("%d channels: %v", channels, err)
		}
	}
}

func TestWhatMomentsAreNot(t *testing.T) {
	c := choice(t, "smoothgrad", "")
	for _, size := range [][2]int{{0, 1}, {1, 0}, {-1, 1}, {1, -1}, {math.MaxInt / 4, 8}} {
		if _, err := NewMoments(size[0], size[1], c); err == nil {
			t.Errorf("moments of %d voxels of %d channels", size[0], size[1])
		}
	}
	m, err := NewMoments(4, 2, c)
	if err != nil {
		t.Fatal(err)
	}
	for _, incomplete := range []int{0, 1} {
		pair := [2]*Moments{momentsOf(t, randomDraws(7, 2, 8), 2, c), momentsOf(t, randomDraws(8, 2, 8), 2, c)}
		if err := pair[incomplete].AddSlab(0, make([]float32, 4)); err != nil {
			t.Fatal(err)
		}
		if err := pair[0].Merge(pair[1]); err == nil || !strings.Contains(err.Error(), "incomplete draw") {
			t.Errorf("merged with an incomplete draw of moments %d: %v", incomplete, err)
		}
	}
	if err := m.AddSlab(5, make([]float32, 4)); err == nil || !strings.Contains(err.Error(), "slab [5, 9) is outside of the 8 values") {
		t.Errorf("%v", err)
	}
}

// Edges of what is asked for.
func TestNamesAndNumbersAtTheirEdges(t *testing.T) {
	c, err := ParseConventions("gradcam++=paper, ,smoothgrad=captum,")
	if err != nil || len(c) != 2 || c["smoothgrad"] != "captum" {
		t.Errorf("%v, %v", c, err)
	}
	if got := (&UnknownError{Name: "gradcax", Known: []string{"gradcam", "gradcat"}}).Nearest(); got != "gradcam" {
		t.Errorf("of two that are as near, the first is %q", got)
	}
	if got := (&UnknownError{Name: "abcdefghi", Known: []string{"abcdefxyz", "abcdewxyz"}}).Nearest(); got != "abcdefxyz" {
		t.Errorf("a third of the letters may differ: %q", got)
	}
	if got := (&UnknownError{Name: "abc", Known: []string{"xyz"}}).Nearest(); got != "" {
		t.Errorf("what does not resemble is not meant: %q", got)
	}
	if _, err := Upsample(nil, [3]int{math.MaxInt / 4, 1, 1}, [3]int{1, 1, 1}); err == nil || !strings.Contains(err.Error(), "the map has 0 values") {
		t.Errorf("%v", err)
	}
	if _, err := Upsample(nil, [3]int{math.MaxInt / 4, 2, 1}, [3]int{1, 1, 1}); err == nil || !strings.Contains(err.Error(), "no map of size") {
		t.Errorf("%v", err)
	}
}
