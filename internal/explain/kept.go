package explain

import (
	"errors"
	"slices"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
)

// recall looks for a state that was kept outside.
func (e *Explanation) recall(s *sampling, values int) {
	if e.req.Checkpoint == nil {
		return
	}
	state, n := e.req.Checkpoint.Latest(s.key(e.result.TargetClass))
	if n > 0 && n <= s.points.Len && len(state) == values {
		s.saved, s.done, s.keeping.points = slices.Clone(state), n, n
		e.done += n
	}
}

// keeps reports whether states are kept outside.
func (e *Explanation) keeps(s *sampling) bool { return e.req.Checkpoint != nil && !s.keeping.off }

// keep keeps the state outside.
func (e *Explanation) keep(s *sampling) error {
	start := time.Now()
	if err := s.save(); err != nil {
		return err
	}
	if err := e.req.Checkpoint.Keep(s.key(e.result.TargetClass), s.saved, s.done); err != nil {
		s.keeping.off = true
		e.executor.Record(cam.EventFailed, "unfinished draws cannot be kept: %v", err)
	}
	s.keeping.points, s.keeping.last = s.done, time.Now()
	s.keeping.takes = max(1, s.keeping.last.Sub(start))
	return nil
}

// lose forgets what was gathered.
func (e *Explanation) lose(s *sampling) error {
	e.done -= s.done
	s.done, s.keeping.points = 0, 0
	return s.close()
}

// leave takes what was gathered to the host, or forgets it if that fails.
func (e *Explanation) leave(s *sampling) error {
	if s.moments == nil {
		return nil
	}
	if !s.sure {
		return e.lose(s)
	}
	if err := s.save(); err != nil {
		return errors.Join(err, e.lose(s))
	}
	return s.close()
}

// Relocate takes what was gathered elsewhere to the host, from where it goes on in the place.
func (e *Explanation) Relocate(where backend.Place) error {
	for _, s := range e.samplings {
		if s.moments != nil && s.where != where {
			if err := e.leave(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// Rescue keeps what was gathered in the checkpoint, if there is one, and, if all is given back, on the host. What cannot be read is lost.
func (e *Explanation) Rescue(all bool) error {
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

// End waits for what comes back, and gives back all that was gathered.
func (e *Explanation) End() error {
	e.back.Wait()
	var errs []error
	for _, s := range e.samplings {
		errs = append(errs, s.end())
	}
	return errors.Join(errs...)
}
