package cam

import (
	"math"
	"strings"
	"testing"
)

// The references of testdata/make.py: points, weights, the map of their gradients, and its completeness.
func TestIntegratedGradients(t *testing.T) {
	var fix fixture
	readJSON(t, "testdata/formulas.json", &fix)
	c := choice(t, "integrated-gradients", "")
	for _, p := range fix.Paths {
		points, err := c.Points(Request{Steps: p.Steps, Quadrature: "gauss-legendre", Baseline: number(p.Baseline)}, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		if points.Len != p.Steps+1 || points.Scores != 1 || !points.At(0).ScoreOnly || points.At(0).Fraction != 0 {
			t.Errorf("%d steps: %d points, %d with a score, the first %+v", p.Steps, points.Len, points.Scores, points.At(0))
		}
		m, err := NewMoments(len(p.Volume)/p.Channels, p.Channels, c)
		if err != nil {
			t.Fatal(err)
		}
		sum := 0.0
		for i, g := range p.Gradients {
			at := points.At(i + 1)
			sum += p.Weights[i]
			if math.Abs(float64(at.Fraction)-p.Nodes[i]) > 1e-7 || math.Abs(at.Share-p.Weights[i]/sum) > 1e-12 || at.Baseline != p.Baseline || at.ScoreOnly {
				t.Errorf("%d steps, point %d: %+v, want node %g with weight %g", p.Steps, i, at, p.Nodes[i], p.Weights[i])
			}
			if err := m.AddShare(g, at.Share); err != nil {
				t.Fatal(err)
			}
		}
		got, err := c.PointsMap(Gathered{Moments: m, Volume: p.Volume, Baseline: p.Baseline})
		if err != nil {
			t.Fatal(err)
		}
		compare(t, "integrated-gradients", got, p.Maps["integrated-gradients/original"], 1e-6)
		figures, reason := c.Verify(got, p.Score, []float32{p.BaselineScore})
		gap := figures["completeness_gap"].(float64)
		if p.Steps >= 9 && (math.Abs(gap) > 1e-5 || reason != "") {
			t.Errorf("%d steps: the gap is %g, %q", p.Steps, gap, reason)
		}
	}
}

func number(x float32) string {
	if x == 0 {
		return "zero"
	}
	return map[float32]string{-0.5: "-0.5", 1: "1e0"}[x]
}

// A map that does not sum to the difference of the scores is degraded, beyond the tolerance only.
func TestCompletenessIsVerified(t *testing.T) {
	c := choice(t, "integrated-gradients", "")
	for _, e := range []struct {
		signed          []float32
		score, baseline float32
		degraded        bool
	}{
		{[]float32{1, 2, -1}, 3, 1, false},
		{[]float32{1, 2, -0.91}, 3, 1, false},
		{[]float32{1, 2, -0.89}, 3, 1, true},
		{[]float32{1, 2, -1}, 1, 3, true}, // the other sign
		{[]float32{0, 0}, 0.5, 0.5, false},
		{[]float32{0.1, 0}, 0.5, 0.5, true},
		{[]float32{100, -100, 1e-5}, 0.5, 0.5, false}, // no more than rounding
	} {
		figures, reason := c.Verify(e.signed, e.score, []float32{e.baseline})
		if (reason != "") != e.degraded || figures["score_difference"] != float64(e.score)-float64(e.baseline) {
			t.Errorf("%v, scores %g and %g: %q, %v", e.signed, e.score, e.baseline, reason, figures)
		}
		if e.degraded && !strings.Contains(reason, "more steps") {
			t.Errorf("%q does not say what to do", reason)
		}
	}
	if figures, reason := choice(t, "smoothgrad", "").Verify([]float32{1}, 1, nil); figures != nil || reason != "" {
		t.Errorf("of smoothgrad: %v, %q", figures, reason)
	}
}

// Each quadrature integrates what it should exactly: polynomials up to a degree; its weights sum to 1, at ascending points inside of [0, 1].
func TestQuadratures(t *testing.T) {
	degree := map[string]func(n int) int{
		"gauss-legendre": func(n int) int { return 2*n - 1 }, "midpoint": func(int) int { return 1 }, "right": func(int) int { return 0 },
	}
	for _, q := range quadratures {
		for _, n := range []int{1, 2, 3, 7, 16, 50, mostSteps} {
			nodes := q.nodes(n)
			before := 0.0
			for i, p := range nodes {
				if p.at <= before || p.at > 1 || p.weight <= 0 {
					t.Fatalf("%s of %d: node %d is %+v behind %g", q.name, n, i, p, before)
				}
				before = p.at
			}
			for d := range min(degree[q.name](n), 40) + 1 {
				sum := 0.0
				for _, p := range nodes {
					sum += p.weight * math.Pow(p.at, float64(d))
				}
				if want := 1 / float64(d+1); math.Abs(sum-want) > 1e-12 {
					t.Errorf("%s of %d: x^%d has the integral %g, want %g", q.name, n, d, sum, want)
				}
			}
		}
	}
}

func TestBaselines(t *testing.T) {
	c := choice(t, "integrated-gradients", "")
	for text, want := range map[string]float32{"zero": 0, "min": -3, "0.5": 0.5, "-1e-3": -1e-3} {
		p, err := c.Points(Request{Steps: 1, Quadrature: "right", Baseline: text}, -3, 4)
		if err != nil || p.At(0).Baseline != want || p.At(1).Baseline != want || p.At(1).Fraction != 1 {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, r := range []Request{
		{Steps: 1, Quadrature: "right", Baseline: "mean"}, {Steps: 1, Quadrature: "right", Baseline: "NaN"}, {Steps: 1, Quadrature: "right", Baseline: "1e99"},
		{Steps: 1, Quadrature: "simpson", Baseline: "zero"},
	} {
		if _, err := c.Points(r, 0, 1); err == nil {
			t.Errorf("%+v was accepted", r)
		}
		if full, err := (Request{Methods: []string{"gradcam"}, Steps: r.Steps, Quadrature: r.Quadrature, Baseline: r.Baseline}).Filled(); err == nil {
			t.Errorf("%+v was accepted", full)
		}
	}
	for _, steps := range []int{-1, mostSteps + 1} {
		if _, err := (Request{Methods: []string{"gradcam"}, Steps: steps}).Filled(); err == nil || !strings.Contains(err.Error(), "steps is") {
			t.Errorf("%d steps: %v", steps, err)
		}
	}
}
