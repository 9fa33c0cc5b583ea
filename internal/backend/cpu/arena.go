package cpu

import (
	"errors"
	"fmt"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/plan"
)

// arena is memory aligned to plan.Align.
type arena struct {
	data   []byte
	high   int
	closed bool
}

// NewArena implements backend.Backend.
func (b *Backend) NewArena(bytes int) (backend.Arena, error) {
	a, err := newArena(bytes)
	if err != nil {
		return nil, err
	}
	return a, nil
}

func newArena(bytes int) (*arena, error) {
	if bytes < 0 {
		return nil, fmt.Errorf("cpu: an arena of %d bytes", bytes)
	}
	data, err := take(bytes)
	if err != nil {
		return nil, err
	}
	return &arena{data: data}, nil
}

func (a *arena) Bytes() int { return len(a.data) }

func (a *arena) HighWater() int { return a.high }

// touch notes that bytes up to end were written.
func (a *arena) touch(end int) { a.high = max(a.high, (end+plan.Align-1)/plan.Align*plan.Align) }

func (a *arena) Close() error {
	if a.closed {
		return errors.New("cpu: the arena is closed")
	}
	data := a.data
	a.closed, a.data = true, nil
	return giveBack(data)
}
