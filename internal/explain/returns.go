package explain

import (
	"errors"
	"sync"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/network"
)

// returns collects what comes back to the host while the device goes on.
type returns struct {
	sync.WaitGroup
	mu     sync.Mutex
	failed map[int]error // of methods
}

// take brings the content of an output buffer to the result of method i.
func (e *explanation) take(i int, s *network.Output, to *[]float32) (err error) {
	if e.stay {
		return nil
	}
	if !s.Later || e.atOnce {
		*to, err = s.Field.Take()
		return err
	}
	field := s.Field
	s.Leaves.Add(1)
	e.back.Go(func() {
		defer s.Leaves.Done()
		values, err := field.Take()
		if t := e.model.trouble(err); err != nil && (t == backend.NoMemory || t == backend.Transient) {
			values, err = field.Take() // the output still holds it
		}
		if err == nil {
			*to = values
			return
		}
		e.back.mu.Lock()
		defer e.back.mu.Unlock()
		if e.back.failed == nil {
			e.back.failed = map[int]error{}
		}
		e.back.failed[i] = errors.Join(e.back.failed[i], err)
	})
	return nil
}

// collect waits for what comes back. A fault becomes the status of its method; after anything else the method has none any more, and the
// error says what to recover from.
func (e *explanation) collect() error {
	e.back.Wait()
	var late []error
	for i, err := range e.back.failed {
		m := &e.result.Methods[i]
		if e.model.trouble(err) == backend.Fault {
			m.Status, m.Reason = cam.StatusFailed, err.Error()
			continue
		}
		m.Status, m.Reason, m.Map, m.Heatmap = "", "", nil, nil
		late = append(late, err)
	}
	e.back.failed = nil
	return errors.Join(late...)
}
