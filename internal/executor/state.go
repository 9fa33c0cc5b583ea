package executor

import (
	"fmt"
	"sync"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/network"
)

// published holds what State and others read while a volume is computed. mu guards it.
type published struct {
	mu    sync.Mutex
	state network.State
	gone  error
}

// State returns what the model holds. It waits for nothing.
func (m *Model) State() network.State {
	m.published.mu.Lock()
	defer m.published.mu.Unlock()
	return m.published.state
}

// publishState publishes what the model holds now.
func (m *Model) publishState() network.State {
	s := network.State{}
	if m.net != nil {
		s = m.net.State()
	}
	s.Vacated = m.shuttle.out
	m.published.mu.Lock()
	defer m.published.mu.Unlock()
	m.published.state = s
	return s
}

// lost returns an error that wraps cam.ErrLost once the device is gone.
func (s *published) lost() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// lose notes that the device is gone.
func (s *published) lose(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone == nil {
		s.gone = fmt.Errorf("%w: %w", cam.ErrLost, err)
	}
	return s.gone
}
