package cpu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Program is a plan with its arena.
type Program struct {
	backend *Backend
	plan    *plan.Plan
	arena   []byte // aligned to plan.Align
	offset  map[*ir.Value]int
	steps   []step
	scratch []scratch // one a worker
	weights map[weightKey]bool
	closed  bool
}

// step is a compiled step: phases that run one after the other, each in independent parts. A view has none.
type step struct {
	phases []phase
}

type phase struct {
	parts int
	do    part
}

var errClosed = errors.New("cpu: the program is closed")

// Load implements backend.Backend. The storage of the graph's constants must stay valid until the program is closed.
func (b *Backend) Load(ctx context.Context, p *plan.Plan) (backend.Program, error) {
	prog := &Program{backend: b, plan: p, offset: map[*ir.Value]int{}, steps: make([]step, len(p.Steps)), weights: map[weightKey]bool{}}
	if err := prog.place(); err != nil {
		return nil, err
	}
	c := &compiler{backend: b, program: prog}
	for i, s := range p.Steps {
		err := ctx.Err()
		if err == nil {
			prog.steps[i], err = c.compile(s)
		}
		if err != nil {
			b.release(prog)
			return nil, err
		}
	}
	shared := make([]float64, c.shared)
	prog.scratch = make([]scratch, b.pool.size())
	for i := range prog.scratch {
		own := make([]float64, (c.own+1)/2)
		prog.scratch[i] = scratch{f64: own, f32: floatsOf(own), shared: shared}
	}
	return prog, nil
}

// place checks the buffers and takes the arena.
func (p *Program) place() error {
	for i, b := range p.plan.Buffers {
		if b.Offset < 0 || b.Offset%plan.Align != 0 || b.Bytes < 0 || b.Offset+b.Bytes > p.plan.Peak {
			return fmt.Errorf("cpu: buffer %d of the plan (%d bytes at %d) does not lie in an arena of %d bytes", i, b.Bytes, b.Offset, p.plan.Peak)
		}
		for _, v := range b.Values {
			if n := v.Type.Elem.Bytes(v.Shape().Elements()); n > b.Bytes {
				return fmt.Errorf("cpu: buffer %d of the plan has %d bytes, %v needs %d", i, b.Bytes, v, n)
			}
			p.offset[v] = b.Offset
		}
	}
	raw := make([]byte, p.plan.Peak+plan.Align)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(raw)))) & (plan.Align - 1)
	p.arena = raw[skip : skip+p.plan.Peak]
	return nil
}

// Run implements backend.Program.
func (p *Program) Run(ctx context.Context, from, to int) error {
	if p.closed {
		return errClosed
	}
	if from < 0 || to < from || to > len(p.steps) {
		return fmt.Errorf("cpu: steps %d to %d of %d cannot run", from, to, len(p.steps))
	}
	for i := from; i < to; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, f := range p.steps[i].phases {
			if err := p.backend.pool.run(ctx, f.parts, f.do, p.scratch); err != nil {
				if ctx.Err() != nil {
					return err
				}
				n := p.plan.Steps[i].Node
				return fmt.Errorf("cpu: step %d, node %q (%s): %w", i, n.Name, n.Op.Name, err)
			}
		}
	}
	return nil
}

// float32s is the storage of a value that a caller may touch.
func (p *Program) float32s(v *ir.Value, n int) ([]float32, error) {
	at, ok := p.offset[v]
	switch {
	case p.closed:
		return nil, errClosed
	case !ok:
		return nil, fmt.Errorf("cpu: %v (%q) is not a value of the plan", v, v.Name)
	case v.Type.Elem != tensor.Float32:
		return nil, fmt.Errorf("cpu: %v (%q) is %v, not float32", v, v.Name, v.Type)
	case n != v.Shape().Elements():
		return nil, fmt.Errorf("cpu: %v (%q) is %v, %d elements and not %d", v, v.Name, v.Type, v.Shape().Elements(), n)
	}
	return view[float32](p.arena, at, n), nil
}

// Write implements backend.Program.
func (p *Program) Write(v *ir.Value, data []float32) error {
	dst, err := p.float32s(v, len(data))
	copy(dst, data)
	return err
}

// Read implements backend.Program.
func (p *Program) Read(v *ir.Value, dst []float32) error {
	src, err := p.float32s(v, len(dst))
	copy(dst, src)
	return err
}

// Scratch is the memory, in bytes, that the program took besides its arena and the weights. It depends on the plan and the
// number of threads.
func (p *Program) Scratch() int {
	n := 8 * len(p.scratch[0].shared)
	for _, s := range p.scratch {
		n += 8 * len(s.f64)
	}
	return n
}

// Close implements backend.Program.
func (p *Program) Close() error {
	if p.closed {
		return errClosed
	}
	p.closed = true
	p.arena, p.steps, p.scratch = nil, nil, nil
	p.backend.release(p)
	return nil
}

// view is the n elements of a type from a byte offset on, which must be aligned.
func view[T any](b []byte, at, n int) []T {
	if n == 0 {
		return nil
	}
	var size = int(unsafe.Sizeof(*new(T)))
	b = b[at : at+n*size]
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n)
}

// floatsOf is the same memory as float32.
func floatsOf(d []float64) []float32 {
	if len(d) == 0 {
		return nil
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(d))), 2*len(d))
}

// int32s is the same memory as integers.
func int32s(f []float32) []int32 {
	if len(f) == 0 {
		return nil
	}
	return unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(f))), len(f))
}

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// pairsOf is the same memory two numbers at a time, the first in the lower half where littleEndian; it must be aligned, as blocks
// of 64 of the arena are.
func pairsOf(f []float32) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(f))), len(f)/2)
}
