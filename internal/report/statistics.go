package report

import (
	"fmt"
	"math"
	"time"

	"github.com/voxcam/voxcam/cam"
)

// Overall is overall_statistics.json.
type Overall struct {
	Timestamp time.Time         `json:"analysis_timestamp"`
	Config    string            `json:"config_used"`
	Model     ModelInfo         `json:"model_info"`
	Splits    map[string]*Split `json:"splits"`
	Overall   Total             `json:"overall"`
	Memory    MemorySummary     `json:"memory"`
}

// Counts are numbers of samples by status.
type Counts struct {
	OK       int `json:"ok"`
	Degraded int `json:"degraded"`
	Failed   int `json:"failed"`
	Skipped  int `json:"skipped"` // for lack of memory
}

// Add counts a sample.
func (c *Counts) Add(s cam.Status) {
	switch s {
	case cam.StatusOK:
		c.OK++
	case cam.StatusDegraded:
		c.Degraded++
	case cam.StatusSkipped:
		c.Skipped++
	default:
		c.Failed++
	}
}

// String lists the counts for people.
func (c Counts) String() string {
	text := fmt.Sprintf("%d ok, %d degraded, %d failed", c.OK, c.Degraded, c.Failed)
	if c.Skipped > 0 {
		text += fmt.Sprintf(", %d skipped for lack of memory", c.Skipped)
	}
	return text
}

// All returns the number of samples of any status.
func (c Counts) All() int { return c.OK + c.Degraded + c.Failed + c.Skipped }

// Split summarises the samples of one split. Averages are over the samples that have the value, nil where none has.
type Split struct {
	Processed         int                    `json:"samples_processed"` // with a prediction
	Accuracy          *float64               `json:"accuracy"`          // of those with a prediction and a label
	ClassDistribution map[string]int         `json:"class_distribution"`
	Seconds           *float64               `json:"avg_processing_time"`
	Confidence        *float64               `json:"avg_confidence"`
	Heatmaps          map[string]*HeatmapSum `json:"heatmap_summary"`
	Status            Counts                 `json:"status"`
}

// HeatmapSum summarises the maps of one method over samples; deviations have the divisor n.
type HeatmapSum struct {
	N       int     `json:"n"`
	AvgMax  float64 `json:"avg_max_activation"`
	StdMax  float64 `json:"std_max_activation"`
	AvgMean float64 `json:"avg_mean_activation"`
	StdMean float64 `json:"std_mean_activation"`
}

// Total summarises the session.
type Total struct {
	Processed int      `json:"total_samples_processed"`
	Accuracy  *float64 `json:"overall_accuracy"`
	Status    Counts   `json:"status"`
	Pending   int      `json:"samples_not_done"` // selected samples that the run did not reach
	// Confusion counts samples by true (row) and predicted (column) class.
	Confusion [][]int `json:"confusion_matrix"`
}

// Aggregate summarises samples.
func Aggregate(session *Session, samples []*Sample, now time.Time) *Overall {
	o := &Overall{Timestamp: now, Config: session.Config, Model: session.Model, Splits: map[string]*Split{}}
	n := session.Model.Classes
	o.Overall.Confusion = make([][]int, n)
	for i := range o.Overall.Confusion {
		o.Overall.Confusion[i] = make([]int, n)
	}
	bySplit := map[string][]*Sample{}
	for _, s := range samples {
		bySplit[s.Split] = append(bySplit[s.Split], s)
		o.Overall.Status.Add(s.Status)
		if t, p := s.TrueClass, s.PredictedClass; t != nil && p != nil && inRange(*t, n) && inRange(*p, n) {
			o.Overall.Confusion[*t][*p]++
		}
	}
	for name, members := range bySplit {
		o.Splits[name] = summarise(members)
		o.Overall.Processed += o.Splits[name].Processed
	}
	o.Overall.Accuracy = accuracy(samples)
	o.Memory = summariseMemory(samples)
	return o
}

func inRange(i, n int) bool { return i >= 0 && i < n }

func summarise(samples []*Sample) *Split {
	out := &Split{ClassDistribution: map[string]int{}, Heatmaps: map[string]*HeatmapSum{}, Accuracy: accuracy(samples)}
	var seconds, confidence []float64
	maxima, means := map[string][]float64{}, map[string][]float64{}
	for _, s := range samples {
		out.Status.Add(s.Status)
		if s.TrueClassName != nil {
			out.ClassDistribution[*s.TrueClassName]++
		}
		if s.PredictedClass == nil {
			continue
		}
		out.Processed++
		seconds = append(seconds, s.Seconds)
		if s.Confidence != nil {
			confidence = append(confidence, *s.Confidence)
		}
		for key, h := range s.Statistics {
			maxima[key] = append(maxima[key], h.Max)
			means[key] = append(means[key], h.Mean)
		}
	}
	out.Seconds, out.Confidence = average(seconds), average(confidence)
	for key := range maxima {
		h := &HeatmapSum{N: len(maxima[key])}
		h.AvgMax, h.StdMax = meanStd(maxima[key])
		h.AvgMean, h.StdMean = meanStd(means[key])
		out.Heatmaps[key] = h
	}
	return out
}

// accuracy returns the share of right predictions among the samples that have a prediction and a label.
func accuracy(samples []*Sample) *float64 {
	right, n := 0, 0
	for _, s := range samples {
		if s.CorrectPrediction != nil {
			n++
			if *s.CorrectPrediction {
				right++
			}
		}
	}
	if n == 0 {
		return nil
	}
	a := float64(right) / float64(n)
	return &a
}

func average(x []float64) *float64 {
	if len(x) == 0 {
		return nil
	}
	m, _ := meanStd(x)
	return &m
}

func meanStd(x []float64) (mean, std float64) {
	for _, v := range x {
		mean += v / float64(len(x))
	}
	for _, v := range x {
		std += (v - mean) * (v - mean) / float64(len(x))
	}
	return mean, math.Sqrt(std)
}

// Measure computes the statistics of a map [d, h, w] and of its heatmap [D, H, W] of the given size. Both must be finite.
func Measure(m, heat []float32, dims [3]int) Statistics {
	var s Statistics
	if len(m) > 0 {
		low, high, positive := m[0], m[0], 0
		for _, x := range m {
			s.Mean += float64(x)
			if x < low {
				low = x
			}
			if x > high {
				high = x
			}
			if x > 0 {
				positive++
			}
		}
		s.Min, s.Max = float64(low), float64(high)
		s.Mean /= float64(len(m))
		s.Std = deviation(m, s.Mean)
		s.PositiveShare = float64(positive) / float64(len(m))
	}
	if len(heat) > 0 {
		peak, hot := 0, 0
		for i, x := range heat {
			s.HeatmapMean += float64(x)
			if x > heat[peak] {
				peak = i
			}
			if x > 0.5 {
				hot++
			}
		}
		s.HeatmapMean /= float64(len(heat))
		s.HeatmapStd = deviation(heat, s.HeatmapMean)
		s.HotShare = float64(hot) / float64(len(heat))
		s.Peak = [3]int{peak / dims[2] / dims[1], peak / dims[2] % dims[1], peak % dims[2]}
	}
	return s
}

// deviation returns the standard deviation around the mean.
func deviation(x []float32, mean float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += (float64(v) - mean) * (float64(v) - mean)
	}
	return math.Sqrt(sum / float64(len(x)))
}
