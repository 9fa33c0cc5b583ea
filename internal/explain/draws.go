package explain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/noise"
)

// draws are the draws of methods whose noise has the same standard deviation. They go on where they were when plans change under them, and
// from a state that was kept outside. Draw k is the same whatever happened before it, and so are their moments.
type draws struct {
	sigma float32
	which []int // methods; those that are finished, too, because they decide what moments keep

	done    int             // draws that were added up: in moments, or in saved without moments
	moments backend.Moments // nil while the backend has none
	where   backend.Place   // of moments
	sure    bool            // moments hold done draws: no call that changes them has failed
	saved   []float32       // memory of the host for their state
	keeping keeping
}

// keeping is how a state is kept outside of what can fail.
type keeping struct {
	draws int           // of the state that was kept last
	last  time.Time     // when, or when the draws were begun
	takes time.Duration // what that took
	off   bool          // it cannot be kept
}

const (
	keepShare = 25      // the time from one state that is kept to the next one, in times of what keeping takes
	keepRate  = 1 << 29 // bytes a second: a low guess before the first one
)

// due reports whether it is time to keep a state of so many bytes.
func (k *keeping) due(now time.Time, bytes int) bool {
	takes := k.takes
	if takes == 0 {
		takes = time.Duration(float64(bytes) / keepRate * float64(time.Second))
	}
	return now.Sub(k.last) >= keepShare*takes
}

// shareDraws groups methods by their noise.
func (e *explanation) shareDraws(which []int) (list []*draws) {
	sharing := map[float32]*draws{}
	for _, i := range which {
		sigma := float32(e.choices[i].Convention.Sigma(e.req.NoiseLevel, e.low, e.high))
		d := sharing[sigma]
		if d == nil {
			d = &draws{sigma: sigma}
			sharing[sigma], list = d, append(list, d)
		}
		d.which = append(d.which, i)
	}
	return list
}

// drawMethods makes the draws that methods are left of.
func (e *explanation) drawMethods(ctx context.Context, _ []int) error {
	for _, d := range e.draws {
		var left []int
		for _, i := range d.which {
			if e.result.Methods[i].Status == "" {
				left = append(left, i)
			}
		}
		if len(left) == 0 {
			continue
		}
		err := e.drawsAt(ctx, d, left)
		if err := e.settle(ctx, err, left...); err != nil {
			return err
		}
		if err := d.end(); err != nil {
			return err
		}
	}
	return nil
}

// drawsAt makes what is missing of the draws, and the maps that are left.
func (e *explanation) drawsAt(ctx context.Context, d *draws, left []int) error {
	n := e.req.NSamples
	if e.req.Noise != nil && e.req.Noise.Len() < n {
		return fmt.Errorf("%d draws are asked for and %d are given: lower n_samples or give more noise", n, e.req.Noise.Len())
	}
	if err := e.openDraws(d); err != nil {
		return err
	}
	for d.done < n {
		if err := e.between(ctx); err != nil {
			return err
		}
		noisy := e.net.Fields.Noisy
		if err := e.draw(d.done, noisy, d.sigma); err != nil {
			return err
		}
		g, err := e.inputGradient(ctx, noisy)
		if err != nil {
			return err
		}
		d.sure = false
		if err := d.moments.Add(g); err != nil {
			return err
		}
		d.sure = true
		d.done++
		if e.keeps(d) && d.done < n && d.keeping.due(time.Now(), 4*d.moments.Len()) {
			if err := e.keep(d); err != nil {
				return err
			}
		}
	}
	for _, i := range left {
		m := &e.result.Methods[i]
		m.Parameters["n_samples"], m.Parameters["noise_level"] = n, e.req.NoiseLevel
		m.Parameters["noise_sigma"] = float64(d.sigma)
		if e.req.Noise == nil {
			m.Parameters["seed"], m.Parameters["sample_id"] = e.req.Seed, e.req.SampleID
		}
		s := e.net.Fields.Slide(nil)
		if err := e.finish(ctx, i, s, e.volume.Dims(), d.moments.Map(s.Free(), e.choices[i])); err != nil {
			return err
		}
		if d.sigma == 0 { // of a level in shares of the volume's range
			m.Degrade("the noise has a standard deviation of 0: there is none")
		}
	}
	return nil
}

// draw writes the volume with noise to noisy.
func (e *explanation) draw(draw int, noisy backend.Field, sigma float32) error {
	if e.req.Noise == nil {
		stream, err := noise.New(e.req.Seed, e.req.SampleID, draw)
		if err != nil {
			return err
		}
		return e.net.Backend.AddNoise(noisy, e.net.Fields.Volume, e.volume.Channels, stream, sigma)
	}
	z := make([]float32, len(e.volume.Data))
	if err := e.req.Noise.Draw(draw, z); err != nil {
		return err
	}
	for i, x := range e.volume.Data {
		z[i] = x + sigma*z[i]
	}
	return e.net.Backend.Upload(noisy, z, e.volume.Channels)
}

// openDraws takes moments, if there are none, with what is there of them.
func (e *explanation) openDraws(d *draws) error {
	if d.moments == nil {
		var sharing []cam.Choice
		for _, i := range d.which {
			sharing = append(sharing, e.choices[i])
		}
		where := e.net.Places.Moments
		m, err := e.net.Backend.NewMoments(e.net.Values(), e.volume.Channels, where, sharing...)
		if err != nil {
			return err
		}
		if d.done == 0 {
			e.recall(d, m.Len())
		}
		if d.done > 0 {
			if err := m.Load(d.saved, d.done); err != nil {
				return errors.Join(err, m.Close())
			}
		}
		d.moments, d.where, d.sure = m, where, true
		if !e.keeps(d) {
			d.saved = nil
		}
		if d.keeping.last.IsZero() {
			d.keeping.last = time.Now()
		}
	}
	if d.done > 0 {
		e.tell(cam.EventResumed, "went on from draw %d of %d", d.done, e.req.NSamples)
	}
	return nil
}

// recall looks for a state that was kept outside.
func (e *explanation) recall(d *draws, values int) {
	if e.req.Checkpoint == nil {
		return
	}
	state, n := e.req.Checkpoint.Latest(e.drawsKey(d))
	if n > 0 && n <= e.req.NSamples && len(state) == values {
		d.saved, d.done, d.keeping.draws = slices.Clone(state), n, n
		e.done += n
	}
}

// drawsKey names the state of draws: what is kept, of the gradient of which class, with how much noise. Sample and seed are those of the
// checkpoint, and any number of draws begins with the same ones.
func (e *explanation) drawsKey(d *draws) string {
	var sharing []cam.Choice
	for _, i := range d.which {
		sharing = append(sharing, e.choices[i])
	}
	mean, m2, abs, square := cam.Kept(sharing...)
	var kept []string
	for i, name := range []string{"mean", "m2", "abs", "square"} {
		if []bool{mean, m2, abs, square}[i] {
			kept = append(kept, name)
		}
	}
	return fmt.Sprintf("draws/%g/class=%d/kept=%s", d.sigma, e.result.TargetClass, strings.Join(kept, "+"))
}

// save copies the state to the host.
func (d *draws) save() error {
	if d.moments == nil || d.done == 0 {
		return nil
	}
	if n := d.moments.Len(); len(d.saved) != n {
		d.saved = make([]float32, n)
	}
	return d.moments.Save(d.saved)
}

// lose forgets the draws.
func (e *explanation) lose(d *draws) error {
	e.done -= d.done
	d.done, d.keeping.draws = 0, 0
	return d.close()
}

// close gives the moments back.
func (d *draws) close() error {
	m := d.moments
	if d.moments = nil; m == nil {
		return nil
	}
	return m.Close()
}

// leave takes the draws to the host, or forgets them if that fails.
func (e *explanation) leave(d *draws) error {
	if d.moments == nil {
		return nil
	}
	err := error(nil)
	if d.sure {
		err = d.save()
	}
	if err != nil || !d.sure {
		return errors.Join(err, e.lose(d))
	}
	return d.close()
}

// keeps reports whether draws are kept outside.
func (e *explanation) keeps(d *draws) bool { return e.req.Checkpoint != nil && !d.keeping.off }

// keep keeps the state outside.
func (e *explanation) keep(d *draws) error {
	start := time.Now()
	if err := d.save(); err != nil {
		return err
	}
	if err := e.req.Checkpoint.Keep(e.drawsKey(d), d.saved, d.done); err != nil {
		d.keeping.off = true
		e.tell(cam.EventFailed, "unfinished draws cannot be kept: %v", err)
	}
	d.keeping.draws, d.keeping.last = d.done, time.Now()
	d.keeping.takes = max(1, d.keeping.last.Sub(start))
	return nil
}

// rescue keeps what is there of the draws outside, if there is such a place, and if all is given back, on the host. What cannot be read
// any more is lost.
func (e *explanation) rescue(all bool) error {
	var errs []error
	for _, d := range e.draws {
		if d.moments != nil && !d.sure {
			errs = append(errs, e.lose(d))
		}
		if d.done > d.keeping.draws && e.keeps(d) {
			if err := e.keep(d); err != nil {
				errs = append(errs, err, e.lose(d))
			}
		}
		if all {
			errs = append(errs, e.leave(d))
		}
	}
	return errors.Join(errs...)
}

// end gives back what draws hold, whatever that is.
func (d *draws) end() error {
	d.done, d.saved, d.keeping = 0, nil, keeping{}
	return d.close()
}

// endDraws ends all draws.
func (e *explanation) endDraws() error {
	var errs []error
	for _, d := range e.draws {
		errs = append(errs, d.end())
	}
	return errors.Join(errs...)
}
