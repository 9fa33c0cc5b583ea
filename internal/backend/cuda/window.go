package cuda

import (
	"fmt"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/devmem"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// windowBuilders is the part of the table of builders whose functions are in this file.
var windowBuilders = map[*ir.Op]builder{
	op.MaxPool:         buildMaxPool,
	op.MaxPoolIndex:    buildMaxPoolIndex,
	op.MaxPoolBackward: buildMaxPoolBackward,
	op.AvgPool:         buildAvgPool,
	op.AvgPoolBackward: buildAvgPoolBackward,
}

// Blocks of poolThreads threads make poolRows rows of poolLanes lanes.
const (
	poolThreads = 256
	poolLanes   = 32
	poolRows    = poolThreads / poolLanes
)

// poolParams is PoolParams of pool.cu.
type poolParams struct {
	X, Y, Index                      Planes
	In, Out                          [3]int32
	Kernel, Stride, Dilation, Before [3]int32
	Channels                         int32
	Lanes                            int32
	PerVoxel                         Divide
	StrideOf, DilationOf             [3]Divide
	_                                int32
	Count                            [3]driver.Ptr
	Z0, Z1                           int32
	March, _                         int32
}

// pooling is a pooling from x to y, whichever way it is computed.
type pooling struct {
	attr     op.PoolAttr
	in, out  [3]int
	channels int
	count    [3]*devmem.Constant // the divisors of means along each axis; nil for maxima
	march    bool                // a thread that makes planes one after the other reads less
}

func (c *compiler) poolingOf(a op.PoolAttr, x, y tensor.Shape, mean bool) (*pooling, error) {
	p := &pooling{attr: a, in: [3]int(x[1:4]), out: [3]int(y[1:4]), channels: x[4]}
	for _, s := range []tensor.Shape{x, y} {
		if err := checkPlane(s[2:].Elements()); err != nil {
			return nil, err
		}
	}
	for axis := range p.count {
		if !mean {
			break
		}
		counts := make([]int32, p.out[axis])
		for o := range counts {
			counts[o] = int32(a.Divisor(axis, o*a.Stride[axis]-a.Before[axis], p.in[axis]))
		}
		p.count[axis] = table(c, counts)
	}
	return p, nil
}

// params returns the parameters that do not change from launch to launch. Lanes have width channels.
func (p *pooling) params(width int) poolParams {
	a := p.attr
	r := poolParams{In: int3(p.in), Out: int3(p.out), Kernel: int3(a.Kernel), Stride: int3(a.Stride), Dilation: int3(a.Dilation), Before: int3(a.Before),
		Channels: int32(p.channels), PerVoxel: divideBy(p.channels / width)}
	for i := range 3 {
		r.StrideOf[i], r.DilationOf[i] = divideBy(a.Stride[i]), divideBy(a.Dilation[i])
	}
	return r
}

func int3(a [3]int) [3]int32 { return [3]int32{int32(a[0]), int32(a[1]), int32(a[2])} }

func (p *pooling) taps() int { return p.attr.Kernel[0] * p.attr.Kernel[1] * p.attr.Kernel[2] }

// square returns the number of rows and columns of windows that have as many of both, without gaps, stride 2; otherwise 0.
func (p *pooling) square() int {
	a := p.attr
	if k := a.Kernel[1]; k == a.Kernel[2] && a.Stride[1] == 2 && a.Stride[2] == 2 && a.Dilation[1] == 1 && a.Dilation[2] == 1 {
		return k
	}
	return 0
}

// window returns the suffix of a kernel that was compiled for the window, or that for any window.
func (p *pooling) window() string {
	k, deep := p.square(), p.attr.Kernel[0]
	switch {
	case k == 3 && deep == 3 && p.attr.Stride[0] == 2 && p.attr.Dilation[0] == 1, k == 2 && deep == 2, (k == 2 || k == 3) && deep == 1:
		return fmt.Sprintf("%d%d2", deep, k)
	}
	return "4"
}

// pooled are the operands of a pooling; those it has not are nil.
type pooled struct{ x, y, index *operand }

// pool compiles the launches of a kernel for every sample; rows is the number of rows that are made, lanes those of a row.
func (c *compiler) pool(p *pooling, at pooled, kernel string, r poolParams, lanes, rows int) (action, error) {
	f, err := c.kernel(kernel)
	if err != nil {
		return nil, err
	}
	r.Lanes = int32(lanes)
	grid := [3]uint32{uint32(ceilDiv(lanes, poolLanes)), uint32(ceilDiv(rows, poolRows)), 1}
	return c.poolLaunches(p, at, f, r, grid)
}

// maxRows is the largest number of blocks along the second axis of a launch's grid.
const maxRows = 65535

func (c *compiler) poolLaunches(p *pooling, at pooled, f *driver.Function, r poolParams, grid [3]uint32) (action, error) {
	if grid[1] > maxRows {
		return nil, fmt.Errorf("planes of %d rows are too high: %w", p.in[1], backend.ErrUnsupported)
	}
	samples := c.inst.samples
	return func(q *queue, z0, z1 int) error {
		r, march := r, 1
		if p.march {
			march = marchOf(int(grid[0]*grid[1]), z1-z0)
		}
		r.March = int32(march)
		for i := range r.Count {
			if p.count[i] != nil {
				r.Count[i] = p.count[i].At()
			}
		}
		for i := range samples {
			for _, o := range []struct {
				at *operand
				to *Planes
			}{{at.x, &r.X}, {at.y, &r.Y}, {at.index, &r.Index}} {
				if o.at != nil {
					*o.to = q.image(o.at, i)
				}
			}
			if err := inLaunches(z0, z1, maxPlanes*march, func(z, n int) error {
				r.Z0, r.Z1 = int32(z), int32(z+n)
				grid := grid
				grid[2] = uint32(ceilDiv(n, march))
				return launch(q, f, grid, poolThreads, 0, &r)
			}); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// marchOf returns the number of planes that a thread makes one after the other: few enough that all processors have work.
func marchOf(blocksOfPlane, planes int) int { return min(max(blocksOfPlane*planes/1024, 1), 8) }

func buildMaxPool(c *compiler, n *ir.Node) (action, error) {
	return c.maxPool(n, pooled{x: c.in(0), y: c.out()}, "pool_max_")
}

func buildMaxPoolIndex(c *compiler, n *ir.Node) (action, error) {
	kernel := "pool_index_"
	if n.Out().Type.Elem == tensor.Uint16 {
		kernel = "pool_index16_"
	}
	return c.maxPool(n, pooled{x: c.in(0), index: c.out()}, kernel)
}

func (c *compiler) maxPool(n *ir.Node, at pooled, kernel string) (action, error) {
	p, err := c.poolingOf(n.Attr.(op.PoolAttr), n.Inputs[0].Shape(), n.Out().Shape(), false)
	if err != nil {
		return nil, err
	}
	suffix, width := "1", 1
	if p.channels%4 == 0 && n.Out().Type.Elem != tensor.Uint16 {
		suffix, width = p.window(), 4
	}
	p.march = suffix == "332"
	return c.pool(p, at, kernel+suffix, p.params(width), p.out[2]*p.channels/width, p.out[1])
}

func buildAvgPool(c *compiler, n *ir.Node) (action, error) {
	p, err := c.poolingOf(n.Attr.(op.PoolAttr), n.Inputs[0].Shape(), n.Out().Shape(), true)
	if err != nil {
		return nil, err
	}
	at, voxels := pooled{x: c.in(0), y: c.out()}, p.out[1]*p.out[2]
	suffix, width := "1", 1
	switch {
	case p.taps() > maxShortSum && p.channels >= poolLanes/2 && voxels <= maxRows:
		f, err := c.kernel("pool_mean_wide")
		if err != nil {
			return nil, err
		}
		return c.poolLaunches(p, at, f, p.params(1), [3]uint32{uint32(ceilDiv(p.channels, poolLanes)), uint32(voxels), 1})
	case p.taps() > maxShortSum:
		suffix = "precise"
	case p.channels%4 == 0:
		suffix, width = p.window(), 4
	}
	return c.pool(p, at, "pool_mean_"+suffix, p.params(width), p.out[2]*p.channels/width, p.out[1])
}

func buildMaxPoolBackward(c *compiler, n *ir.Node) (action, error) {
	kernel := "pool_max_backward_"
	if n.Inputs[1].Type.Elem == tensor.Uint16 {
		kernel = "pool_max_backward16_"
	}
	return c.poolBackward(n, pooled{x: c.out(), y: c.in(0), index: c.in(1)}, kernel, n.Inputs[1].Type.Elem != tensor.Uint16, false)
}

func buildAvgPoolBackward(c *compiler, n *ir.Node) (action, error) {
	return c.poolBackward(n, pooled{x: c.out(), y: c.in(0)}, "pool_mean_backward_", true, true)
}

// poolBackward compiles the gradient of a pooling with the kernel of that name; vectors says that there is one for four channels.
func (c *compiler) poolBackward(n *ir.Node, at pooled, kernel string, vectors, mean bool) (action, error) {
	p, err := c.poolingOf(n.Attr.(op.PoolBackwardAttr).Pool, n.Out().Shape(), n.Inputs[0].Shape(), mean)
	if err != nil {
		return nil, err
	}
	suffix, width, columns, rows := "1", 1, p.in[2], p.in[1]
	switch {
	case mean && p.taps() > maxShortSum:
		suffix = "precise"
	case vectors && p.channels%4 == 0:
		suffix, width = "4", 4
		if k := p.square(); k == 2 || k == 3 {
			suffix = fmt.Sprintf("%d2", k)
			columns, rows = pairs(p.in[2], p.attr.Before[2]), pairs(p.in[1], p.attr.Before[1])
		}
	}
	return c.pool(p, at, kernel+suffix, p.params(width), columns*p.channels/width, rows)
}

// pairs returns the number of pairs of positions 2m and 2m+1, counted from the first window's start, that meet an axis of n.
func pairs(n, before int) int { return (n-1+before)/2 - before/2 + 1 }
