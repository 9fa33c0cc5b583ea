package cuda

import (
	"fmt"
	"math"

	"github.com/voxcam/voxcam/internal/backend/cuda/devmem"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

const (
	mostStemChannels = 4 // of the side with few channels

	stemThreads = 256
	stemColumns = 32 // outputs of a block along the width,
	stemRows    = 8  // and along the height
	// stemStage is the number of bytes of input and weights that a block takes in at once: enough that there is something to do while
	// the next ones come, so few that a multiprocessor has room for several blocks.
	stemStage = 24 << 10

	stemGradientThreads = 128
	stemGradientRows    = 32 // coarse points of a block along the height
	stemGradientChunk   = 8  // channels of a stage
)

// stemKernel is a kernel of stem.cu for windows of one width.
type stemKernel struct{ channels, kernel, stride int }

// stemKernels is the table of kernels with cin, width of the window and stride along it; each is there for 32 and 64 output channels.
var stemKernels = []stemKernel{{1, 3, 1}, {1, 3, 2}, {1, 7, 2}, {3, 3, 1}, {3, 3, 2}, {3, 7, 2}}

// stemGradientKernel is a kernel for the gradient.
type stemGradientKernel struct{ channels, kernel, strideZ, stride, phase, points int }

func (k stemGradientKernel) name() string {
	return fmt.Sprintf("stem_back_c%d_k%d_s%d%d_%d", k.channels, k.kernel, k.strideZ, k.stride, k.phase)
}

// stemGradientKernels is the table of kernels with channels, width of the window, strides, phase along the width (another makes a block
// more), and coarse points of a thread.
var stemGradientKernels = []stemGradientKernel{
	{1, 3, 1, 1, 0, 8}, {1, 3, 1, 2, 0, 8}, {1, 3, 1, 2, 1, 8}, {1, 3, 2, 2, 0, 8}, {1, 3, 2, 2, 1, 8}, {1, 7, 1, 2, 1, 8}, {1, 7, 2, 2, 1, 8},
	{3, 3, 1, 1, 0, 8}, {3, 3, 1, 2, 0, 8}, {3, 3, 1, 2, 1, 8}, {3, 3, 2, 2, 0, 4}, {3, 3, 2, 2, 1, 4}, {3, 7, 1, 2, 1, 8}, {3, 7, 2, 2, 1, 4},
}

// stemParams is StemParams of stem.cu.
type stemParams struct {
	X, Y, Residual              Planes
	Weights, Bias               driver.Ptr
	In, Out                     [3]int32
	Kernel, Stride, Dilation    [3]int32
	Before                      [3]int32
	Cin, Cout, Padded, Z0, Z1   int32
	Origin, Shift, Phase        [3]int32
	Rows, Pitch, Width, Wide    int32
	Planes                      int32
	Across, Vectors, Activation int32
	ByWidth                     Divide
}

// buildStem compiles a convolution of few channels, or the gradient of one; false where this is none.
func buildStem(c *compiler, n *ir.Node, a op.ConvAttr, backward bool) (action, bool, error) {
	if n.Inputs[1].Shape()[1] > mostStemChannels || a.Groups != 1 {
		return nil, false, nil
	}
	if err := requireConstant(n.Inputs[1], "convolution weights"); err != nil {
		return nil, true, err
	}
	x, y := n.Inputs[0].Shape(), n.Out().Shape()
	if x[2]*x[3]*x[4] > math.MaxInt32 || y[2]*y[3]*y[4] > math.MaxInt32 {
		return nil, true, fmt.Errorf("a plane of %d or %d values is larger than a convolution can address", x[2]*x[3]*x[4], y[2]*y[3]*y[4])
	}
	w := n.Inputs[1].Shape()
	p := stemParams{In: int32s3([3]int(x[1:4])), Out: int32s3([3]int(y[1:4])), Kernel: int32s3([3]int(w[2:5])), Stride: int32s3(a.Stride),
		Dilation: int32s3(a.Dilation), Before: int32s3(a.Before), Cin: int32(x[4]), Cout: int32(y[4])}
	if backward {
		return buildStemGradient(c, n, a, p)
	}
	return buildStemForward(c, n, a, p)
}

// stemForm is the form of weights as [kz, ky, kx, cin][cout filled up to a multiple of padded].
type stemForm struct{ padded int }

func buildStemForward(c *compiler, n *ir.Node, a op.ConvAttr, p stemParams) (action, bool, error) {
	y, w := n.Out().Shape(), n.Inputs[1].Shape()
	cout, cin, kd, kh, kw := w[0], w[1], w[2], w[3], w[4]
	name := "stem_any"
	for _, k := range stemKernels {
		if k == (stemKernel{cin, kw, a.Stride[2]}) && a.Dilation[2] == 1 {
			name = fmt.Sprintf("stem_c%d_k%d_s%d", k.channels, k.kernel, k.stride)
		}
	}
	rows := (stemRows-1)*a.Stride[1] + (kh-1)*a.Dilation[1] + 1
	width := ((stemColumns-1)*a.Stride[2] + (kw-1)*a.Dilation[2] + 1) * cin
	pitch := ceilDiv(width, 4) * 4
	// A block makes 64 output channels, or 32 where that wastes less or 64 need too much shared memory.
	block, planes, shared := 64, 0, 0
	if ceilDiv(cout, 32)%2 == 1 {
		block = 32
	}
	for ; ; block = 32 {
		perPlane := 4 * (rows*pitch + kh*kw*cin*block)
		planes = min(kd, max(1, stemStage/perPlane))
		shared = min(2, ceilDiv(kd, planes)) * planes * perPlane // while a stage is computed the next one comes
		if shared <= c.backend.device.SharedPerBlock {
			break
		}
		if block == 32 {
			return nil, false, nil // the window is too large
		}
	}
	f, err := c.sharedKernel(fmt.Sprintf("%s_n%d", name, block), shared)
	if err != nil {
		return nil, true, err
	}
	groups := ceilDiv(cout, block)
	if in := c.in(0); a.Before[2]*cin%4 == 0 && int(p.In[2])*cin%4 == 0 && in.stride%16 == 0 {
		p.Wide, width = 1, pitch/4
	}
	p.Padded, p.Rows, p.Width, p.Pitch, p.ByWidth = int32(groups*block), int32(rows), int32(width), int32(pitch), divideBy(width)
	p.Planes, p.Across = int32(planes), int32(ceilDiv(y[3], stemColumns))
	if out := c.out(); cout%4 == 0 && out.stride%16 == 0 {
		p.Vectors = 1
	}
	taps := kd * kh * kw
	c.packed(1)
	weights := c.pack(n.Inputs[1], stemForm{block}, 4*taps*cin*groups*block, func(dst []byte) {
		out := as[float32](dst)
		for i, v := range n.Inputs[1].Const.Float32s() {
			co, ci, tap := i/taps/cin, i/taps%cin, i%taps
			out[(tap*cin+ci)*groups*block+co] = v
		}
	})
	tiles := int(p.Across) * ceilDiv(y[2], stemRows)
	return p.action(c, weights, func(q *queue, p *stemParams) error {
		return launch(q, f, [3]uint32{uint32(tiles), uint32(groups), uint32(p.Z1 - p.Z0)}, stemThreads, shared, p)
	}), true, nil
}

// stemGradientForm is the form of weights as [kz][cout/8][2][ky][kx][cin][4].
type stemGradientForm struct{}

func buildStemGradient(c *compiler, n *ir.Node, a op.ConvAttr, p stemParams) (action, bool, error) {
	x, y, w := n.Inputs[0].Shape(), n.Out().Shape(), n.Inputs[1].Shape()
	cout, cin, kd, kh, kw := w[0], w[1], w[2], w[3], w[4]
	var k stemGradientKernel
	var origin, shift, phase [3]int
	for i := range 3 {
		shift[i] = floorDiv(a.Before[i], a.Stride[i])
		phase[i] = a.Before[i] - a.Stride[i]*shift[i]
	}
	for _, row := range stemGradientKernels {
		if row.channels == cin && row.kernel == kw && row.strideZ == a.Stride[0] && row.stride == a.Stride[1] && row.stride == a.Stride[2] &&
			(k.points == 0 || row.phase == phase[2]) {
			k = row
		}
	}
	if k.points == 0 || a.Dilation != [3]int{1, 1, 1} {
		return nil, false, nil
	}
	if phase[2] != k.phase {
		origin[2] = (phase[2] - k.phase + k.stride) % k.stride
		shift[2] = floorDiv(a.Before[2]-origin[2]-k.phase, k.stride)
	}
	p.Origin, p.Shift, p.Phase = int32s3(origin), int32s3(shift), int32s3(phase)
	width := 4*k.points + ceilDiv(kw+k.phase, k.stride) - 1
	rows := stemGradientRows + ceilDiv(kh+phase[1], k.stride) - 1
	// Columns lie apart as spot says, and rows so that two of them are in different banks.
	pitch := (width-1)*stemGradientChunk + (width-1)/k.points*4 + stemGradientChunk
	pitch = ceilDiv(pitch-16, 32)*32 + 16
	chunks := ceilDiv(cout, stemGradientChunk)
	perPosition := kh * kw * cin * stemGradientChunk
	shared := 2 * 4 * (rows*pitch + k.strideZ*perPosition)
	if shared > c.backend.device.SharedPerBlock {
		return nil, false, nil // the window is too large
	}
	f, err := c.sharedKernel(k.name(), shared)
	if err != nil {
		return nil, true, err
	}
	p.Rows, p.Width, p.Pitch, p.ByWidth = int32(rows), int32(width), int32(pitch), divideBy(width)
	if in := c.in(0); x[4]%4 == 0 && in.stride%16 == 0 {
		p.Vectors = 1
	}
	p.Across = int32(ceilDiv(y[3]+origin[2], 4*k.points*k.stride))
	tiles := int(p.Across) * ceilDiv(y[2], stemGradientRows*k.stride)
	taps := kd * kh * kw
	c.packed(1)
	weights := c.pack(n.Inputs[1], stemGradientForm{}, 4*kd*chunks*perPosition, func(dst []byte) {
		out := as[float32](dst)
		for i, v := range n.Inputs[1].Const.Float32s() {
			co, ci, kz, inPlane := i/taps/cin, i/taps%cin, i%taps/(kh*kw), i%(kh*kw)
			at := (kz*chunks+co/stemGradientChunk)*2 + co%stemGradientChunk/4
			out[((at*kh*kw+inPlane)*cin+ci)*4+co%4] = v
		}
	})
	return p.action(c, weights, func(q *queue, p *stemParams) error {
		points := (p.Z1-1)/p.Stride[0] - p.Z0/p.Stride[0] + 1
		return launch(q, f, [3]uint32{uint32(tiles), uint32(points), 1}, stemGradientThreads, shared, p)
	}), true, nil
}

// sharedKernel finds a kernel that is launched with that many bytes of shared memory, and allows it as many.
func (c *compiler) sharedKernel(name string, shared int) (*driver.Function, error) {
	f, err := c.kernel(name)
	if err != nil || shared <= 48<<10 {
		return f, err
	}
	return f, f.SetDynamicShared(c.backend.device.SharedPerBlock)
}

// action runs a kernel for each sample; p has the parameters that do not change.
func (p stemParams) action(c *compiler, weights *devmem.Constant, run func(q *queue, p *stemParams) error) action {
	e := c.takeEpilogue()
	p.Activation = activationCode(e.activation)
	places, samples := c.inst.places, c.inst.samples
	return func(q *queue, z0, z1 int) error {
		p := p
		p.Weights, p.Z0, p.Z1 = weights.At(), int32(z0), int32(z1)
		if len(places) > 3 {
			p.Bias = q.planes(&places[2]).Data
		}
		for i := range samples {
			p.X, p.Y = q.image(&places[0], i), q.image(&places[len(places)-1], i)
			if p.Residual.Places = 1; e.residual != nil {
				p.Residual = q.image(e.residual, i)
			}
			if err := run(q, &p); err != nil {
				return err
			}
		}
		return nil
	}
}
