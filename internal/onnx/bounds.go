package onnx

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// A file of a few hundred bytes can state sizes of any magnitude. So every size is checked here before anything of it is made: the
// memory that constants take (hold), the elements that are computed (compute), and the lists that operations are compiled to (tables).

// errTooMuch says that computing a constant at import would take more work than the bound. It is left to the graph, if it can be.
var errTooMuch = errors.New("the constant is too large to compute")

// ErrMemory says that importing a model would take more memory than Options.Memory.
var ErrMemory = errors.New("not enough memory to open the model")

// block is the memory of a literal's elements, which several literals may share.
type block struct {
	bytes int
	users int // names and graph values that keep it
}

const (
	nodeBytes = 1 << 10 // about that of a node of the file, and of its nodes in the graph
	// tableBytes has the bytes, about, that operations which move elements along an axis take for each of its positions: forwards and backwards.
	tableBytes = 48
)

// largePiece is the size from which memory is taken only after a garbage collection: garbage beside it could be as much again.
const largePiece = 32 << 20

// hold counts memory that is about to be taken for something, and refuses the node if it is more than may be held.
func (c *call) hold(bytes int, what string, args ...any) {
	im := c.im
	if im.memory > 0 && bytes > im.memory-im.held {
		e := c.unsupportedf("%s takes %s of memory while the model is opened, of %s that it may take; %s are taken",
			fmt.Sprintf(what, args...), bytesize.Format(bytes), bytesize.Format(im.memory), bytesize.Format(im.held))
		e.Advice, e.cause = "give a larger budget by the option memory_budget if the model is meant to be so", ErrMemory
		panic(abort{e})
	}
	if bytes > largePiece {
		debug.FreeOSMemory() // garbage of earlier nodes, which is counted nowhere
	}
	im.held += bytes
	im.out.Held = max(im.out.Held, im.held)
}

// compute counts elements that are about to be computed.
func (c *call) compute(shape tensor.Shape) (n int) {
	n = c.elements(shape)
	if n > c.im.maxOne {
		c.tooMuch(shape)
	}
	c.spend(n)
	return n
}

// spend counts work that makes no large result.
func (c *call) spend(n int) {
	if n > c.im.folded {
		c.tooMuch(tensor.Shape{n})
	}
	c.im.folded -= n
}

func (c *call) tooMuch(shape tensor.Shape) {
	e := c.unsupportedf("a constant of shape %v is too large to compute while the model is opened", shape)
	e.cause = errTooMuch
	panic(abort{e})
}

// alloc makes a literal of zeros for a result.
func (c *call) alloc(elem tensor.Elem, shape tensor.Shape) *literal {
	b := &block{bytes: 8 * c.compute(shape)}
	c.hold(b.bytes, "a constant of shape %v", shape)
	l := newLiteral(elem, shape)
	l.block = b
	return l
}

// indices makes a list of n positions, which the graph keeps.
func (c *call) indices(n int) []int {
	c.compute(tensor.Shape{n})
	c.hold(8*n, "a list of %d positions", n)
	return make([]int, n)
}

// pack stores a large result in its own type, which halves its memory or better.
func (c *call) pack(l *literal) {
	if l.block == nil || l.held() <= lazyElements {
		return
	}
	c.hold(4*l.held(), "a constant of shape %v", l.shape)
	before := l.block.bytes
	l.compact()
	if l.stored != nil {
		l.block.bytes = l.stored.Len() * l.stored.Elem().Bytes()
	}
	c.im.held -= 4*l.len() + before - l.block.bytes
}

// alive ends the rule when the import is to end.
func (c *call) alive() {
	if err := c.im.ctx.Err(); err != nil {
		panic(abort{err})
	}
}

// walk calls f as the function walk does, and ends when the import is to end.
func (c *call) walk(shape tensor.Shape, strides [][]int, visit func(i int, at []int)) {
	const often = 1 << 16
	walk(shape, strides, func(i int, at []int) {
		if i%often == 0 {
			c.alive()
		}
		visit(i, at)
	})
}

// keep notes that one more name or value of the graph keeps a slot's elements.
func (s *slot) keep() {
	if s.lit != nil && s.lit.block != nil {
		s.lit.block.users++
	}
	for _, part := range s.seq {
		part.keep()
	}
}

// drop notes that a name does not keep the elements any more.
func (im *importer) drop(l *literal) {
	if b := l.block; b != nil {
		if b.users--; b.users == 0 {
			im.held -= b.bytes
		}
	}
}

// A value has at most maxValue elements, or maxGrowth times those of the volume: the widest layers of networks have a few hundred times
// as many.
const (
	maxValue  = 1 << 26
	maxGrowth = 1 << 12
)

// tables checks the size of an operation of the graph, the lists that it is compiled to, and that the graph does not grow without bounds.
func (c *call) tables(n *ir.Node) {
	if len(c.im.g.Nodes) > maxNodes {
		c.badf("the model becomes a graph of more than %d operations", maxNodes)
	}
	if in := c.im.out.Input; in != nil && n.Out().Shape().Elements()/maxGrowth > in.Shape().Elements() && n.Out().Shape().Elements() > maxValue {
		c.refuse("", "it makes %v of a volume of %v: %d times as many values, where %d times is the most that is supported", n.Out().Shape(), in.Shape(),
			n.Out().Shape().Elements()/in.Shape().Elements(), maxGrowth)
	}
	each := 1 // entries for each position
	switch a := n.Attr.(type) {
	case op.PoolAttr:
		each = max(a.Kernel[0], a.Kernel[1], a.Kernel[2])
	case op.ExpandAttr, op.SliceAttr, op.PadAttr, op.GatherAttr, op.ResizeAttr:
	default:
		return
	}
	positions := 0
	for _, s := range []tensor.Shape{n.In(0).Shape(), n.Out().Shape()} {
		for _, d := range s {
			positions += d
		}
	}
	if longest := tensor.MaxElements / tableBytes; each > longest || positions > longest/each {
		c.badf("moving %v to %v is not possible", n.In(0).Shape(), n.Out().Shape())
	}
	if positions*each > lazyElements {
		c.hold(tableBytes*positions*each, "a table for moving %v to %v", n.In(0).Shape(), n.Out().Shape())
	}
}
