package cpu

import (
	"math"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// momentsBuilders is the part of builders whose functions are in this file.
var momentsBuilders = map[*ir.Op]builder{
	op.GroupMoments:     buildGroupMoments,
	op.GroupNormApply:   buildGroupNormApply,
	op.GroupGradMoments: buildGroupGradMoments,
	op.GroupGradApply:   buildGroupGradApply,
}

// alwaysAccumulated are the operations that take planes one after the other even where they run whole.
var alwaysAccumulated = map[*ir.Op]bool{op.GroupMoments: true, op.GroupGradMoments: true}

// buildGroupMoments finds, for each block of a plane and each channel, the sum and the squares about the block's own mean, and
// merges them in order: Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances (1979),
// eq. 2.1. So a mean far above the deviation costs nothing.
func buildGroupMoments(c *compiler, n *ir.Node) error {
	set, s, a, depth := c.backend.set, n.Inputs[0].Shape(), n.Attr.(op.GroupNormAttr), c.node.Inputs[0].Shape()[1]
	ch := s[4]
	r := reduction{outer: 1, size: s[2] * s[3], inner: ch, plane: true}
	blocks, g := r.blocks(), c.inst.accumulation
	g.values, g.partial = 2*ch, blocks*2*ch
	c.ownScratch(ch)
	g.parts, g.plane = cut(blocks, r.size/blocks*ch, func(lo, hi int, s *scratch) {
		for b := lo; b < hi; b++ {
			from, to := r.block(b)
			x, count := s.in(0)[from*ch:to*ch], float64(to-from)
			sums, squares, mean := s.partial[b*2*ch:][:ch], s.partial[b*2*ch+ch:][:ch], s.f32[:ch]
			clear(sums)
			clear(squares)
			set.SumRows(sums, x)
			for i, sum := range sums {
				mean[i] = float32(sum / count)
			}
			set.VarRows(squares, x, mean)
			for i, sum := range sums { // the squares were taken about the rounded mean
				d := sum/count - float64(mean[i])
				squares[i] = max(squares[i]-count*d*d, 0)
			}
		}
	})
	g.joins, g.join = cut(ch, 64, func(lo, hi int, s *scratch) {
		for i := lo; i < hi; i++ {
			sum, squares, count := g.sums[i], g.sums[ch+i], float64(s.job.z0*r.size)
			for z := range s.job.z1 - s.job.z0 {
				for b := range blocks {
					from, to := r.block(b)
					more, part := float64(to-from), s.shared[z*g.partial+b*2*ch:]
					squares += part[ch+i]
					if count > 0 {
						d := part[i]/more - sum/count
						squares += d * d * count * more / (count + more)
					}
					sum += part[i]
					count += more
				}
			}
			g.sums[i], g.sums[ch+i] = sum, squares
		}
	})
	members, count := ch/a.Groups, float64(depth*r.size)
	g.finish = func(i int, s *scratch) {
		if i > 0 {
			return // the first part does it all
		}
		y := s.out()
		for group := range a.Groups {
			sums, squares := g.sums[group*members:][:members], g.sums[ch+group*members:][:members]
			mean, total := 0.0, 0.0
			for _, sum := range sums {
				mean += sum / count / float64(members)
			}
			for i, sum := range sums {
				d := sum/count - mean
				total += squares[i] + count*d*d
			}
			rounded := float32(mean)
			y[3*group], y[3*group+1] = rounded, float32(mean-float64(rounded))
			y[3*group+2] = float32(1 / math.Sqrt(total/(count*float64(members))+a.Eps))
		}
	}
	c.sharedScratch(min(g.chunk(), depth) * g.partial)
	return nil
}

// buildGroupGradMoments accumulates the sums of dy and of dy*x by channel.
func buildGroupGradMoments(c *compiler, n *ir.Node) error {
	set, s, a, depth := c.backend.set, n.Inputs[0].Shape(), n.Attr.(op.GroupNormAttr), c.node.Inputs[0].Shape()[1]
	ch := s[4]
	r := reduction{outer: 1, size: s[2] * s[3], inner: ch, plane: true}
	blocks, g := r.blocks(), c.inst.accumulation
	g.values, g.partial = 2*ch, blocks*2*ch
	g.parts, g.plane = cut(blocks, r.size/blocks*ch, func(lo, hi int, s *scratch) {
		for b := lo; b < hi; b++ {
			from, to := r.block(b)
			dy, sums := s.in(0)[from*ch:to*ch], s.partial[b*2*ch:][:2*ch]
			clear(sums)
			set.SumRows(sums[:ch], dy)
			set.DotRows(sums[ch:], dy, s.in(1)[from*ch:to*ch])
		}
	})
	g.joins, g.join = cut(2*ch, 8*blocks, func(lo, hi int, s *scratch) {
		for i := lo; i < hi; i++ {
			sum := g.sums[i]
			for b := range (s.job.z1 - s.job.z0) * blocks {
				sum += s.shared[b*2*ch+i]
			}
			g.sums[i] = sum
		}
	})
	members := ch / a.Groups
	count := float64(depth * r.size * members)
	g.finish = func(i int, s *scratch) {
		if i > 0 {
			return
		}
		moments, gamma, y := s.in(2), s.in(3), s.out()
		for group := range a.Groups {
			mean, inverse := float64(moments[3*group])+float64(moments[3*group+1]), float64(moments[3*group+2])
			var sum, along float64
			for i := group * members; i < (group+1)*members; i++ {
				f := at(gamma, i, 1)
				sum += f * g.sums[i]
				along += f * (g.sums[ch+i] - mean*g.sums[i])
			}
			y[2*group], y[2*group+1] = float32(sum/count), float32(along*inverse/count)
		}
	}
	c.sharedScratch(min(g.chunk(), depth) * g.partial)
	return nil
}

func buildGroupNormApply(c *compiler, n *ir.Node) error {
	set, s, groups := c.backend.set, n.Inputs[0].Shape(), n.Attr.(op.GroupNormAttr).Groups
	ch := s[4]
	members := ch / groups
	c.ownScratch(3 * ch)
	c.rows(s.Elements()/ch, ch, func(from, to int, s *scratch) {
		x, moments, gamma, beta, y := s.in(0)[from*ch:to*ch], s.in(1), s.in(2), s.in(3), s.out()[from*ch:to*ch]
		minus, scale, shift := s.f32[:ch], s.f32[ch:2*ch], s.f32[2*ch:3*ch]
		for i := range ch {
			m := moments[3*(i/members):]
			f := float64(m[2]) * at(gamma, i, 1)
			minus[i], scale[i], shift[i] = -m[0], float32(f), float32(at(beta, i, 0)-float64(m[1])*f)
		}
		set.AddRow(y, x, minus)
		set.ScaleShift(y, y, scale, shift)
	})
	return nil
}

// buildGroupGradApply computes dy*gamma*r - (x-mean)*means[1]*r*r - means[0]*r, with r the inverse deviation.
func buildGroupGradApply(c *compiler, n *ir.Node) error {
	set, s, groups := c.backend.set, n.Inputs[0].Shape(), n.Attr.(op.GroupNormAttr).Groups
	ch := s[4]
	members := ch / groups
	c.ownScratch(4*ch + max(grain, ch))
	c.rows(s.Elements()/ch, ch, func(from, to int, s *scratch) {
		dy, x, moments, means, gamma := s.in(0)[from*ch:to*ch], s.in(1)[from*ch:to*ch], s.in(2), s.in(3), s.in(4)
		dx, rest := s.out()[from*ch:to*ch], s.f32[4*ch:][:(to-from)*ch]
		scale, minus, slope, shift := s.f32[:ch], s.f32[ch:2*ch], s.f32[2*ch:3*ch], s.f32[3*ch:4*ch]
		for i := range ch {
			m, mean := moments[3*(i/members):], means[2*(i/members):]
			r := float64(m[2])
			along := float64(mean[1]) * r * r
			scale[i], minus[i] = float32(at(gamma, i, 1)*r), -m[0]
			slope[i], shift[i] = float32(-along), float32(float64(m[1])*along-float64(mean[0])*r)
		}
		set.AddRow(rest, x, minus)
		set.ScaleShift(rest, rest, slope, shift)
		set.ScaleShift(dx, dy, scale, nil)
		set.Add(dx, dx, rest)
	})
	return nil
}
