package cuda

import (
	"math"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/internal/backend/cuda/cudnn"
	"github.com/voxcam/voxcam/internal/backend/cuda/devmem"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
)

// Convolutions with fewer multiplications are not timed: with fewer than leastTuned launching is all that counts, and with fewer than
// leastEngines trying cuDNN's engines takes longer than it saves.
const (
	leastTuned   = 1 << 25
	leastEngines = 1 << 31
	// tunedBytes is about the size of the output that is timed.
	tunedBytes = 32 << 20
)

// mostWorkspace is the scratch memory that an engine may take. The fast ones on tensor cores need less.
const mostWorkspace = 16 << 20

// cudnnForm is the form of weights for cuDNN: [Cout, kd, kh, kw, Cin].
type cudnnForm struct{ half bool }

// cudnnStep is a stretch of planes as a problem of cuDNN.
type cudnnStep struct {
	z0, z1 int // output planes
	lo, hi int // input planes; those that are not there are zero
	plan   *cudnn.Plan
}

// tunedConv compiles a convolution for tensor cores in the fastest way; false where there is no choice.
func (c *compiler) tunedConv(n *ir.Node, a op.ConvAttr, backward bool) (action, bool, error) {
	t := c.backend.tuner
	if t == nil || a.Groups != 1 || c.inst.samples != 1 || n.Inputs[1].Const == nil {
		return nil, false, nil
	}
	v, err := newConvolution(n, a, backward)
	if err != nil {
		return nil, false, err
	}
	w := n.Inputs[1].Shape()
	products := v.out[0] * v.out[1] * v.out[2] * v.out[3] * v.macs()
	if products < leastTuned {
		return nil, false, nil
	}
	base := cudnn.Convolution{Backward: backward, Cin: w[1], Cout: w[0], Groups: 1, Kernel: v.kernel, Stride: a.Stride, Dilation: a.Dilation,
		Before: a.Before, After: a.After, Precision: cudnn.TF32, Align: 16, Bias: v.bias}
	if c.backend.options.Precision == BFloat16 && !backward { // its gradients cannot read float32: they are computed with more bits
		base.Precision = cudnn.BFloat16
	}
	if c.in(0).stride%16 != 0 || c.out().stride%16 != 0 {
		base.Align = 4
	}
	// Engines are timed on some planes in the middle, for any plan: all plans compute a layer alike, and share its weights.
	planes := min(v.out[0], max(1, tunedBytes/c.out().stride))
	middle := cudnnStep{z0: (v.out[0] - planes) / 2}
	middle.z1 = middle.z0 + planes
	problem, ok := slabProblem(base, plan.Slab, v, &middle)
	if !ok {
		return c.ownConv("tensor", n, a, backward)
	}
	engines := products >= leastEngines
	name, err := t.choose(problem, mostWorkspace, n, engines)
	if err != nil {
		return nil, false, err
	}
	if own, ok := strings.CutPrefix(name, cudnn.Own); ok {
		return c.ownConv(own, n, a, backward)
	}
	e := c.epilogue
	switch { // epilogues that engines do not have, or only with kernels that take seconds to make
	case backward || !v.bias, e.activation != "" && e.activation != "Relu", e.residual != nil && e.residual.wraps(c.plan, v.out[0]):
		e = epilogue{}
	}
	if e != (epilogue{}) {
		fused := base
		if fused.Residual = e.residual != nil; e.activation != "" {
			fused.Activation = "relu"
		}
		if problem, ok = slabProblem(fused, plan.Slab, v, &middle); !ok {
			return nil, false, nil
		}
		other, err := t.choose(problem, mostWorkspace, n, engines)
		if err != nil {
			return nil, false, err
		}
		if strings.HasPrefix(other, cudnn.Own) {
			e = epilogue{}
		} else {
			base, name = fused, other
		}
	}
	steps := c.ranges()
	for i := range steps {
		p, ok := slabProblem(base, c.mode, v, &steps[i])
		if ok {
			steps[i].plan = t.plan(p, name)
		}
		if steps[i].plan == nil { // the engine does not take the remainder at a border
			return c.ownConv("tensor", n, a, backward)
		}
	}
	return c.cudnnConv(n, v, steps, e, base.Precision == cudnn.BFloat16)
}

// ownConv compiles a convolution with the kernel of that name, or with those behind it in the table.
func (c *compiler) ownConv(name string, n *ir.Node, a op.ConvAttr, backward bool) (action, bool, error) {
	first := slices.IndexFunc(convKernels, func(k convKernel) bool { return k.name == name })
	for _, k := range convKernels[max(first, 0):] {
		if run, ok, err := k.build(c, n, a, backward); ok || err != nil {
			return run, ok, err
		}
	}
	return nil, false, nil
}

// cudnnConv compiles a convolution for engines of cuDNN, one for each stretch of planes.
func (c *compiler) cudnnConv(n *ir.Node, v *convolution, steps []cudnnStep, e epilogue, half bool) (action, bool, error) {
	w, backward := n.Inputs[1].Shape(), v.backward
	// Windows that wrap round in a ring, or reach beyond the first or the last plane, are brought together first.
	window, made, workspace := 0, 0, 0
	for _, s := range steps {
		if s.lo < 0 || s.hi > v.in[0] || c.in(0).wraps(c.plan, v.in[0]) {
			window = max(window, (s.hi-s.lo)*c.in(0).stride)
		}
		if c.out().wraps(c.plan, v.out[0]) {
			made = max(made, (s.z1-s.z0)*c.out().stride)
		}
		workspace = max(workspace, s.plan.Workspace)
	}
	window, made = devmem.Aligned(window), devmem.Aligned(made)
	c.needScratch(window + made + workspace)
	c.packed(1)
	bytes := 4
	if half {
		bytes = 2
	}
	weights := c.pack(n.Inputs[1], cudnnForm{half}, bytes*w.Elements(), func(dst []byte) {
		taps, x := w[2]*w[3]*w[4], n.Inputs[1].Const.Float32s()
		for co := range w[0] {
			for ci := range w[1] {
				for k := range taps {
					at, value := (co*taps+k)*w[1]+ci, x[(co*w[1]+ci)*taps+k]
					if half {
						as[uint16](dst)[at] = bfloat16(value)
					} else {
						as[float32](dst)[at] = value
					}
				}
			}
		}
	})
	if e != (epilogue{}) {
		c.takeEpilogue()
	}
	return func(q *queue, z0, z1 int) error {
		k := slices.IndexFunc(steps, func(s cudnnStep) bool { return s.z0 == z0 && s.z1 == z1 })
		s := &steps[k]
		in, out := &q.inst.places[0], &q.inst.places[len(q.inst.places)-1]
		at := cudnn.Addresses{W: weights.At(), Workspace: q.scratch + driver.Ptr(window+made)}
		x, err := q.together(in, s.lo, s.hi, v.in[0], q.scratch)
		if err != nil {
			return err
		}
		y, wraps := q.stretch(out, z0, z1)
		if wraps {
			y = q.scratch + driver.Ptr(window)
		}
		if at.X, at.Y = x, y; backward {
			at.X, at.Y = y, x
		}
		if v.bias {
			at.Bias = q.planes(&q.inst.places[2]).Data
		}
		if e.residual != nil {
			at.Residual, _ = q.stretch(e.residual, z0, z1)
		}
		if err := s.plan.Run(at); err != nil {
			return err
		}
		if !wraps {
			return nil
		}
		return q.apart(out, z0, z1, y)
	}, true, nil
}

// ranges returns the different stretches of planes that steps of the instance make.
func (c *compiler) ranges() []cudnnStep {
	if c.mode == plan.Whole {
		return []cudnnStep{{z0: 0, z1: c.depth}}
	}
	var list []cudnnStep
	for i := range c.plan.Steps {
		s := &c.plan.Steps[i]
		if s.Node != c.node || s.Mode != c.mode || !slices.Equal(s.In, c.inst.in) || !slices.Equal(s.Out, c.inst.out) {
			continue
		}
		if !slices.ContainsFunc(list, func(o cudnnStep) bool { return o.z0 == s.Z0 && o.z1 == s.Z1 }) {
			list = append(list, cudnnStep{z0: s.Z0, z1: s.Z1})
		}
	}
	return list
}

// slabProblem returns the convolution that makes output planes [z0, z1) of another one. On slabs the planes that are read are
// those of the full windows, with the padding along depth among them: so all slabs are alike, and engines that only take the same
// padding on both sides will do. It is false where there is no such convolution.
func slabProblem(p cudnn.Convolution, mode plan.Mode, v *convolution, s *cudnnStep) (cudnn.Convolution, bool) {
	stride, reach := p.Stride[0], p.Dilation[0]*(p.Kernel[0]-1)+1
	if s.lo, s.hi = 0, v.in[0]; s.z0 == 0 && s.z1 == v.out[0] {
		mode = plan.Whole
	}
	if mode == plan.Slab && p.Backward {
		s.lo, s.hi = ceilDivSigned(s.z0+p.Before[0]-reach+1, stride), floorDiv(s.z1-1+p.Before[0], stride)+1
	} else if mode == plan.Slab {
		s.lo, s.hi = s.z0*stride-p.Before[0], (s.z1-1)*stride-p.Before[0]+reach
	}
	read, made := [3]int{s.hi - s.lo, v.in[1], v.in[2]}, [3]int{s.z1 - s.z0, v.out[1], v.out[2]}
	if p.Backward {
		p.In, p.Out = made, read
		p.Before[0] += s.z0 - s.lo*stride
	} else {
		p.In, p.Out = read, made
		p.Before[0] += s.lo - s.z0*stride
	}
	p.After[0] = (p.Out[0]-1)*stride + reach - p.In[0] - p.Before[0]
	for i := range 3 {
		if p.Before[i] < 0 || p.After[i] <= -p.Stride[i] {
			return p, false
		}
		p.After[i] = max(p.After[i], 0) // rows that no window reaches
	}
	return p, read[0] > 0
}

// bfloat16 rounds to the nearest, ties to even.
func bfloat16(x float32) uint16 {
	bits := math.Float32bits(x)
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}
