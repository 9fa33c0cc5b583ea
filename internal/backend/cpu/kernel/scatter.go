package kernel

// Backward-data with few input channels (the gradient of a stem). As a convolution it would have almost no output columns to vectorise
// over. Instead dy is multiplied by all weights of one depth tap, columns (ky, kx, c), and the products are added to the rows of dx that
// they belong to: those of one (voxel, ky) are kw*Cin adjacent values of dx.

func (c *Conv) packScatter(w Weights) {
	sh := c.shape
	plane := sh.Kernel[1] * sh.Kernel[2]
	n := plane * sh.Cin
	// One matrix per depth tap, so that each starts at a panel: K of the packed matrix is depth taps x Cout.
	p := c.set.pack(sh.Kernel[0]*sh.Cout, n, w, func(k, j int) float32 {
		return w.At(c.weight(0, k%sh.Cout, j%sh.Cin, k/sh.Cout*plane+j/sh.Cin))
	})
	c.scatter = &p
	c.scratch = blockRows * n
	c.run = (*Conv).runScatter
}

func (c *Conv) runScatter(dst, src View, r Region, e Epilogue, scratch []float32) {
	sh := c.shape
	for z := r.Z0; z < r.Z1; z++ {
		out := dst.Plane(z)
		if !e.Accumulate {
			rows := out[r.Y0*dst.W*dst.C : r.Y1*dst.W*dst.C]
			clear(rows)
			if e.Bias != nil {
				for i := 0; i < len(rows); i += dst.C {
					copy(rows[i:i+dst.C], e.Bias)
				}
			}
		} else if e.Bias != nil {
			rows := out[r.Y0*dst.W*dst.C : r.Y1*dst.W*dst.C]
			for i := 0; i < len(rows); i += dst.C {
				for j, b := range e.Bias[:dst.C] {
					rows[i+j] += b
				}
			}
		}
		// Rows of dy that touch [Y0, Y1).
		lo := max(0, ceilDiv(r.Y0+sh.PadBefore[1]-(sh.Kernel[1]-1)*sh.Dilation[1], sh.Stride[1]))
		hi := min(src.H, floorDiv(r.Y1-1+sh.PadBefore[1], sh.Stride[1])+1)
		for kz := range sh.Kernel[0] {
			q := z + sh.PadBefore[0] - kz*sh.Dilation[0]
			if q%sh.Stride[0] != 0 || uint(q/sh.Stride[0]) >= uint(src.Depth) || src.W == 0 {
				continue
			}
			in := src.Plane(q / sh.Stride[0])
			for v := lo * src.W; v < hi*src.W; v += blockRows {
				m := min(blockRows, hi*src.W-v)
				c.scatterProduct(scratch, in[v*src.C:], m, kz)
				c.scatterAdd(out, scratch, dst, src.W, v, m, r)
			}
		}
		e.finish(dst, z, r.Y0*dst.W, (r.Y1-r.Y0)*dst.W, r)
	}
}

// scatterProduct computes m rows of dy times the weights of one depth tap.
func (c *Conv) scatterProduct(out, in []float32, m, kz int) {
	for k0 := 0; k0 < c.cin; k0 += blockK {
		p := gemmParams{m: m, taps: 1, kc: min(blockK, c.cin-k0), aStride: c.cin, cStride: c.scatter.n}
		if k0 > 0 {
			p.acc = 1
		}
		for i := range c.scatter.panels {
			q := &c.scatter.panels[i]
			p.cols = q.cols
			c.set.call(q.tile, out[q.col:], in[k0:], c.scatter.block(q, kz*c.cin+k0), c.set.zero, p)
		}
	}
}

// scatterAdd adds the products of voxels [v, v+m) of a plane of dy, width w, to the rows [Y0, Y1) of a plane of dx.
func (c *Conv) scatterAdd(out, prod []float32, dst View, w, v, m int, r Region) {
	sh := c.shape
	cn, ld := dst.C, c.scatter.n
	kw, dil, step := sh.Kernel[2], sh.Dilation[2], sh.Stride[2]
	run := 1 // taps along x that are neighbours in dx
	if dil == 1 {
		run = kw
	}
	for i := 0; i < m; {
		y, x := (v+i)/w, (v+i)%w
		n := min(m-i, w-x)
		for ky := range sh.Kernel[1] {
			yy := y*sh.Stride[1] - sh.PadBefore[1] + ky*sh.Dilation[1]
			if yy < r.Y0 || yy >= r.Y1 {
				continue
			}
			line := out[yy*dst.W*cn:][:dst.W*cn]
			for kx := 0; kx < kw; kx += run {
				x0 := x*step - sh.PadBefore[2] + kx*dil
				rows := prod[i*ld+(ky*kw+kx)*cn:]
				lo, hi := inside(x0, step, n, dst.W)
				_, last := inside(x0+run-1, step, n, dst.W)
				hi = max(lo, min(hi, last))
				if hi > lo {
					c.set.addRows(line[(x0+lo*step)*cn:], rows[lo*ld:], hi-lo, run*cn, step*cn, ld)
				}
				for j := 0; j < n; j++ {
					if j == lo && hi > lo {
						j = hi - 1
						continue
					}
					for k := range run {
						if xx := x0 + j*step + k; uint(xx) < uint(dst.W) {
							for ch, p := range rows[j*ld+k*cn:][:cn] {
								line[xx*cn+ch] += p
							}
						}
					}
				}
			}
		}
		i += n
	}
}

// addRowsFunc adds n rows of the given width, in order; destination rows may overlap.
type addRowsFunc func(dst, src []float32, n, width, dstStride, srcStride int)

func addRowsGo(dst, src []float32, n, width, dstStride, srcStride int) {
	for i := range n {
		d := dst[i*dstStride:][:width]
		for j, v := range src[i*srcStride:][:width] {
			d[j] += v
		}
	}
}
