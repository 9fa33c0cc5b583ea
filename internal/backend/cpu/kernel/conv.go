package kernel

import "fmt"

// Region is the part of the output that one call computes: planes [Z0, Z1), rows [Y0, Y1) of each, channels [C0, C1).
// Y1 == 0 stands for all rows, C1 == 0 for all channels. Channel ranges are for layers with few voxels and many channels; C0 and C1 must
// be multiples of Conv.ChannelStep (or the end), and only dense convolutions (one group) split.
type Region struct{ Z0, Z1, Y0, Y1, C0, C1 int }

// A Tile is a piece of finished output, still in the cache: N consecutive voxels of plane Z from voxel V (= y*W + x) on. The values of
// voxel i are Rows[i*Stride : i*Stride+C1-C0], channels [C0, C1). Unless the region split the channels, C0 is 0 and Stride is C1, so that
// Rows is one contiguous block.
type Tile struct {
	Rows         []float32
	N, Stride    int
	Z, V, C0, C1 int
}

// Epilogue is the function that is applied to a finished output.
type Epilogue struct {
	Bias       []float32  // one value per output channel, or nil
	Accumulate bool       // add to the destination's values
	Hook       func(Tile) // called once for each output voxel, after bias and accumulation; it may change the rows
}

// Conv is a convolution, or its backward-data, with packed weights. It is immutable and serves any number of threads.
type Conv struct {
	set       *Set
	shape     ConvShape
	backward  bool
	cin, cout int    // channels of src and dst as executed (swapped for backward)
	step      [3]int // stride of the output lattice: destination = base + step*i ...
	srcStep   [3]int // ... reads source = srcStep*i + tap offset
	classes   []class
	run       func(c *Conv, dst, src View, r Region, e Epilogue, scratch []float32)
	scratch   int
	kb        int // K values of a block of taps

	depthwise *depthwise
	scatter   *packed // [Cout][kh*kw*Cin] for each kd, one after the other
}

// tap is one window position: the source offset at lattice point 0, and its place among the kernel's taps.
type tap struct {
	off [3]int32
	w   int
}

// class is one residue of the destination coordinate modulo step: its own subset of taps and its own packed weights, one per group.
type class struct {
	base [3]int
	taps []tap // sorted by depth, height, width
	w    []packed
}

// PackConv packs a forward convolution: y[z,y,x,o] = sum over taps and c of x[z*s-p+k*d, ..., c] * w[o, c, k].
func (s *Set) PackConv(shape ConvShape, w Weights) (*Conv, error) {
	if err := shape.Check(w.Len()); err != nil {
		return nil, err
	}
	c := &Conv{set: s, shape: shape, cin: shape.Cin, cout: shape.Cout, step: [3]int{1, 1, 1}, srcStep: shape.Stride}
	var cl class
	for t := range shape.taps() {
		k := shape.tap(t)
		var off [3]int32
		for i := range off {
			off[i] = int32(k[i]*shape.Dilation[i] - shape.PadBefore[i])
		}
		cl.taps = append(cl.taps, tap{off, t})
	}
	c.classes = []class{cl}
	c.pack(w)
	return c, nil
}

// PackConvBackward packs the gradient of a forward convolution with respect to its input: Run takes dy as src and gives dx as dst.
// It is also ONNX ConvTranspose: shape is that of the forward convolution, so Cin is the transposed convolution's output
// channels, Cout its input channels, and its weights [in, out/groups, kd, kh, kw] are taken as they are. The size of dx is dst's size.
//
// With stride 1 it is a convolution with mirrored, transposed weights. With a larger stride the coordinates of dx fall into classes
// modulo the stride, each a stride-1 convolution of dy with a subset of the taps.
func (s *Set) PackConvBackward(shape ConvShape, w Weights) (*Conv, error) {
	if err := shape.Check(w.Len()); err != nil {
		return nil, err
	}
	c := &Conv{set: s, shape: shape, backward: true, cin: shape.Cout, cout: shape.Cin, step: shape.Stride, srcStep: [3]int{1, 1, 1}}
	st := shape.Stride
	for p := range st[0] * st[1] * st[2] {
		cl := class{base: [3]int{p / st[2] / st[1], p / st[2] % st[1], p % st[2]}}
		for t := range shape.taps() {
			k := shape.tap(shape.taps() - 1 - t) // mirrored, so that offsets ascend
			var off [3]int32
			hit := true
			for i := range off {
				q := cl.base[i] + shape.PadBefore[i] - k[i]*shape.Dilation[i]
				hit = hit && q%st[i] == 0
				off[i] = int32(q / st[i])
			}
			if hit {
				cl.taps = append(cl.taps, tap{off, shape.taps() - 1 - t})
			}
		}
		c.classes = append(c.classes, cl)
	}
	c.pack(w)
	return c, nil
}

// tap returns the position of tap t in the window.
func (s ConvShape) tap(t int) [3]int {
	return [3]int{t / s.Kernel[2] / s.Kernel[1], t / s.Kernel[2] % s.Kernel[1], t % s.Kernel[2]}
}

// weight returns the index of the weight that joins channel k of the source with channel n of the destination within a group.
func (c *Conv) weight(g, k, n, t int) int {
	cig, cog, kv := c.shape.Cin/c.shape.Groups, c.shape.Cout/c.shape.Groups, c.shape.taps()
	if c.backward {
		return ((g*cog+k)*cig+n)*kv + t
	}
	return ((g*cog+n)*cig+k)*kv + t
}

// pack chooses the algorithm and packs the weights for it.
func (c *Conv) pack(w Weights) {
	g := c.shape.Groups
	cig, cog := c.cin/g, c.cout/g
	switch {
	case cig == 1 && cog == 1:
		c.packDepthwise(w)
		return
	case c.backward && g == 1 && cog <= c.set.lanes/2 && c.shape.taps() > 1:
		c.packScatter(w)
		return
	}
	for i := range c.classes {
		cl := &c.classes[i]
		for gi := range g {
			cl.w = append(cl.w, c.set.pack(len(cl.taps)*cig, cog, w, func(k, n int) float32 {
				return w.At(c.weight(gi, k%cig, n, cl.taps[k/cig].w))
			}))
		}
	}
	c.packLattice(cig)
}

// Floats returns the number of float32 values that the packed weights take.
func (c *Conv) Floats() int {
	switch {
	case c.depthwise != nil:
		return c.shape.taps() * c.shape.Cin
	case c.scatter != nil:
		return c.scatter.floats
	}
	n := 0
	for i := range c.classes {
		for g := range c.classes[i].w {
			n += c.classes[i].w[g].floats
		}
	}
	return n
}

// Scratch returns the number of float32 values that each thread must hand to Run.
func (c *Conv) Scratch() int { return c.scratch }

// Channels returns the channels of src and dst.
func (c *Conv) Channels() (src, dst int) { return c.cin, c.cout }

// ChannelStep returns the unit in which Region may split the output channels; at least the number of output channels where it cannot.
func (c *Conv) ChannelStep() int {
	if c.shape.Groups > 1 || c.scatter != nil || c.depthwise != nil {
		return c.cout
	}
	step := c.set.tiles[0].width
	for _, p := range c.classes[0].w[0].panels {
		if p.col/step != (p.col+p.cols-1)/step {
			return c.cout
		}
	}
	return step
}

// SourcePlanes returns the range of planes, clipped to [0, depth), of src that the planes [z0, z1) of dst look at.
func (c *Conv) SourcePlanes(z0, z1, depth int) (lo, hi int) {
	if c.backward {
		return c.shape.GradientPlanes(z0, z1, depth)
	}
	return c.shape.SourcePlanes(z0, z1, depth)
}

// Run computes a region of dst from src, whose planes SourcePlanes(Z0, Z1) must be present in its ring. Regions that do not overlap may
// run at the same time, each with its own scratch of Scratch() values. src and dst must not overlap. Nothing is allocated.
// A view that does not fit the convolution is a mistake of the caller's and panics.
func (c *Conv) Run(dst, src View, r Region, e Epilogue, scratch []float32) {
	src.check("source")
	dst.check("destination")
	if src.C != c.cin || dst.C != c.cout {
		panic(fmt.Sprintf("kernel: convolution of %d to %d channels on views of %d and %d", c.cin, c.cout, src.C, dst.C))
	}
	if e.Bias != nil && len(e.Bias) < c.cout {
		panic("kernel: bias is shorter than the output channels")
	}
	if len(scratch) < c.scratch {
		panic("kernel: scratch is too small")
	}
	if r.Y1 == 0 {
		r.Y1 = dst.H
	}
	if r.C1 == 0 {
		r.C1 = c.cout
	}
	r.Z1, r.Y1 = min(r.Z1, dst.Depth), min(r.Y1, dst.H)
	if r.Z0 >= r.Z1 || r.Y0 >= r.Y1 || r.C0 >= r.C1 || dst.W == 0 {
		return
	}
	c.run(c, dst, src, r, e, scratch)
}

// finish hands rows [y0, y1) of plane z to the hook.
func (e *Epilogue) finish(dst View, z, v, n int, r Region) {
	if e.Hook == nil || n == 0 {
		return
	}
	rows := dst.Plane(z)[v*dst.C:][:n*dst.C]
	e.Hook(Tile{Rows: rows[r.C0 : len(rows)-dst.C+r.C1], N: n, Stride: dst.C, Z: z, V: v, C0: r.C0, C1: r.C1})
}
