package kernel

// Implicit GEMM: the rows are output voxels, K is taps x channels, the columns are output channels. With channels last, a row of A for one
// tap is Cin consecutive values, so no patch matrix is needed: a table holds the source voxel for each (tap, row), negative for padding.
// Few input channels (a stem) would make those runs too short; there a block of patches is packed first.

const shortRun = 4 // fewer channels than this per group are packed into patches

// rowRun is a run of output voxels along x whose sources lie in one source row.
type rowRun struct {
	z, y, x int32 // lattice coordinates of the first voxel
	row, n  int32 // rows of the block
}

// packLattice sets the block sizes and the scratch.
func (c *Conv) packLattice(cig int) {
	c.run = (*Conv).runLattice
	tapsMax := 0
	for i := range c.classes {
		tapsMax = max(tapsMax, len(c.classes[i].taps))
	}
	c.kb = min(max(1, blockK/cig), max(tapsMax, 1))
	c.scratch = blockRows + c.kb*blockRows // destination table, source table
	if c.patches() {
		c.scratch += c.kb * cig * blockRows
	}
}

func (c *Conv) patches() bool { return c.cin/c.shape.Groups < shortRun && c.shape.taps() > 1 }

func (c *Conv) runLattice(dst, src View, r Region, e Epilogue, scratch []float32) {
	if c.step == [3]int{1, 1, 1} {
		// Consecutive voxels are consecutive rows. Blocks end with a plane where that lets taps outside the volume be left out.
		plane := dst.W * (r.Y1 - r.Y0)
		span := r.Z1 - r.Z0
		if c.shape.Kernel[0] > 1 && plane >= blockRows/4 {
			span = 1
		}
		for z := r.Z0; z < r.Z1; z += span {
			zn := min(span, r.Z1-z)
			blocks := (plane*zn + blockRows - 1) / blockRows
			for b := range blocks {
				c.block(&c.classes[0], dst, src, [3]int{z, r.Y0, 0}, [3]int{zn, r.Y1 - r.Y0, dst.W}, b*blockRows, r, &e, scratch)
				v0, v1 := b*blockRows, min((b+1)*blockRows, plane*zn)
				for v0 < v1 { // the hook never crosses a plane
					n := min(v1, (v0/plane+1)*plane) - v0
					e.finish(dst, z+v0/plane, r.Y0*dst.W+v0%plane, n, r)
					v0 += n
				}
			}
		}
		return
	}
	// Strided lattices interleave: go on in bands of rows, all classes of a band one after the other, so that a band is finished while hot.
	band := c.step[1] * max(1, blockRows*c.step[2]/max(dst.W, 1))
	for z := r.Z0; z < r.Z1; z++ {
		for y := r.Y0; y < r.Y1; y += band {
			y1 := min(y+band, r.Y1)
			for i := range c.classes {
				cl := &c.classes[i]
				from, n := [3]int{z, y, 0}, [3]int{}
				for a, end := range [3]int{z + 1, y1, dst.W} {
					first := ceilDiv(from[a]-cl.base[a], c.step[a])
					n[a] = ceilDiv(end-cl.base[a], c.step[a]) - first
					from[a] = first
				}
				points := n[0] * n[1] * n[2]
				for v := 0; v < points; v += blockRows {
					c.block(cl, dst, src, from, n, v, r, &e, scratch)
				}
			}
			e.finish(dst, z, y*dst.W, (y1-y)*dst.W, r)
		}
	}
}

func ceilDiv(a, b int) int { return -floorDiv(-a, b) }

// block computes up to blockRows lattice points, from point v of the box [from, from+n) in row-major order.
func (c *Conv) block(cl *class, dst, src View, from, n [3]int, v int, r Region, e *Epilogue, scratch []float32) {
	var spans [blockRows]rowRun
	m := min(blockRows, n[0]*n[1]*n[2]-v)
	table := ints(scratch)
	crow, rows := table[:blockRows], table[blockRows:][:c.kb*blockRows]
	patch := scratch[blockRows*(1+c.kb):]
	// The lattice points of the block as runs along x, and their destinations.
	count := 0
	for i := 0; i < m; {
		x, y, z := (v+i)%n[2], (v+i)/n[2]%n[1], (v+i)/n[2]/n[1]
		k := min(m-i, n[2]-x)
		s := rowRun{int32(from[0] + z), int32(from[1] + y), int32(from[2] + x), int32(i), int32(k)}
		spans[count] = s
		count++
		oz, oy, ox := cl.base[0]+int(s.z)*c.step[0], cl.base[1]+int(s.y)*c.step[1], cl.base[2]+int(s.x)*c.step[2]
		p := int32((oz%dst.Planes*dst.H+oy)*dst.W + ox)
		for j := range crow[i : i+k] {
			crow[i+j] = p + int32(j*c.step[2])
		}
		i += k
	}
	cig, cog := c.cin/c.shape.Groups, c.cout/c.shape.Groups
	t0, t1 := c.depthTaps(cl, spans[:count], src.Depth)
	for g := range c.shape.Groups {
		w := &cl.w[g]
		first := true
		for t := t0; t < t1 || first; t += c.kb {
			taps := min(c.kb, t1-t)
			p := gemmParams{m: m, taps: taps, kc: cig, tapStep: blockRows, aStride: src.C, cStride: dst.C}
			a, table := src.Data[min(g*cig, len(src.Data)):], rows
			if taps <= 0 {
				p.taps, p.kc = 0, 0
			} else if c.patches() {
				c.patch(cl.taps[t:t+taps], src, g, spans[:count], patch)
				a, table = patch, c.set.ident
				p.kc = taps * cig
				p.taps, p.aStride = 1, p.kc
			} else if g == 0 || c.kb < t1-t0 {
				c.fill(cl.taps[t:t+taps], src, spans[:count], m, rows)
			}
			for k0 := 0; k0 == 0 || k0 < p.kc; k0 += blockK {
				q := p
				q.kc = min(blockK, p.kc-k0)
				if !first || k0 > 0 || e.Accumulate {
					q.acc = 1
				}
				for i := range w.panels {
					pn := &w.panels[i]
					if lo := g*cog + pn.col; lo < r.C0 || lo >= r.C1 {
						continue
					}
					bias := c.set.zero
					if e.Bias != nil && first && k0 == 0 {
						bias = e.Bias[g*cog+pn.col:]
					}
					q.cols = pn.cols
					c.set.runTile(pn.tile, dst.Data[g*cog+pn.col:], a[k0:], w.block(pn, t*cig+k0), bias, table, crow, q)
				}
			}
			first = false
		}
	}
}

// runTile calls a tile with a given destination table; a contiguous row table is the set's identity.
func (s *Set) runTile(t *tile, c, a, b, bias []float32, rows, crow []int32, p gemmParams) {
	if &rows[0] != &s.ident[0] {
		t.run(c, a, b, bias, s.zero, rows, crow, p)
		return
	}
	full := p.m / t.height * t.height
	rest := p.m - full
	if full > 0 {
		p.m = full
		t.run(c, a, b, bias, s.zero, rows, crow, p)
	}
	if rest > 0 {
		p.m = rest
		t.run(c, a[full*p.aStride:], b, bias, s.zero, s.tails[rest][:], crow[full:], p)
	}
}

// depthTaps trims the taps, which are sorted by depth, to those that meet the volume for some voxel of the block.
func (c *Conv) depthTaps(cl *class, spans []rowRun, depth int) (t0, t1 int) {
	hit := func(t *tap) bool {
		for i := range spans {
			if z := int(spans[i].z)*c.srcStep[0] + int(t.off[0]); uint(z) < uint(depth) {
				return true
			}
			if i > 0 && spans[i].z == spans[0].z && spans[len(spans)-1].z == spans[0].z {
				return false
			}
		}
		return false
	}
	t1 = len(cl.taps)
	for t0 < t1 && !hit(&cl.taps[t0]) {
		t0++
	}
	for t1 > t0 && !hit(&cl.taps[t1-1]) {
		t1--
	}
	return t0, t1
}

// fill writes the source voxel of each (tap, row), -1 for padding and for the rows that fill the last tile.
func (c *Conv) fill(taps []tap, src View, spans []rowRun, m int, rows []int32) {
	end := min(m+16, blockRows)
	for t := range taps {
		row := rows[t*blockRows:][:blockRows]
		off := taps[t].off
		for i := range spans {
			s := &spans[i]
			z, y, x, step := int(s.z)*c.srcStep[0]+int(off[0]), int(s.y)*c.srcStep[1]+int(off[1]),
				int(s.x)*c.srcStep[2]+int(off[2]), c.srcStep[2]
			out := row[s.row:][:s.n]
			lo, hi := 0, 0
			if uint(z) < uint(src.Depth) && uint(y) < uint(src.H) {
				lo, hi = inside(x, step, len(out), src.W)
			}
			for j := range out[:lo] {
				out[j] = -1
			}
			v := int32((z%src.Planes*src.H+y)*src.W + x + lo*step)
			if lo < hi {
				mid := out[lo:hi]
				for j := range mid {
					mid[j] = v
					v += int32(step)
				}
			}
			for j := range out[hi:] {
				out[hi+j] = -1
			}
		}
		for j := m; j < end; j++ {
			row[j] = -1
		}
	}
}

// inside returns the range of j in [0, n) for which x + j*step lies in [0, width).
func inside(x, step, n, width int) (lo, hi int) {
	if x < 0 {
		lo = min(n, (-x+step-1)/step)
	}
	if x < width {
		hi = min(n, (width-x+step-1)/step)
	}
	return lo, max(lo, hi)
}

// patch writes the block's patches, one row of taps x channels each.
func (c *Conv) patch(taps []tap, src View, g int, spans []rowRun, out []float32) {
	cig := c.cin / c.shape.Groups
	ld := len(taps) * cig
	for t := 0; t < len(taps); {
		// Taps that are neighbours along x are one run of values where the channels of a voxel are all ours.
		run := 1
		for cig == src.C && t+run < len(taps) && taps[t+run].off == [3]int32{taps[t].off[0], taps[t].off[1], taps[t].off[2] + int32(run)} {
			run++
		}
		off := taps[t].off
		for i := range spans {
			s := &spans[i]
			z, y, x, step := int(s.z)*c.srcStep[0]+int(off[0]), int(s.y)*c.srcStep[1]+int(off[1]),
				int(s.x)*c.srcStep[2]+int(off[2]), c.srcStep[2]
			rows := out[int(s.row)*ld+t*cig:]
			n := int(s.n)
			if uint(z) >= uint(src.Depth) || uint(y) >= uint(src.H) {
				for j := range n {
					clear(rows[j*ld:][:run*cig])
				}
				continue
			}
			line := src.Plane(z)[y*src.W*src.C:][:src.W*src.C]
			// Voxels whose whole run is inside.
			lo, hi := inside(x, step, n, src.W)
			_, last := inside(x+run-1, step, n, src.W)
			hi = max(lo, min(hi, last))
			if hi > lo {
				c.set.copyRows(rows[lo*ld:], line[(x+lo*step)*src.C+g*cig:], hi-lo, run*cig, ld, step*src.C)
			}
			for j := 0; j < n; j++ {
				if j == lo && hi > lo {
					j = hi - 1
					continue
				}
				for k := range run {
					q := rows[j*ld+k*cig:][:cig]
					if xx := x + j*step + k; uint(xx) < uint(src.W) {
						copy(q, line[xx*src.C+g*cig:])
					} else {
						clear(q)
					}
				}
			}
		}
		t += run
	}
}

// copyRowsFunc copies n rows of the given width between two strides (in floats).
type copyRowsFunc func(dst, src []float32, n, width, dstStride, srcStride int)

func copyRowsGo(dst, src []float32, n, width, dstStride, srcStride int) {
	for i := range n {
		copy(dst[i*dstStride:][:width], src[i*srcStride:])
	}
}
