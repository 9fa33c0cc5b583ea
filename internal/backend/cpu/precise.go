package cpu

import (
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// Small convolutions and products (gates, heads, blocks behind the last pooling) are summed in float64: they take no time, and an
// error there spreads over the whole volume. In a deep network whose last activations are in the thousands, that reduces the error
// of gradients several times, to that of rounding each value once.
const preciseLimit = 1 << 18 // multiplications

// preciseConv compiles a convolution, or the gradient of one, with weights [Cout, Cin/Groups, kd, kh, kw].
func (c *compiler) preciseConv(n *ir.Node, a op.ConvAttr, backward bool) {
	from, to, size := n.Inputs[0].Shape(), n.Out().Shape(), n.Inputs[1].Shape()
	volume, other := from, to // of the convolution, whichever way it is computed
	if backward {
		volume, other = to, from
	}
	forward, transposed := poolWindows(op.PoolAttr{Kernel: [3]int(size[2:5]), Stride: a.Stride, Dilation: a.Dilation, Before: a.Before, After: a.After},
		size3(volume), size3(other))
	// Steps in the weights from one channel of the sum, and one of the result, to the next.
	perIn, perOut, taps := size[1], size[0]/a.Groups, size[2:].Elements()
	lists, sums, results, sumStep, resultStep := forward, perIn, perOut, taps, perIn*taps
	if backward {
		lists, sums, results, sumStep, resultStep = transposed, perOut, perIn, perIn*taps, taps
	}
	placesX, placesY, plane := c.places(0), c.places(-1), to[2]*to[3]
	c.planeRows(to[0]*to[1], plane, to[4]*sums*taps, func(lo, hi int, s *scratch) {
		x, w, bias, y := s.in(0), s.in(1), s.in(2), s.out()
		for v := lo; v < hi; v++ {
			px, py, pz, number := v%to[3], v/to[3]%to[2], v/plane%to[1], v/plane/to[1]
			place := (number*placesY+pz%placesY)*plane + v%plane
			for ch, row := 0, y[place*to[4]:][:to[4]]; ch < len(row); ch++ {
				group := ch / results
				weights := w[group*perOut*perIn*taps+ch%results*resultStep:]
				sum := at(bias, ch, 0)
				for _, nz := range lists[0][pz] {
					for _, ny := range lists[1][py] {
						for _, nx := range lists[2][px] {
							src := x[(((number*placesX+nz.at%placesX)*from[2]+ny.at)*from[3]+nx.at)*from[4]+group*sums:][:sums]
							k := (nz.tap*size[3]+ny.tap)*size[4] + nx.tap
							if sumStep == 1 {
								sum += dot(src, weights[k:])
								continue
							}
							for _, value := range src {
								sum += float64(value) * float64(weights[k])
								k += sumStep
							}
						}
					}
				}
				row[ch] = float32(sum)
			}
		}
	})
}

// preciseLinear compiles a product with a constant matrix.
func (c *compiler) preciseLinear(rows, depth, cols int, trans bool) {
	stepK, stepN := cols, 1
	if trans {
		stepK, stepN = 1, depth
	}
	c.rows(rows*cols, depth, func(from, to int, s *scratch) {
		x, w, y := s.in(0), s.in(1), s.out()
		for i := from; i < to; i++ {
			sum, k, row := 0.0, i%cols*stepN, x[i/cols*depth:][:depth]
			if stepK == 1 {
				y[i] = float32(dot(row, w[k:]))
				continue
			}
			for _, v := range row {
				sum += float64(v) * float64(w[k])
				k += stepK
			}
			y[i] = float32(sum)
		}
	})
}

// dot returns the sum of the products of x and the first elements of w, in four chains.
func dot(x, w []float32) float64 {
	var a, b, c, d float64
	w = w[:len(x)]
	for ; len(x) >= 4; x, w = x[4:], w[4:] {
		a += float64(x[0]) * float64(w[0])
		b += float64(x[1]) * float64(w[1])
		c += float64(x[2]) * float64(w[2])
		d += float64(x[3]) * float64(w[3])
	}
	for i, v := range x {
		a += float64(v) * float64(w[i])
	}
	return (a + b) + (c + d)
}
