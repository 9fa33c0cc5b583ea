package cpu

import (
	"fmt"
	"math"

	"github.com/voxcam/voxcam/internal/backend/cpu/kernel"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

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
	key := convKey{backward: backward, shape: kernel.ConvShape{Cin: cin, Cout: s[0], Groups: a.Groups, Kernel: [3]int(s[2:5]),
		Stride: a.Stride, Dilation: a.Dilation, PadBefore: a.Before, PadAfter: a.After}}
	packed, err := c.backend.prepare(c.program, weightKey{w.Const, key}, func() (any, error) {
		if backward {
			return c.backend.set.PackConvBackward(key.shape, weights(w))
		}
		return c.backend.set.PackConv(key.shape, weights(w))
	})
	if err != nil {
		return err
	}
	k, bias := packed.(*kernel.Conv), c.in(2)
	c.ownScratch(k.Scratch())

	x, y := c.in(0), c.out()
	from, to := n.Inputs[0].Shape(), n.Out().Shape()
	for _, v := range []tensor.Shape{from, to} {
		if tensor.Shape(v[1:4]).Elements() > math.MaxInt32 {
			return fmt.Errorf("%v has more voxels than a convolution can address", v)
		}
	}
	macs := s.Elements() / s[0] // multiplications for each channel of the output of a convolution
	if backward {
		macs = s.Elements() / cin * a.Groups / (a.Stride[0] * a.Stride[1] * a.Stride[2])
	}
	regions := convRegions(to, macs, k.ChannelStep())
	sizeX, sizeY := from.Elements()/from[0], to.Elements()/to[0]
	c.phase(from[0]*len(regions), func(i int, s scratch) {
		sample, region := i/len(regions), regions[i%len(regions)]
		src := kernel.Whole(x[sample*sizeX:(sample+1)*sizeX], from[1], from[2], from[3], from[4])
		dst := kernel.Whole(y[sample*sizeY:(sample+1)*sizeY], to[1], to[2], to[3], to[4])
		k.Run(dst, src, region, kernel.Epilogue{Bias: bias}, s.f32)
	})
	return nil
}

// A part of a convolution has about this many multiplications: enough to make starting it cheap, few enough that the threads end
// at about the same time and that cancelling is prompt.
const convGrain = 1 << 22

// convRegions cuts an output [N, D, H, W, C] into planes, parts of planes, or, where there are few voxels, channels.
func convRegions(y tensor.Shape, macs, channelStep int) (regions []kernel.Region) {
	row := max(1, y[3]*y[4]*macs)
	plane := row * y[2]
	switch {
	case y[1]*y[2]*y[3] < 256 && channelStep < y[4]:
		step := channelStep * max(1, convGrain/max(1, plane*y[1]/y[4]*channelStep))
		for c := 0; c < y[4]; c += step {
			regions = append(regions, kernel.Region{Z1: y[1], C0: c, C1: min(y[4], c+step)})
		}
	case plane <= convGrain:
		step := min(max(1, convGrain/plane), (y[1]+7)/8) // eight parts at least
		for z := 0; z < y[1]; z += step {
			regions = append(regions, kernel.Region{Z0: z, Z1: min(y[1], z+step)})
		}
	default:
		step := (max(1, convGrain/row) + 7) / 8 * 8
		for z := range y[1] {
			for r := 0; r < y[2]; r += step {
				regions = append(regions, kernel.Region{Z0: z, Z1: z + 1, Y0: r, Y1: min(y[2], r+step)})
			}
		}
	}
	return regions
}
