package cuda

import (
	"fmt"
	"math"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

const (
	depthwiseThreads = 128
	depthwiseLanes   = 32 // the most channels of a block
)

// depthwiseKernel is a kernel of depthwise.cu for one window.
type depthwiseKernel struct {
	name         string
	kernel       [3]int
	stride       [3]int
	rows         int // outputs of a thread along height, or coarse points of a gradient with strides
	columns      int
	livePlanes   int // outputs along depth that an input plane is part of
	backward     bool
	anyWindow    bool
	outputStride [3]int // 1, or the stride of a gradient: outputs of a coarse point
}

func depthwiseWindow(kernelZ, kernel, strideZ, stride, rows, columns int) depthwiseKernel {
	return depthwiseKernel{
		name:   fmt.Sprintf("depthwise_k%d%d_s%d%d", kernelZ, kernel, strideZ, stride),
		kernel: [3]int{kernelZ, kernel, kernel}, stride: [3]int{strideZ, stride, stride},
		rows: rows, columns: columns, livePlanes: (kernelZ-1)/strideZ + 1, outputStride: [3]int{1, 1, 1},
	}
}

func depthwiseGradient(kernelZ, kernel, strideZ, stride, rows, columns int) depthwiseKernel {
	k := depthwiseWindow(kernelZ, kernel, strideZ, stride, rows, columns)
	k.name += "_back" // and the phase
	k.backward, k.livePlanes, k.outputStride = true, 1, k.stride
	return k
}

// depthwiseKernels is the table at the end of depthwise.cu.
var depthwiseKernels = []depthwiseKernel{
	depthwiseWindow(3, 3, 1, 1, 4, 4),
	depthwiseWindow(5, 5, 1, 1, 2, 4),
	depthwiseWindow(1, 3, 1, 1, 4, 4),
	depthwiseWindow(1, 7, 1, 1, 2, 4),
	depthwiseWindow(7, 7, 1, 1, 1, 4),
	depthwiseWindow(3, 1, 1, 1, 4, 4),
	depthwiseWindow(5, 1, 1, 1, 4, 4),
	depthwiseWindow(3, 3, 2, 2, 2, 4),
	depthwiseWindow(3, 3, 1, 2, 2, 4),
	depthwiseWindow(5, 5, 2, 2, 2, 4),
	depthwiseGradient(3, 3, 2, 2, 2, 4),
	depthwiseGradient(3, 3, 1, 2, 2, 4),
	depthwiseGradient(5, 5, 2, 2, 2, 4),
}

// chooseDepthwise finds the kernel for a window; gradients at stride 1 are convolutions.
func chooseDepthwise(kernel [3]int, a op.ConvAttr, backward bool) depthwiseKernel {
	ones := [3]int{1, 1, 1}
	if a.Dilation == ones {
		for _, k := range depthwiseKernels {
			if k.kernel == kernel && k.stride == a.Stride && (k.backward == backward || a.Stride == ones) {
				return k
			}
		}
	}
	k := depthwiseKernel{name: "depthwise_any", kernel: kernel, stride: a.Stride, backward: backward, anyWindow: true, outputStride: ones}
	if backward {
		k.name += "_back"
	}
	return k
}

// depthwiseParams is DepthwiseParams of depthwise.cu.
type depthwiseParams struct {
	X, Y, Residual           Planes
	Weights, Bias            driver.Ptr
	In, Out, Before          [3]int32
	Channels, Z0, Z1         int32
	Origin, Shift            [3]int32
	Phase, Chunk             int32
	LaneShift, ColumnShift   int32
	Blocks, Activation       int32
	Kernel, Stride, Dilation [3]int32
	Plane                    int32
	ByChannels, ByWidth      Divide
}

// depthwiseForm is the packed form of weights: [tap][channel], the taps turned around or not.
type depthwiseForm struct{ turned bool }

// buildDepthwise compiles a convolution, or the gradient of one, with one channel in each group; false where this is none.
func buildDepthwise(c *compiler, n *ir.Node, a op.ConvAttr, backward bool) (action, bool, error) {
	w := n.Inputs[1].Shape()
	channels := a.Groups
	if w[0] != channels || w[1] != 1 || channels == 1 {
		return nil, false, nil
	}
	if err := requireConstant(n.Inputs[1], "convolution weights"); err != nil {
		return nil, true, err
	}
	x, y := n.Inputs[0].Shape(), n.Out().Shape()
	if x[2]*x[3]*x[4] > math.MaxInt32 || y[2]*y[3]*y[4] > math.MaxInt32 {
		return nil, true, fmt.Errorf("a plane of %d or %d values is larger than a depthwise convolution can address", x[2]*x[3]*x[4], y[2]*y[3]*y[4])
	}
	kernel := [3]int(w[2:5])
	taps := kernel[0] * kernel[1] * kernel[2]
	k := chooseDepthwise(kernel, a, backward)
	name := k.name
	if k.backward && !k.anyWindow {
		_, _, phase := strideOrigins(k.outputStride, a.Before)
		name += fmt.Sprint(phase[2])
	}
	f, err := c.kernel(name)
	if err != nil {
		return nil, true, err
	}
	turned := backward && !k.backward
	c.packed(1)
	weights := c.pack(n.Inputs[1], depthwiseForm{turned}, 4*taps*channels, func(dst []byte) {
		out := as[float32](dst)
		for i, v := range n.Inputs[1].Const.Float32s() {
			channel, tap := i/taps, i%taps
			if turned {
				tap = taps - 1 - tap
			}
			out[tap*channels+channel] = v
		}
	})
	p := depthwiseParams{
		In: int32s3([3]int(x[1:4])), Out: int32s3([3]int(y[1:4])), Before: int32s3(a.Before), Channels: int32(channels),
		Kernel: int32s3(kernel), Stride: int32s3(a.Stride), Dilation: int32s3(a.Dilation),
		Plane: int32(y[2] * y[3] * channels), ByChannels: divideBy(channels), ByWidth: divideBy(y[3]),
	}
	e := c.takeEpilogue()
	p.Activation = activationCode(e.activation)
	if turned {
		for i := range 3 {
			p.Before[i] = int32(kernel[i] - 1 - a.Before[i])
		}
	}
	origin, shift, phase := strideOrigins(k.outputStride, a.Before)
	p.Origin, p.Shift, p.Phase = int32s3(origin), int32s3(shift), int32(phase[0])
	shape := k.shape(y[2]+origin[1], y[3]+origin[2], channels)
	p.LaneShift, p.ColumnShift, p.Blocks = int32(shape.laneShift), int32(shape.columnShift), int32(shape.across)
	places, samples := c.inst.places, c.inst.samples
	sms := c.backend.device.Multiprocessors
	return func(q *queue, z0, z1 int) error {
		p := p
		p.Weights, p.Z0, p.Z1 = weights.At(), int32(z0), int32(z1)
		if len(places) > 3 {
			p.Bias = q.planes(&places[2]).Data
		}
		grid := [3]uint32{uint32(ceilDiv(int(p.Plane), depthwiseThreads)), uint32(z1 - z0), 1}
		if !k.anyWindow {
			points := (z1-1)/k.outputStride[0] - z0/k.outputStride[0] + 1
			chunk := depthwiseChunk(shape.groups*shape.across*shape.down, points, k.livePlanes, sms)
			p.Chunk = int32(chunk)
			grid = [3]uint32{uint32(shape.groups), uint32(shape.across * shape.down), uint32(ceilDiv(points, chunk))}
		}
		for i := range samples {
			p.X, p.Y = q.image(&places[0], i), q.image(&places[len(places)-1], i)
			if p.Residual.Places = 1; e.residual != nil {
				p.Residual = q.image(e.residual, i)
			}
			if err := launch(q, f, grid, depthwiseThreads, 0, &p); err != nil {
				return err
			}
		}
		return nil
	}, true, nil
}

// depthwiseShape is the cover of a plane by blocks: groups of channels, blocks across the width and down the height.
type depthwiseShape struct {
	laneShift, columnShift int
	groups, across, down   int
}

// strideOrigins finds the coarse points of a gradient with strides: outputs S*m + r - origin, for residues r below the stride S, are point
// m, and the convolution's padding is S*shift + phase + origin. Phases are the same along height and width, since kernels have one
// compiled in; the origin is only for that.
func strideOrigins(stride, before [3]int) (origin, shift, phase [3]int) {
	for i := 2; i >= 0; i-- {
		phase[i] = before[i] - stride[i]*floorDiv(before[i], stride[i])
		if i == 1 && phase[1] != phase[2] {
			origin[1] = phase[1] - phase[2]
			if origin[1] < 0 {
				origin[1] += stride[1]
			}
			phase[1] = phase[2]
		}
		shift[i] = floorDiv(before[i]-origin[i]-phase[i], stride[i])
	}
	return origin, shift, phase
}

// shape covers a plane of outputs, or of a gradient's outputs from the origin on.
func (k *depthwiseKernel) shape(height, width, channels int) (s depthwiseShape) {
	if k.anyWindow {
		return s
	}
	// Fewer lanes waste less where channels are few, but their accesses are shorter.
	s.laneShift = 5
	waste := func(shift int) int { return ceilDiv(channels, 1<<shift) << shift }
	for shift := 4; shift >= 3; shift-- {
		if 10*waste(s.laneShift) > 11*waste(shift) {
			s.laneShift = shift
		}
	}
	s.groups = ceilDiv(channels, 1<<s.laneShift)
	rows, columns := ceilDiv(height, k.rows*k.outputStride[1]), ceilDiv(width, k.columns*k.outputStride[2])
	tiles := depthwiseThreads >> s.laneShift
	best := math.MaxInt
	for shift := 0; 1<<shift <= tiles; shift++ {
		across, down := ceilDiv(columns, 1<<shift), ceilDiv(rows, tiles>>shift)
		// Threads without work count, then the border of a block.
		cost := across*down*1024 + (k.columns<<shift+k.rows*(tiles>>shift))*across*down
		if cost < best {
			best = cost
			s.columnShift, s.across, s.down = shift, across, down
		}
	}
	return s
}

// depthwiseChunk chooses the points along depth that a block makes: many share input planes, few keep all multiprocessors busy. The time is
// counted in planes: those that a multiprocessor computes one after the other, but at least the time that a block waits for memory, of
// which three blocks hide one another.
func depthwiseChunk(blocks, points, live, sms int) (chunk int) {
	best := math.MaxInt
	for parts := 1; parts <= points; parts++ {
		c := ceilDiv(points, parts)
		n := ceilDiv(blocks*ceilDiv(points, c), max(sms, 1))
		cost := (5*c + 2*(live-1)) * max(n, 3*ceilDiv(n, 4))
		if cost < best {
			best, chunk = cost, c
		}
	}
	return chunk
}

func floorDiv(a, b int) int {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
