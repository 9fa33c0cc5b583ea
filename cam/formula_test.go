package cam

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
)

// fixture is testdata/formulas.json, which testdata/make.py writes: every formula in PyTorch and float64.
type fixture struct {
	Layers []struct {
		Name                 string
		Channels             int
		Score                float64
		Activation, Gradient []float32
		Maps                 map[string][]float64
	}
	Draws []struct {
		Channels int
		Draws    [][]float32
		Maps     map[string][]float64
	}
	Paths []struct {
		Channels, Steps      int
		Baseline             float32
		Volume               []float32
		Nodes, Weights       []float64
		Gradients            [][]float32
		Score, BaselineScore float32
		Maps                 map[string][]float64
	}
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

// Which conventions.
func looksAtLayer(c Convention) bool  { return c.Kind() == AtLayer }
func looksAtVolume(c Convention) bool { return c.Kind() == AtInput && c.Sampling() == Once }
func noisy(c Convention) bool         { return c.Sampling() == Noisy }

// everyChoice calls f for each convention of each method that is wanted.
func everyChoice(wanted func(Convention) bool, f func(name string, c Choice)) {
	for _, m := range table {
		for _, v := range m.Conventions {
			if wanted(v) {
				f(m.Name+"/"+v.Name, Choice{m, v})
			}
		}
	}
}

func TestFormulas(t *testing.T) {
	var fix fixture
	readJSON(t, "testdata/formulas.json", &fix)
	for _, l := range fix.Layers {
		t.Run(l.Name, func(t *testing.T) {
			everyChoice(looksAtLayer, func(name string, c Choice) {
				want, ok := l.Maps[name]
				if !ok {
					t.Errorf("%s: no reference: add it to testdata/make.py", name)
					return
				}
				got, err := c.LayerMap(LayerPoint{Activation: l.Activation, Gradient: l.Gradient, Channels: l.Channels, Score: l.Score})
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				compare(t, name, got, want, 2e-7)
			})
		})
	}
	for _, d := range fix.Draws {
		var choices []Choice
		everyChoice(noisy, func(_ string, c Choice) { choices = append(choices, c) })
		all := momentsOf(t, d.Draws, d.Channels, choices...)
		everyChoice(noisy, func(name string, c Choice) {
			want, ok := d.Maps[name]
			if !ok {
				t.Errorf("%s: no reference: add it to testdata/make.py", name)
				return
			}
			// Alone and beside the others: the stored quantities differ.
			for _, m := range []*Moments{momentsOf(t, d.Draws, d.Channels, c), all} {
				got, err := c.PointsMap(Gathered{Moments: m})
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				compare(t, name, got, want, 1e-6)
			}
		})
	}
}

func momentsOf(t *testing.T, draws [][]float32, channels int, choices ...Choice) *Moments {
	t.Helper()
	m, err := NewMoments(len(draws[0])/channels, channels, choices...)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range draws {
		if err := m.Add(g); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func TestInputFormulas(t *testing.T) {
	p := InputPoint{Input: []float32{1, 2, -3, 4}, Gradient: []float32{-1, 0.5, 2, -2}, Channels: 2}
	for name, want := range map[string][]float32{"saliency": {1.5, 4}, "input-x-gradient": {0, -14}} {
		got, err := choice(t, name, "").InputMap(p)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s = %v, %v; want %v", name, got, err, want)
		}
	}
	if _, err := choice(t, "saliency", "").InputMap(InputPoint{Gradient: p.Gradient, Channels: 1}); err != nil {
		t.Errorf("saliency asks for the input: %v", err)
	}
}

// The monai convention multiplies by exp(S), which leaves float32 for scores over 88; the paper's factor is left out.
func TestLargeScoresStayFinite(t *testing.T) {
	l := LayerPoint{Activation: []float32{1, 2, 3, 4}, Gradient: []float32{1, 0.5, -1, 2}, Channels: 2}
	for _, name := range []string{"paper", "monai"} {
		c := choice(t, "gradcam++", name)
		m, err := c.LayerMap(l)
		if err != nil {
			t.Fatal(err)
		}
		want, _, err := c.Heatmap(m, [3]int{1, 1, 2}, [3]int{1, 1, 4})
		if err != nil {
			t.Fatal(err)
		}
		for _, score := range []float64{20, 88, 700, 1e6} {
			big := l
			big.Score = score
			m, err := c.LayerMap(big)
			if err != nil {
				t.Errorf("%s, S = %g: %v", name, score, err)
				continue
			}
			got, _, err := c.Heatmap(m, [3]int{1, 1, 2}, [3]int{1, 1, 4})
			if err != nil {
				t.Errorf("%s, S = %g: %v", name, score, err)
				continue
			}
			compare(t, name, got, want, 1e-6)
		}
	}
}

func TestNotFiniteIsAnError(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, bad := range []float32{nan, inf, -inf} {
		everyChoice(looksAtLayer, func(name string, c Choice) {
			l := LayerPoint{Activation: []float32{1, bad, 1, 1}, Gradient: []float32{1, 1, 1, 1}, Channels: 2}
			if _, err := c.LayerMap(l); !errors.Is(err, ErrNotFinite) {
				t.Errorf("%s with %g in the activation: %v", name, bad, err)
			}
			if _, alone := c.Convention.rule.(ofActivation); alone {
				return
			}
			l = LayerPoint{Activation: []float32{1, 1, 1, 1}, Gradient: []float32{1, bad, 1, 1}, Channels: 2}
			if _, err := c.LayerMap(l); !errors.Is(err, ErrNotFinite) {
				t.Errorf("%s with %g in the gradient: %v", name, bad, err)
			}
		})
		everyChoice(looksAtVolume, func(name string, c Choice) {
			p := InputPoint{Input: []float32{1, 1}, Gradient: []float32{1, bad}, Channels: 1}
			if _, err := c.InputMap(p); !errors.Is(err, ErrNotFinite) {
				t.Errorf("%s with %g in the gradient: %v", name, bad, err)
			}
		})
		line := [3]int{1, 1, 2}
		if _, _, err := choice(t, "gradcam", "").Heatmap([]float32{1, bad}, line, line); !errors.Is(err, ErrNotFinite) {
			t.Errorf("heatmap of %g: %v", bad, err)
		}
	}
}

// Finite input can still leave float32, or meet a denominator of zero, which these conventions guard.
func TestOverflowIsAnError(t *testing.T) {
	big := float32(math.MaxFloat32)
	l := LayerPoint{Activation: []float32{big, big}, Gradient: []float32{big, big}, Channels: 1}
	if _, err := choice(t, "gradcam", "").LayerMap(l); !errors.Is(err, ErrNotFinite) {
		t.Errorf("overflow: %v", err)
	}
	l = LayerPoint{Activation: []float32{-2, 0}, Gradient: []float32{1, 1}, Channels: 1}
	for name, want := range map[string][]float32{"monai": {-4 / (1 + 1e-7), 0}, "paper": {0, 0}} {
		got, err := choice(t, "gradcam++", name).LayerMap(l)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		compare(t, name, got, want, 1e-7)
	}
}

func TestWrongSizesAreErrors(t *testing.T) {
	gradcam, smooth, saliency := choice(t, "gradcam", ""), choice(t, "smoothgrad", ""), choice(t, "saliency", "")
	for name, call := range map[string]func() error{
		"no values":   func() error { _, err := gradcam.LayerMap(LayerPoint{Channels: 1}); return err },
		"no channels": func() error { _, err := gradcam.LayerMap(LayerPoint{Activation: make([]float32, 2)}); return err },
		"channels": func() error {
			_, err := gradcam.LayerMap(LayerPoint{make([]float32, 3), make([]float32, 3), 2, 0})
			return err
		},
		"gradient": func() error {
			_, err := gradcam.LayerMap(LayerPoint{make([]float32, 4), make([]float32, 2), 2, 0})
			return err
		},
		"layer of draws": func() error {
			_, err := smooth.LayerMap(LayerPoint{make([]float32, 2), make([]float32, 2), 2, 0})
			return err
		},
		"input of layer":    func() error { _, err := gradcam.InputMap(InputPoint{nil, make([]float32, 2), 1}); return err },
		"input gradient":    func() error { _, err := saliency.InputMap(InputPoint{nil, nil, 1}); return err },
		"draws of layer":    func() error { _, err := gradcam.PointsMap(Gathered{Moments: &Moments{}}); return err },
		"moments of layer":  func() error { _, err := NewMoments(1, 1, gradcam); return err },
		"no moments":        func() error { _, err := NewMoments(0, 1, smooth); return err },
		"too large moments": func() error { _, err := NewMoments(math.MaxInt/2, 8, smooth); return err },
		"heatmap": func() error {
			_, _, err := gradcam.Heatmap(make([]float32, 5), [3]int{1, 2, 2}, [3]int{2, 2, 2})
			return err
		},
		"no axis":  func() error { _, err := Upsample(nil, [3]int{0, 1, 1}, [3]int{1, 1, 1}); return err },
		"negative": func() error { _, err := Upsample(make([]float32, 1), [3]int{1, 1, 1}, [3]int{-1, -1, 1}); return err },
		"too large": func() error {
			_, err := Upsample(make([]float32, 1), [3]int{1, 1, 1}, [3]int{math.MaxInt / 2, 3, 1})
			return err
		},
	} {
		if call() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestTableIsComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range table {
		if seen[m.Name] || m.Name != strings.ToLower(m.Name) || group(m.Name) != nil {
			t.Errorf("%s: the name is taken, or not lower case, or that of a group", m.Name)
		}
		seen[m.Name] = true
		if m.Citation == "" || len(m.Conventions) == 0 {
			t.Errorf("%s: no citation or no convention", m.Name)
		}
		names := map[string]bool{}
		for _, c := range m.Conventions {
			what := m.Name + "/" + c.Name
			if names[c.Name] || c.Formula == "" {
				t.Errorf("%s: named twice or without formula", what)
			}
			names[c.Name] = true
			if c.rule == nil || !hasFormula(c.rule) {
				t.Errorf("%s: no arithmetic", what)
				continue
			}
			kept, _, gathers := c.gathers()
			if gathers != (c.Sampling() != Once) || gathers != (kept != 0) || noisy(c) != (c.MinDraws() > 0) {
				t.Errorf("%s: evaluates %v, keeps %b, at least %d draws", what, c.Sampling(), kept, c.MinDraws())
			}
			if m.Positive != looksAtLayer(c) {
				t.Errorf("%s: ReLU %t", what, m.Positive)
			}
		}
	}
}

// hasFormula reports whether the function of a rule is set.
func hasFormula(r rule) bool {
	switch r := r.(type) {
	case ofLayer:
		return r.make != nil
	case ofActivation:
		return r.make != nil
	case ofInput:
		return r.make != nil
	case ofNoise:
		return r.make != nil
	case ofPath:
		return r.make != nil
	}
	return false
}

// What a row says of itself decides which of the functions take it: each convention has exactly one.
func TestRulesDecideWhatTakesThem(t *testing.T) {
	one := []float32{1, 2}
	m, err := MomentsOf(2, 1, one, one, one, one)
	if err != nil {
		t.Fatal(err)
	}
	everyChoice(func(Convention) bool { return true }, func(name string, c Choice) {
		_, layer := c.LayerMap(LayerPoint{Activation: one, Gradient: one, Channels: 1})
		_, input := c.InputMap(InputPoint{Input: one, Gradient: one, Channels: 1})
		_, points := c.PointsMap(Gathered{Moments: m, Volume: one})
		want := [3]bool{looksAtLayer(c.Convention), looksAtVolume(c.Convention), c.Convention.Sampling() != Once}
		if got := [3]bool{layer == nil, input == nil, points == nil}; got != want {
			t.Errorf("%s: %v (%v, %v, %v), want %v", name, got, layer, input, points, want)
		}
		listed, err := c.Points(Request{NSamples: 2, NoiseLevel: 1, Steps: 2, Baseline: "zero", Quadrature: "midpoint"}, 0, 1)
		if err != nil || (listed != nil) != want[2] {
			t.Errorf("%s: points %v, %v", name, listed, err)
		}
	})
}

func TestExpand(t *testing.T) {
	for list, want := range map[string]string{
		"gradcam":                   "gradcam",
		"both":                      "gradcam,gradcam++",
		"all":                       "gradcam,gradcam++,smoothgrad,vargrad",
		" VarGrad , both,gradcam, ": "vargrad,gradcam,gradcam++",
		"gradcam++,all":             "gradcam++,gradcam,smoothgrad,vargrad",
		"hirescam,smoothgrad":       "hirescam,smoothgrad",
	} {
		got, err := Expand(list)
		if err != nil || strings.Join(got, ",") != want {
			t.Errorf("Expand(%q) = %v, %v; want %s", list, got, err, want)
		}
	}
	for list, want := range map[string]string{
		"gradcm":         `"gradcm" (did you mean "gradcam"?)`,
		"both,vargard":   `"vargard" (did you mean "vargrad"?)`,
		"bth":            `(did you mean "both"?)`,
		"lime":           `unknown method "lime": choose from gradcam, gradcam++,`,
		"":               "no method is named: choose from gradcam,",
		" , ":            "no method is named",
		"gradcam,\x00+%": "unknown method",
	} {
		if got, err := Expand(list); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Expand(%q) = %v, %v; want an error with %q", list, got, err, want)
		}
	}
}

func TestChoose(t *testing.T) {
	got, err := Choose([]string{"vargrad", "gradcam++"}, map[string]string{"gradcam++": "paper", "smoothgrad": "captum"})
	if err != nil || len(got) != 2 || got[0].Name != "vargrad" || got[0].Convention.Name != "original" ||
		got[1].Name != "gradcam++" || got[1].Convention.Name != "paper" {
		t.Errorf("Choose = %v, %v", got, err)
	}
	for _, bad := range []map[string]string{{"gradcam++": "papr"}, {"gradcam+": "paper"}, {"smoothgrad": "paper"}} {
		if _, err := Choose([]string{"gradcam"}, bad); err == nil {
			t.Errorf("convention %v was accepted", bad)
		}
	}
	_, err = Choose(nil, map[string]string{"gradcam++": "papr"})
	want := `unknown convention of gradcam++ "papr" (did you mean "paper"?): choose from original, paper, pytorch-grad-cam, monai`
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if _, err := Choose([]string{"both"}, nil); err == nil {
		t.Error("a group was taken for a method")
	}
}

func TestParseConventions(t *testing.T) {
	got, err := ParseConventions(" gradcam++ = Paper,smoothgrad=captum,gradcam++=paper,")
	if err != nil || len(got) != 2 || got["gradcam++"] != "paper" || got["smoothgrad"] != "captum" {
		t.Errorf("ParseConventions = %v, %v", got, err)
	}
	for _, bad := range []string{"paper", "=paper", "gradcam++=", "vargrad=captum,vargrad=original"} {
		if _, err := ParseConventions(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestSigma(t *testing.T) {
	for convention, want := range map[string]float64{"monai": 0.6, "original": 0.15} {
		p, err := choice(t, "smoothgrad", convention).Points(Request{NSamples: 3, NoiseLevel: 0.15}, -1, 3)
		if err != nil {
			t.Fatal(err)
		}
		if s := p.At(2).Sigma; s != float32(want) {
			t.Errorf("%s: sigma %g, want %g", convention, s, want)
		}
	}
}
