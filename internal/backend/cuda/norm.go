package cuda

import (
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// normBuilders is the part of the table of builders whose functions are in this file.
var normBuilders = map[*ir.Op]builder{
	op.GroupNorm:         buildGroupNorm,
	op.GroupNormBackward: buildGroupNormBackward,
	op.GroupMoments:      buildGroupMoments,
	op.GroupNormApply:    buildGroupNormApply,
	op.GroupGradMoments:  buildGroupGradMoments,
	op.GroupGradApply:    buildGroupGradApply,
	op.LayerNorm:         buildLayerNorm,
	op.LayerNormBackward: buildLayerNormBackward,
}

// groupParams is GroupParams of norm.cu, applyParams ApplyParams.
type groupParams struct {
	Sums, Moments, Gamma, Out driver.Ptr
	Count, Eps                float64
	Chunks, Channels, Groups  int32
}

type applyParams struct {
	Dy, X, Y                    Planes
	Moments, Means, Gamma, Beta driver.Ptr
	Rows                        Rows
	Z0, Channels, Groups        int32
	Members                     Divide
}

// address returns the address of an operand that is a single plane; 0 where it is absent.
func (q *queue) address(at *operand) driver.Ptr {
	if at == nil {
		return 0
	}
	return q.planes(at).Data
}

// maybe returns input i, nil where it is absent.
func (c *compiler) maybe(i int) *operand {
	if c.node.In(i) == nil {
		return nil
	}
	return c.in(i)
}

// groups are the groups of the channels of an image, or of several.
type groups struct {
	matrices // one for each sample; in a plane, where the image is taken by planes
	attr     op.GroupNormAttr
}

func groupsOf(x tensor.Shape, a any) groups {
	channels := x[len(x)-1]
	return groups{matrices{x[0], x.Elements() / x[0] / channels, channels}, a.(op.GroupNormAttr)}
}

// params returns the parameters for statistics of that many planes, from sums in that many chunks.
func (g groups) params(planes, chunks int) groupParams {
	return groupParams{Count: float64(planes * g.size * (g.channels / g.attr.Groups)), Eps: g.attr.Eps,
		Chunks: int32(chunks), Channels: int32(g.channels), Groups: int32(g.attr.Groups)}
}

func (g groups) statistics(q *queue, f *driver.Function, p groupParams) error {
	return launch(q, f, [3]uint32{uint32(g.attr.Groups), uint32(g.outer), 1}, 128, 0, &p)
}

func (g groups) apply(q *queue, f *driver.Function, p applyParams, z0, z1 int) error {
	p.Z0, p.Channels, p.Groups, p.Members = int32(z0), int32(g.channels), int32(g.attr.Groups), divideBy(g.channels/g.attr.Groups)
	return launch(q, f, [3]uint32{uint32(p.Rows.blocks()), uint32(z1 - z0), uint32(g.outer)}, elementThreads, 0, &p)
}

// buildGroupMoments accumulates the sums of x and of its squares by channel.
func buildGroupMoments(c *compiler, n *ir.Node) (action, error) {
	return c.accumulateGroups(n, "Moments", "group_moments", c.in(0), nil, nil, nil)
}

// buildGroupGradMoments accumulates the sums of dy and of dy*x by channel.
func buildGroupGradMoments(c *compiler, n *ir.Node) (action, error) {
	return c.accumulateGroups(n, "Dots", "group_means", c.in(0), c.in(1), c.in(2), c.maybe(3))
}

func (c *compiler) accumulateGroups(n *ir.Node, accumulator, statistics string, x, y, moments, gamma *operand) (action, error) {
	g, out, depth := groupsOf(n.Inputs[0].Shape(), n.Attr), c.out(), c.depth
	s, err := c.columns(accumulator, g.matrices, 2, x, y, nil, 1)
	if err != nil {
		return nil, err
	}
	accumulate, err := s.accumulated(c)
	if err != nil {
		return nil, err
	}
	f, err := c.kernel(statistics)
	if err != nil {
		return nil, err
	}
	return func(q *queue, z0, z1 int) error {
		if err := accumulate(q, z0, z1); err != nil || z1 < depth {
			return err
		}
		p := g.params(depth, 1)
		p.Sums, p.Moments, p.Gamma, p.Out = q.state(), q.address(moments), q.address(gamma), q.address(out)
		return g.statistics(q, f, p)
	}, nil
}

func buildGroupNormApply(c *compiler, n *ir.Node) (action, error) {
	f, err := c.kernel("group_apply")
	if err != nil {
		return nil, err
	}
	g, x, moments, gamma, beta, y := groupsOf(n.Inputs[0].Shape(), n.Attr), c.in(0), c.in(1), c.maybe(2), c.maybe(3), c.out()
	rows := rowsOf(g.size, g.channels, takesPacks(x, y))
	return func(q *queue, z0, z1 int) error {
		return g.apply(q, f, applyParams{X: q.planes(x), Y: q.planes(y), Moments: q.address(moments), Gamma: q.address(gamma),
			Beta: q.address(beta), Rows: rows}, z0, z1)
	}, nil
}

func buildGroupGradApply(c *compiler, n *ir.Node) (action, error) {
	f, err := c.kernel("group_grad_apply")
	if err != nil {
		return nil, err
	}
	g := groupsOf(n.Inputs[0].Shape(), n.Attr)
	dy, x, moments, means, gamma, dx := c.in(0), c.in(1), c.in(2), c.in(3), c.maybe(4), c.out()
	rows := rowsOf(g.size, g.channels, takesPacks(dy, x, dx))
	return func(q *queue, z0, z1 int) error {
		return g.apply(q, f, applyParams{Dy: q.planes(dy), X: q.planes(x), Y: q.planes(dx), Moments: q.address(moments),
			Means: q.address(means), Gamma: q.address(gamma), Rows: rows}, z0, z1)
	}, nil
}

// wholeGroups finds statistics of groups in scratch: sums by channel in chunks, moments, means.
type wholeGroups struct {
	groups
	sums           *columns
	find           *driver.Function
	moments, means int // their place in scratch
}

func (c *compiler) wholeGroups(g groups, accumulator, statistics string, x, y *operand) (w wholeGroups, err error) {
	w.groups = g
	if w.sums, err = c.columns(accumulator, g.matrices, 2, x, y, nil, 1); err != nil {
		return w, err
	}
	if w.find, err = c.kernel(statistics); err != nil {
		return w, err
	}
	w.moments = 8 * w.sums.planeValues()
	w.means = w.moments + 4*3*g.outer*g.attr.Groups
	c.needScratch(w.means + 4*2*g.outer*g.attr.Groups)
	return w, nil
}

// enqueue computes moments, or further means of a value with the given moments.
func (w *wholeGroups) enqueue(q *queue, moments, gamma, out driver.Ptr) error {
	if err := w.sums.sum(q, 0, 1, q.scratch); err != nil {
		return err
	}
	p := w.params(1, w.sums.chunks)
	p.Sums, p.Moments, p.Gamma, p.Out = q.scratch, moments, gamma, out
	return w.statistics(q, w.find, p)
}

func buildGroupNorm(c *compiler, n *ir.Node) (action, error) {
	x, gamma, beta, y := c.in(0), c.maybe(1), c.maybe(2), c.out()
	w, err := c.wholeGroups(groupsOf(n.Inputs[0].Shape(), n.Attr), "Moments", "group_moments", x, nil)
	if err != nil {
		return nil, err
	}
	f, err := c.kernel("group_apply")
	if err != nil {
		return nil, err
	}
	rows := rowsOf(w.size, w.channels, true)
	return func(q *queue, z0, z1 int) error {
		moments := q.scratch + driver.Ptr(w.moments)
		if err := w.enqueue(q, 0, 0, moments); err != nil {
			return err
		}
		return w.apply(q, f, applyParams{X: q.planes(x), Y: q.planes(y), Moments: moments, Gamma: q.address(gamma), Beta: q.address(beta), Rows: rows}, z0, z1)
	}, nil
}

func buildGroupNormBackward(c *compiler, n *ir.Node) (action, error) {
	dy, x, gamma, dx := c.in(0), c.in(1), c.maybe(2), c.out()
	g := groupsOf(n.Inputs[1].Shape(), n.Attr)
	first, err := c.wholeGroups(g, "Moments", "group_moments", x, nil)
	if err != nil {
		return nil, err
	}
	second, err := c.wholeGroups(g, "Dots", "group_means", dy, x)
	if err != nil {
		return nil, err
	}
	f, err := c.kernel("group_grad_apply")
	if err != nil {
		return nil, err
	}
	rows := rowsOf(g.size, g.channels, true)
	return func(q *queue, z0, z1 int) error {
		moments, means := q.scratch+driver.Ptr(first.moments), q.scratch+driver.Ptr(first.means)
		if err := first.enqueue(q, 0, 0, moments); err != nil {
			return err
		}
		if err := second.enqueue(q, moments, q.address(gamma), means); err != nil {
			return err
		}
		return g.apply(q, f, applyParams{Dy: q.planes(dy), X: q.planes(x), Y: q.planes(dx), Moments: moments, Means: means,
			Gamma: q.address(gamma), Rows: rows}, z0, z1)
	}, nil
}

// layerNormParams is LayerNormParams of norm.cu.
type layerNormParams struct {
	Dy, X, Y       Planes
	Gamma, Beta    driver.Ptr
	Eps            float64
	Z0, Rows, Size int32
}

// warpLine is the length up to which a warp, not a block, works on a row or line.
const warpLine = 1 << 11

func buildLayerNorm(c *compiler, n *ir.Node) (action, error) {
	return c.layers(n, "layer_norm", nil, c.in(0), c.maybe(1), c.maybe(2))
}

func buildLayerNormBackward(c *compiler, n *ir.Node) (action, error) {
	return c.layers(n, "layer_norm_backward", c.in(0), c.in(1), c.maybe(2), nil)
}

func (c *compiler) layers(n *ir.Node, kernel string, dy, x, gamma, beta *operand) (action, error) {
	a, y, s := n.Attr.(op.LayerNormAttr), c.out(), n.Out().Shape()
	size := s[len(s)-a.Axes:].Elements()
	rows := s.Elements() / size
	blocks := rows
	if size <= warpLine {
		kernel, blocks = kernel+"_warp", ceilDiv(rows, elementThreads/32)
	} else {
		kernel += "_block"
	}
	f, err := c.kernel(kernel)
	if err != nil {
		return nil, err
	}
	return func(q *queue, z0, z1 int) error {
		p := layerNormParams{X: q.planes(x), Y: q.planes(y), Gamma: q.address(gamma), Beta: q.address(beta), Eps: a.Eps,
			Z0: int32(z0), Rows: int32(rows), Size: int32(size)}
		if dy != nil {
			p.Dy = q.planes(dy)
		}
		return launch(q, f, [3]uint32{uint32(blocks), uint32(z1 - z0), 1}, elementThreads, 0, &p)
	}, nil
}
