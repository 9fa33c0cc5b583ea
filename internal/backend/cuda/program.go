package cuda

import (
	"context"
	"errors"
	"fmt"
	"unsafe"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/devmem"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
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
	owned     bool                  // the arena
	buffer    map[*ir.Value]int     // of the values that a caller may touch
	address   []driver.Ptr          // of each buffer; 0 for an external one that is not bound
	external  []*external           // of each buffer, nil for those in the arena
	aliases   map[int]*devmem.Alias // of buffers that are rings and are mapped twice
	instances []*instance
	steps     []step
	fused     []*fusion // by the step that they begin at
	high      []int     // end of the highest byte of the arena that steps up to each one write
	dies      [][]int
	scratch   *devmem.Allocation // scratch of steps, states of instances, and staging, where the arena has no room for them
	blocks    []*devmem.Block
	queue     queue
	graphs    []recorded
	closed    bool
}

var errClosed = errors.New("cuda: the program or its arena is closed")

// Load implements backend.Backend. The storage of the graph's constants must stay valid until the program is closed.
func (b *Backend) Load(ctx context.Context, p *plan.Plan, a backend.Arena) (backend.Program, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	prog := &Program{backend: b, plan: p, buffer: p.BufferOf()}
	if err := b.do(func() error { return prog.load(ctx, a) }); err != nil {
		return nil, errors.Join(err, prog.free())
	}
	return prog, nil
}

func (p *Program) load(ctx context.Context, a backend.Arena) (err error) {
	if err := p.check(); err != nil {
		return err
	}
	b := p.backend
	weights := b.constants.Constants()
	c := &compiler{backend: b, plan: p.plan, weights: weights}
	if p.steps, p.instances, err = c.steps(ctx); err != nil {
		return err
	}
	if p.fused, p.instances, err = c.fuse(ctx, p.steps, p.instances); err != nil {
		return err
	}
	switch a := a.(type) {
	case nil:
		if p.arena, err = b.newArena(p.plan.Peak); err != nil {
			return err
		}
		p.owned = true
	case *arena:
		if p.arena = a; a.gone() || a.bytes < p.plan.Peak {
			return fmt.Errorf("cuda: an arena of %d bytes does not hold a plan of %d", a.bytes, p.plan.Peak)
		}
	default:
		return fmt.Errorf("cuda: an arena of another backend (%T)", a)
	}
	if p.blocks, err = weights.Upload(); err != nil {
		return err
	}
	own := arrange(p.instances)
	scratch := p.arena.memory.At() + driver.Ptr(scratchAt(p.plan))
	if needs := own + stagingBytes(p.plan); scratchAt(p.plan)+needs > p.arena.bytes {
		if p.scratch, err = b.memory.Allocate(needs, "the working memory of steps"); err != nil {
			return err
		}
		scratch = p.scratch.At()
	}
	for _, inst := range p.instances {
		inst.stateAt += scratch
	}
	p.address = make([]driver.Ptr, len(p.plan.Buffers))
	p.external = make([]*external, len(p.plan.Buffers))
	p.aliases = map[int]*devmem.Alias{}
	at := scratch + driver.Ptr(own)
	for i, k := range p.plan.Buffers {
		if !k.External {
			if p.address[i] = p.arena.memory.At() + driver.Ptr(k.Offset); k.Doubled {
				if p.aliases[i], err = p.arena.memory.Double(k.Offset, k.Bytes); err != nil {
					return fmt.Errorf("cuda: mapping a ring twice: %w", err)
				}
				p.address[i] = p.aliases[i].At()
			}
			continue
		}
		p.external[i] = newExternal(p.plan, i, at)
		at += driver.Ptr(p.external[i].bytes())
	}
	p.queue = queue{stream: b.stream, program: p, scratch: scratch}
	p.findHighWater()
	if invariants.Enabled {
		p.dies = make([][]int, len(p.steps))
		for i, k := range p.plan.Buffers {
			if k.Last >= 0 && k.Last < len(p.steps) && !k.External {
				p.dies[k.Last] = append(p.dies[k.Last], i)
			}
		}
		return b.stream.Fill8(p.arena.memory.At(), 0xff, p.plan.Peak)
	}
	return nil
}

// arrange gives states their offsets, behind the scratch that all steps share, and returns the bytes of both.
func arrange(instances []*instance) int {
	shared := 0
	for _, inst := range instances {
		shared = max(shared, inst.scratch)
	}
	at := devmem.Aligned(shared)
	for _, inst := range instances {
		inst.stateAt = driver.Ptr(at)
		at += devmem.Aligned(inst.state)
	}
	return at
}

// doubled reports whether a buffer is a ring whose planes follow one another without an end.
func (p *Program) doubled(buffer int) bool { return p.aliases[buffer] != nil }

// check refuses plans whose buffers are not sound, or that were made for a device with another granularity.
func (p *Program) check() error {
	if err := p.plan.Check(); err != nil {
		return fmt.Errorf("cuda: %w", err)
	}
	for i, b := range p.plan.Buffers {
		if b.Doubled && (p.plan.Granularity != p.backend.memory.Granularity() || b.Offset%p.plan.Granularity != 0 || b.Bytes%p.plan.Granularity != 0) {
			return fmt.Errorf("cuda: buffer %d of the plan (%d bytes at %d) cannot be mapped twice on a device with a granularity of %d", i, b.Bytes, b.Offset, p.backend.memory.Granularity())
		}
	}
	return nil
}

// findHighWater finds how far up in the arena the steps write.
func (p *Program) findHighWater() {
	p.high = make([]int, len(p.steps)+1)
	for i := range p.steps {
		s := &p.steps[i]
		out := &s.instance.places[len(s.instance.places)-1]
		b := &p.plan.Buffers[out.buffer]
		end := 0
		if !b.External {
			end = b.Offset + out.bytes
			if s.instance.mode == plan.Slab {
				if last := (s.z1 - 1) % out.places; last >= s.z1-s.z0-1 { // no wrapping round
					end = b.Offset + (last+1)*out.stride
				}
			}
		}
		p.high[i+1] = max(p.high[i], end)
	}
}

// Run implements backend.Program. It returns when the steps are done.
func (p *Program) Run(ctx context.Context, from, to int) error {
	if p.closed || p.arena.gone() {
		return errClosed
	}
	if from < 0 || to < from || to > len(p.steps) {
		return fmt.Errorf("cuda: steps %d to %d of %d cannot run", from, to, len(p.steps))
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	for i, b := range p.plan.Buffers {
		if b.External && p.address[i] == 0 && b.First < to && b.Last >= from {
			return fmt.Errorf("cuda: the external storage of %v (%q) is not bound", b.Values[0], b.Values[0].Name)
		}
	}
	return p.backend.do(func() error {
		if err := p.enqueue(ctx, from, to); err != nil {
			return err
		}
		if err := p.backend.stream.Synchronize(); err != nil {
			return fmt.Errorf("cuda: steps %d to %d: %w", from, to, err)
		}
		p.arena.touch(p.high[to])
		return nil
	})
}

// enqueueSteps launches the steps one by one.
func (p *Program) enqueueSteps(ctx context.Context, from, to int) error {
	for _, e := range p.external {
		if e != nil {
			e.forget()
		}
	}
	for i := from; i < to; {
		if err := ctx.Err(); err != nil {
			return err
		}
		inst, next := p.steps[i].instance, i+1
		if f := p.fused[i]; f != nil && i+f.steps <= to {
			inst, next = f.instance, i+f.steps
		}
		if err := p.step(inst, i, next); err != nil {
			n := p.plan.Steps[i].Node
			return fmt.Errorf("cuda: step %d, node %q (%s): %w", i, n.Name, n.Op.Name, err)
		}
		i = next
	}
	return nil
}

// step does steps [i, next), which are one unless they are fused.
func (p *Program) step(inst *instance, i, next int) error {
	if err := p.stage(i); err != nil {
		return err
	}
	p.queue.inst = inst
	if err := inst.run(&p.queue, p.steps[i].z0, p.steps[i].z1); err != nil {
		return err
	}
	if p.backend.options.LaunchBlocking {
		if err := p.backend.stream.Synchronize(); err != nil {
			return err
		}
	}
	if err := p.unstage(i); err != nil {
		return err
	}
	if !invariants.Enabled {
		return nil
	}
	for ; i < next; i++ {
		for _, k := range p.dies[i] {
			b := &p.plan.Buffers[k]
			if err := p.backend.stream.Fill8(p.address[k], 0xff, b.Bytes); err != nil {
				return err
			}
		}
	}
	return nil
}

// float32s checks a value that a caller may touch and returns its buffer.
func (p *Program) float32s(v *ir.Value, n int) (buffer int, err error) {
	i, ok := p.buffer[v]
	switch {
	case p.closed || p.arena.gone():
		return 0, errClosed
	case !ok:
		return 0, fmt.Errorf("cuda: %v (%q) is not a value of the plan", v, v.Name)
	case v.Type.Elem != tensor.Float32:
		return 0, fmt.Errorf("cuda: %v (%q) is %v, not float32", v, v.Name, v.Type)
	case n != v.Shape().Elements():
		return 0, fmt.Errorf("cuda: %v (%q) is %v, %d elements and not %d", v, v.Name, v.Type, v.Shape().Elements(), n)
	}
	if b := &p.plan.Buffers[i]; b.Planes > 0 && b.Planes < v.Shape()[1] {
		return 0, fmt.Errorf("cuda: %v (%q) has %d planes, of which the plan keeps %d", v, v.Name, v.Shape()[1], b.Planes)
	}
	return i, nil
}

// Bind implements backend.Program.
func (p *Program) Bind(v *ir.Value, f backend.Field) error {
	own, ok := f.(*field)
	if !ok {
		return fmt.Errorf("cuda: a field of another backend (%T)", f)
	}
	i, err := p.float32s(v, own.n)
	if err != nil {
		return err
	}
	if err := own.check(own.n); err != nil {
		return err
	}
	if !p.plan.Buffers[i].External {
		return fmt.Errorf("cuda: %v (%q) has its storage in the arena and cannot be bound", v, v.Name)
	}
	for k, b := range p.plan.Buffers {
		for _, other := range b.Values {
			if other == v && b.External {
				p.address[k] = p.external[k].bind(own)
			}
		}
	}
	return nil
}

// Write implements backend.Program.
func (p *Program) Write(v *ir.Value, data []float32) error {
	i, err := p.float32s(v, len(data))
	if err != nil {
		return err
	}
	b := &p.plan.Buffers[i]
	if b.External {
		if p.external[i].field == nil {
			return fmt.Errorf("cuda: the external storage of %v (%q) is not bound", v, v.Name)
		}
		return p.external[i].field.Write(data)
	}
	p.arena.touch(b.Offset + 4*len(data))
	return p.backend.memory.CopyToDevice(p.address[i], data)
}

// Read implements backend.Program.
func (p *Program) Read(v *ir.Value, dst []float32) error {
	i, err := p.float32s(v, len(dst))
	if err != nil {
		return err
	}
	if p.plan.Buffers[i].External {
		if p.external[i].field == nil {
			return fmt.Errorf("cuda: the external storage of %v (%q) is not bound", v, v.Name)
		}
		return p.external[i].field.Read(dst)
	}
	return p.backend.memory.CopyToHost(dst, p.address[i])
}

// Close implements backend.Program.
func (p *Program) Close() error {
	if p.closed {
		return errClosed
	}
	p.backend.mu.Lock()
	defer p.backend.mu.Unlock()
	return p.free()
}

func (p *Program) free() error {
	p.closed = true
	var errs []error
	errs = append(errs, p.dropGraphs())
	for _, a := range p.aliases {
		if a != nil {
			errs = append(errs, a.Close())
		}
	}
	errs = append(errs, p.scratch.Close(), p.backend.constants.Release(p.blocks))
	if p.owned && !p.arena.closed {
		errs = append(errs, p.arena.Close())
	}
	p.steps, p.instances, p.address, p.blocks = nil, nil, nil, nil
	return errors.Join(errs...)
}

// external is the place of a caller's value: a field on the device, or one on the host, whose planes pass through a ring on the device as
// steps need them.
type external struct {
	plane   int // bytes
	depth   int
	window  int // planes that a step needs at most
	staging driver.Ptr
	field   *field
	places  int // of the ring, or all planes
	lo, hi  int // planes that the ring holds
}

// newExternal finds how many planes of an external buffer steps need at once. The ring is at staging.
func newExternal(p *plan.Plan, buffer int, staging driver.Ptr) *external {
	v := p.Buffers[buffer].Values[0]
	e := &external{plane: plan.PlaneBytes(v), depth: v.Shape()[1], staging: staging}
	for i := range p.Steps {
		for k := range p.Steps[i].In {
			if p.Steps[i].In[k] == buffer {
				lo, hi := planesRead(&p.Steps[i], k, e.depth)
				e.window = max(e.window, hi-lo)
			}
		}
		if p.Steps[i].Out[0] == buffer {
			lo, hi := planesWritten(&p.Steps[i], e.depth)
			e.window = max(e.window, hi-lo)
		}
	}
	return e
}

// bytes returns the size of the ring.
func (e *external) bytes() int {
	return devmem.Aligned(e.window * e.plane)
}

// stagingBytes returns the bytes of the rings for all external values of a plan.
func stagingBytes(p *plan.Plan) int {
	total := 0
	for i, b := range p.Buffers {
		if b.External {
			total += newExternal(p, i, 0).bytes()
		}
	}
	return total
}

// planesRead returns the planes [lo, hi) of input k that a step reads, planesWritten those that it writes.
func planesRead(s *plan.Step, k, depth int) (lo, hi int) {
	switch s.Mode {
	case plan.Slab:
		lo, hi, _ = s.Node.Op.Slab(s.Node, k, s.Z0, s.Z1)
		return lo, hi
	case plan.Accumulate:
		return s.Z0, s.Z1
	}
	return 0, depth
}

func planesWritten(s *plan.Step, depth int) (lo, hi int) {
	if s.Mode == plan.Slab {
		return s.Z0, s.Z1
	}
	return 0, depth
}

// bind returns the address that steps use.
func (e *external) bind(f *field) driver.Ptr {
	e.field = f
	e.forget()
	if f.memory != nil {
		e.places = e.depth
		return f.memory.At()
	}
	e.places = e.window
	return e.staging
}

// forget empties the ring.
func (e *external) forget() { e.lo, e.hi = 0, 0 }

// copyPlanes copies planes [lo, hi) from the host to the ring, or back, in at most two pieces.
func (e *external) copyPlanes(s *driver.Stream, lo, hi int, back bool) error {
	values := e.field.values()
	for lo < hi {
		n := min(hi-lo, e.places-lo%e.places)
		at, host := e.staging+driver.Ptr(lo%e.places*e.plane), unsafe.Pointer(&values[lo*e.plane/4])
		var err error
		if back {
			err = s.CopyToHost(host, at, n*e.plane)
		} else {
			err = s.CopyToDevice(at, host, n*e.plane)
		}
		if err != nil {
			return err
		}
		lo += n
	}
	return nil
}

// stage brings the planes of external inputs that step i reads to the device.
func (p *Program) stage(i int) error {
	s := &p.plan.Steps[i]
	for k, buffer := range s.In {
		if buffer < 0 || p.external[buffer] == nil {
			continue
		}
		e := p.external[buffer]
		if e.field.memory != nil {
			continue
		}
		lo, hi := planesRead(s, k, e.depth)
		first := lo
		if lo >= e.lo && lo <= e.hi {
			first = max(lo, e.hi)
		}
		if first >= hi {
			continue
		}
		if err := e.copyPlanes(p.backend.stream, first, hi, false); err != nil {
			return err
		}
		if first == lo {
			e.lo = lo
		}
		e.hi = hi
		e.lo = max(e.lo, e.hi-e.places)
	}
	return nil
}

// unstage brings the planes of an external output that step i wrote to the host.
func (p *Program) unstage(i int) error {
	s := &p.plan.Steps[i]
	e := p.external[s.Out[0]]
	if e == nil || e.field.memory != nil {
		return nil
	}
	lo, hi := planesWritten(s, e.depth)
	if lo < e.lo || hi > e.hi { // otherwise it was computed in place
		e.forget()
	}
	return e.copyPlanes(p.backend.stream, lo, hi, true)
}
