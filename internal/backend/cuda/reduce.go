package cuda

import (
	"slices"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/tensor"
)

// reduceBuilders is the part of the table of builders whose functions are in this file.
var reduceBuilders = map[*ir.Op]builder{
	op.ReduceSum:  buildReduceSum,
	op.ReduceMean: buildReduceMean,
	op.ReduceMax:  buildReduceMax,
}

func buildReduceSum(c *compiler, n *ir.Node) (action, error) { return c.reduce("Sum", n, 1) }

func buildReduceMean(c *compiler, n *ir.Node) (action, error) {
	all := float64(c.node.Inputs[0].Shape().Elements()) / float64(c.node.Out().Shape().Elements())
	return c.reduce("Sum", n, 1/all)
}

func buildReduceMax(c *compiler, n *ir.Node) (action, error) { return c.reduce("Max", n, 1) }

// matricesOf returns the matrices whose rows are the reduced axes of a tensor. There are none where kept axes lie between reduced ones.
func matricesOf(x tensor.Shape, axes []int) (m matrices, ok bool) {
	m = matrices{1, 1, 1}
	for i, d := range x {
		switch reduced := slices.Contains(axes, i); {
		case d == 1:
		case reduced && m.channels > 1:
			return m, false
		case reduced:
			m.size *= d
		case m.size > 1:
			m.channels *= d
		default:
			m.outer *= d
		}
	}
	return m, true
}

// smallMatrix is the number of elements below which a thread goes through all of a reduced column.
const smallMatrix = 1 << 11

// longRun is the length from which the numbers of a run are summed by more than a warp.
const longRun = 1 << 12

// reduce compiles a reduction with an accumulator of sums.cuh; the result is multiplied by a factor.
func (c *compiler) reduce(accumulator string, n *ir.Node, factor float64) (action, error) {
	accumulate := c.mode == plan.Accumulate
	m, ok := matricesOf(n.Inputs[0].Shape(), n.Attr.(op.ReduceAttr).Axes)
	switch {
	case ok && !accumulate && m.channels == 1 && m.size < longRun:
		return c.runs(accumulator, m, factor)
	case ok && m.size*m.channels >= smallMatrix, ok && m.outer == 1:
		s, err := c.columns(accumulator, m, 1, c.in(0), nil, c.out(), factor)
		if err != nil {
			return nil, err
		}
		if accumulate {
			return s.accumulated(c)
		}
		return s.ofEachPlane(c)
	}
	return c.reduceEach(accumulator, n, factor)
}

// runParams is RunParams of reduce.cu.
type runParams struct {
	X, Y                  Planes
	Factor                float64
	Z0, Runs, Size, Lanes int32
}

// runs compiles a reduction of the innermost axes.
func (c *compiler) runs(accumulator string, m matrices, factor float64) (action, error) {
	f, err := c.kernel("runs_" + accumulator)
	if err != nil {
		return nil, err
	}
	x, y, lanes := c.in(0), c.out(), 1
	for lanes < 32 && lanes*4 < m.size {
		lanes *= 2
	}
	return func(q *queue, z0, z1 int) error {
		p := runParams{X: q.planes(x), Y: q.planes(y), Factor: factor, Z0: int32(z0), Runs: int32(m.outer), Size: int32(m.size), Lanes: int32(lanes)}
		return launch(q, f, [3]uint32{uint32(ceilDiv(m.outer*lanes, elementThreads)), uint32(z1 - z0), 1}, elementThreads, 0, &p)
	}, nil
}

// eachParams is EachParams of reduce.cu.
type eachParams struct {
	X, Y                       Planes
	State                      driver.Ptr
	Factor                     float64
	Z0, Planes, Outputs, Count int32
	First, Last                int32
	Kept, Reduced              Broadcast
}

// reduceEach compiles a reduction whose outputs are made by a thread each.
func (c *compiler) reduceEach(accumulator string, n *ir.Node, factor float64) (action, error) {
	f, err := c.kernel("each_" + accumulator)
	if err != nil {
		return nil, err
	}
	shape, axes := n.Inputs[0].Shape(), n.Attr.(op.ReduceAttr).Axes
	var kept, reduced broadcast
	for i, strides := len(shape)-1, shape.Strides(); i >= 0; i-- {
		w := &kept
		if slices.Contains(axes, i) {
			w = &reduced
		}
		w.add(shape[i], [3]int{strides[i]})
	}
	p := eachParams{Factor: factor, Outputs: int32(kept.elements()), Count: int32(reduced.elements())}
	if p.Kept, err = kept.device(); err != nil {
		return nil, err
	}
	if p.Reduced, err = reduced.device(); err != nil {
		return nil, err
	}
	x, y, depth := c.in(0), c.out(), c.depth
	accumulate := c.mode == plan.Accumulate
	if accumulate {
		c.needState(8 * int(p.Outputs))
	}
	return func(q *queue, z0, z1 int) error {
		p := p
		p.X, p.Y, p.Z0, p.Planes, p.Last = q.planes(x), q.planes(y), int32(z0), 1, 1
		grid := [3]uint32{uint32(ceilDiv(int(p.Outputs), elementThreads)), uint32(z1 - z0), 1}
		if accumulate {
			p.State, p.Planes, p.First, p.Last = q.state(), int32(z1-z0), flag(z0 == 0), flag(z1 == depth)
			grid[1] = 1
		}
		return launch(q, f, grid, elementThreads, 0, &p)
	}, nil
}
