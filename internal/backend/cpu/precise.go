package cpu

import (
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Small convolutions and products (gates, heads, blocks behind the last pooling) are summed in float64: they take no time, and an
// error there spreads over the whole volume. In a deep network whose last activations are in the thousands, that takes the error
// of gradients down several times, to that of rounding each value once.
const preciseLimit = 1 << 18 // multiplications

// preciseConv compiles a convolution, or the gradient of one, with weights [Cout, Cin/Groups, kd, kh, kw].
func (c *compiler) preciseConv(n *ir.Node, a op.ConvAttr, backward bool) {
	from, to, s := n.Inputs[0].Shape(), n.Out().Shape(), n.Inputs[1].Shape()
	x, w, bias, y := c.in(0), c.in(1), c.in(2), c.out()
	volume, other := from, to // of the convolution, whichever way it is computed
	if backward {
		volume, other = to, from
	}
	forward, transposed := poolWindows(op.PoolAttr{Kernel: [3]int(s[2:5]), Stride: a.Stride, Dilation: a.Dilation, Before: a.Before, After: a.After},
		size3(volume), size3(other))
	// Steps in the weights from one channel of the sum, and one of the result, to the next.
	perIn, perOut, taps := s[1], s[0]/a.Groups, s[2:].Elements()
	lists, sums, results, sumStep, resultStep := forward, perIn, perOut, taps, perIn*taps
	if backward {
		lists, sums, results, sumStep, resultStep = transposed, perOut, perIn, perIn*taps, taps
	}
	c.rows(tensor.Shape(to[:4]).Elements(), to[4]*sums*taps, func(lo, hi int, _ scratch) {
		for v := lo; v < hi; v++ {
			px, py, pz, number := v%to[3], v/to[3]%to[2], v/to[3]/to[2]%to[1], v/to[3]/to[2]/to[1]
			for ch, row := 0, y[v*to[4]:][:to[4]]; ch < len(row); ch++ {
				group := ch / results
				weights := w[group*perOut*perIn*taps+ch%results*resultStep:]
				sum := at(bias, ch, 0)
				for _, nz := range lists[0][pz] {
					for _, ny := range lists[1][py] {
						for _, nx := range lists[2][px] {
							src := x[(((number*from[1]+nz.at)*from[2]+ny.at)*from[3]+nx.at)*from[4]+group*sums:][:sums]
							k := (nz.tap*s[3]+ny.tap)*s[4] + nx.tap
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
	x, w, y := c.in(0), c.in(1), c.out()
	stepK, stepN := cols, 1
	if trans {
		stepK, stepN = 1, depth
	}
	c.rows(rows*cols, depth, func(from, to int, _ scratch) {
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

// dot is the sum of the products of x and the first elements of w, in four chains.
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
