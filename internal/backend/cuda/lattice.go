package cuda

import (
	"fmt"
	"math"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// convolution is a Conv or a ConvBackwardData as a sum over lattices: a convolution is one class, its gradient one for each residue
// of the output coordinates modulo the stride. Within a class both are the same: each output is a sum over taps and input channels.
// Input and output are those of the node, so that a gradient's input is the convolution's output.
type convolution struct {
	attr      op.ConvAttr
	backward  bool
	kernel    [3]int
	samples   int
	in, out   [4]int // depth, height, width, channels
	groups    int
	cin, cout int // channels of one group
	classes   []class
	bias      bool     // operand 2 is there
	epilogue  epilogue // as far as the builder's kernel computes it
}

// class is the shape of a lattice. Arrays are along depth, height, width; see struct Lattice in conv.cuh.
type class struct {
	outStart, outStep       [3]int
	inStep                  [3]int
	taps, tapStart, tapStep [3]int
	kernelStart, kernelStep [3]int // tap t of an axis is position kernelStart + t*kernelStep of the window
}

// newConvolution describes a node.
func newConvolution(n *ir.Node, a op.ConvAttr, backward bool) (*convolution, error) {
	if err := requireConstant(n.Inputs[1], "convolution weights"); err != nil {
		return nil, err
	}
	x, y, w := n.Inputs[0].Shape(), n.Out().Shape(), n.Inputs[1].Shape()
	v := &convolution{attr: a, backward: backward, kernel: [3]int(w[2:5]), samples: x[0], in: [4]int(x[1:5]), out: [4]int(y[1:5]),
		groups: a.Groups, cin: x[4] / a.Groups, cout: y[4] / a.Groups, bias: len(n.Inputs) > 2 && n.Inputs[2] != nil}
	for _, s := range [][4]int{v.in, v.out} {
		if s[0]*s[1]*s[2] > math.MaxInt32 || s[1]*s[2]*s[3] > math.MaxInt32 {
			return nil, fmt.Errorf("an image of %d x %d x %d voxels with %d channels is larger than a convolution can address", s[0], s[1], s[2], s[3])
		}
	}
	if !backward {
		c := class{outStep: [3]int{1, 1, 1}, inStep: a.Stride, taps: v.kernel, tapStep: a.Dilation, kernelStep: [3]int{1, 1, 1}}
		for i := range 3 {
			c.tapStart[i] = -a.Before[i]
		}
		v.classes = []class{c}
		return v, nil
	}
	stride := a.Stride
	for r := range stride[0] * stride[1] * stride[2] {
		c := class{outStart: [3]int{r / stride[2] / stride[1], r / stride[2] % stride[1], r % stride[2]}, outStep: stride, inStep: [3]int{1, 1, 1}}
		for i := range 3 {
			c.gradientTaps(i, v.kernel[i], stride[i], a.Dilation[i], a.Before[i])
		}
		v.classes = append(v.classes, c)
	}
	return v, nil
}

// gradientTaps finds the taps of an axis: positions k of the window for which a convolution reads outStart from a whole coordinate
// (outStart + before - k*dilation) / stride. They are evenly spaced, and taken from the last to the first, so that input coordinates ascend.
func (c *class) gradientTaps(axis, kernel, stride, dilation, before int) {
	var at, of []int
	for k := kernel - 1; k >= 0; k-- {
		if q := c.outStart[axis] + before - k*dilation; q%stride == 0 {
			at, of = append(at, q/stride), append(of, k)
		}
	}
	c.taps[axis] = len(at)
	if len(at) > 0 {
		c.tapStart[axis], c.kernelStart[axis] = at[0], of[0]
	}
	if len(at) > 1 {
		c.tapStep[axis], c.kernelStep[axis] = at[1]-at[0], of[1]-of[0]
	}
}

// points returns the number of points of a class on output planes [z0, z1), along each axis, and the first of them along depth.
func (v *convolution) points(c *class, z0, z1 int) (count [3]int, first int) {
	first = max(0, ceilDivSigned(z0-c.outStart[0], c.outStep[0]))
	count[0] = max(0, ceilDivSigned(z1-c.outStart[0], c.outStep[0])-first)
	for i := 1; i < 3; i++ {
		count[i] = max(0, ceilDivSigned(v.out[i]-c.outStart[i], c.outStep[i]))
	}
	return count, first
}

// tapCount returns the number of taps of a class.
func (c *class) tapCount() int { return c.taps[0] * c.taps[1] * c.taps[2] }

// macs returns the number of multiplications for one output value of the class with most of them.
func (v *convolution) macs() int {
	most := 0
	for i := range v.classes {
		most = max(most, v.classes[i].tapCount()*v.cin)
	}
	return most
}

// weightIndex returns the index in the node's weights [Cout, Cin/groups, kd, kh, kw] of the one that joins input channel ci with output
// channel co (both within group g) at tap t of a class.
func (v *convolution) weightIndex(c *class, g, t, ci, co int) int {
	tap := [3]int{t / c.taps[2] / c.taps[1], t / c.taps[2] % c.taps[1], t % c.taps[2]}
	k := 0
	for i := range 3 {
		k = k*v.kernel[i] + c.kernelStart[i] + tap[i]*c.kernelStep[i]
	}
	window := v.kernel[0] * v.kernel[1] * v.kernel[2]
	if v.backward { // the channels that are summed over are the convolution's outputs
		return ((g*v.cin+ci)*v.cout+co)*window + k
	}
	return ((g*v.cout+co)*v.cin+ci)*window + k
}

// aligned reports whether a kernel may read the input by 16 bytes, from every group's first channel on.
func (v *convolution) aligned(in *operand) bool {
	return v.cin%4 == 0 && v.in[3]%4 == 0 && in.stride%16 == 0
}

// Lattice is struct Lattice of conv.cuh.
type Lattice struct {
	In, Out, Residual                Planes
	Weights, Bias                    driver.Ptr
	InSize, OutSize                  [4]int32
	Cin, Cout, Groups, Activation    int32
	Count, OutStart, OutStep, InStep [3]int32
	Taps, TapStart, TapStep          [3]int32
	Points, Vectors                  int32
	Width, Area, Places              Divide
}

// lattice returns a class on output planes [z0, z1) of a sample; false where it has no points there. Operands are those of the node being
// compiled (0, 1, 2 and the output); weights are the class's own, in the form that the kernel wants.
func (v *convolution) lattice(q *queue, c *class, weights driver.Ptr, sample, z0, z1 int) (l Lattice, ok bool) {
	count, first := v.points(c, z0, z1)
	points := count[0] * count[1] * count[2]
	if points == 0 {
		return l, false
	}
	places := q.inst.places
	in, out := &places[0], &places[len(places)-1]
	l = Lattice{In: q.image(in, sample), Out: q.image(out, sample), Residual: Planes{Places: 1}, Weights: weights,
		InSize: int32s4(v.in), OutSize: int32s4(v.out), Cin: int32(v.cin), Cout: int32(v.cout), Groups: int32(v.groups),
		Count: int32s3(count), OutStart: int32s3(c.outStart), OutStep: int32s3(c.outStep), InStep: int32s3(c.inStep),
		Taps: int32s3(c.taps), TapStart: int32s3(c.tapStart), TapStep: int32s3(c.tapStep), Points: int32(points),
		Width: divideBy(count[2]), Area: divideBy(count[1] * count[2])}
	l.OutStart[0] += int32(first * c.outStep[0])
	l.TapStart[0] += int32(first * c.inStep[0])
	l.Places = divideBy(int(l.In.Places))
	if v.bias {
		l.Bias = q.planes(&places[2]).Data
	}
	vectors := v.out[3]%4 == 0 && v.cout%4 == 0 && out.stride%16 == 0
	if r := v.epilogue.residual; r != nil {
		l.Residual = q.image(r, sample)
		vectors = vectors && r.stride%16 == 0
	}
	l.Activation = activationCode(v.epilogue.activation)
	if vectors {
		l.Vectors = 1
	}
	return l, true
}

// activationCode returns the number of an activation, as Activation of conv.cuh has it.
func activationCode(name string) int32 {
	switch name {
	case "":
		return 0
	case "Relu":
		return 1
	case "Silu":
		return 2
	}
	panic("cuda: convolutions do not apply " + name) // cannot be: activations lists the functions
}

func int32s3(v [3]int) [3]int32 { return [3]int32{int32(v[0]), int32(v[1]), int32(v[2])} }

func int32s4(v [4]int) [4]int32 { return [4]int32{int32(v[0]), int32(v[1]), int32(v[2]), int32(v[3])} }

// ceilDivSigned rounds a/b up, for a of either sign.
func ceilDivSigned(a, b int) int {
	q := a / b
	if a%b > 0 {
		q++
	}
	return q
}
