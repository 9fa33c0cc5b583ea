package explain

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/noise"
)

// sampling is the evaluation of points that methods share. It goes on where it was when plans change under it, and from a state that was kept
// outside. Point k, and the sums over the points up to it, do not depend on interruptions.
type sampling struct {
	points *cam.Points
	which  []int // methods; those that are finished, too, because they decide what moments keep

	done    int       // points that were evaluated: in moments and scores, or in saved without moments
	scores  []float32 // of the points that give one
	moments backend.Moments
	where   backend.Place // of moments
	sure    bool          // moments hold what was gathered at done points: no call that changes them has failed
	saved   []float32     // memory of the host for the state: that of moments, then the scores
	keeping keeping
}

// keeping describes the checkpoint of a state.
type keeping struct {
	points int           // of the state that was kept last
	last   time.Time     // when, or when the points were begun
	takes  time.Duration // duration of keeping it
	off    bool          // it cannot be kept
}

const (
	keepShare = 25      // the time from one state that is kept to the next one, in times of what keeping takes
	keepRate  = 1 << 29 // bytes a second: a low guess before the first one
)

// due reports whether it is time to keep a state of that many bytes.
func (k *keeping) due(now time.Time, bytes int) bool {
	takes := k.takes
	if takes == 0 {
		takes = time.Duration(float64(bytes) / keepRate * float64(time.Second))
	}
	return now.Sub(k.last) >= keepShare*takes
}

// sharePoints groups methods by their points.
func (e *explanation) sharePoints(which []int) (list []*sampling, err error) {
	sharing := map[string]*sampling{}
	for _, i := range which {
		points, err := e.choices[i].Points(e.req, e.low, e.high)
		if err != nil {
			return nil, err
		}
		s := sharing[points.Key]
		if s == nil {
			s = &sampling{points: points, scores: make([]float32, points.Scores)}
			sharing[points.Key], list = s, append(list, s)
		}
		s.which = append(s.which, i)
	}
	return list, nil
}

// pointMethods evaluates the points that methods are left of, and makes their maps.
func (e *explanation) pointMethods(ctx context.Context, _ []int) error {
	for _, s := range e.samplings {
		var left []int
		for _, i := range s.which {
			if e.result.Methods[i].Status == "" {
				left = append(left, i)
			}
		}
		if len(left) == 0 {
			continue
		}
		err := e.sample(ctx, s, left)
		if err := e.settle(ctx, err, left...); err != nil {
			return err
		}
		if err := s.end(); err != nil {
			return err
		}
	}
	return nil
}

// sample evaluates the remaining points, and makes the remaining maps.
func (e *explanation) sample(ctx context.Context, s *sampling, left []int) error {
	n := s.points.Len
	if s.points.At(n-1).Sigma != 0 && e.req.Noise != nil && e.req.Noise.Len() < n {
		return fmt.Errorf("%d draws are asked for and %d are given: lower n_samples or give more noise", n, e.req.Noise.Len())
	}
	if err := e.openSampling(s); err != nil {
		return err
	}
	for s.done < n {
		if err := e.between(ctx); err != nil {
			return err
		}
		if err := e.evaluate(ctx, s, s.points.At(s.done)); err != nil {
			return err
		}
		s.sure = true
		s.done++
		if e.keeps(s) && s.done < n && s.keeping.due(time.Now(), 4*s.stateLen()) {
			if err := e.keep(s); err != nil {
				return err
			}
		}
	}
	for _, i := range left {
		m := &e.result.Methods[i]
		for name, value := range s.points.Parameters {
			m.Parameters[name] = value
		}
		e.scores[i] = slices.Clone(s.scores)
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

// evaluate makes a point and runs the network there, and adds its gradient or score.
func (e *explanation) evaluate(ctx context.Context, s *sampling, p cam.Point) error {
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

// scoreAt returns the score of the target class at x.
func (e *explanation) scoreAt(ctx context.Context, x backend.Field) (float32, error) {
	p, err := e.net.GradientAt(ctx, true)
	if err != nil {
		return 0, err
	}
	e.ready = nil
	logits, err := p.Forward(ctx, x)
	if err != nil {
		return 0, err
	}
	e.pass()
	score := logits[e.result.TargetClass]
	if math.IsNaN(float64(score)) || math.IsInf(float64(score), 0) {
		return 0, fmt.Errorf("the score of class %d is %v at the baseline: choose another one", e.result.TargetClass, score)
	}
	return score, nil
}

// perturb writes the point that p makes from the volume.
func (e *explanation) perturb(dst backend.Field, p cam.Perturbation) (err error) {
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

// openSampling makes moments, if there are none, and fills them from a kept state.
func (e *explanation) openSampling(s *sampling) error {
	if s.moments == nil {
		where := e.net.Placement.Moments
		m, err := e.net.Backend.NewMoments(e.net.Values(), e.volume.Channels, where, e.sharing(s)...)
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
		if !e.keeps(s) {
			s.saved = nil
		}
		if s.keeping.last.IsZero() {
			s.keeping.last = time.Now()
		}
	}
	if s.done > 0 {
		e.record(cam.EventResumed, "went on from %s %d of %d", s.points.Word, s.done, s.points.Len)
	}
	return nil
}

// gradients returns the number of finished points that gave a gradient.
func (s *sampling) gradients() int { return max(0, s.done-s.points.Scores) }

// sharing returns the choices that share the points.
func (e *explanation) sharing(s *sampling) (choices []cam.Choice) {
	for _, i := range s.which {
		choices = append(choices, e.choices[i])
	}
	return choices
}

// recall looks for a state that was kept outside.
func (e *explanation) recall(s *sampling, values int) {
	if e.req.Checkpoint == nil {
		return
	}
	state, n := e.req.Checkpoint.Latest(e.stateKey(s))
	if n > 0 && n <= s.points.Len && len(state) == values {
		s.saved, s.done, s.keeping.points = slices.Clone(state), n, n
		e.done += n
	}
}

// stateKey names the state of a sampling: what is kept, of the gradient of which class, at which points. Sample and seed are those of the
// checkpoint, and any number of draws begins with the same ones.
func (e *explanation) stateKey(s *sampling) string {
	mean, m2, abs, square := cam.Kept(e.sharing(s)...)
	var kept []string
	for i, name := range []string{"mean", "m2", "abs", "square"} {
		if []bool{mean, m2, abs, square}[i] {
			kept = append(kept, name)
		}
	}
	return fmt.Sprintf("%s/class=%d/kept=%s", s.points.Key, e.result.TargetClass, strings.Join(kept, "+"))
}

// stateLen returns the number of values of the state.
func (s *sampling) stateLen() int { return s.moments.Len() + len(s.scores) }

// save copies the state to the host.
func (s *sampling) save() error {
	if s.moments == nil || s.done == 0 {
		return nil
	}
	if n := s.stateLen(); len(s.saved) != n {
		s.saved = make([]float32, n)
	}
	n := s.moments.Len()
	copy(s.saved[n:], s.scores)
	return s.moments.Save(s.saved[:n])
}

// lose forgets what was gathered.
func (e *explanation) lose(s *sampling) error {
	e.done -= s.done
	s.done, s.keeping.points = 0, 0
	return s.close()
}

// close gives the moments back.
func (s *sampling) close() error {
	m := s.moments
	if s.moments = nil; m == nil {
		return nil
	}
	return m.Close()
}

// leave takes what was gathered to the host, or forgets it if that fails.
func (e *explanation) leave(s *sampling) error {
	if s.moments == nil {
		return nil
	}
	err := error(nil)
	if s.sure {
		err = s.save()
	}
	if err != nil || !s.sure {
		return errors.Join(err, e.lose(s))
	}
	return s.close()
}

// keeps reports whether states are kept outside.
func (e *explanation) keeps(s *sampling) bool { return e.req.Checkpoint != nil && !s.keeping.off }

// keep keeps the state outside.
func (e *explanation) keep(s *sampling) error {
	start := time.Now()
	if err := s.save(); err != nil {
		return err
	}
	if err := e.req.Checkpoint.Keep(e.stateKey(s), s.saved, s.done); err != nil {
		s.keeping.off = true
		e.record(cam.EventFailed, "unfinished draws cannot be kept: %v", err)
	}
	s.keeping.points, s.keeping.last = s.done, time.Now()
	s.keeping.takes = max(1, s.keeping.last.Sub(start))
	return nil
}

// rescue keeps what was gathered in the checkpoint, if there is one, and, if all is given back, on the host. What cannot be read is lost.
func (e *explanation) rescue(all bool) error {
	var errs []error
	for _, s := range e.samplings {
		if s.moments != nil && !s.sure {
			errs = append(errs, e.lose(s))
		}
		if s.done > s.keeping.points && e.keeps(s) {
			if err := e.keep(s); err != nil {
				errs = append(errs, err, e.lose(s))
			}
		}
		if all {
			errs = append(errs, e.leave(s))
		}
	}
	return errors.Join(errs...)
}

// end gives back all that a sampling holds.
func (s *sampling) end() error {
	s.done, s.saved, s.keeping = 0, nil, keeping{}
	return s.close()
}

// endSamplings ends all of them.
func (e *explanation) endSamplings() error {
	var errs []error
	for _, s := range e.samplings {
		errs = append(errs, s.end())
	}
	return errors.Join(errs...)
}
