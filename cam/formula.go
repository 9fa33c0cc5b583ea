package cam

import (
	"errors"
	"fmt"
	"math"

	"github.com/voxcam/voxcam/internal/parallel"
)

// LayerPoint holds the target layer for one volume and class.
type LayerPoint struct {
	Activation []float32 // A, channels-last [voxels, Channels]
	Gradient   []float32 // g, of the same layout; nil for conventions that look at the activation alone
	Channels   int
	Score      float64 // S
}

// InputPoint is the input and the gradient by it.
type InputPoint struct {
	Input    []float32 // x, channels-last [voxels, Channels]; nil unless the convention needs it
	Gradient []float32 // dS/dx, of the same layout
	Channels int
}

// Gathered holds the sums over the points of a convention.
type Gathered struct {
	Moments  *Moments
	Volume   []float32 // x, channels-last [voxels, channels]; read by conventions on a path
	Baseline float32   // of the path
}

// ErrNotFinite is wrapped by the errors for maps that hold NaN, infinity, or values beyond float32.
var ErrNotFinite = errors.New("not finite")

// LayerMap returns the signed map [voxels] of a method that looks at a layer. Sums are taken in float64.
func (c Choice) LayerMap(l LayerPoint) ([]float32, error) {
	var m []float64
	switch r := c.Convention.rule.(type) {
	case ofLayer:
		if err := checkPair(c.Name, "activation", l.Activation, l.Gradient, l.Channels); err != nil {
			return nil, err
		}
		m = r.make(l)
	case ofActivation:
		err := checkValues(c.Name, "activation", l.Activation, l.Channels)
		if err == nil {
			m, err = r.make(l)
		}
		if err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("cam: %s is not computed from a layer", c.Name)
	}
	return c.round(len(m), func(_, _ int) []float64 { return m }, len(m))
}

// InputMap returns the signed map [voxels] of a method that looks at the gradient by the input at one point.
func (c Choice) InputMap(p InputPoint) ([]float32, error) {
	r, ok := c.Convention.rule.(ofInput)
	if !ok {
		return nil, fmt.Errorf("cam: %s is not computed from the gradient at the input alone", c.Name)
	}
	if !r.volume {
		p.Input = p.Gradient
	}
	if err := checkPair(c.Name, "input", p.Input, p.Gradient, p.Channels); err != nil {
		return nil, err
	}
	return c.round(len(p.Gradient)/p.Channels, func(from, to int) []float64 {
		part := InputPoint{Input: p.Input[from*p.Channels : to*p.Channels], Gradient: p.Gradient[from*p.Channels : to*p.Channels], Channels: p.Channels}
		return r.make(part)
	}, piece)
}

// PointsMap returns the map [voxels] of a method with points of its own, from the moments that were gathered at them.
func (c Choice) PointsMap(g Gathered) ([]float32, error) {
	m := g.Moments
	kept, formula, ok := c.Convention.gathers()
	switch {
	case !ok:
		return nil, fmt.Errorf("cam: %s has no points of its own", c.Name)
	case !m.has(kept):
		return nil, fmt.Errorf("cam: %s (%s) was not among the choices that the moments were made for", c.Name, c.Convention.Name)
	case len(m.partial) > 0:
		return nil, fmt.Errorf("cam: %s: draw %d is incomplete: add its other slabs first", c.Name, m.n)
	case m.n < c.Convention.MinDraws():
		return nil, fmt.Errorf("cam: %s (%s) needs at least %d draws, got %d", c.Name, c.Convention.Name, c.Convention.MinDraws(), m.n)
	case c.Convention.Sampling() == Path && len(g.Volume) != m.size:
		return nil, fmt.Errorf("cam: %s: the volume has %d values and the gradients %d", c.Name, len(g.Volume), m.size)
	}
	return c.round(m.size/m.channels, func(from, to int) []float64 { return formula(g.voxels(from, to)) }, piece)
}

// voxels returns the sums of a range of voxels, sharing memory with g.
func (g Gathered) voxels(from, to int) Gathered {
	channels := g.Moments.channels
	if g.Volume != nil {
		g.Volume = g.Volume[from*channels : to*channels]
	}
	g.Moments = g.Moments.voxels(from, to)
	return g
}

// checkPair also looks for values that are not finite: a ReLU or a comparison in a formula could drop them silently.
func checkPair(method, what string, values, gradient []float32, channels int) error {
	if err := checkValues(method, what, values, channels); err != nil {
		return err
	}
	if len(values) != len(gradient) {
		return fmt.Errorf("cam: %s: the %s has %d values and the gradient %d", method, what, len(values), len(gradient))
	}
	if bad, first := countNotFinite(gradient); bad > 0 {
		return fmt.Errorf("cam: %s: %d of %d values of the gradient by the %s are %w, the first at voxel %d, channel %d", method, bad,
			len(gradient), what, ErrNotFinite, first/channels, first%channels)
	}
	return nil
}

func checkValues(method, what string, values []float32, channels int) error {
	if channels <= 0 || len(values) == 0 || len(values)%channels != 0 {
		return fmt.Errorf("cam: %s: %d values of the %s are no whole number of voxels of %d channels", method, len(values), what,
			channels)
	}
	if bad, first := countNotFinite(values); bad > 0 {
		return fmt.Errorf("cam: %s: %d of %d values of the %s are %w, the first at voxel %d, channel %d", method, bad, len(values), what,
			ErrNotFinite, first/channels, first%channels)
	}
	return nil
}

// piece is the number of voxels that a processor has in float64 at a time: the formulas at the input look at each voxel for itself.
const piece = 1 << 16

// round turns the values of formula at voxels [from, to), step at a time, to float32, and refuses those that are not finite there.
func (c Choice) round(voxels int, formula func(from, to int) []float64, step int) ([]float32, error) {
	out := make([]float32, voxels)
	parallel.Parts(voxels, step, func(_, from, to int) {
		for i, v := range formula(from, to) {
			out[from+i] = float32(v)
		}
	})
	if bad, first := countNotFinite(out); bad > 0 {
		return nil, fmt.Errorf("cam: %s (%s): %d of %d values of the map are %w, the first at voxel %d: "+
			"its factors are too large for float32, or a denominator of this convention is zero", c.Name, c.Convention.Name, bad, len(out),
			ErrNotFinite, first)
	}
	return out, nil
}

// countNotFinite counts NaN and infinities, whose exponent bits are all ones.
func countNotFinite(m []float32) (bad, first int) {
	if len(m) <= parallel.Values { // without allocating
		return notFiniteIn(m)
	}
	counts := parallel.Collect(len(m), parallel.Values, func(from, to int) [2]int {
		n, at := notFiniteIn(m[from:to])
		return [2]int{n, from + at}
	})
	for _, c := range counts {
		if bad == 0 {
			first = c[1]
		}
		bad += c[0]
	}
	return bad, first
}

func notFiniteIn(m []float32) (bad, first int) {
	const exponent = 0x7f800000
	for i, v := range m {
		if math.Float32bits(v)&exponent == exponent {
			if bad == 0 {
				first = i
			}
			bad++
		}
	}
	return bad, first
}

// sum returns, for each channel k, the sum over voxels of f(k, A, g).
func (l LayerPoint) sum(f func(k int, a, g float64) float64) []float64 {
	out := make([]float64, l.Channels)
	for at := 0; at < len(l.Activation); at += l.Channels {
		row, grad := l.Activation[at:at+l.Channels], l.Gradient[at:at+l.Channels]
		for k, a := range row {
			out[k] += f(k, float64(a), float64(grad[k]))
		}
	}
	return out
}

// weigh returns, for each voxel, sum_k w_k A_k.
func (l LayerPoint) weigh(w []float64) []float64 {
	out := make([]float64, len(l.Activation)/l.Channels)
	for v := range out {
		row := l.Activation[v*l.Channels:][:len(w)]
		s := 0.0
		for k, a := range row {
			s += w[k] * float64(a)
		}
		out[v] = s
	}
	return out
}

// each returns, for each voxel, the sum over channels of f(A, g).
func (l LayerPoint) each(f func(a, g float64) float64) []float64 {
	out := make([]float64, len(l.Activation)/l.Channels)
	for v := range out {
		row, grad := l.Activation[v*l.Channels:][:l.Channels], l.Gradient[v*l.Channels:][:l.Channels]
		s := 0.0
		for k, a := range row {
			s += f(float64(a), float64(grad[k]))
		}
		out[v] = s
	}
	return out
}

func relu(x float64) float64 { return max(x, 0) }

func gradCAM(l LayerPoint) []float64 {
	w := l.sum(func(_ int, _, g float64) float64 { return g })
	for k := range w {
		w[k] *= float64(l.Channels) / float64(len(l.Gradient))
	}
	return l.weigh(w)
}

func sumActivation(_ int, a, _ float64) float64 { return a }

func sumCubed(_ int, a, g float64) float64 { return a * g * g * g }

// The conventions of Grad-CAM++ differ in the denominator of the weight that a positive gradient gets; where g <= 0 they all add
// nothing.

func gradCAMPlusOriginal(l LayerPoint) []float64 {
	cubed := l.sum(sumCubed)
	return l.weigh(l.sum(func(k int, _, g float64) float64 {
		if g <= 0 {
			return 0
		}
		return g * g / (2*g*g + cubed[k] + 1e-8) * g
	}))
}

func gradCAMPlusPaper(l LayerPoint) []float64 {
	sums := l.sum(sumActivation)
	return l.weigh(l.sum(func(k int, _, g float64) float64 {
		// With g > 0 both sides are divided by g^2, which keeps small gradients from underflow.
		den := 2 + sums[k]*g
		if g <= 0 || den == 0 {
			return 0
		}
		return g / den
	}))
}

func gradCAMPlusPytorch(l LayerPoint) []float64 {
	sums := l.sum(sumActivation)
	return l.weigh(l.sum(func(k int, _, g float64) float64 {
		if g <= 0 {
			return 0
		}
		return g * g / (2*g*g + sums[k]*g*g*g + 1e-6) * g
	}))
}

func gradCAMPlusMonai(l LayerPoint) []float64 {
	cubed := l.sum(sumCubed)
	m := l.weigh(l.sum(func(k int, _, g float64) float64 {
		if g <= 0 {
			return 0
		}
		den := 2*g*g + cubed[k]
		if den == 0 {
			den = 1
		}
		return g * g / (den + 1e-7) * g
	}))
	return timesExp(m, l.Score)
}

// ScoreFactor is exp(score), or the largest power that keeps a map whose largest magnitude is peak within float32: the factor only
// scales.
func ScoreFactor(peak, score float64) float64 {
	if peak > 0 && !math.IsInf(peak, 0) {
		score = min(score, math.Log(math.MaxFloat32/2)-math.Log(peak))
	}
	return math.Exp(score)
}

// timesExp multiplies a map by the factor of a score.
func timesExp(m []float64, score float64) []float64 {
	peak := 0.0
	for _, v := range m {
		peak = max(peak, math.Abs(v))
	}
	factor := ScoreFactor(peak, score)
	for i := range m {
		m[i] *= factor
	}
	return m
}

func hiResCAM(l LayerPoint) []float64 {
	return l.each(func(a, g float64) float64 { return g * a })
}

func gradCAMElementwise(l LayerPoint) []float64 {
	return l.each(func(a, g float64) float64 { return relu(g * a) })
}

func layerCAM(l LayerPoint) []float64 {
	return l.each(func(a, g float64) float64 { return relu(g) * a })
}

func xGradCAM(l LayerPoint) []float64 {
	w, sums := l.sum(func(_ int, a, g float64) float64 { return g * a }), l.sum(sumActivation)
	for k := range w {
		w[k] /= sums[k] + 1e-7
	}
	return l.weigh(w)
}

func saliency(p InputPoint) []float64 {
	return sumChannels(len(p.Gradient), p.Channels, func(i int) float64 { return math.Abs(float64(p.Gradient[i])) })
}

func inputTimesGradient(p InputPoint) []float64 {
	return sumChannels(len(p.Gradient), p.Channels, func(i int) float64 { return float64(p.Input[i]) * float64(p.Gradient[i]) })
}

// sumChannels returns, for each voxel of values channels-last, the sum of f over the indices of its channels.
func sumChannels(values, channels int, f func(i int) float64) []float64 {
	out := make([]float64, values/channels)
	for v := range out {
		s := 0.0
		for i := v * channels; i < (v+1)*channels; i++ {
			s += f(i)
		}
		out[v] = s
	}
	return out
}
