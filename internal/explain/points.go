package explain

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/noise"
)

// openSampling makes moments, if there are none, and fills them from a kept state.
func (e *Explanation) openSampling(s *sampling) error {
	if s.moments == nil {
		where := e.net.Placement.Moments
		m, err := e.net.Backend.NewMoments(e.net.Values(), e.volume.Channels, where, s.choices...)
		if err != nil {
			return err
		}
		if s.done == 0 {
			e.recall(s, m.Len()+len(s.scores))
		}
		if s.done > 0 {
			copy(s.scores, s.saved[m.Len():])
			if err := m.Load(s.saved[:m.Len()], s.gradients()); err != nil {
				return errors.Join(err, m.Close())
			}
		}
		s.moments, s.where, s.sure = m, where, true
		if !e.hasCheckpoint(s) {
			s.saved = nil
		}
		if s.keeping.last.IsZero() {
			s.keeping.last = time.Now()
		}
	}
	if s.done > 0 {
		e.executor.Record(cam.EventResumed, "went on from %s %d of %d", s.points.Word, s.done, s.points.Len)
	}
	return nil
}

// perturb writes the point that p makes from the volume.
func (e *Explanation) perturb(dst backend.Field, p cam.Perturbation) (err error) {
	b, x, channels := e.net.Backend, e.net.Buffers.Volume, e.volume.Channels
	if p.Sigma == 0 || e.req.Noise == nil {
		var stream noise.Stream
		if p.Sigma != 0 {
			if stream, err = noise.New(e.req.Seed, e.req.SampleID, p.Draw); err != nil {
				return err
			}
		}
		return b.Perturb(dst, x, channels, p, stream)
	}
	z := make([]float32, len(e.volume.Data))
	if err := e.req.Noise.Draw(p.Draw, z); err != nil {
		return err
	}
	for i, x := range e.volume.Data {
		if p.Fraction != 1 {
			x = p.Baseline + float32(p.Fraction*(x-p.Baseline))
		}
		z[i] = x + p.Sigma*z[i]
	}
	return b.Upload(dst, z, channels)
}

// evaluate makes a point and runs the network there, and adds its gradient or score.
func (e *Explanation) evaluate(ctx context.Context, s *sampling, p cam.Point) error {
	at := e.net.Buffers.Noisy
	if err := e.perturb(at, p.Perturbation); err != nil {
		return err
	}
	if p.ScoreOnly {
		score, err := e.scoreAt(ctx, at)
		s.scores[s.done] = score
		return err
	}
	g, err := e.inputGradient(ctx, at)
	if err != nil {
		return err
	}
	s.sure = false
	return s.moments.Add(g, p.Share)
}

// sample evaluates the remaining points, and makes the remaining maps.
func (e *Explanation) sample(ctx context.Context, s *sampling, left []int) error {
	n := s.points.Len
	if s.points.At(n-1).Sigma != 0 && e.req.Noise != nil && e.req.Noise.Len() < n {
		return fmt.Errorf("%d draws are asked for and %d are given: lower n_samples or give more noise", n, e.req.Noise.Len())
	}
	if err := e.openSampling(s); err != nil {
		return err
	}
	for s.done < n {
		if err := e.executor.BeforePass(ctx); err != nil {
			return err
		}
		if err := e.evaluate(ctx, s, s.points.At(s.done)); err != nil {
			return err
		}
		s.sure = true
		s.done++
		if e.hasCheckpoint(s) && s.done < n && s.keeping.due(time.Now(), 4*s.stateLen()) {
			if err := e.checkpoint(s); err != nil {
				return err
			}
		}
	}
	for _, i := range left {
		m := &e.result.Methods[i]
		maps.Copy(m.Parameters, s.points.Parameters)
		to := e.net.Buffers.Output(nil)
		made := s.moments.Map(to.Free(), e.choices[i], e.net.Buffers.Volume, s.points.At(n-1).Baseline)
		if err := e.finish(ctx, i, to, e.volume.Dims(), made); err != nil {
			return err
		}
		if s.points.Doubt != "" {
			m.Degrade(s.points.Doubt)
		}
	}
	return nil
}

// pointMethods evaluates the points that methods are left of, and makes their maps.
func (e *Explanation) pointMethods(ctx context.Context, _ []int) error {
	for _, s := range e.samplings {
		left := e.unfinished(s.which)
		if len(left) == 0 {
			continue
		}
		start := time.Now()
		err := e.sample(ctx, s, left)
		e.spend(time.Since(start), left)
		if err := e.failMethods(ctx, err, left...); err != nil {
			return err
		}
		if err := s.reset(); err != nil {
			return err
		}
	}
	return nil
}
