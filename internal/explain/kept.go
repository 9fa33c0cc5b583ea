package explain

import (
	"errors"
	"slices"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
)

// recall looks for a state in the checkpoint.
func (e *Explanation) recall(s *sampling, values int) {
	if e.req.Checkpoint == nil {
		return
	}
	state, n := e.req.Checkpoint.Latest(s.key(e.result.Score.Definition))
	if n > 0 && n <= s.points.Len && len(state) == values {
		s.saved, s.done, s.keeping.points = slices.Clone(state), n, n
		e.done += n
	}
}

// hasCheckpoint reports whether states are kept in the request's checkpoint.
func (e *Explanation) hasCheckpoint(s *sampling) bool {
	return e.req.Checkpoint != nil && !s.keeping.off
}

// checkpoint keeps the state in the request's checkpoint.
func (e *Explanation) checkpoint(s *sampling) error {
	start := time.Now()
	if err := s.save(); err != nil {
		return err
	}
	if err := e.req.Checkpoint.Keep(s.key(e.result.Score.Definition), s.saved, s.done); err != nil {
		s.keeping.off = true
		e.executor.Record(cam.EventFailed, "unfinished draws cannot be kept: %v", err)
	}
	s.keeping.points, s.keeping.last = s.done, time.Now()
	s.keeping.takes = max(1, s.keeping.last.Sub(start))
	return nil
}

// discard forgets the sums over the points so far.
func (e *Explanation) discard(s *sampling) error {
	e.done -= s.done
	s.done, s.keeping.points = 0, 0
	return s.close()
}

// moveToHost brings the sums to the host, or forgets them if that fails.
func (e *Explanation) moveToHost(s *sampling) error {
	if s.moments == nil {
		return nil
	}
	if !s.sure {
		return e.discard(s)
	}
	if err := s.save(); err != nil {
		return errors.Join(err, e.discard(s))
	}
	return s.close()
}

// Relocate brings sums that lie in another place than where to the host; they go on from there in the new place.
func (e *Explanation) Relocate(where backend.Place) error {
	for _, s := range e.samplings {
		if s.moments != nil && s.where != where {
			if err := e.moveToHost(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// Rescue keeps the sums in the checkpoint, if there is one, and with all also on the host, giving their memory back. Sums that cannot be read
// are lost.
func (e *Explanation) Rescue(all bool) error {
	var errs []error
	for _, s := range e.samplings {
		if s.moments != nil && !s.sure {
			errs = append(errs, e.discard(s))
		}
		if s.done > s.keeping.points && e.hasCheckpoint(s) {
			if err := e.checkpoint(s); err != nil {
				errs = append(errs, err, e.discard(s))
			}
		}
		if all {
			errs = append(errs, e.moveToHost(s))
		}
	}
	return errors.Join(errs...)
}

// Close waits for transfers, and gives back the memory of all sums.
func (e *Explanation) Close() error {
	e.back.Wait()
	var errs []error
	for _, s := range e.samplings {
		errs = append(errs, s.reset())
	}
	return errors.Join(errs...)
}
