package onnx

import (
	"math"
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// window has the geometry of the windows of a convolution or a pooling, along the axes of space.
type window struct {
	kernel, stride, dilation, before, after []int
}

// window reads the attributes that place windows. auto_pad needs the size of the input.
func (c *call) window(kernel, size []int) window {
	k := len(size)
	list := func(name string, n, missing int) []int {
		v := c.n.ints(name)
		if v == nil {
			v = slices.Repeat([]int{missing}, n)
		}
		if len(v) != n {
			c.badf("%s %v does not fit %d axes of space", name, v, k)
		}
		for _, n := range v {
			c.small(n)
		}
		return v
	}
	if declared := c.n.ints("kernel_shape"); declared != nil && !slices.Equal(declared, kernel) {
		c.badf("kernel_shape %v does not fit the kernel %v", declared, kernel)
	}
	w := window{kernel: kernel, stride: list("strides", k, 1), dilation: list("dilations", k, 1)}
	for i := range k {
		if kernel[i] < 1 || w.stride[i] < 1 || w.dilation[i] < 1 {
			c.badf("kernel %v, strides %v or dilations %v are not possible", kernel, w.stride, w.dilation)
		}
		c.small(kernel[i])
		c.small(kernel[i] * w.dilation[i])
	}
	pads := list("pads", 2*k, 0)
	w.before, w.after = slices.Clone(pads[:k]), slices.Clone(pads[k:])
	switch auto := c.n.text("auto_pad", "NOTSET"); auto {
	case "NOTSET", "":
	case "VALID":
		clear(w.before)
		clear(w.after)
	case "SAME_UPPER", "SAME_LOWER":
		for i := range k {
			out := (size[i] + w.stride[i] - 1) / w.stride[i]
			total := max((out-1)*w.stride[i]+w.span(i)-size[i], 0)
			w.before[i], w.after[i] = total/2, total-total/2
			if auto == "SAME_LOWER" {
				w.before[i], w.after[i] = w.after[i], w.before[i]
			}
		}
	default:
		c.badf("auto_pad %q is not known", auto)
	}
	return w
}

// span returns the extent of a window along axis i.
func (w window) span(i int) int { return w.dilation[i]*(w.kernel[i]-1) + 1 }

// maxStrides bounds the product of a convolution's strides: kernels keep the weights that meet in each place modulo the strides.
const maxStrides = 1 << 16

func (c *call) conv(w window) op.ConvAttr {
	a := op.ConvAttr{Stride: op.DHW(w.stride, 1), Dilation: op.DHW(w.dilation, 1), Before: op.DHW(w.before, 0), After: op.DHW(w.after, 0), Groups: c.n.int("group", 1)}
	product := 1
	for _, s := range a.Stride {
		if product = product * min(s, maxStrides); product > maxStrides {
			c.refuse("", "strides of %v are not supported: their product may be %d", w.stride, maxStrides)
		}
	}
	return a
}

// convOperands checks the ranks of a convolution and returns the weights with three axes of space.
func (c *call) convOperands() (x, weights *ir.Value, spatial int) {
	x, weights = c.x(0), c.x(1)
	s, w := x.Shape(), weights.Shape()
	if len(w) != len(s) || len(s) < 3 {
		c.badf("weights %v do not fit the input %v", w, s)
	}
	if len(s) > 5 {
		c.refuse("", "a convolution over %d axes is not supported", len(s)-2)
	}
	return x, c.weights5(weights), len(s) - 2
}

// weights5 gives weights three axes of space; constant weights stay a constant.
func (c *call) weights5(w *ir.Value) *ir.Value {
	if len(w.Shape()) == 5 {
		return w
	}
	s := op.Widened(w.Shape(), 2)
	if w.Const != nil {
		return c.im.g.Constant(w.Name, s, w.Const)
	}
	return c.reshape(w, s)
}

func importConv(c *call) []*ir.Value {
	x, weights, spatial := c.convOperands()
	w := c.window([]int(c.shape(1)[2:]), x.Shape()[2:])
	y := c.emit(op.Conv, c.conv(w), c.volume(x), weights, c.optional(2))
	return []*ir.Value{c.flat(y, spatial)}
}

func importConvTranspose(c *call) []*ir.Value {
	x, weights, spatial := c.convOperands()
	size := x.Shape()[2:]
	w := c.window([]int(c.shape(1)[2:]), size)
	extra := c.n.ints("output_padding")
	if extra == nil {
		extra = make([]int, spatial)
	}
	wanted := c.n.ints("output_shape")
	if len(wanted) == spatial+2 { // some files give the whole shape
		wanted = wanted[2:]
	}
	if len(extra) != spatial || wanted != nil && len(wanted) != spatial {
		c.badf("output_padding %v or output_shape %v do not fit %d axes of space", extra, wanted, spatial)
	}
	auto := c.n.text("auto_pad", "NOTSET")
	out := make([]int, spatial)
	for i := range out {
		full := c.small(w.stride[i]*(size[i]-1)) + w.span(i) // without paddings
		switch {
		case wanted != nil:
			out[i] = wanted[i]
		case auto == "SAME_UPPER" || auto == "SAME_LOWER":
			out[i] = size[i] * w.stride[i]
		default:
			out[i] = full + extra[i] - w.before[i] - w.after[i]
		}
		if wanted != nil || auto == "SAME_UPPER" || auto == "SAME_LOWER" {
			total := max(full+extra[i]-out[i], 0)
			w.before[i] = total / 2
			if auto == "SAME_LOWER" || wanted != nil && auto != "SAME_UPPER" {
				w.before[i] = total - total/2
			}
		}
		// Output padding only says how large the result is: count it as padding of the opposite convolution.
		w.after[i] = full - out[i] - w.before[i]
	}
	a := op.ConvBackwardDataAttr{Conv: c.conv(w), In: op.DHW(out, 1)}
	for _, n := range a.In {
		if n < 1 {
			c.badf("the result would have the size %v", out)
		}
	}
	y := c.emit(op.ConvBackwardData, a, c.volume(x), weights, c.optional(2))
	return []*ir.Value{c.flat(y, spatial)}
}

// pool reads a pooling.
func (c *call) pool() (a op.PoolAttr, spatial int) {
	s := c.shape(0)
	if len(s) < 3 || len(s) > 5 {
		c.refuse("", "pooling over a tensor of shape %v is not supported", s)
	}
	spatial = len(s) - 2
	kernel := c.n.ints("kernel_shape")
	if len(kernel) != spatial {
		c.badf("kernel_shape %v does not fit the input %v", kernel, s)
	}
	w := c.window(kernel, s[2:])
	ceil := make([]int, spatial)
	auto := c.n.text("auto_pad", "NOTSET")
	for i := range ceil {
		if w.before[i] < 0 || w.after[i] < 0 {
			c.badf("pads %v are negative", c.n.ints("pads"))
		}
		padded := s[2+i] + w.before[i] + w.after[i]
		if c.n.int("ceil_mode", 0) == 0 || auto == "SAME_UPPER" || auto == "SAME_LOWER" || padded < w.span(i) {
			continue
		}
		out := (padded-w.span(i)+w.stride[i]-1)/w.stride[i] + 1
		if (out-1)*w.stride[i] >= s[2+i]+w.before[i] { // a window must start inside the image or the padding before it
			out--
		}
		ceil[i] = max((out-1)*w.stride[i]+w.span(i)-padded, 0)
	}
	return op.PoolAttr{Kernel: op.DHW(kernel, 1), Stride: op.DHW(w.stride, 1), Dilation: op.DHW(w.dilation, 1),
		Before: op.DHW(w.before, 0), After: op.DHW(w.after, 0), Ceil: op.DHW(ceil, 0)}, spatial
}

func importMaxPool(c *call) []*ir.Value {
	a, spatial := c.pool()
	return []*ir.Value{c.flat(c.emit(op.MaxPool, a, c.volume(c.x(0))), spatial)}
}

func importAveragePool(c *call) []*ir.Value {
	a, spatial := c.pool()
	a.CountPad = c.n.int("count_include_pad", 0) != 0
	return []*ir.Value{c.flat(c.emit(op.AvgPool, a, c.volume(c.x(0))), spatial)}
}

// importLpPool writes the p-norm of each window as a mean of powers.
func importLpPool(c *call) []*ir.Value {
	a, spatial := c.pool()
	if a.Ceil != [3]int{} {
		c.refuse("", "ceil_mode is not supported here")
	}
	a.CountPad = true
	p := float64(c.n.int("p", 2))
	taps := float64(a.Kernel[0] * a.Kernel[1] * a.Kernel[2])
	x := c.emit(op.AvgPool, a, c.volume(c.unaryAttr("PowConst", p, 0, c.unary("Abs", c.x(0)))))
	return []*ir.Value{c.flat(c.unaryAttr("PowConst", 1/p, 0, c.linear(x, taps, 0)), spatial)}
}

func globalPool(o *ir.Op) func(c *call) []*ir.Value {
	return func(c *call) []*ir.Value {
		var axes []int
		for a := 2; a < len(c.shape(0)); a++ {
			axes = append(axes, a)
		}
		return []*ir.Value{c.reduce(o, c.x(0), axes)}
	}
}

// perChannel returns a known input of one number for each of n channels.
func (c *call) perChannel(i, n int) *literal {
	l := c.lit(i)
	if l.len() != n || n > op.MaxChannels {
		c.badf("its input number %d has %d elements for %d channels", i+1, l.len(), n)
	}
	return l
}

func (c *call) channels() int {
	s := c.shape(0)
	if len(s) < 2 {
		c.badf("its input %v has no channels", s)
	}
	return s[1]
}

// importBatchNorm writes the inference form, with running statistics, as a scale and a shift of each channel.
func importBatchNorm(c *call) []*ir.Value {
	if c.n.int("training_mode", 0) != 0 {
		c.refuse("call model.eval() before exporting; to keep BatchNorm apart from convolutions use do_constant_folding=False "+
			"or training=TrainingMode.PRESERVE with the model in eval mode", "it takes its statistics from the batch (training_mode=1)")
	}
	n := c.channels()
	gamma, beta, mean, variance := c.perChannel(1, n), c.perChannel(2, n), c.perChannel(3, n), c.perChannel(4, n)
	eps := c.n.float("epsilon", 1e-5)
	scale, shift := make([]float32, n), make([]float32, n)
	for i := range n {
		s := gamma.float(i) / math.Sqrt(variance.float(i)+eps)
		scale[i], shift[i] = float32(s), float32(beta.float(i)-mean.float(i)*s)
	}
	g := c.im.g
	y := c.emit(op.Affine, nil, c.channelsLast(c.x(0)),
		g.Constant(gamma.name, tensor.Shape{n}, tensor.Floats(scale)), g.Constant(beta.name, tensor.Shape{n}, tensor.Floats(shift)))
	return []*ir.Value{c.channelsFirst(y)}
}

func importInstanceNorm(c *call) []*ir.Value {
	n := c.channels()
	a := op.GroupNormAttr{Groups: n, Eps: c.n.float("epsilon", 1e-5)}
	c.perChannel(1, n)
	c.perChannel(2, n)
	return []*ir.Value{c.channelsFirst(c.emit(op.GroupNorm, a, c.channelsLast(c.x(0)), c.x(1), c.x(2)))}
}

// importGroupNorm: until opset 20 scale and bias are by group, from 21 on by channel.
func importGroupNorm(c *call) []*ir.Value {
	n, groups := c.channels(), c.n.int("num_groups", 0)
	if groups < 1 || n%groups != 0 {
		c.badf("%d groups do not divide %d channels", groups, n)
	}
	params := func(i int) *ir.Value {
		if c.opset >= 21 || c.lit(i).len() == n && groups != n {
			c.perChannel(i, n)
			return c.x(i)
		}
		l := c.perChannel(i, groups)
		values := make([]float32, n)
		for j := range values {
			values[j] = float32(l.float(j / (n / groups)))
		}
		return c.im.g.Constant(l.name, tensor.Shape{n}, tensor.Floats(values))
	}
	a := op.GroupNormAttr{Groups: groups, Eps: c.n.float("epsilon", 1e-5)}
	return []*ir.Value{c.channelsFirst(c.emit(op.GroupNorm, a, c.channelsLast(c.x(0)), params(1), params(2)))}
}

func importLayerNorm(c *call) []*ir.Value {
	s := c.shape(0)
	axis := c.axis("axis", -1, len(s))
	tail := s[axis:]
	y := c.emit(op.LayerNorm, op.LayerNormAttr{Axes: len(tail), Eps: c.n.float("epsilon", 1e-5)}, c.x(0), c.normParam(1, tail), c.normParam(2, tail))
	return []*ir.Value{y}
}

// normParam returns an optional parameter of a norm over the axes tail, of exactly that shape.
func (c *call) normParam(i int, tail tensor.Shape) *ir.Value {
	if !c.has(i) {
		if i == 1 && c.has(2) {
			return c.emit(op.Expand, op.ExpandAttr{Shape: tail.Clone()}, c.b.Const(slices.Repeat([]int{1}, len(tail)), []float32{1}))
		}
		return nil
	}
	s := c.shape(i)
	for len(s) > len(tail) && s[0] == 1 {
		s = s[1:]
	}
	if l := c.known(i); l != nil && s.Elements() == tail.Elements() {
		if l.shape.Equal(tail) {
			return c.x(i)
		}
		return c.valueOf(&slot{lit: l.withShape(tail)})
	}
	return c.expand(c.reshape(c.x(i), s), tail)
}

// importRMSNorm emits x / sqrt(mean(x^2) + eps) * scale over the trailing axes (Zhang and Sennrich 2019).
func importRMSNorm(c *call) []*ir.Value {
	x := c.x(0)
	axis := c.axis("axis", -1, len(x.Shape()))
	var axes []int
	for a := axis; a < len(x.Shape()); a++ {
		axes = append(axes, a)
	}
	mean := c.reduce(op.ReduceMean, c.unaryAttr("PowConst", 2, 0, x), axes)
	y := c.binary("Div", x, c.unary("Sqrt", c.linear(mean, 1, c.n.float("epsilon", 1e-5))))
	if c.has(1) {
		y = c.binary("Mul", y, c.x(1))
	}
	return []*ir.Value{y}
}

// importLRN emits local response normalisation over channels: x / (bias + alpha/size * sum of squares of neighbours)^beta.
func importLRN(c *call) []*ir.Value {
	x, n, size := c.x(0), c.channels(), c.n.int("size", 0)
	if size < 1 {
		c.badf("its size is %d", size)
	}
	size = c.small(size)
	// The channels as the depth of an image with one channel.
	s := x.Shape()
	rest := s[2:].Elements()
	squares := c.reshape(c.unaryAttr("PowConst", 2, 0, x), tensor.Shape{s[0], n, 1, rest, 1})
	a := op.PoolAttr{Kernel: [3]int{size, 1, 1}, Stride: op.DHW(nil, 1), Dilation: op.DHW(nil, 1), CountPad: true,
		Before: [3]int{(size - 1) / 2, 0, 0}, After: [3]int{size - 1 - (size-1)/2, 0, 0}}
	mean := c.reshape(c.emit(op.AvgPool, a, squares), s)
	d := c.unaryAttr("PowConst", c.n.float("beta", 0.75), 0, c.linear(mean, c.n.float("alpha", 1e-4), c.n.float("bias", 1)))
	return []*ir.Value{c.binary("Div", x, d)}
}

func importLpNorm(c *call) []*ir.Value {
	x := c.x(0)
	axes := []int{c.axis("axis", -1, len(x.Shape()))}
	var norm *ir.Value
	if c.n.int("p", 2) == 1 {
		norm = c.reduce(op.ReduceSum, c.unary("Abs", x), axes)
	} else {
		norm = c.unary("Sqrt", c.reduce(op.ReduceSum, c.unaryAttr("PowConst", 2, 0, x), axes))
	}
	const smallest = 1.17549435e-38 // zeros stay zeros
	return []*ir.Value{c.binary("Div", x, c.unaryAttr("Clip", smallest, math.Inf(1), norm))}
}

// importMVN subtracts the mean and divides by the deviation over axes.
func importMVN(c *call) []*ir.Value {
	x := c.x(0)
	axes := c.axes(1, len(x.Shape()))
	if axes == nil {
		axes, _ = axesOf([]int{0, 2, 3}, max(len(x.Shape()), 4))
	}
	d := c.binary("Sub", x, c.reduce(op.ReduceMean, x, axes))
	variance := c.reduce(op.ReduceMean, c.unaryAttr("PowConst", 2, 0, d), axes)
	return []*ir.Value{c.binary("Div", d, c.linear(c.unary("Sqrt", variance), 1, 1e-9))}
}

func importPad(c *call) []*ir.Value {
	x := c.x(0)
	a := c.padAttr(x.Shape())
	if !slices.ContainsFunc(append(slices.Clone(a.Before), a.After...), func(n int) bool { return n != 0 }) {
		return []*ir.Value{x}
	}
	return []*ir.Value{c.emit(op.Pad, a, x)}
}

// importResize covers Resize and its predecessor Upsample.
func importResize(c *call) []*ir.Value {
	x := c.x(0)
	s := x.Shape()
	scales, sizes := c.resizeFactors()
	a := c.resizeAttr(s)
	axes := c.n.ints("axes")
	if axes == nil {
		for i := range s {
			axes = append(axes, i)
		}
	}
	byScale := scales != nil && scales.len() > 0
	if !byScale && sizes == nil {
		c.badf("it has neither scales nor sizes")
	}
	given := sizes
	if byScale {
		given = scales
	}
	if given.len() != len(axes) {
		c.badf("%d scales or sizes for %d axes", given.len(), len(axes))
	}
	for i, axis := range axes {
		axis, ok := axisOf(axis, len(s))
		if !ok {
			c.badf("axes %v do not fit %v", axes, s)
		}
		if byScale {
			a.Scale[axis] = given.float(i)
			size := math.Floor(float64(s[axis]) * a.Scale[axis])
			if !(size >= 1 && size < math.MaxInt32) {
				c.badf("scaling %v by %v is not possible", s, a.Scale)
			}
			a.Out[axis] = int(size)
			continue
		}
		a.Out[axis] = c.small(int(given.int(i)))
		a.Scale[axis] = float64(a.Out[axis]) / float64(s[axis])
	}
	if !byScale {
		c.keepAspect(&a, s, axes)
	}
	if a.Out.Equal(s) && !slices.ContainsFunc(a.Scale, func(v float64) bool { return v != 1 }) {
		return []*ir.Value{x}
	}
	return []*ir.Value{c.emit(op.Resize, a, x)}
}

// isUpsample reports whether a node has the form of opsets 7 to 10: scales alone, and no choice of coordinates.
func (c *call) isUpsample() bool { return c.opset == 10 || c.n.Op == "Upsample" }

// resizeFactors returns the scales and the sizes of a Resize, nil for what it lacks. They must be known at import.
func (c *call) resizeFactors() (scales, sizes *literal) {
	scales = c.known(2)
	if c.isUpsample() {
		scales = c.known(1)
		if list := c.n.Attributes["scales"]; list != nil {
			values := make([]float64, len(list.Floats))
			for i, v := range list.Floats {
				values[i] = float64(v)
			}
			scales = floatLiteral(tensor.F32, tensor.Shape{len(values)}, values)
		}
	} else if c.has(3) {
		sizes = c.lit(3)
	}
	if c.has(2) && scales == nil {
		c.lit(2)
	}
	return scales, sizes
}

// resizeAttr reads the attributes of a Resize of a tensor of shape s, which stays as it is so far.
func (c *call) resizeAttr(s tensor.Shape) op.ResizeAttr {
	a := op.ResizeAttr{
		Out: s.Clone(), Scale: slices.Repeat([]float64{1}, len(s)),
		Mode: c.n.text("mode", "nearest"), Coord: c.n.text("coordinate_transformation_mode", "half_pixel"),
		Nearest: c.n.text("nearest_mode", "round_prefer_floor"), CubicA: c.n.float("cubic_coeff_a", -0.75),
	}
	if c.isUpsample() {
		a.Coord, a.Nearest = "asymmetric", "floor"
	}
	switch a.Mode {
	case "nearest", "linear", "cubic":
	case "bilinear", "trilinear":
		a.Mode = "linear"
	default:
		c.refuse("", "the mode %q is not supported", a.Mode)
	}
	switch a.Coord {
	case "half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric":
	default:
		c.refuse("", "the coordinate_transformation_mode %q is not supported", a.Coord)
	}
	if c.n.int("exclude_outside", 0) != 0 || c.n.int("antialias", 0) != 0 {
		c.refuse("", "exclude_outside and antialias are not supported")
	}
	return a
}

// keepAspect applies keep_aspect_ratio_policy, under which sizes are limits.
func (c *call) keepAspect(a *op.ResizeAttr, s tensor.Shape, axes []int) {
	policy := c.n.text("keep_aspect_ratio_policy", "stretch")
	if policy == "stretch" || len(axes) == 0 {
		return
	}
	scale := math.Inf(1)
	if policy == "not_larger" {
		for _, axis := range axes {
			axis, _ := axisOf(axis, len(s))
			scale = min(scale, a.Scale[axis])
		}
	} else {
		scale = 0
		for _, axis := range axes {
			axis, _ := axisOf(axis, len(s))
			scale = max(scale, a.Scale[axis])
		}
	}
	for _, axis := range axes {
		axis, _ := axisOf(axis, len(s))
		a.Scale[axis], a.Out[axis] = scale, int(math.RoundToEven(scale*float64(s[axis])))
	}
}

// importDepthToSpace moves blocks of channels of a 2D image into space.
func importDepthToSpace(c *call) []*ir.Value {
	x := c.x(0)
	s, b := x.Shape(), c.n.int("blocksize", 0)
	if len(s) != 4 || b < 1 || c.small(b) > 1<<15 || s[1]%(b*b) != 0 {
		c.badf("blocks of %d do not fit %v", b, s)
	}
	depth := s[1] / (b * b)
	split, perm := tensor.Shape{s[0], b, b, depth, s[2], s[3]}, []int{0, 3, 4, 1, 5, 2}
	if c.n.text("mode", "DCR") == "CRD" {
		split, perm = tensor.Shape{s[0], depth, b, b, s[2], s[3]}, []int{0, 1, 4, 2, 5, 3}
	}
	y := c.transpose(c.reshape(x, split), perm)
	return []*ir.Value{c.reshape(y, tensor.Shape{s[0], depth, s[2] * b, s[3] * b})}
}

func importSpaceToDepth(c *call) []*ir.Value {
	x := c.x(0)
	s, b := x.Shape(), c.n.int("blocksize", 0)
	if len(s) != 4 || b < 1 || s[2]%b != 0 || s[3]%b != 0 {
		c.badf("blocks of %d do not fit %v", b, s)
	}
	perm := []int{0, 3, 5, 1, 2, 4}
	if c.n.text("mode", "DCR") == "CRD" {
		perm = []int{0, 1, 3, 5, 2, 4}
	}
	y := c.transpose(c.reshape(x, tensor.Shape{s[0], s[1], s[2] / b, b, s[3] / b, b}), perm)
	return []*ir.Value{c.reshape(y, tensor.Shape{s[0], s[1] * b * b, s[2] / b, s[3] / b})}
}
