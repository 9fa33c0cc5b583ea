package cpu

import (
	"math"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// normBuilders is the part of builders whose functions are in this file.
var normBuilders = map[*ir.Op]builder{
	op.GroupNorm:         buildGroupNorm,
	op.GroupNormBackward: buildGroupNormBackward,
	op.LayerNorm:         buildLayerNorm,
	op.LayerNormBackward: buildLayerNormBackward,
}

// Statistics are sums in float64: of x, then of the squares of x - mean, so that a mean far above the deviation costs nothing.
// Applying them takes the mean off first, where float32 is exact or nearly so, and its rounding error with the shift.

// channelSums adds phases that leave, in shared[at:], the sums over space of each channel of each sample, after add has
// accumulated rows of the given range into sums of float64. Blocks are a function of the shape.
func (c *compiler) channelSums(r reduction, at, partial int, add func(sums []float64, sample, from, to int, s *scratch)) {
	blocks := r.blocks()
	c.sharedScratch(partial + r.outer*blocks*r.inner)
	c.phase(r.outer*blocks, func(i int, s *scratch) {
		sums := s.shared[partial+i*r.inner:][:r.inner]
		clear(sums)
		from, to := r.block(i % blocks)
		add(sums, i/blocks, from, to, s)
	})
	c.rows(r.outer*r.inner, blocks, func(from, to int, s *scratch) {
		for i := from; i < to; i++ {
			sum, sample, ch := 0.0, i/r.inner, i%r.inner
			for b := range blocks {
				sum += s.shared[partial+(sample*blocks+b)*r.inner+ch]
			}
			s.shared[at+i] = sum
		}
	})
}

// groupStatistics adds phases that leave the mean and then 1/sqrt(variance + eps) of each channel's group in shared[0:2n], with
// n = samples*channels, and float32 means of the channels in the memory of shared[2n:3n].
func (c *compiler) groupStatistics(input int, r reduction, a op.GroupNormAttr) {
	set, n, members := c.backend.set, r.outer*r.inner, r.inner/a.Groups
	count := float64(r.size * members)
	rows := func(s *scratch, sample, from, to int) []float32 {
		return s.in(input)[(sample*r.size+from)*r.inner : (sample*r.size+to)*r.inner]
	}
	c.channelSums(r, 0, 3*n, func(sums []float64, sample, from, to int, s *scratch) { set.SumRows(sums, rows(s, sample, from, to)) })
	c.phase(1, func(_ int, s *scratch) {
		mean, rounded := s.shared[:n], floatsOf(s.shared[2*n:3*n])
		spread(mean, members, func(sum float64) float64 { return sum / count })
		for i, m := range mean {
			rounded[i] = float32(m)
		}
	})
	c.channelSums(r, n, 3*n, func(sums []float64, sample, from, to int, s *scratch) {
		mean := floatsOf(s.shared[2*n : 3*n])[sample*r.inner:][:r.inner]
		set.VarRows(sums, rows(s, sample, from, to), mean)
	})
	c.phase(1, func(_ int, s *scratch) {
		// The squares were taken about the rounded mean.
		mean, squares, rounded := s.shared[:n], s.shared[n:2*n], floatsOf(s.shared[2*n:3*n])
		for i := range squares {
			d := mean[i] - float64(rounded[i])
			squares[i] -= count / float64(members) * d * d
		}
		spread(squares, members, func(sum float64) float64 { return 1 / math.Sqrt(max(sum, 0)/count+a.Eps) })
	})
}

// spread replaces the values of each group of members by a function of their sum.
func spread(values []float64, members int, f func(sum float64) float64) {
	for i := 0; i < len(values); i += members {
		sum := 0.0
		for _, v := range values[i : i+members] {
			sum += v
		}
		v := f(sum)
		for k := range members {
			values[i+k] = v
		}
	}
}

func at(values []float32, i int, absent float32) float64 {
	if values == nil {
		return float64(absent)
	}
	return float64(values[i])
}

func buildGroupNorm(c *compiler, n *ir.Node) error {
	set, s := c.backend.set, n.Inputs[0].Shape()
	ch := s[len(s)-1]
	r := reduction{outer: s[0], size: s.Elements() / s[0] / ch, inner: ch}
	count := s[0] * ch
	c.groupStatistics(0, r, n.Attr.(op.GroupNormAttr))
	c.ownScratch(3 * ch)
	c.rows(r.outer*r.size, ch, func(from, to int, s *scratch) {
		x, gamma, beta, y := s.in(0), s.in(1), s.in(2), s.out()
		minus, scale, shift := s.f32[:ch], s.f32[ch:2*ch], s.f32[2*ch:3*ch]
		mean, inverse, rounded := s.shared[:count], s.shared[count:2*count], floatsOf(s.shared[2*count:3*count])
		for from < to { // one sample at a time
			sample := from / r.size
			end := min(to, (sample+1)*r.size)
			for i := range ch {
				k := sample*ch + i
				minus[i] = -rounded[k]
				f := inverse[k] * at(gamma, i, 1)
				scale[i], shift[i] = float32(f), float32(at(beta, i, 0)-(mean[k]-float64(rounded[k]))*f)
			}
			rows := y[from*ch : end*ch]
			set.AddRow(rows, x[from*ch:end*ch], minus)
			set.ScaleShift(rows, rows, scale, shift)
			from = end
		}
	})
	return nil
}

// buildGroupNormBackward computes (g - mean(g) - h*mean(g*h)) / deviation with g = dy*gamma and h the normalised x.
func buildGroupNormBackward(c *compiler, n *ir.Node) error {
	shape, a := n.Inputs[1].Shape(), n.Attr.(op.GroupNormAttr)
	ch := shape[len(shape)-1]
	r := reduction{outer: shape[0], size: shape.Elements() / shape[0] / ch, inner: ch}
	count, members := shape[0]*ch, ch/a.Groups
	set := c.backend.set
	c.groupStatistics(1, r, a)
	// Behind the statistics: sums of dy, and of dy*(x - mean), both by channel, and room for partial sums.
	c.channelSums(r, 3*count, 5*count, func(sums []float64, sample, from, to int, s *scratch) {
		set.SumRows(sums, s.in(0)[(sample*r.size+from)*ch:(sample*r.size+to)*ch])
	})
	c.channelSums(r, 4*count, 5*count, func(sums []float64, sample, from, to int, s *scratch) {
		dy, x, mean := s.in(0), s.in(1), s.shared[sample*ch:][:ch]
		for v := sample*r.size + from; v < sample*r.size+to; v++ {
			rowX, rowDy := x[v*ch:][:ch], dy[v*ch:][:ch]
			for i := range sums {
				sums[i] += float64(rowDy[i]) * (float64(rowX[i]) - mean[i])
			}
		}
	})
	elements := float64(r.size * members)
	c.phase(1, func(_ int, s *scratch) {
		gamma := s.in(2)
		inverse, g, along := s.shared[count:2*count], s.shared[3*count:4*count], s.shared[4*count:5*count]
		for i := range count {
			f := at(gamma, i%ch, 1)
			g[i] *= f
			along[i] *= f * inverse[i]
		}
		mean := func(sum float64) float64 { return sum / elements }
		spread(g, members, mean)
		spread(along, members, mean)
	})
	c.rows(r.outer*r.size, ch, func(from, to int, s *scratch) {
		dy, x, gamma, dx := s.in(0), s.in(1), s.in(2), s.out()
		mean, inverse := s.shared[:count], s.shared[count:2*count]
		g, along := s.shared[3*count:4*count], s.shared[4*count:5*count]
		for v := from; v < to; v++ {
			base := v / r.size * ch
			rowX, rowDy, row := x[v*ch:][:ch], dy[v*ch:][:ch], dx[v*ch:][:ch]
			for i := range row {
				k := base + i
				h := (float64(rowX[i]) - mean[k]) * inverse[k]
				row[i] = float32((float64(rowDy[i])*at(gamma, i, 1) - g[k] - h*along[k]) * inverse[k])
			}
		}
	})
	return nil
}

// rowStatistics returns the mean and 1/sqrt(variance + eps) of a row.
func rowStatistics(x []float32, eps float64) (mean, inverse float64) {
	mean = total(x) / float64(len(x))
	var a, b float64
	rest := x
	for ; len(rest) >= 2; rest = rest[2:] {
		d, e := float64(rest[0])-mean, float64(rest[1])-mean
		a += d * d
		b += e * e
	}
	for _, v := range rest {
		d := float64(v) - mean
		a += d * d
	}
	return mean, 1 / math.Sqrt((a+b)/float64(len(x))+eps)
}

func buildLayerNorm(c *compiler, n *ir.Node) error {
	set, a := c.backend.set, n.Attr.(op.LayerNormAttr)
	s := n.Inputs[0].Shape()
	width := s[len(s)-a.Axes:].Elements()
	c.rows(s.Elements()/width, width, func(from, to int, s *scratch) {
		x, gamma, beta, y := s.in(0), s.in(1), s.in(2), s.out()
		for r := from; r < to; r++ {
			src, dst := x[r*width:][:width], y[r*width:][:width]
			mean, inverse := rowStatistics(src, a.Eps)
			rounded := float32(mean)
			set.Affine(dst, src, 1, -rounded)
			set.Affine(dst, dst, float32(inverse), float32((float64(rounded)-mean)*inverse))
		}
		rows := y[from*width : to*width]
		if gamma != nil {
			set.ScaleShift(rows, rows, gamma, beta)
		} else if beta != nil {
			set.AddRow(rows, rows, beta)
		}
	})
	return nil
}

func buildLayerNormBackward(c *compiler, n *ir.Node) error {
	a := n.Attr.(op.LayerNormAttr)
	s := n.Inputs[1].Shape()
	width := s[len(s)-a.Axes:].Elements()
	c.rows(s.Elements()/width, width, func(from, to int, s *scratch) {
		dy, x, gamma, dx := s.in(0), s.in(1), s.in(2), s.out()
		for r := from; r < to; r++ {
			src, up, dst := x[r*width:][:width], dy[r*width:][:width], dx[r*width:][:width]
			mean, inverse := rowStatistics(src, a.Eps)
			var g, along float64
			for i, v := range src {
				t := float64(up[i]) * at(gamma, i, 1)
				g += t
				along += t * (float64(v) - mean) * inverse
			}
			g /= float64(width)
			along /= float64(width)
			for i, v := range src {
				h := (float64(v) - mean) * inverse
				dst[i] = float32((float64(up[i])*at(gamma, i, 1) - g - h*along) * inverse)
			}
		}
	})
	return nil
}
