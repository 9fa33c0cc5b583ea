package cam

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Perturbation makes a point from the volume x, by voxel and channel: Baseline + Fraction (x - Baseline) + Sigma z, z being standard normal
// noise. All arithmetic is float32, each operation rounded for itself. With a Fraction of 1 nothing but noise is added.
type Perturbation struct {
	Baseline, Fraction float32
	Sigma              float32 // 0: no noise
	Draw               int     // number of the draw that z is of
}

// Point is one point at which the network is evaluated, and the results that are used of it.
type Point struct {
	Perturbation
	ScoreOnly bool // the score is taken, without a gradient
	// Share is the weight of the point's gradient among all up to it: 1/n for the n-th of equal weights.
	Share float64
}

// Points lists the points at which a convention has the network evaluated besides the volume itself. Conventions with the same Key share
// the points, and the evaluations.
type Points struct {
	Key        string         // names the points, from the first on
	Word       string         // the word for one of them in messages: draw, point
	Len        int            // at least 1
	Scores     int            // number of points whose score is used; they come first
	Parameters map[string]any // for the record of a result
	Doubt      string         // the reason why results are degraded; "" if they are not

	at func(i int) Point
}

// At returns point i, counted from 0.
func (p *Points) At(i int) Point { return p.at(i) }

// Points returns the points of the convention for a filled request and a volume whose values go from low to high, nil if it looks at the
// volume only. An error is a fault of the request.
func (c Choice) Points(r Request, low, high float32) (*Points, error) {
	switch rule := c.Convention.rule.(type) {
	case ofNoise:
		return rule.points(r, low, high), nil
	case ofPath:
		return pathPoints(r, low)
	}
	return nil, nil //nolint:nilnil // no points are no error
}

// drawsKey begins the keys of noisy copies.
const drawsKey = "draws/"

// OfDraws reports whether a key of points, or of a Checkpoint, is one of noisy copies: there may be fewer of them than a request says, unlike
// points of a path.
func OfDraws(key string) bool { return strings.HasPrefix(key, drawsKey) }

// points returns noisy copies of the volume. The first n are the same however many there are.
func (n ofNoise) points(r Request, low, high float32) *Points {
	sigma := float32(n.sigma(r.NoiseLevel, low, high))
	p := &Points{
		Key: fmt.Sprintf(drawsKey+"%g", sigma), Word: "draw", Len: r.NSamples,
		Parameters: map[string]any{"n_samples": r.NSamples, "noise_level": r.NoiseLevel, "noise_sigma": float64(sigma)},
		at: func(i int) Point {
			return Point{Perturbation: Perturbation{Fraction: 1, Sigma: sigma, Draw: i}, Share: 1 / float64(i+1)}
		},
	}
	if r.Noise == nil {
		p.Parameters["seed"], p.Parameters["sample_id"] = r.Seed, r.SampleID
	}
	if sigma == 0 { // of a level in shares of the volume's range
		p.Doubt = "the noise has a standard deviation of 0: there is none"
	}
	return p
}

// sigma is the standard deviation of the noise.
func (n ofNoise) sigma(level float64, lowest, highest float32) float64 {
	if n.overRange {
		return level * (float64(highest) - float64(lowest))
	}
	return level
}

// pathPoints returns the baseline, which is used for its score, and the points of a quadrature between it and the volume.
func pathPoints(r Request, low float32) (*Points, error) {
	baseline, err := baselineOf(r.Baseline, low)
	if err != nil {
		return nil, err
	}
	rule, err := quadratureOf(r.Quadrature)
	if err != nil {
		return nil, err
	}
	nodes := rule.nodes(r.Steps)
	sum := 0.0
	for i, n := range nodes {
		sum += n.weight
		nodes[i].share = n.weight / sum
	}
	return &Points{
		Key: fmt.Sprintf("path/%s/%d/%g", rule.name, r.Steps, baseline), Word: "point", Len: 1 + len(nodes), Scores: 1,
		Parameters: map[string]any{"steps": r.Steps, "quadrature": rule.name, "baseline": float64(baseline)},
		at: func(i int) Point {
			if i == 0 {
				return Point{Perturbation: Perturbation{Baseline: baseline}, ScoreOnly: true}
			}
			n := nodes[i-1]
			return Point{Perturbation: Perturbation{Baseline: baseline, Fraction: float32(n.at)}, Share: n.share}
		},
	}, nil
}

// Baselines lists the words that Request.Baseline may be besides a number.
func Baselines() []string { return []string{"zero", "min"} }

// baselineOf returns the value of a baseline for a volume whose least value is low.
func baselineOf(text string, low float32) (float32, error) {
	switch text {
	case "zero":
		return 0, nil
	case "min":
		return low, nil
	}
	v, err := strconv.ParseFloat(text, 32)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("is %q; it must be %s, or a number in units of the volume as the network sees it", text, strings.Join(Baselines(), ", "))
	}
	return float32(v), nil
}
