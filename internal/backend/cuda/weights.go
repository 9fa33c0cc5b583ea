package cuda

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/tensor"
)

// constantKey says what was made of a constant; form is comparable, and its type tells the forms apart.
type constantKey struct {
	data *tensor.Const
	form any
}

// constant is a constant in the form that kernels want, in device memory once its program is loaded.
type constant struct {
	key   constantKey
	bytes int
	fill  func(dst []byte)
	at    driver.Ptr
	block *block // nil until it is uploaded
}

// block is memory with the constants that one program was the first to need.
type block struct {
	memory    *memory
	constants []*constant
	users     int // programs
}

// pool collects the constants of a program while it is compiled.
type pool struct {
	backend *Backend // nil where only bytes are counted
	wanted  map[constantKey]*constant
	fresh   []*constant
}

const constantAlign = 256

// constant returns the constant of that key, which may be in memory already.
func (p *pool) constant(key constantKey, bytes int, fill func(dst []byte)) *constant {
	if c := p.wanted[key]; c != nil {
		return c
	}
	var c *constant
	if p.backend != nil {
		c = p.backend.constants[key]
	}
	if c == nil {
		c = &constant{key: key, bytes: bytes, fill: fill}
		p.fresh = append(p.fresh, c)
	}
	p.wanted[key] = c
	return c
}

// bytes is the memory that the constants that are not there yet need.
func (p *pool) bytes() int {
	total := 0
	for _, c := range p.fresh {
		total += ceilDiv(c.bytes, constantAlign) * constantAlign
	}
	return total
}

// upload brings the constants that are not there yet to the device, and counts the program among the users of all.
func (p *pool) upload() (blocks []*block, err error) {
	b := p.backend
	if len(p.fresh) > 0 {
		made := &block{constants: p.fresh}
		if made.memory, err = b.take(p.bytes(), "weights"); err != nil {
			return nil, err
		}
		at := made.memory.at
		for _, c := range p.fresh {
			c.at, c.block = at, made
			at += driver.Ptr(ceilDiv(c.bytes, constantAlign) * constantAlign)
		}
		if err := b.copyConstants(p.fresh); err != nil {
			return nil, errors.Join(fmt.Errorf("cuda: uploading weights: %w", err), made.memory.close())
		}
		made.memory.constant = true
		for _, c := range p.fresh {
			b.constants[c.key] = c
			c.fill = nil
			c.key.data.Forget() // its pages in the file are not needed any more
		}
	}
	seen := map[*block]bool{}
	for _, c := range p.wanted {
		if !seen[c.block] {
			seen[c.block] = true
			c.block.users++
			blocks = append(blocks, c.block)
		}
	}
	return blocks, nil
}

// copyConstants fills and uploads constants by way of pinned memory, if there is some.
func (b *Backend) copyConstants(constants []*constant) error {
	most := 0
	for _, c := range constants {
		most = max(most, c.bytes)
	}
	return b.context.Do(func() (err error) {
		staging := b.newBuffer(most)
		defer func() {
			if err != nil {
				_ = b.stream.Synchronize() // a copy may be on its way out of it
			}
			_ = b.freeBuffer(staging) // what the driver refuses is tried again
		}()
		for _, c := range constants {
			if c.bytes == 0 {
				continue
			}
			bytes := staging.bytes[:c.bytes]
			clear(bytes)
			c.fill(bytes)
			if err := b.stream.CopyToDevice(c.at, unsafe.Pointer(unsafe.SliceData(bytes)), c.bytes); err != nil {
				return err
			}
			if err := b.stream.Synchronize(); err != nil {
				return err
			}
		}
		return nil
	})
}

// release gives back blocks of constants that no program uses any more.
func (b *Backend) release(blocks []*block) error {
	var errs []error
	for _, k := range blocks {
		if k.users--; k.users > 0 {
			continue
		}
		for _, c := range k.constants {
			delete(b.constants, c.key)
		}
		errs = append(errs, k.memory.close())
	}
	return errors.Join(errs...)
}
