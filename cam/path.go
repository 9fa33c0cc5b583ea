package cam

import (
	"fmt"
	"math"
)

// integratedGradients is (x - b) times the mean gradient on the path from the baseline b to x.
func integratedGradients(g Gathered) []float64 {
	m, baseline := g.Moments, float64(g.Baseline)
	return sumChannels(m.size, m.channels, func(i int) float64 {
		return (float64(g.Volume[i]) - baseline) * float64(m.mean[i])
	})
}

const (
	// mostGap is the share of the difference of scores by which integrated gradients may miss it, as Sundararajan et al. ask for.
	mostGap = 0.05
	// gapRounding is the rounding error of the gap, as a share of the sum of the map's magnitudes.
	gapRounding = 1e-6
)

// Verify compares the map of a method with the theory of the method. It returns figures for the record, and the reason why the map is
// degraded, "" if it is not.
// Maps of integrated gradients must sum to the difference of the scores at the volume and at the baseline (completeness); scores are those
// of the points, score that of the volume. For other methods it returns nothing.
func (c Choice) Verify(signed []float32, score float32, scores []float32) (figures map[string]any, reason string) {
	if _, ok := c.Convention.rule.(ofPath); !ok || len(scores) == 0 {
		return nil, ""
	}
	sum, magnitude := 0.0, 0.0
	for _, v := range signed {
		sum += float64(v)
		magnitude += math.Abs(float64(v))
	}
	difference := float64(score) - float64(scores[0])
	gap := sum - difference
	figures = map[string]any{"baseline_score": float64(scores[0]), "score_difference": difference, "completeness_gap": gap}
	if math.Abs(gap) > mostGap*math.Abs(difference)+gapRounding*magnitude {
		reason = fmt.Sprintf("the map sums to %.4g, and the score differs by %.4g from that of the baseline: more than %g %% apart; more steps bring them closer",
			sum, difference, 100*mostGap)
	}
	return figures, reason
}
