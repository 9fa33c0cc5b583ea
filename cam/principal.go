package cam

import (
	"fmt"
	"math"

	"github.com/voxcam/voxcam/internal/eigen"
	"github.com/voxcam/voxcam/internal/parallel"
)

// leastDistance is the least distance of the variances along the first two principal components, as a share of the larger one: closer ones are
// turned into each other by rounding of the activation.
const leastDistance = 1e-3

// Principal returns the first principal component of an activation, one weight a channel, so that sum_k v_k (A_k - mean A_k) is its projection:
// nil if A varies by no more than rounding. sums and squares are, for each channel, the sums over voxels of A and of A^2; apply writes the sum
// over voxels of P (A_k - mean A_k) to dst, for each channel k, P being the projection on v. The weights have a positive sum, which makes the
// projection correlate with the mean of A over channels. An error is one of apply, or says that there is no single first component.
func Principal(voxels int, sums, squares []float64, apply func(dst, v []float64) error) ([]float64, error) {
	total, variance := 0.0, 0.0
	for k, s := range squares {
		total += s
		variance += s - sums[k]*sums[k]/float64(voxels)
	}
	if variance <= flat*flat*total {
		return nil, nil
	}
	pair, err := eigen.Largest(len(sums), apply)
	switch {
	case err != nil:
		return nil, fmt.Errorf("cam: the first principal component of the activation: %w", err)
	case pair.Value-pair.Second < leastDistance*pair.Value:
		return nil, fmt.Errorf("cam: the first two principal components of the activation have almost the same variance (%.4g and %.4g), "+
			"so that rounding would decide which of them the map shows", pair.Value, pair.Second)
	}
	return positive(pair.Vector), nil
}

// positive returns v or -v: the one whose sum is positive or, where the sum is as good as zero, whose largest component is.
func positive(v []float64) []float64 {
	sum, largest := 0.0, 0.0
	for _, x := range v {
		sum += x
		if math.Abs(x) > math.Abs(largest) {
			largest = x
		}
	}
	if math.Abs(sum) < 1e-6*math.Sqrt(float64(len(v))) {
		sum = largest
	}
	if sum < 0 {
		for i := range v {
			v[i] = -v[i]
		}
	}
	return v
}

// eigenCAM is the projection of the activation, centred over voxels, on its first principal component.
func eigenCAM(l LayerPoint) ([]float64, error) {
	voxels := len(l.Activation) / l.Channels
	sums := l.overVoxels(func(_, _ int, a float64) float64 { return a })
	squares := l.overVoxels(func(_, _ int, a float64) float64 { return a * a })
	means := make([]float64, l.Channels)
	for k, s := range sums {
		means[k] = s / float64(voxels)
	}
	v, err := Principal(voxels, sums, squares, func(dst, v []float64) error {
		p := l.project(v, means)
		copy(dst, l.overVoxels(func(i, k int, a float64) float64 { return p[i] * (a - means[k]) }))
		return nil
	})
	if err != nil || v == nil {
		return make([]float64, voxels), err
	}
	return l.project(v, means), nil
}

// layerPart is the number of voxels of a layer that a processor does at a time.
func (l LayerPoint) layerPart() int { return 1 + parallel.Values/4/l.Channels }

// overVoxels returns, for each channel k, the sum over voxels i of f(i, k, A), in parts that do not depend on the number of processors.
func (l LayerPoint) overVoxels(f func(i, k int, a float64) float64) []float64 {
	total := make([]float64, l.Channels)
	for _, part := range parallel.Collect(len(l.Activation)/l.Channels, l.layerPart(), func(from, to int) []float64 {
		sums := make([]float64, l.Channels)
		for i := from; i < to; i++ {
			for k, a := range l.Activation[i*l.Channels:][:l.Channels] {
				sums[k] += f(i, k, float64(a))
			}
		}
		return sums
	}) {
		for k, s := range part {
			total[k] += s
		}
	}
	return total
}

// project returns, for each voxel, sum_k v_k (A_k - means_k).
func (l LayerPoint) project(v, means []float64) []float64 {
	out := make([]float64, len(l.Activation)/l.Channels)
	parallel.Parts(len(out), l.layerPart(), func(_, from, to int) {
		for i := from; i < to; i++ {
			s := 0.0
			for k, a := range l.Activation[i*l.Channels:][:l.Channels] {
				s += v[k] * (float64(a) - means[k])
			}
			out[i] = s
		}
	})
	return out
}
