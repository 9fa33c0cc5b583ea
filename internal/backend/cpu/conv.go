package cpu

import (
	"fmt"
	"math"

	"github.com/voxcam/voxcam/internal/backend/cpu/kernel"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// convBuilders is the part of builders whose functions are in this file.
var convBuilders = map[*ir.Op]builder{
	op.Conv:             buildConv,
	op.ConvBackwardData: buildConvBackwardData,
}

// convKey is the form of convolution weights.
type convKey struct {
	shape    kernel.ConvShape
	backward bool
}

func buildConv(c *compiler, n *ir.Node) error {
	return c.conv(n, n.Attr.(op.ConvAttr), n.Inputs[0].Shape()[4], false)
}

func buildConvBackwardData(c *compiler, n *ir.Node) error {
	return c.conv(n, n.Attr.(op.ConvBackwardDataAttr).Conv, n.Out().Shape()[4], true)
}

// conv compiles a convolution with cin channels, or the gradient of one.
func (c *compiler) conv(n *ir.Node, a op.ConvAttr, cin int, backward bool) error {
	w := n.Inputs[1]
	if err := constant(w, "convolution weights"); err != nil {
		return err
	}
	s := w.Shape()
	macs := s.Elements() / s[0] // multiplications for each value of the output
	if backward {
		macs = s.Elements() / cin / (a.Stride[0] * a.Stride[1] * a.Stride[2])
	}
	if n.Out().Shape().Elements()*macs <= c.backend.precise {
		c.preciseConv(n, a, backward)
		return nil
	}
	key := convKey{backward: backward, shape: kernel.ConvShape{Cin: cin, Cout: s[0], Groups: a.Groups, Kernel: [3]int(s[2:5]),
		Stride: a.Stride, Dilation: a.Dilation, PadBefore: a.Before, PadAfter: a.After}}
	pack := func(w kernel.Weights) (*kernel.Conv, error) {
		if backward {
			return c.backend.set.PackConvBackward(key.shape, w)
		}
		return c.backend.set.PackConv(key.shape, w)
	}
	c.packed(1)
	packed, err := c.prepare(weightKey{w.Const, key}, func() (any, int, error) {
		k, err := pack(kernel.Sized(w.Const.Len()))
		if err != nil {
			return nil, 0, err
		}
		return k, 4 * k.Floats(), nil
	}, func() (any, error) { return pack(weights(w)) })
	if err != nil {
		return err
	}
	k := packed.(*kernel.Conv)
	c.ownScratch(k.Scratch())

	from, to := n.Inputs[0].Shape(), n.Out().Shape()
	for _, v := range []tensor.Shape{from, to} {
		if tensor.Shape(v[1:4]).Elements() > math.MaxInt32 {
			return fmt.Errorf("%v has more voxels than a convolution can address", v)
		}
	}
	least := minGrain
	if c.slab {
		least = minSlabGrain
	}
	c.inst.regions = func(depth int) []kernel.Region {
		slab := to.Clone()
		slab[1] = depth
		return convRegions(slab, max(1, macs), k.ChannelStep(), least, a.Groups == cin && a.Groups == s[0])
	}
	placesX, placesY := c.places(0), c.places(-1)
	c.phase(from[0], func(i int, s *scratch) { // and for each sample the regions
		number, r := i/len(s.job.regions), s.job.regions[i%len(s.job.regions)]
		r.Z0, r.Z1 = r.Z0+s.job.z0, r.Z1+s.job.z0
		k.Run(sample(s.out(), to, placesY, number), sample(s.in(0), from, placesX, number), r, kernel.Epilogue{Bias: s.in(2)}, s.f32)
	})
	return nil
}

// A part of a convolution has at least about minGrain multiplications, which makes starting it cheap, or minSlabGrain where there are few
// planes for the threads, and at most about maxGrain, which keeps cancelling prompt. In between, parts are small enough for many threads to
// end at about the same time.
const (
	minGrain     = 1 << 22
	minSlabGrain = 1 << 18
	maxGrain     = 1 << 27
	parts        = 64 // about as many, if that is between the bounds
)

// convRegions cuts an output [N, D, H, W, C] into parts; each value takes macs multiplications. It is a function of
// the shape alone.
func convRegions(y tensor.Shape, macs, channelStep, least int, depthwise bool) (regions []kernel.Region) {
	depth, height, width := y[1], y[2], y[3]
	voxels, cost := depth*height*width, y[4]*macs
	size := min(max(voxels*cost/parts, least), maxGrain) / cost // voxels of a part
	switch {
	case voxels < 2*blockRows && channelStep < y[4]: // few voxels: cut the channels
		step := channelStep * max(1, least/(voxels*macs*channelStep))
		for c := 0; c < y[4]; c += step {
			regions = append(regions, kernel.Region{Z1: depth, C0: c, C1: min(y[4], c+step)})
		}
	case depthwise: // bands through all planes, since neighbouring planes share their sources
		rows := even(height, max(8, size/(depth*width)/8*8))
		planes := even(depth, max(4, size/(rows*width)))
		for z := 0; z < depth; z += planes {
			for r := 0; r < height; r += rows {
				regions = append(regions, kernel.Region{Z0: z, Z1: min(depth, z+planes), Y0: r, Y1: min(height, r+rows)})
			}
		}
	case size >= height*width: // whole planes
		planes := even(depth, size/(height*width))
		for z := 0; z < depth; z += planes {
			regions = append(regions, kernel.Region{Z0: z, Z1: min(depth, z+planes)})
		}
	default:
		rows := even(height, max(size, blockRows)/width)
		for z := range depth {
			for r := 0; r < height; r += rows {
				regions = append(regions, kernel.Region{Z0: z, Z1: z + 1, Y0: r, Y1: min(height, r+rows)})
			}
		}
	}
	return regions
}

// even returns the size, at most about step, of pieces of n that are nearly equal.
func even(n, step int) int {
	pieces := (n + max(1, step) - 1) / max(1, step)
	return (n + pieces - 1) / pieces
}
