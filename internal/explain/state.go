package explain

import (
	"fmt"
	"sync"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/network"
)

// seen is what others than those who compute may look at.
type seen struct {
	mu    sync.Mutex
	state network.State
	gone  error
}

// State says what the model holds. It waits for nothing.
func (m *Model) State() network.State {
	m.seen.mu.Lock()
	defer m.seen.mu.Unlock()
	return m.seen.state
}

// look notes what the model holds now.
func (m *Model) look() network.State {
	s := network.State{}
	if m.net != nil {
		s = m.net.State()
	}
	s.Vacated = m.shuttle.out
	m.seen.mu.Lock()
	defer m.seen.mu.Unlock()
	m.seen.state = s
	return s
}

// lost is an ErrLost when the device is gone.
func (s *seen) lost() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// lose notes that the device is gone.
func (s *seen) lose(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone == nil {
		s.gone = fmt.Errorf("%w: %w", cam.ErrLost, err)
	}
	return s.gone
}
