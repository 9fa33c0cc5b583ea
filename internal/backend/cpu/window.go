package cpu

import (
	"math"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// neighbour is a voxel that a window operation reads along one axis, and its place in the window.
type neighbour struct {
	at, tap int
	weight  float32 // of an average
}

// axisWindows lists, for each position of an axis, the neighbours in the order of the taps.
type axisWindows [][]neighbour

// windows are the neighbours of every position along depth, height and width.
type windows [3]axisWindows

// poolWindows lists what the windows of a pooling of an input of that size look at, and for each input voxel the windows that
// look at it.
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
func (c *compiler) poolRows(y tensor.Shape, do func(sample, z, row int, s scratch)) {
	c.rows(y[0]*y[1]*y[2], y[3]*y[4], func(from, to int, s scratch) {
		for i := from; i < to; i++ {
			do(i/y[2]/y[1], i/y[2]%y[1], i%y[2], s)
		}
	})
}

func size3(s tensor.Shape) [3]int { return [3]int(s[1:4]) }

// buildMaxPool takes maxima along depth and height first, a whole row at a time, then along width.
func buildMaxPool(c *compiler, n *ir.Node) error {
	x, y, from, to := c.in(0), c.out(), n.Inputs[0].Shape(), n.Out().Shape()
	w, _ := poolWindows(n.Attr.(op.PoolAttr), size3(from), size3(to))
	ch := to[4]
	c.ownScratch(from[3] * ch)
	c.poolRows(to, func(sample, z, row int, s scratch) {
		top := s.f32[:from[3]*ch]
		for i := range top {
			top[i] = float32(math.Inf(-1))
		}
		for _, nz := range w[0][z] {
			for _, ny := range w[1][row] {
				raise(top, x[((sample*from[1]+nz.at)*from[2]+ny.at)*from[3]*ch:][:len(top)])
			}
		}
		line := y[((sample*to[1]+z)*to[2]+row)*to[3]*ch:][:to[3]*ch]
		for o, nxs := range w[2] {
			dst := line[o*ch:][:ch]
			for i := range dst {
				dst[i] = float32(math.Inf(-1))
			}
			for _, nx := range nxs {
				raise(dst, top[nx.at*ch:][:ch])
			}
		}
	})
	return nil
}

// raise makes dst the larger of dst and x, element by element; NaN wins.
func raise(dst, x []float32) {
	x = x[:len(dst)]
	for i, v := range x {
		dst[i] = max(dst[i], v)
	}
}

func buildMaxPoolIndex(c *compiler, n *ir.Node) error {
	v := n.Out()
	at, count := c.program.offset[v], v.Shape().Elements()
	if v.Type.Elem == tensor.Uint8 {
		maxPoolIndex(c, n, view[uint8](c.program.arena, at, count))
	} else {
		maxPoolIndex(c, n, view[uint16](c.program.arena, at, count))
	}
	return nil
}

// maxPoolIndex finds the first maximum along depth and height for each voxel of a row, then the first of those along width: the
// one of the lowest tap among equals.
func maxPoolIndex[T uint8 | uint16](c *compiler, n *ir.Node, index []T) {
	a, x, from, to := n.Attr.(op.PoolAttr), c.in(0), n.Inputs[0].Shape(), n.Out().Shape()
	w, _ := poolWindows(a, size3(from), size3(to))
	ch := to[4]
	width := from[3] * ch
	c.ownScratch(2*width + 2*ch)
	c.poolRows(to, func(sample, z, row int, s scratch) {
		top, best := s.f32[:width], s.f32[2*width:][:ch]
		taps, first := int32s(s.f32[width:2*width]), int32s(s.f32[2*width+ch:][:ch]) // of kw = 0
		clear(taps)
		for i := range top {
			top[i] = float32(math.Inf(-1))
		}
		for _, nz := range w[0][z] {
			for _, ny := range w[1][row] {
				src, tap := x[((sample*from[1]+nz.at)*from[2]+ny.at)*from[3]*ch:][:width], int32((nz.tap*a.Kernel[1]+ny.tap)*a.Kernel[2])
				for i, v := range src {
					if v > top[i] || v != v {
						top[i], taps[i] = v, tap
					}
				}
			}
		}
		line := index[((sample*to[1]+z)*to[2]+row)*to[3]*ch:][:to[3]*ch]
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
				line[o*ch+i] = T(k)
			}
		}
	})
}

func buildMaxPoolBackward(c *compiler, n *ir.Node) error {
	v := n.Inputs[1]
	at, count := c.program.offset[v], v.Shape().Elements()
	if v.Type.Elem == tensor.Uint8 {
		maxPoolBackward(c, n, view[uint8](c.program.arena, at, count))
	} else {
		maxPoolBackward(c, n, view[uint16](c.program.arena, at, count))
	}
	return nil
}

// maxPoolBackward collects, for each voxel, the gradients of the windows whose maximum it was: unlike scattering from the
// windows, that needs no other thread's voxels.
func maxPoolBackward[T uint8 | uint16](c *compiler, n *ir.Node, index []T) {
	a, dy, dx := n.Attr.(op.PoolBackwardAttr).Pool, c.in(0), c.out()
	from, to := n.Inputs[0].Shape(), n.Out().Shape()
	_, w := poolWindows(a, size3(to), size3(from))
	ch := to[4]
	c.poolRows(to, func(sample, z, row int, _ scratch) {
		line := dx[((sample*to[1]+z)*to[2]+row)*to[3]*ch:][:to[3]*ch]
		clear(line)
		for _, nz := range w[0][z] {
			for _, ny := range w[1][row] {
				at := ((sample*from[1]+nz.at)*from[2] + ny.at) * from[3] * ch
				tap := (nz.tap*a.Kernel[1] + ny.tap) * a.Kernel[2]
				for p, nxs := range w[2] {
					dst := line[p*ch:][:ch]
					for _, nx := range nxs {
						src, own := dy[at+nx.at*ch:][:ch], T(tap+nx.tap)
						for i, k := range index[at+nx.at*ch:][:ch] {
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

func buildAvgPool(c *compiler, n *ir.Node) error {
	w, _ := poolWindows(n.Attr.(op.PoolAttr), size3(n.Inputs[0].Shape()), size3(n.Out().Shape()))
	c.average(n, w)
	return nil
}

func buildAvgPoolBackward(c *compiler, n *ir.Node) error {
	_, w := poolWindows(n.Attr.(op.PoolBackwardAttr).Pool, size3(n.Out().Shape()), size3(n.Inputs[0].Shape()))
	c.average(n, w)
	return nil
}

// average compiles weighted sums over neighbours; the weights are products over the axes. A row is summed along depth and height
// first, then along width, each in float64.
func (c *compiler) average(n *ir.Node, w windows) {
	x, y, from, to := c.in(0), c.out(), n.Inputs[0].Shape(), n.Out().Shape()
	ch := to[4]
	c.ownScratch(2 * (from[3]*ch + ch))
	c.poolRows(to, func(sample, z, row int, s scratch) {
		sums, sum := s.f64[:from[3]*ch], s.f64[from[3]*ch:][:ch]
		clear(sums)
		for _, nz := range w[0][z] {
			for _, ny := range w[1][row] {
				weight := float64(nz.weight) * float64(ny.weight)
				for i, v := range x[((sample*from[1]+nz.at)*from[2]+ny.at)*from[3]*ch:][:len(sums)] {
					sums[i] += weight * float64(v)
				}
			}
		}
		line := y[((sample*to[1]+z)*to[2]+row)*to[3]*ch:][:to[3]*ch]
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
