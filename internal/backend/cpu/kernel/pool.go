package kernel

import (
	"fmt"
	"math"
)

// PoolShape is a pooling window; the axes of each triple are depth, height, width. The size of the output is that of the destination,
// so ceil_mode needs nothing here but PadAfter (which only CountPadding looks at).
type PoolShape struct {
	Kernel, Stride, Dilation, PadBefore, PadAfter [3]int
	CountPadding                                  bool // average: padding counts as values, except that added by ceil_mode
}

// Pool is a pooling with its tables; immutable, for any number of threads.
type Pool struct {
	set   *Set
	shape PoolShape
	cl    axisClass
	off   [][3]int // source offsets of each tap
}

// MaxIndexTaps is the largest window whose maxima fit the index of MaxPool.
const MaxIndexTaps = 256

// NewPool checks a window.
func (s *Set) NewPool(shape PoolShape) (*Pool, error) {
	p := &Pool{set: s, shape: shape}
	taps := 1
	for a := range 3 {
		k := shape.Kernel[a]
		if k < 1 || shape.Stride[a] < 1 || shape.Dilation[a] < 1 || k > math.MaxInt16 || taps*k > math.MaxInt16 {
			return nil, fmt.Errorf("pooling: kernel %v, stride %v, dilation %v; all must be at least 1 and the window below %d values",
				shape.Kernel, shape.Stride, shape.Dilation, math.MaxInt16)
		}
		taps *= k
		for i := range k {
			p.cl.axis[a] = append(p.cl.axis[a], axisTap{i*shape.Dilation[a] - shape.PadBefore[a], i})
		}
	}
	for t := range taps {
		k := ConvShape{Kernel: shape.Kernel}.tap(t)
		p.off = append(p.off, [3]int{p.cl.axis[0][k[0]].off, p.cl.axis[1][k[1]].off, p.cl.axis[2][k[2]].off})
	}
	return p, nil
}

// Taps returns the number of values in the window.
func (p *Pool) Taps() int { return p.shape.Kernel[0] * p.shape.Kernel[1] * p.shape.Kernel[2] }

// Scratch returns the number of float32 values that each thread must hand to the functions of Pool.
func (p *Pool) Scratch() int { return 2 * p.Taps() }

// SourcePlanes returns the range of planes, clipped to [0, depth), of src that the output planes [z0, z1) look at.
func (p *Pool) SourcePlanes(z0, z1, depth int) (lo, hi int) {
	return p.conv().SourcePlanes(z0, z1, depth)
}

// GradientPlanes returns the range of planes of dy, clipped to [0, depth), that the planes [z0, z1) of dx look at.
func (p *Pool) GradientPlanes(z0, z1, depth int) (lo, hi int) {
	return p.conv().GradientPlanes(z0, z1, depth)
}

func (p *Pool) conv() ConvShape {
	return ConvShape{Kernel: p.shape.Kernel, Stride: p.shape.Stride, Dilation: p.shape.Dilation, PadBefore: p.shape.PadBefore}
}

// Max computes the maximum over each window; padding never wins, NaN always does. With an index it also stores which tap won (the first
// of equals), tap (kz*kh+ky)*kw+kx in one byte, in the same place as the value has in dst.Data; the window then has at most MaxIndexTaps
// values. The region's channels are ignored.
func (p *Pool) Max(dst, src View, index []uint8, r Region, scratch []float32) {
	op := poolMax
	if index != nil {
		op = poolIndex
		if p.Taps() > MaxIndexTaps || len(index) < len(dst.Data) {
			panic("kernel: index does not fit the maximum pooling")
		}
	}
	p.forward(op, dst, src, index, r, scratch)
}

// Average computes the mean over each window: over the values inside the volume, or with CountPadding over those inside the padded one.
func (p *Pool) Average(dst, src View, r Region, scratch []float32) {
	p.forward(poolMean, dst, src, nil, r, scratch)
}

// prepare checks the operands and fills in the region.
func (p *Pool) prepare(dst, src View, r Region, scratch []float32) Region {
	src.check("source")
	dst.check("destination")
	if src.C != dst.C || len(scratch) < p.Scratch() {
		panic("kernel: pooling between views of different channels, or with too little scratch")
	}
	if r.Y1 == 0 {
		r.Y1 = dst.H
	}
	r.Z1, r.Y1 = min(r.Z1, dst.Depth), min(r.Y1, dst.H)
	return r
}

func (p *Pool) forward(op int, dst, src View, index []uint8, r Region, scratch []float32) {
	r = p.prepare(dst, src, r, scratch)
	lanes := p.set.lanes
	for z := r.Z0; z < r.Z1; z++ {
		for y := r.Y0; y < r.Y1; y++ {
			row := (z%dst.Planes*dst.H + y) * dst.W * dst.C
			yz := p.counted(0, z, src.Depth) * p.counted(1, y, src.H)
			for x := 0; x < dst.W; {
				k0, k1, end := p.cl.run(x, dst.W, p.shape.Stride[2], src.W)
				list := p.window(ints(scratch), src, z, y, k0, k1)
				q := depthwiseParams{n: end - x, shift: x * p.shape.Stride[2], stride: src.C, srcStep: p.shape.Stride[2] * src.C, dstStep: dst.C}
				if op == poolMean && p.shape.CountPadding {
					q.n, end = 1, x+1 // the count may change where the list of taps does not
				}
				scale := float32(1)
				if op == poolMean {
					scale = float32(1 / float64(yz*p.counted(2, x, src.W)))
				}
				for ch := 0; ch < dst.C; ch += lanes {
					q.cols = min(lanes, dst.C-ch)
					f := p.set.pool[op][0]
					if q.cols < lanes {
						f = p.set.pool[op][1]
					}
					o := row + x*dst.C + ch
					var idx []uint8
					if index != nil {
						idx = index[o:]
					}
					f(dst.Data[o:], src.Data[min(ch, len(src.Data)):], idx, list, scale, q)
				}
				x = end
			}
		}
	}
}

// window lists the taps of row y of plane z, [k0, k1) along x, that meet the volume, in their order: the first of equal maxima wins.
func (p *Pool) window(table []int32, src View, z, y, k0, k1 int) []int32 {
	taps := table[:0]
	for _, tz := range p.cl.axis[0] {
		iz := z*p.shape.Stride[0] + tz.off
		if uint(iz) >= uint(src.Depth) {
			continue
		}
		for _, ty := range p.cl.axis[1] {
			iy := y*p.shape.Stride[1] + ty.off
			if uint(iy) >= uint(src.H) {
				continue
			}
			for _, tx := range p.cl.axis[2][k0:k1] {
				taps = append(taps, int32((iz%src.Planes*src.H+iy)*src.W+tx.off),
					int32((tz.k*p.shape.Kernel[1]+ty.k)*p.shape.Kernel[2]+tx.k))
			}
		}
	}
	return taps
}

// counted returns the number of taps along an axis that the mean at output o divides by.
func (p *Pool) counted(a, o, size int) (n int) {
	lo, hi := 0, size
	if p.shape.CountPadding {
		lo, hi = -p.shape.PadBefore[a], size+p.shape.PadAfter[a]
	}
	for _, t := range p.cl.axis[a] {
		if i := o*p.shape.Stride[a] + t.off; i >= lo && i < hi {
			n++
		}
	}
	return n
}

// MaxBackward adds dy to those values of dx that won. index is a ring of planes of dy's size, which may have more or fewer slots. dx's
// region must hold the values to add to (zeros, for the gradient alone).
func (p *Pool) MaxBackward(dx, dy View, index []uint8, slots int, r Region, scratch []float32) {
	r = p.prepare(dx, dy, r, scratch)
	sh := &p.shape
	p.overlapping(dx, dy, r, func(z, y int) {
		row, from := (z%dy.Planes*dy.H+y)*dy.W*dy.C, (z%slots*dy.H+y)*dy.W*dy.C
		for x := range dy.W {
			o := row + x*dy.C
			win := index[from+x*dy.C:][:dy.C]
			for ch, v := range dy.Data[o : o+dy.C] {
				off := &p.off[win[ch]]
				iz, iy, ix := z*sh.Stride[0]+off[0], y*sh.Stride[1]+off[1], x*sh.Stride[2]+off[2]
				// A tap outside the volume cannot win unless the whole window is outside.
				if iz >= r.Z0 && iz < r.Z1 && iy >= r.Y0 && iy < r.Y1 && uint(ix) < uint(dx.W) {
					dx.Data[((iz%dx.Planes*dx.H+iy)*dx.W+ix)*dx.C+ch] += v
				}
			}
		}
	})
}

// AverageBackward adds the gradient of Average to dx's region.
func (p *Pool) AverageBackward(dx, dy View, r Region, scratch []float32) {
	r = p.prepare(dx, dy, r, scratch)
	sh := &p.shape
	p.overlapping(dx, dy, r, func(z, y int) {
		row := (z%dy.Planes*dy.H + y) * dy.W * dy.C
		yz := p.counted(0, z, dx.Depth) * p.counted(1, y, dx.H)
		for x := range dy.W {
			o := row + x*dy.C
			scale := float32(1 / float64(yz*p.counted(2, x, dx.W)))
			for _, tz := range p.cl.axis[0] {
				iz := z*sh.Stride[0] + tz.off
				if iz < r.Z0 || iz >= r.Z1 {
					continue
				}
				for _, ty := range p.cl.axis[1] {
					iy := y*sh.Stride[1] + ty.off
					if iy < r.Y0 || iy >= r.Y1 {
						continue
					}
					line := dx.Plane(iz)[iy*dx.W*dx.C:]
					for _, tx := range p.cl.axis[2] {
						if ix := x*sh.Stride[2] + tx.off; uint(ix) < uint(dx.W) {
							d := line[ix*dx.C:][:dx.C]
							p.set.Axpby(d, scale, dy.Data[o:o+dy.C], 1, d)
						}
					}
				}
			}
		}
	})
}

// overlapping visits the rows of dy whose windows meet the region of dx.
func (p *Pool) overlapping(dx, dy View, r Region, visit func(z, y int)) {
	if r.Z0 >= r.Z1 || r.Y0 >= r.Y1 {
		return
	}
	sh := p.conv()
	z0, z1 := sh.GradientPlanes(r.Z0, r.Z1, dy.Depth)
	// The same arithmetic along height.
	sh.Kernel[0], sh.Stride[0], sh.Dilation[0], sh.PadBefore[0] = sh.Kernel[1], sh.Stride[1], sh.Dilation[1], sh.PadBefore[1]
	y0, y1 := sh.GradientPlanes(r.Y0, r.Y1, dy.H)
	for z := z0; z < z1; z++ {
		for y := y0; y < y1; y++ {
			visit(z, y)
		}
	}
}

// A poolFunc reduces, for i < n and j < cols, the values src[(taps[2t]+shift)*stride + i*srcStep + j] over t into dst[i*dstStep+j]:
// their maximum (NaN wins), the same with the winner's taps[2t+1] in index, or their sum times scale. No taps give -Inf, and 0.
type poolFunc func(dst, src []float32, index []uint8, taps []int32, scale float32, p depthwiseParams)

const (
	poolMax = iota
	poolIndex
	poolMean
	numPool
)

var poolGo = [numPool][2]poolFunc{{maxIndexGo, maxIndexGo}, {maxIndexGo, maxIndexGo}, {meanPoolGo, meanPoolGo}}

func maxIndexGo(dst, src []float32, index []uint8, taps []int32, _ float32, p depthwiseParams) {
	for i := range p.n {
		d := dst[i*p.dstStep:][:p.cols]
		for j := range d {
			best, win := float32(math.Inf(-1)), int32(0)
			for t := 0; t+1 < len(taps); t += 2 {
				if v := src[(int(taps[t])+p.shift)*p.stride+i*p.srcStep+j]; t == 0 || v > best || v != v {
					best, win = v, taps[t+1]
				}
			}
			d[j] = best
			if index != nil {
				index[i*p.dstStep+j] = uint8(win)
			}
		}
	}
}

func meanPoolGo(dst, src []float32, _ []uint8, taps []int32, scale float32, p depthwiseParams) {
	for i := range p.n {
		d := dst[i*p.dstStep:][:p.cols]
		for j := range d {
			var sum float32
			for t := 0; t+1 < len(taps); t += 2 {
				sum += src[(int(taps[t])+p.shift)*p.stride+i*p.srcStep+j]
			}
			d[j] = sum * scale
		}
	}
}
