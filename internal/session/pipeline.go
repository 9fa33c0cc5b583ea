package session

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/explain"
)

// job is a sample on its way through the pipeline.
type job struct {
	sample   dataset.Sample
	prepared *dataset.Prepared // nil if it could not be read
	err      error             // why
}

// part is what is known of a sample for one target. Targets are written one by one, so that those of many classes are not
// in memory together.
type part struct {
	job     *job
	result  *explain.Result
	err     error // why there is no result; then it is the sample's last part
	last    bool
	seconds float64 // of explaining
}

// pipeline reads, explains and writes the samples, each stage in its own goroutine. The channels hold nothing: a stage that
// has finished its work keeps it until the next one takes it, which bounds what is in memory to one volume or result for each
// stage. After an interruption a sample that is already explained is still written.
func (r *run) pipeline(ctx context.Context, ex explain.Explainer, todo []dataset.Sample, s *Summary) error {
	group, ctx := errgroup.WithContext(ctx)
	read, explained := make(chan *job), make(chan part)
	written := make(chan struct{}) // closed when the writer is gone

	group.Go(func() error {
		defer close(read)
		for _, sample := range todo {
			j := &job{sample: sample}
			if j.err = r.checkLabel(sample); j.err == nil {
				j.err = guard(func() (err error) { j.prepared, err = r.set.Prepare(ctx, sample); return err })
			}
			select {
			case read <- j:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})

	group.Go(func() error {
		defer close(explained)
		for j := range read {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			for i := range r.targets {
				p := r.explain(ctx, ex, j, i)
				if ctx.Err() != nil && p.err != nil {
					return ctx.Err() // the sample did not fail, it was stopped
				}
				select {
				case explained <- p:
				case <-written:
					return ctx.Err()
				}
				if p.last {
					break
				}
			}
		}
		return nil
	})

	group.Go(func() error {
		defer close(written)
		started, done := time.Now(), 0
		var w *writer
		defer func() { w.abort() }() // of a sample that was stopped between two targets
		for p := range explained {
			if w == nil {
				w = &writer{run: r, job: p.job}
			}
			if err := w.add(p); err != nil {
				return err
			}
			if !p.last {
				continue
			}
			record, err := w.finish()
			if err != nil {
				return err
			}
			w = nil
			s.count(record)
			done++
			e := Event{Kind: EventSample, Sample: record.ID, Split: record.Split, Done: done, Total: len(todo),
				Status: record.Status, Reason: record.Reason, Seconds: record.Seconds,
				Left: time.Since(started).Seconds() / float64(done) * float64(len(todo)-done)}
			if record.PredictedClassName != nil {
				e.Predicted, e.Confidence = *record.PredictedClassName, *record.Confidence
			}
			r.observe.Event(e)
		}
		return nil
	})
	return group.Wait()
}

func (r *run) checkLabel(s dataset.Sample) error {
	if s.Err != nil {
		return s.Err
	}
	if s.Label >= r.info.Classes {
		return fmt.Errorf("labels line %d: the label is %d, but the model has only the classes 0 to %d", s.Line, s.Label, r.info.Classes-1)
	}
	return nil
}

// explain asks for target i of a sample.
func (r *run) explain(ctx context.Context, ex explain.Explainer, j *job, i int) part {
	if j.err != nil {
		return part{job: j, err: j.err, last: true}
	}
	if i == 0 {
		r.observe.Event(Event{Kind: EventBegin, Sample: j.sample.ID, Split: string(j.sample.Split)})
	}
	target := r.targets[i]
	if target.Kind == explain.ClassTrue {
		target.Index = j.sample.Label
	}
	started := time.Now()
	request := explain.Request{
		Methods: r.methods, Class: target,
		NSamples: r.config.Explain.NSamples, NoiseLevel: r.config.Explain.NoiseLevel,
		Seed: r.config.Explain.Seed, SampleID: j.sample.ID, Noise: r.opt.Noise,
		Convention: r.config.Explain.Conventions,
		Progress: func(done, total int) {
			r.observe.Event(Event{Kind: EventPass, Sample: j.sample.ID, Split: string(j.sample.Split),
				Passes: i*total + done, PassesTotal: len(r.targets) * total})
		},
	}
	var result *explain.Result
	err := guard(func() (err error) { result, err = ex.Explain(ctx, j.prepared.Volume, request); return err })
	if err == nil {
		err = r.check(result, j.prepared.Volume.Dims())
	}
	if err != nil {
		result = nil
	}
	return part{job: j, result: result, err: err, last: err != nil || i == len(r.targets)-1, seconds: time.Since(started).Seconds()}
}

// guard makes a panic, which is a fault of the program, the failure of one sample instead of the end of the run.
func guard(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("internal error, please report it (VOXCAM_DEBUG=1 in the environment shows where it happened): %v", p)
			if os.Getenv("VOXCAM_DEBUG") != "" {
				err = fmt.Errorf("internal error, please report it: %v\n%s", p, debug.Stack())
			}
		}
	}()
	return do()
}

// check keeps anything that is not a result from being stored as one: it turns the status of such a method to failed.
func (r *run) check(result *explain.Result, dims [3]int) error {
	if result == nil {
		return errors.New("internal error, please report it: no result and no error")
	}
	if len(result.Methods) != len(r.methods) || len(result.Logits) != r.info.Classes || len(result.Probabilities) != r.info.Classes {
		return fmt.Errorf("internal error, please report it: %d methods, %d logits and %d probabilities instead of %d, %d and %d",
			len(result.Methods), len(result.Logits), len(result.Probabilities), len(r.methods), r.info.Classes, r.info.Classes)
	}
	for i := range result.Logits {
		if l, p := float64(result.Logits[i]), result.Probabilities[i]; l-l != 0 || p-p != 0 {
			return fmt.Errorf("the network's output is not finite (class %d: logit %v); check the scaling of the volume", i, result.Logits[i])
		}
	}
	if p := result.Predicted; p < 0 || p >= r.info.Classes {
		return fmt.Errorf("internal error, please report it: predicted class %d", p)
	}
	for i := range result.Methods {
		m := &result.Methods[i]
		if m.Status == explain.StatusFailed {
			m.Map, m.Heatmap = nil, nil
			continue
		}
		fail := func(format string, args ...any) {
			m.Status, m.Reason, m.Map, m.Heatmap = explain.StatusFailed, fmt.Sprintf(format, args...), nil, nil
		}
		switch {
		case m.Status != explain.StatusOK && m.Status != explain.StatusDegraded:
			fail("internal error, please report it: status %q", m.Status)
		case m.HeatDims != dims || len(m.Heatmap) != dims[0]*dims[1]*dims[2] || len(m.Map) == 0 || len(m.Map) != m.Dims[0]*m.Dims[1]*m.Dims[2]:
			fail("internal error, please report it: map of %v with %d values, heatmap of %v with %d values for a volume of %v",
				m.Dims, len(m.Map), m.HeatDims, len(m.Heatmap), dims)
		case !finite(m.Map) || !finite(m.Heatmap):
			fail("the map is not finite")
		case m.Status == explain.StatusOK && !positive(m.Heatmap):
			m.Status, m.Reason = explain.StatusDegraded, "the heatmap is zero everywhere: the map has no positive value, or the same value everywhere"
		}
	}
	return nil
}

func finite(x []float32) bool {
	for _, v := range x {
		if v-v != 0 {
			return false
		}
	}
	return true
}

func positive(x []float32) bool {
	for _, v := range x {
		if v > 0 {
			return true
		}
	}
	return false
}

// duration says a time as people do.
func duration(seconds float64) string {
	switch {
	case math.IsNaN(seconds) || seconds < 0:
		return "?"
	case seconds < 10:
		return fmt.Sprintf("%.1f s", seconds)
	case seconds < 120:
		return fmt.Sprintf("%.0f s", seconds)
	case seconds < 7200:
		return fmt.Sprintf("%.0f min", seconds/60)
	}
	return fmt.Sprintf("%.1f h", seconds/3600)
}
