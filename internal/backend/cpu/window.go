package cpu

import (
	"math"

	"github.com/voxcam/voxcam/internal/backend/cpu/kernel"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// windowBuilders is the part of builders whose functions are in this file.
var windowBuilders = map[*ir.Op]builder{
	op.MaxPool:         buildMaxPool,
	op.MaxPoolIndex:    buildMaxPoolIndex,
	op.MaxPoolBackward: buildMaxPoolBackward,
	op.AvgPool:         buildAvgPool,
	op.AvgPoolBackward: buildAvgPoolBackward,
}

// neighbour is a voxel that a window operation reads along one axis, and its place in the window.
type neighbour struct {
	at, tap int
	weight  float32 // of an average
}

// axisWindows lists, for each position of an axis, the neighbours in the order of the taps.
type axisWindows [][]neighbour

// windows are the neighbours of every position along depth, height and width.
type windows [3]axisWindows

// poolWindows lists the voxels in each window of a pooling of an input of that size, and for each input voxel the windows that it is
// in.
func poolWindows(a op.PoolAttr, in, out [3]int) (forward, backward windows) {
	for axis := range 3 {
		forward[axis], backward[axis] = make(axisWindows, out[axis]), make(axisWindows, in[axis])
		for o := range out[axis] {
			start := o*a.Stride[axis] - a.Before[axis]
			weight := float32(1 / float64(max(1, a.Divisor(axis, start, in[axis]))))
			for k := range a.Kernel[axis] {
				if p := start + k*a.Dilation[axis]; p >= 0 && p < in[axis] {
					forward[axis][o] = append(forward[axis][o], neighbour{p, k, weight})
					backward[axis][p] = append(backward[axis][p], neighbour{o, k, weight})
				}
			}
		}
	}
	return forward, backward
}

// poolRows compiles an operation that makes the rows [W, C] of tensor y [N, D, H, W, C] from neighbours in x.
func (c *compiler) poolRows(y tensor.Shape, do func(sample, z, row int, s *scratch)) {
	c.planeRows(y[0]*y[1], y[2], y[3]*y[4], func(from, to int, s *scratch) {
		for i := from; i < to; i++ {
			do(i/y[2]/y[1], i/y[2]%y[1], i%y[2], s)
		}
	})
}

func size3(s tensor.Shape) [3]int { return [3]int(s[1:4]) }

// pooling makes the kernel of a window.
func (c *compiler) pooling(a op.PoolAttr) (*kernel.Pool, error) {
	k, err := c.backend.set.NewPool(kernel.PoolShape{Kernel: a.Kernel, Stride: a.Stride, Dilation: a.Dilation,
		PadBefore: a.Before, PadAfter: a.After, CountPadding: a.CountPad})
	if err == nil {
		c.ownScratch(k.Scratch())
	}
	return k, err
}

// sample returns the view of one sample of a tensor [N, D, H, W, C] with places for that many planes.
func sample(data []float32, s tensor.Shape, places, i int) kernel.View {
	n := places * s[2] * s[3] * s[4]
	return kernel.View{Data: data[i*n : (i+1)*n], Depth: s[1], Planes: places, H: s[2], W: s[3], C: s[4]}
}

// planes compiles an operation that makes tensor y [N, D, H, W, C] a few rows of a plane at a time.
func (c *compiler) planes(y tensor.Shape, do func(i int, r kernel.Region, s *scratch)) {
	rows := even(y[2], grain/(y[3]*y[4]))
	bands := (y[2] + rows - 1) / rows
	f := phase{parts: y[0] * y[1] * bands, do: func(i int, s *scratch) {
		z, band := i/bands, i%bands*rows
		do(z/y[1], kernel.Region{Z0: z % y[1], Z1: z%y[1] + 1, Y0: band, Y1: min(y[2], band+rows)}, s)
	}}
	if c.slab {
		f.parts, f.perPlane = bands, true
	}
	c.inst.phases = append(c.inst.phases, f)
}

func buildMaxPool(c *compiler, n *ir.Node) error {
	from, to, placesX, placesY := n.Inputs[0].Shape(), n.Out().Shape(), c.places(0), c.places(-1)
	k, err := c.pooling(n.Attr.(op.PoolAttr))
	if err != nil {
		return err
	}
	c.planes(to, func(i int, r kernel.Region, s *scratch) {
		k.Max(sample(s.out(), to, placesY, i), sample(s.in(0), from, placesX, i), nil, r, s.f32)
	})
	return nil
}

func buildMaxPoolIndex(c *compiler, n *ir.Node) error {
	a, v, from, to := n.Attr.(op.PoolAttr), n.Out(), n.Inputs[0].Shape(), n.Out().Shape()
	if v.Type.Elem == tensor.Uint16 {
		maxPoolIndex(c, n)
		return nil
	}
	k, err := c.pooling(a)
	if err != nil {
		return err
	}
	// The kernel writes the maxima, too; here they go to a plane of scratch and are not used.
	placesX, placesY, plane := c.places(0), c.places(-1), to[2]*to[3]*to[4]
	c.ownScratch(k.Scratch() + plane)
	c.planes(to, func(i int, r kernel.Region, s *scratch) {
		maxima := kernel.View{Data: s.f32[k.Scratch():][:plane], H: to[2], W: to[3], C: to[4], Depth: to[1], Planes: 1}
		k.Max(maxima, sample(s.in(0), from, placesX, i), s.result()[(i*placesY+r.Z0%placesY)*plane:][:plane], r, s.f32)
	})
	return nil
}

// maxPoolIndex compiles windows that are too large for the kernel. It finds the first maximum along depth and height for each voxel of a
// row, then the first of those along width: the one of the lowest tap among equals.
func maxPoolIndex(c *compiler, n *ir.Node) {
	a, from, to, placesX, placesY := n.Attr.(op.PoolAttr), n.Inputs[0].Shape(), n.Out().Shape(), c.places(0), c.places(-1)
	w, _ := poolWindows(a, size3(from), size3(to))
	ch := to[4]
	width := from[3] * ch
	c.ownScratch(2*width + 2*ch)
	c.poolRows(to, func(sample, z, row int, s *scratch) {
		x, index := s.in(0), as[uint16](s.result())
		top, best := s.f32[:width], s.f32[2*width:][:ch]
		taps, first := int32s(s.f32[width:2*width]), int32s(s.f32[2*width+ch:][:ch]) // of kw = 0
		clear(taps)
		for i := range top {
			top[i] = float32(math.Inf(-1))
		}
		for _, nz := range w[0][z] {
			for _, ny := range w[1][row] {
				src, tap := x[((sample*placesX+nz.at%placesX)*from[2]+ny.at)*from[3]*ch:][:width], int32((nz.tap*a.Kernel[1]+ny.tap)*a.Kernel[2])
				for i, v := range src {
					if v > top[i] || v != v {
						top[i], taps[i] = v, tap
					}
				}
			}
		}
		line := index[((sample*placesY+z%placesY)*to[2]+row)*to[3]*ch:][:to[3]*ch]
		for o, nxs := range w[2] {
			clear(first)
			for i := range best {
				best[i] = float32(math.Inf(-1))
			}
			for _, nx := range nxs {
				src, tap, own := top[nx.at*ch:][:ch], taps[nx.at*ch:][:ch], int32(nx.tap)
				for i, v := range src {
					if v > best[i] || v == best[i] && tap[i]+own < first[i] || v != v {
						best[i], first[i] = v, tap[i]+own
					}
				}
			}
			for i, k := range first {
				line[o*ch+i] = uint16(k)
			}
		}
	})
}

func buildMaxPoolBackward(c *compiler, n *ir.Node) error {
	a, v, from, to := n.Attr.(op.PoolBackwardAttr).Pool, n.Inputs[1], n.Inputs[0].Shape(), n.Out().Shape()
	if v.Type.Elem == tensor.Uint16 {
		maxPoolBackward(c, n)
		return nil
	}
	k, err := c.pooling(a)
	if err != nil {
		return err
	}
	placesY, places, placesX := c.places(0), c.places(1), c.places(-1) // of dy, index, dx
	size := places * from[2] * from[3] * from[4]
	c.planes(to, func(i int, r kernel.Region, s *scratch) {
		dst := sample(s.out(), to, placesX, i)
		clearRows(dst, r)
		k.MaxBackward(dst, sample(s.in(0), from, placesY, i), s.ops[1][i*size:(i+1)*size], places, r, s.f32)
	})
	return nil
}

// clearRows sets a region of one plane to zero.
func clearRows(v kernel.View, r kernel.Region) {
	row := v.W * v.C
	clear(v.Plane(r.Z0)[r.Y0*row : r.Y1*row])
}

// maxPoolBackward compiles windows that are too large for the kernel. For each voxel it adds up the gradients of the windows in which the
// voxel was the maximum: unlike scattering from the windows, that needs no other thread's voxels.
func maxPoolBackward(c *compiler, n *ir.Node) {
	a, placesY, places, placesX := n.Attr.(op.PoolBackwardAttr).Pool, c.places(0), c.places(1), c.places(-1) // of dy, index, dx
	from, to := n.Inputs[0].Shape(), n.Out().Shape()
	_, w := poolWindows(a, size3(to), size3(from))
	ch := to[4]
	c.poolRows(to, func(sample, z, row int, s *scratch) {
		dy, index := s.in(0), as[uint16](s.ops[1])
		line := s.out()[((sample*placesX+z%placesX)*to[2]+row)*to[3]*ch:][:to[3]*ch]
		clear(line)
		for _, nz := range w[0][z] {
			for _, ny := range w[1][row] {
				at := ((sample*placesY+nz.at%placesY)*from[2] + ny.at) * from[3] * ch
				atIndex := ((sample*places+nz.at%places)*from[2] + ny.at) * from[3] * ch
				tap := (nz.tap*a.Kernel[1] + ny.tap) * a.Kernel[2]
				for p, nxs := range w[2] {
					dst := line[p*ch:][:ch]
					for _, nx := range nxs {
						src, own := dy[at+nx.at*ch:][:ch], uint16(tap+nx.tap)
						for i, k := range index[atIndex+nx.at*ch:][:ch] {
							if k == own {
								dst[i] += src[i]
							}
						}
					}
				}
			}
		}
	})
}

// maxShortSum is the number of values that are added up in float32; more are added in float64.
const maxShortSum = 64

func buildAvgPool(c *compiler, n *ir.Node) error {
	a, from, to := n.Attr.(op.PoolAttr), n.Inputs[0].Shape(), n.Out().Shape()
	w, _ := poolWindows(a, size3(from), size3(to))
	if a.Kernel[0]*a.Kernel[1]*a.Kernel[2] > maxShortSum || w.empty() {
		c.average(n, w)
		return nil
	}
	k, err := c.pooling(a)
	if err != nil {
		return err
	}
	placesX, placesY := c.places(0), c.places(-1)
	c.planes(to, func(i int, r kernel.Region, s *scratch) {
		k.Average(sample(s.out(), to, placesY, i), sample(s.in(0), from, placesX, i), r, s.f32)
	})
	return nil
}

// empty reports whether a window has no voxels.
func (w windows) empty() bool {
	for _, axis := range w {
		for _, list := range axis {
			if len(list) == 0 {
				return true
			}
		}
	}
	return false
}

func buildAvgPoolBackward(c *compiler, n *ir.Node) error {
	a, from, to := n.Attr.(op.PoolBackwardAttr).Pool, n.Inputs[0].Shape(), n.Out().Shape()
	forward, w := poolWindows(a, size3(to), size3(from))
	if a.Kernel[0]*a.Kernel[1]*a.Kernel[2] > maxShortSum || forward.empty() {
		c.average(n, w)
		return nil
	}
	k, err := c.pooling(a)
	if err != nil {
		return err
	}
	placesY, placesX := c.places(0), c.places(-1)
	c.planes(to, func(i int, r kernel.Region, s *scratch) {
		dst := sample(s.out(), to, placesX, i)
		clearRows(dst, r)
		k.AverageBackward(dst, sample(s.in(0), from, placesY, i), r, s.f32)
	})
	return nil
}

// average compiles weighted sums over neighbours; the weights are products over the axes. A row is summed along depth and height
// first, then along width, each in float64.
func (c *compiler) average(n *ir.Node, w windows) {
	from, to, placesX, placesY := n.Inputs[0].Shape(), n.Out().Shape(), c.places(0), c.places(-1)
	ch := to[4]
	c.ownScratch(2 * (from[3]*ch + ch))
	c.poolRows(to, func(sample, z, row int, s *scratch) {
		x, y := s.in(0), s.out()
		sums, sum := s.f64[:from[3]*ch], s.f64[from[3]*ch:][:ch]
		clear(sums)
		for _, nz := range w[0][z] {
			for _, ny := range w[1][row] {
				weight := float64(nz.weight) * float64(ny.weight)
				for i, v := range x[((sample*placesX+nz.at%placesX)*from[2]+ny.at)*from[3]*ch:][:len(sums)] {
					sums[i] += weight * float64(v)
				}
			}
		}
		line := y[((sample*placesY+z%placesY)*to[2]+row)*to[3]*ch:][:to[3]*ch]
		for o, nxs := range w[2] {
			clear(sum)
			for _, nx := range nxs {
				for i, v := range sums[nx.at*ch:][:ch] {
					sum[i] += float64(nx.weight) * v
				}
			}
			for i, v := range sum {
				line[o*ch+i] = float32(v)
			}
		}
	})
}
