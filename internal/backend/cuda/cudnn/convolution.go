package cudnn

import (
	"fmt"
)

// Precision is the arithmetic of products. Sums are float32 in all of them.
type Precision uint8

const (
	Float32  Precision = iota // strict: every factor and every sum in float32
	TF32                      // factors rounded to 10 bits of fraction by tensor cores
	BFloat16                  // factors of 7 bits of fraction
)

func (p Precision) String() string {
	switch p {
	case Float32:
		return "float32"
	case TF32:
		return "tf32"
	case BFloat16:
		return "bfloat16"
	}
	return fmt.Sprintf("Precision(%d)", uint8(p))
}

// Convolution is a problem: all that the choice of an engine depends on. x has shape In, y has shape Out, in the view of the forward
// direction. Forward reads x and writes y; Backward (data) reads y, a gradient, and writes x, the gradient there.
//
// Volumes are [D, H, W, C], channels last, weights are [Cout, kd, kh, kw, Cin/Groups]. All are float32 in memory, but with BFloat16 the
// weights are bfloat16, and Read16 and Write16 say the same of the volumes.
//
// The engines of the library differ from problem to problem (seen with 9.19 for compute capability 9.0):
//   - Forward with a bias, with or without residual and activation, has engines that come compiled, in Float32 and TF32. A residual or an
//     activation without a bias has engines that are compiled when a plan is made (half a second each), and none in Float32: give
//     a bias of zeros instead.
//   - Backward has fused engines in TF32 and BFloat16 only, compiled when a plan is made.
//   - BFloat16 that reads float32, rounding inside the kernel, is offered for forward only.
//   - Planes that are aligned to 4 bytes lose the fastest engines of TF32.
//
// It is comparable, and prints as one line that names the problem.
type Convolution struct {
	Backward                                bool
	Cin, Cout, Groups                       int
	Kernel, Stride, Dilation, Before, After [3]int // along D, H, W; Before and After count zeros around x
	In, Out                                 [3]int // D, H, W of x and y
	InPlane, OutPlane                       int    // elements from one plane of x or y to the next; 0 where planes touch
	Precision                               Precision

	Read16, Write16 bool // with BFloat16: the volume that is read, the one that is written (and the residual) are bfloat16 in memory

	// The output is act(convolution + residual + bias). The residual is laid out like the output, the bias is one value a channel.
	Bias, Residual bool
	Activation     string // "" or "relu"

	Align int // to how many bytes all addresses and planes are aligned: 16 or 4
}

func (c Convolution) String() string {
	text := "forward"
	if c.Backward {
		text = "backward"
	}
	text += fmt.Sprintf(" %d->%d groups %d kernel %s stride %s dilation %s before %s after %s in %s out %s", c.Cin, c.Cout, c.Groups,
		times(c.Kernel), times(c.Stride), times(c.Dilation), times(c.Before), times(c.After), times(c.In), times(c.Out))
	if c.InPlane != 0 || c.OutPlane != 0 {
		text += fmt.Sprintf(" planes %d %d", c.InPlane, c.OutPlane)
	}
	text += " " + c.Precision.String()
	if c.Read16 {
		text += " reads bfloat16"
	}
	if c.Write16 {
		text += " writes bfloat16"
	}
	if c.Bias {
		text += " bias"
	}
	if c.Residual {
		text += " residual"
	}
	if c.Activation != "" {
		text += " " + c.Activation
	}
	return text + fmt.Sprintf(" align %d", c.Align)
}

func times(v [3]int) string { return fmt.Sprintf("%dx%dx%d", v[0], v[1], v[2]) }

// check refuses problems that mean nothing to any engine.
func (c Convolution) check() error {
	if c.Cin < 1 || c.Cout < 1 || c.Groups < 1 || c.Cin%c.Groups != 0 || c.Cout%c.Groups != 0 {
		return fmt.Errorf("%d channels in and %d out cannot be %d groups", c.Cin, c.Cout, c.Groups)
	}
	for i := range 3 {
		if c.Kernel[i] < 1 || c.Stride[i] < 1 || c.Dilation[i] < 1 || c.Before[i] < 0 || c.After[i] < 0 || c.In[i] < 1 || c.Out[i] < 1 {
			return fmt.Errorf("a size, stride or dilation below 1, or negative padding")
		}
		span := c.Dilation[i]*(c.Kernel[i]-1) + 1
		room := c.In[i] + c.Before[i] + c.After[i] - span
		if room < 0 || room/c.Stride[i]+1 != c.Out[i] {
			return fmt.Errorf("the size %d along axis %d does not follow from the other %d: kernel spans %d, stride %d, padding %d and %d",
				c.Out[i], i, c.In[i], span, c.Stride[i], c.Before[i], c.After[i])
		}
	}
	if c.InPlane != 0 && c.InPlane < c.In[1]*c.In[2]*c.Cin || c.OutPlane != 0 && c.OutPlane < c.Out[1]*c.Out[2]*c.Cout {
		return fmt.Errorf("planes overlap: strides of %d and %d elements", c.InPlane, c.OutPlane)
	}
	if c.Activation != "" && c.Activation != "relu" {
		return fmt.Errorf("the activation %q is not one of those that are fused: relu", c.Activation)
	}
	if c.Precision > BFloat16 {
		return fmt.Errorf("unknown precision %d", c.Precision)
	}
	if (c.Read16 || c.Write16) && c.Precision != BFloat16 {
		return fmt.Errorf("bfloat16 volumes with precision %v", c.Precision)
	}
	if c.Align != 4 && c.Align != 16 {
		return fmt.Errorf("an alignment of %d bytes is not 4 or 16", c.Align)
	}
	return nil
}

// The tensors of a problem, by which a plan is given their addresses. Intermediate values have numbers from idValue on.
const (
	idX int64 = 1 + iota
	idW
	idY
	idBias
	idResidual
	idValue
)

// A graph is a problem in the library's terms: an operation graph that engines are looked for.
type graph struct {
	problem Convolution
	maker   maker
	d       descriptor
	users   int // plans that refer to it
}

// side is x or y.
type side struct {
	id       int64
	channels int
	size     [3]int
	plane    int // elements from plane to plane; 0 where they touch
}

// volume makes the descriptor of a channels-last volume. For the library dimensions are always in the order N, C, D, H, W; the strides say
// how they lie in memory.
func (g *graph) volume(s side, data int32, virtual bool) descriptor {
	c, d, h, w := int64(s.channels), int64(s.size[0]), int64(s.size[1]), int64(s.size[2])
	p := int64(s.plane)
	if p == 0 {
		p = h * w * c
	}
	return g.tensor(s.id, []int64{1, c, d, h, w}, []int64{d * p, 1, p, w * c, c}, data, virtual)
}

func (g *graph) tensor(id int64, dims, strides []int64, data int32, virtual bool) descriptor {
	m := &g.maker
	d := m.create(kindTensor)
	put(m, d, attrTensorType, typeDataType, data)
	m.ints(d, attrTensorDims, dims...)
	m.ints(d, attrTensorStrides, strides...)
	m.ints(d, attrTensorID, id)
	m.ints(d, attrTensorAlign, int64(g.problem.Align))
	if virtual {
		put(m, d, attrTensorVirtual, typeBoolean, true)
	}
	m.finalize(d)
	return d
}

// graph describes a convolution to the library: the convolution itself, then its epilogue, through values that no memory
// holds ("virtual" tensors). The order is that of the library's own fused engines: residual, bias, activation.
func (h *Handle) graph(c Convolution) (*graph, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("convolution %v: %w", c, err)
	}
	g := &graph{problem: c, maker: maker{lib: h.lib}}
	m := &g.maker
	factor, source, target := dataFloat, dataFloat, dataFloat
	if c.Precision == BFloat16 {
		factor = dataBFloat16
	}
	if c.Read16 {
		source = dataBFloat16
	}
	if c.Write16 {
		target = dataBFloat16
	}

	// Of x and y the one is read, the other written.
	from := side{idX, c.Cin, c.In, c.InPlane}
	to := side{idY, c.Cout, c.Out, c.OutPlane}
	if c.Backward {
		from, to = to, from
	}

	var operations []descriptor
	values := idValue
	// value is a result that only the next operation reads.
	value := func(s side, data int32) descriptor {
		values++
		return g.volume(side{values, s.channels, s.size, 0}, data, true)
	}
	// pointwise appends result = mode(x, other).
	pointwise := func(mode int32, x, other, result descriptor) {
		p := m.create(kindPointwise)
		put(m, p, attrPointwiseMode, typePointwiseMode, mode)
		put(m, p, attrPointwisePrecision, typeDataType, dataFloat)
		m.finalize(p)
		o := m.create(kindPointwiseOperation)
		m.refer(o, attrOperationPointwise, p)
		m.refer(o, attrOperationX, x)
		if other != 0 {
			m.refer(o, attrOperationB, other)
		}
		m.refer(o, attrOperationY, result)
		m.finalize(o)
		operations = append(operations, o)
	}

	// The operations behind the convolution, the last one writing to memory.
	type step struct {
		mode  int32
		other descriptor
	}
	var steps []step
	if c.Residual {
		residual := to
		residual.id = idResidual
		steps = append(steps, step{pointwiseAdd, g.volume(residual, target, false)})
	}
	if c.Bias {
		n := int64(to.channels)
		steps = append(steps, step{pointwiseAdd, g.tensor(idBias, []int64{1, n, 1, 1, 1}, []int64{n, 1, n, n, n}, dataFloat, false)})
	}
	if c.Activation == "relu" {
		steps = append(steps, step{pointwiseReLU, 0})
	}
	if len(steps) == 0 && factor != target {
		// A convolution of bfloat16 that writes float32 exists only with something after it.
		steps = append(steps, step{pointwiseIdentity, 0})
	}

	read := g.volume(from, source, false)
	if source != factor {
		rounded := value(from, factor)
		pointwise(pointwiseIdentity, read, 0, rounded)
		read = rounded
	}
	var result descriptor
	if len(steps) > 0 {
		result = value(to, dataFloat)
	} else {
		result = g.volume(to, target, false)
	}
	operations = append(operations, g.convolve(read, result, factor))
	for i, s := range steps {
		var next descriptor
		if i < len(steps)-1 {
			next = value(to, dataFloat)
		} else {
			next = g.volume(to, target, false)
		}
		pointwise(s.mode, result, s.other, next)
		result = next
	}

	g.d = m.create(kindGraph)
	m.refer(g.d, attrGraphOperations, operations...)
	if h.handle != 0 {
		put(m, g.d, attrGraphHandle, typeHandle, h.handle)
	}
	m.finalize(g.d)
	if m.err != nil {
		m.close()
		return nil, fmt.Errorf("convolution %v: %w", c, m.err)
	}
	return g, nil
}

// convolve makes the convolution itself, from its input to its result.
func (g *graph) convolve(read, result descriptor, factor int32) descriptor {
	m, c := &g.maker, &g.problem
	n, kd, kh, kw := int64(c.Cin/c.Groups), int64(c.Kernel[0]), int64(c.Kernel[1]), int64(c.Kernel[2])
	w := g.tensor(idW, []int64{int64(c.Cout), n, kd, kh, kw}, []int64{kd * kh * kw * n, 1, kh * kw * n, kw * n, n}, factor, false)

	d := m.create(kindConvolution)
	put(m, d, attrConvolutionCompute, typeDataType, dataFloat)
	put(m, d, attrConvolutionMode, typeConvolutionMode, crossCorrelation)
	m.ints(d, attrConvolutionSpatial, 3)
	m.ints(d, attrConvolutionDilation, wide(c.Dilation)...)
	m.ints(d, attrConvolutionStride, wide(c.Stride)...)
	m.ints(d, attrConvolutionBefore, wide(c.Before)...)
	m.ints(d, attrConvolutionAfter, wide(c.After)...)
	m.finalize(d)

	// The result is alpha times the convolution plus beta times the earlier value.
	var o descriptor
	if c.Backward {
		o = m.create(kindConvolutionBackward)
		m.refer(o, attrBackwardConvolution, d)
		m.refer(o, attrBackwardW, w)
		m.refer(o, attrBackwardY, read)
		m.refer(o, attrBackwardX, result)
		put(m, o, attrBackwardAlpha, typeFloat, float32(1))
		put(m, o, attrBackwardBeta, typeFloat, float32(0))
	} else {
		o = m.create(kindConvolutionForward)
		m.refer(o, attrForwardConvolution, d)
		m.refer(o, attrForwardW, w)
		m.refer(o, attrForwardX, read)
		m.refer(o, attrForwardY, result)
		put(m, o, attrForwardAlpha, typeFloat, float32(1))
		put(m, o, attrForwardBeta, typeFloat, float32(0))
	}
	m.finalize(o)
	return o
}

func wide(v [3]int) []int64 { return []int64{int64(v[0]), int64(v[1]), int64(v[2])} }

// release counts a user of a graph out; the last one closes it.
func (g *graph) release() {
	if g.users--; g.users <= 0 {
		g.maker.close()
	}
}
