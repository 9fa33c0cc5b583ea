package devmem

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/tensor"
)

// ConstantKey names a constant and a form of it: Form is comparable, and its type tells the forms apart.
type ConstantKey struct {
	Data *tensor.Const
	Form any
}

// Constant is a constant in the form that kernels want, in device memory once its program is loaded.
type Constant struct {
	key   ConstantKey
	bytes int
	fill  func(dst []byte)
	at    driver.Ptr
	block *Block // nil until it is uploaded
}

// At returns its address.
func (c *Constant) At() driver.Ptr { return c.at }

// Block is an allocation with the constants that one program was the first to need.
type Block struct {
	memory    *Allocation
	constants []*Constant
	users     int // programs
}

// ConstantPool has the constants on the device, each once for all programs. Its callers take turns.
type ConstantPool struct {
	a         *Allocator
	constants map[ConstantKey]*Constant
}

// NewConstantPool makes an empty pool.
func (a *Allocator) NewConstantPool() *ConstantPool {
	return &ConstantPool{a, map[ConstantKey]*Constant{}}
}

// Constants are those that a program needs.
type Constants struct {
	pool   *ConstantPool // nil where only bytes are counted
	wanted map[ConstantKey]*Constant
	fresh  []*Constant // not in the pool yet
}

// Constants returns an empty collection; that of a nil pool is for counting bytes.
func (p *ConstantPool) Constants() *Constants {
	return &Constants{pool: p, wanted: map[ConstantKey]*Constant{}}
}

// Align is the alignment, in bytes, of neighbours in an allocation.
const Align = 256

// Aligned rounds up to Align.
func Aligned(bytes int) int { return (bytes + Align - 1) / Align * Align }

// Add returns the constant of that key, which may be in the pool already; if not, fill writes its bytes when it is uploaded.
func (s *Constants) Add(key ConstantKey, bytes int, fill func(dst []byte)) *Constant {
	if c := s.wanted[key]; c != nil {
		return c
	}
	var c *Constant
	if s.pool != nil {
		c = s.pool.constants[key]
	}
	if c == nil {
		c = &Constant{key: key, bytes: bytes, fill: fill}
		s.fresh = append(s.fresh, c)
	}
	s.wanted[key] = c
	return c
}

// AddAll adds those of another collection that are not in its pool.
func (s *Constants) AddAll(other *Constants) {
	for _, c := range other.fresh {
		s.Add(c.key, c.bytes, c.fill)
	}
}

// Bytes returns the memory that those need that are not in the pool.
func (s *Constants) Bytes() int {
	total := 0
	for _, c := range s.fresh {
		total += Aligned(c.bytes)
	}
	return total
}

// Upload brings the constants that are not in the pool to the device, and counts the program among the users of all blocks that it returns,
// until Release.
func (s *Constants) Upload() (blocks []*Block, err error) {
	p := s.pool
	if len(s.fresh) > 0 {
		made := &Block{constants: s.fresh}
		if made.memory, err = p.a.Allocate(s.Bytes(), "weights"); err != nil {
			return nil, err
		}
		at := made.memory.at
		for _, c := range s.fresh {
			c.at, c.block = at, made
			at += driver.Ptr(Aligned(c.bytes))
		}
		if err := p.a.copyConstants(s.fresh); err != nil {
			return nil, errors.Join(fmt.Errorf("cuda: uploading weights: %w", err), made.memory.Close())
		}
		made.memory.MarkConstant()
		for _, c := range s.fresh {
			p.constants[c.key] = c
			c.fill = nil
			c.key.Data.Forget() // its pages in the file are not needed any more
		}
	}
	seen := map[*Block]bool{}
	for _, c := range s.wanted {
		if !seen[c.block] {
			seen[c.block] = true
			c.block.users++
			blocks = append(blocks, c.block)
		}
	}
	return blocks, nil
}

// copyConstants fills and uploads constants by way of pinned memory, if there is some.
func (a *Allocator) copyConstants(constants []*Constant) error {
	most := 0
	for _, c := range constants {
		most = max(most, c.bytes)
	}
	return a.context.Do(func() (err error) {
		buffer := a.newStaging(most)
		defer func() {
			if err != nil {
				_ = a.stream.Synchronize() // a copy may be on its way out of it
			}
			_ = a.freeStaging(buffer) // a refused call is tried again
		}()
		for _, c := range constants {
			if c.bytes == 0 {
				continue
			}
			bytes := buffer.bytes[:c.bytes]
			clear(bytes)
			c.fill(bytes)
			if err := a.stream.CopyToDevice(c.at, unsafe.Pointer(unsafe.SliceData(bytes)), c.bytes); err != nil {
				return err
			}
			if err := a.stream.Synchronize(); err != nil {
				return err
			}
		}
		return nil
	})
}

// Release counts a program out, and gives back blocks that no other uses.
func (p *ConstantPool) Release(blocks []*Block) error {
	var errs []error
	for _, k := range blocks {
		if k.users--; k.users > 0 {
			continue
		}
		for _, c := range k.constants {
			delete(p.constants, c.key)
		}
		errs = append(errs, k.memory.Close())
	}
	return errors.Join(errs...)
}
