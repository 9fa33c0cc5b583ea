package cuda

import (
	"errors"
	"fmt"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/devmem"
	"github.com/voxcam/voxcam/internal/plan"
)

// arena is the memory of activations.
type arena struct {
	memory *devmem.Allocation
	bytes  int
	high   int
	closed bool
}

// NewArena implements backend.Backend.
func (b *Backend) NewArena(bytes int) (backend.Arena, error) {
	a, err := b.newArena(bytes)
	if err != nil {
		return nil, err
	}
	return a, nil
}

func (b *Backend) newArena(bytes int) (*arena, error) {
	if bytes < 0 {
		return nil, fmt.Errorf("cuda: an arena of %d bytes", bytes)
	}
	m, err := b.memory.Allocate(bytes, "an arena")
	if err != nil {
		return nil, err
	}
	return &arena{memory: m, bytes: bytes}, nil
}

// gone reports whether there is no memory to run in.
func (a *arena) gone() bool { return a.closed || a.memory.Broken() }

func (a *arena) Bytes() int { return a.bytes }

func (a *arena) HighWater() int { return a.high }

// touch notes that bytes up to end were written.
func (a *arena) touch(end int) { a.high = max(a.high, ceilDiv(end, plan.Align)*plan.Align) }

func (a *arena) Close() error {
	if a.closed {
		return errors.New("cuda: the arena is closed")
	}
	a.closed = true
	return a.memory.Close()
}
