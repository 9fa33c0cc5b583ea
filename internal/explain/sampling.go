package explain

import (
	"fmt"
	"strings"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
)

// sampling is the evaluation of points that methods share. It continues at the same point when plans change, and from a state of the
// checkpoint. Point k, and the sums over the points up to it, do not depend on interruptions.
type sampling struct {
	points  *cam.Points
	which   []int // methods, also finished ones, because the moments keep values for all
	choices []cam.Choice

	done    int       // points that were evaluated: in moments and scores, or in saved without moments
	scores  []float32 // of the points that give one
	moments backend.Moments
	where   backend.Place // of moments
	sure    bool          // moments hold the sums over done points: no call that changes them has failed
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
	keepShare = 25      // time from one kept state to the next, as a multiple of the time that keeping takes
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

// gradients returns the number of finished points that gave a gradient.
func (s *sampling) gradients() int { return max(0, s.done-s.points.Scores) }

// key names the state: by its values, the score of the gradient, and the points. Sample and seed are those of the checkpoint, and any number
// of draws begins with the same ones.
func (s *sampling) key(score string) string {
	mean, m2, abs, square := cam.Kept(s.choices...)
	var kept []string
	for i, name := range []string{"mean", "m2", "abs", "square"} {
		if []bool{mean, m2, abs, square}[i] {
			kept = append(kept, name)
		}
	}
	return fmt.Sprintf("%s/score=%s/kept=%s", s.points.Key, score, strings.Join(kept, "+"))
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

// close gives the moments back.
func (s *sampling) close() error {
	m := s.moments
	if s.moments = nil; m == nil {
		return nil
	}
	return m.Close()
}

// reset gives back all that a sampling holds.
func (s *sampling) reset() error {
	s.done, s.saved, s.keeping = 0, nil, keeping{}
	return s.close()
}
