package phantom

// canvas collects noise-free levels and the lesion mask, [D, H, W].
type canvas struct {
	dims  [3]int
	level []float64
	mask  []uint8
}

func newCanvas(dims [3]int) *canvas {
	n := dims[0] * dims[1] * dims[2]
	return &canvas{dims: dims, level: make([]float64, n), mask: make([]uint8, n)}
}

func (c *canvas) index(d, h, w int) int { return (d*c.dims[1]+h)*c.dims[2] + w }

// paint adds level to the voxels of an A-scan between the depths from and to, by the share of each that lies between them,
// and marks those that lie there by at least half. Voxel h reaches from h to h+1.
func (c *canvas) paint(d, w int, from, to, level float64, mark bool) {
	from, to = clamp(from, 0, float64(c.dims[1])), clamp(to, 0, float64(c.dims[1]))
	for h := int(from); h < c.dims[1] && float64(h) < to; h++ {
		share := min(to, float64(h+1)) - max(from, float64(h))
		i := c.index(d, h, w)
		c.level[i] += mul(level, share)
		if mark && share >= 0.5 {
			c.mask[i] = 1
		}
	}
}

// speckle turns the levels of a canvas into intensities: gain, attenuation with depth, and speckle as wide as OCT's point
// spread.
func (a *anatomy) speckle(c *canvas, r *random) []uint8 {
	noise := make([]float64, len(c.level))
	for i := range noise {
		noise[i] = r.normal()
	}
	blurAlong(noise, c.dims[2], 1)
	blurAlong(noise, c.dims[1], c.dims[2])
	out := make([]uint8, len(c.level))
	for d := range c.dims[0] {
		for h := range c.dims[1] {
			fade := mul(a.gain, 1-mul(a.attenuation, float64(h)/float64(c.dims[1])))
			for w := range c.dims[2] {
				i := c.index(d, h, w)
				level := mul(c.level[i], fade)
				level += mul(mul(a.noise, noise[i]), 18+mul(0.16, level)) // grows with the signal, as speckle does
				out[i] = uint8(clamp(level, 0, 255) + 0.5)
			}
		}
	}
	return out
}

// blurAlong replaces x by (x[-1] + 2x + x[+1])/4 along an axis of length n and the given stride; the ends are kept.
func blurAlong(x []float64, n, stride int) {
	block := n * stride
	for start := 0; start < len(x); start += block {
		for s := range stride {
			prev := x[start+s]
			for k := 1; k < n-1; k++ {
				i := start + s + k*stride
				here := x[i]
				x[i] = (prev + here + here + x[i+stride]) / 4
				prev = here
			}
		}
	}
}
