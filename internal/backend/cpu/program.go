package cpu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cpu/kernel"
	"github.com/voxcam/voxcam/internal/backend/hostmem"
	"github.com/voxcam/voxcam/internal/invariants"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Program is a plan with the memory of its buffers.
type Program struct {
	backend   *Backend
	plan      *plan.Plan
	arena     *arena
	owned     bool              // the arena
	buffer    map[*ir.Value]int // of the values that a caller may touch
	memory    [][]byte          // of each buffer; nil for an external one that is not bound
	fields    []*hostmem.Field  // that external buffers are bound to
	instances []*instance
	steps     []step
	dies      [][]int // buffers by their last step, where dead memory is poisoned
	job       job
	onPlanes  part
	scratch   []scratch // one a worker
	weights   map[weightKey]bool
	closed    bool
}

// instance is a compiled node. Steps that compute slabs of the same node in the same buffers share it.
type instance struct {
	node         *ir.Node
	mode         plan.Mode
	in, out      []int // buffers, by which steps find their instance
	places       []place
	ops          [][]byte // memory of each operand, the output last
	phases       []phase
	byPlane      bool // phases compute one plane, and find their operands plane by plane
	regions      func(depth int) []kernel.Region
	heights      []height
	accumulation *accumulation
	own          int // float32 values of scratch that a worker needs
	shared       int // float64 values that a step needs
	elements     int // of the output
}

// height is the state that steps with the same number of planes share.
type height struct {
	planes  int
	regions []kernel.Region
}

// step is a part of an instance: planes [z0, z1), where it does not run whole.
type step struct {
	instance *instance
	z0, z1   int
	height   int // index into instance.heights
}

// place is the location of an operand.
type place struct {
	buffer     int    // -1 for constants and absent operands
	constant   []byte // of a constant
	bytes      int    // all of it
	planes     int    // places for planes, 0 for an operand that is always taken whole
	planeBytes int
}

// phase is one of the things that an instance does one after the other, each in independent parts.
type phase struct {
	parts int
	do    part
	// perPlane says that parts are those of one plane: part i is part i%parts of plane i/parts.
	perPlane bool
}

// job is the step that runs.
type job struct {
	instance *instance
	do       part
	parts    int // of a plane
	z0, z1   int
	regions  []kernel.Region
}

var errClosed = errors.New("cpu: the program or its arena is closed")

// Load implements backend.Backend. The storage of the graph's constants must stay valid until the program is closed.
func (b *Backend) Load(ctx context.Context, p *plan.Plan, a backend.Arena) (backend.Program, error) {
	prog := &Program{backend: b, plan: p, buffer: p.BufferOf(), weights: map[weightKey]bool{}}
	if err := prog.load(ctx, a); err != nil {
		b.release(prog)
		return nil, err
	}
	return prog, nil
}

func (p *Program) load(ctx context.Context, a backend.Arena) (err error) {
	if err := p.plan.Check(); err != nil {
		return fmt.Errorf("cpu: %w", err)
	}
	c := &compiler{backend: p.backend, program: p, plan: p.plan}
	if p.steps, p.instances, err = c.steps(ctx); err != nil {
		return err
	}
	switch a := a.(type) {
	case nil:
		if p.arena, err = newArena(p.plan.Peak); err != nil {
			return err
		}
		p.owned = true
	case *arena:
		if p.arena = a; a.closed || a.Bytes() < p.plan.Peak {
			return fmt.Errorf("cpu: an arena of %d bytes does not hold a plan of %d", a.Bytes(), p.plan.Peak)
		}
	default:
		return fmt.Errorf("cpu: an arena of another backend (%T)", a)
	}
	p.memory, p.fields = make([][]byte, len(p.plan.Buffers)), make([]*hostmem.Field, len(p.plan.Buffers))
	for i, b := range p.plan.Buffers {
		if !b.External {
			p.memory[i] = p.arena.data[b.Offset : b.Offset+b.Bytes]
		}
	}
	for _, inst := range p.instances {
		p.locate(inst)
	}

	size := c.sizes(p.instances)
	shared := make([]float64, size.shared)
	p.scratch = make([]scratch, p.backend.pool.size())
	for i := range p.scratch {
		own := make([]float64, (size.own+1)/2)
		p.scratch[i] = scratch{f64: own, f32: floatsOf(own), shared: shared, plane: make([][]byte, size.operands), job: &p.job}
	}
	for _, inst := range p.instances {
		if inst.accumulation != nil {
			inst.accumulation.allocate()
		}
	}
	p.onPlanes = func(i int, s *scratch) {
		j := s.job
		s.point(j.instance, j.z0+i/j.parts)
		if g := j.instance.accumulation; g != nil {
			s.partial = s.shared[i/j.parts*g.partial:][:g.partial]
		}
		j.do(i%j.parts, s)
	}
	if invariants.Enabled {
		poison(p.arena.data[:p.plan.Peak])
		p.dies = make([][]int, len(p.steps))
		for i, b := range p.plan.Buffers {
			if b.Last >= 0 && b.Last < len(p.steps) && !b.External {
				p.dies[b.Last] = append(p.dies[b.Last], i)
			}
		}
	}
	return nil
}

// poison fills memory with bytes that are NaN as float32.
func poison(b []byte) {
	for i := range b {
		b[i] = 0xff
	}
}

// locate finds the memory of an instance's operands.
func (p *Program) locate(inst *instance) {
	for i, at := range inst.places {
		switch {
		case at.buffer < 0:
			inst.ops[i] = at.constant
		case p.memory[at.buffer] == nil:
			inst.ops[i] = nil
		default:
			inst.ops[i] = p.memory[at.buffer][:at.bytes]
		}
	}
}

// Run implements backend.Program.
func (p *Program) Run(ctx context.Context, from, to int) error {
	if p.closed || p.arena.closed {
		return errClosed
	}
	if from < 0 || to < from || to > len(p.steps) {
		return fmt.Errorf("cpu: steps %d to %d of %d cannot run", from, to, len(p.steps))
	}
	for i, b := range p.plan.Buffers {
		if b.External && p.memory[i] == nil && b.First < to && b.Last >= from {
			return fmt.Errorf("cpu: the external storage of %v (%q) is not bound", b.Values[0], b.Values[0].Name)
		}
	}
	for i := from; i < to; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := p.step(ctx, &p.steps[i]); err != nil {
			if ctx.Err() != nil {
				return err
			}
			n := p.plan.Steps[i].Node
			return fmt.Errorf("cpu: step %d, node %q (%s): %w", i, n.Name, n.Op.Name, err)
		}
		if invariants.Enabled {
			for _, b := range p.dies[i] {
				poison(p.memory[b])
			}
		}
	}
	return nil
}

func (p *Program) step(ctx context.Context, s *step) error {
	inst, pool := s.instance, p.backend.pool
	p.job = job{instance: inst, z0: s.z0, z1: s.z1}
	p.touch(inst, s.z0, s.z1)
	if inst.regions != nil {
		p.job.regions = inst.heights[s.height].regions
	}
	if inst.accumulation != nil {
		return inst.accumulation.run(ctx, p, s)
	}
	if inst.byPlane && len(inst.phases) > 1 {
		for z := s.z0; z < s.z1; z++ { // phases follow one another plane by plane
			p.job.z0 = z
			for k := range inst.phases {
				if err := p.planes(ctx, &inst.phases[k], 1); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for k := range inst.phases {
		f := &inst.phases[k]
		var err error
		switch {
		case inst.byPlane:
			err = p.planes(ctx, f, s.z1-s.z0)
		case inst.regions != nil:
			err = pool.run(ctx, 0, len(p.job.regions)*f.parts, f.do, inst.ops, p.scratch)
		case f.perPlane:
			err = pool.run(ctx, s.z0*f.parts, (s.z1-s.z0)*f.parts, f.do, inst.ops, p.scratch)
		default:
			err = pool.run(ctx, 0, f.parts, f.do, inst.ops, p.scratch)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// planes runs a phase on some planes from job.z0 on.
func (p *Program) planes(ctx context.Context, f *phase, planes int) error {
	p.job.do, p.job.parts = f.do, f.parts
	return p.backend.pool.run(ctx, 0, planes*f.parts, p.onPlanes, nil, p.scratch)
}

// touch notes how far up in the arena a step writes.
func (p *Program) touch(inst *instance, z0, z1 int) {
	out := &inst.places[len(inst.places)-1]
	b := &p.plan.Buffers[out.buffer]
	if b.External {
		return
	}
	end := out.bytes
	if inst.mode == plan.Slab && out.planes > 0 {
		if last := (z1 - 1) % out.planes; last >= z1-z0-1 { // no wrapping round
			end = (last + 1) * out.planeBytes
		}
	}
	p.arena.touch(b.Offset + end)
}

// float32s returns the storage of a value that a caller may touch.
func (p *Program) float32s(v *ir.Value, n int) (data []float32, buffer int, err error) {
	i, ok := p.buffer[v]
	switch {
	case p.closed || p.arena.closed:
		return nil, 0, errClosed
	case !ok:
		return nil, 0, fmt.Errorf("cpu: %v (%q) is not a value of the plan", v, v.Name)
	case v.Type.Elem != tensor.Float32:
		return nil, 0, fmt.Errorf("cpu: %v (%q) is %v, not float32", v, v.Name, v.Type)
	case n != v.Shape().Elements():
		return nil, 0, fmt.Errorf("cpu: %v (%q) is %v, %d elements and not %d", v, v.Name, v.Type, v.Shape().Elements(), n)
	}
	if b := &p.plan.Buffers[i]; b.Planes > 0 && b.Planes < v.Shape()[1] {
		return nil, 0, fmt.Errorf("cpu: %v (%q) has %d planes, of which the plan keeps %d", v, v.Name, v.Shape()[1], b.Planes)
	}
	if p.memory[i] == nil {
		return nil, i, nil
	}
	return view[float32](p.memory[i], 0, n), i, nil
}

// Bind implements backend.Program.
func (p *Program) Bind(v *ir.Value, f backend.Field) error {
	own, ok := f.(*hostmem.Field)
	if !ok || own.Closed() {
		return fmt.Errorf("cpu: %v (%q) cannot be bound to a field that is closed or of another backend (%T)", v, v.Name, f)
	}
	_, i, err := p.float32s(v, own.Len())
	if err != nil {
		return err
	}
	if !p.plan.Buffers[i].External {
		return fmt.Errorf("cpu: %v (%q) has its storage in the arena and cannot be bound", v, v.Name)
	}
	data := own.Values()
	if v.Def != nil { // steps write it
		data = own.Fresh()
	}
	memory := bytesOf(data)
	for k, b := range p.plan.Buffers {
		for _, other := range b.Values {
			if other == v && b.External {
				p.memory[k], p.fields[k] = memory, own
			}
		}
	}
	for _, inst := range p.instances {
		p.locate(inst)
	}
	return nil
}

// Field implements backend.Program.
func (p *Program) Field(v *ir.Value) (backend.Field, error) {
	data, i, err := p.float32s(v, v.Shape().Elements())
	switch {
	case err != nil:
		return nil, err
	case p.plan.Buffers[i].External && p.fields[i] == nil:
		return nil, fmt.Errorf("cpu: the external storage of %v (%q) is not bound", v, v.Name)
	case p.plan.Buffers[i].External:
		return p.fields[i], nil
	}
	if v.Def == nil { // to be written
		p.arena.touch(p.plan.Buffers[i].Offset + 4*len(data))
	}
	return hostmem.View(data), nil
}

// Write implements backend.Program.
func (p *Program) Write(v *ir.Value, data []float32) error {
	dst, i, err := p.float32s(v, len(data))
	switch b := &p.plan.Buffers[i]; {
	case err != nil:
		return err
	case b.External && p.memory[i] == nil:
		return fmt.Errorf("cpu: the external storage of %v (%q) is not bound", v, v.Name)
	case !b.External:
		p.arena.touch(b.Offset + 4*len(data))
	}
	copy(dst, data)
	return nil
}

// Read implements backend.Program.
func (p *Program) Read(v *ir.Value, dst []float32) error {
	src, i, err := p.float32s(v, len(dst))
	if err == nil && p.memory[i] == nil {
		err = fmt.Errorf("cpu: the external storage of %v (%q) is not bound", v, v.Name)
	}
	copy(dst, src)
	return err
}

// Close implements backend.Program.
func (p *Program) Close() error {
	if p.closed {
		return errClosed
	}
	p.closed = true
	var err error
	if p.owned && !p.arena.closed {
		err = p.arena.Close()
	}
	p.arena, p.memory, p.steps, p.instances, p.scratch = nil, nil, nil, nil, nil
	p.backend.release(p)
	return err
}

// view returns the n elements of a type from a byte offset on, which must be aligned.
func view[T any](b []byte, at, n int) []T {
	if n == 0 {
		return nil
	}
	var size = int(unsafe.Sizeof(*new(T)))
	b = b[at : at+n*size]
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n)
}

// as returns b as elements of a type.
func as[T any](b []byte) []T {
	if len(b) == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(*new(T))))
}

// bytesOf returns the same memory as bytes.
func bytesOf(f []float32) []byte {
	if len(f) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f))), 4*len(f))
}

// floatsOf returns the same memory as float32.
func floatsOf(d []float64) []float32 {
	if len(d) == 0 {
		return nil
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(d))), 2*len(d))
}

// int32s returns the same memory as integers.
func int32s(f []float32) []int32 {
	if len(f) == 0 {
		return nil
	}
	return unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(f))), len(f))
}

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// pairsOf returns the same memory two numbers at a time, the first in the lower half where littleEndian. Where planes are of an odd
// size it is not aligned to pairs, which the processors that Go is made for allow.
func pairsOf(f []float32) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(f))), len(f)/2)
}
