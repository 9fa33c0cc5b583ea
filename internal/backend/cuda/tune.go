package cuda

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/internal/backend/cuda/cudnn"
	"github.com/voxcam/voxcam/internal/backend/cuda/devmem"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/dl"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
)

// tuner chooses between our own kernels and cuDNN's engines for convolutions on tensor cores, by timing them once. The fastest is
// remembered on disk. In strict float32 there is nothing to choose: our kernels are as fast, and take no workspace.
type tuner struct {
	backend *Backend
	library *cudnn.Library // nil without cuDNN
	handle  *cudnn.Handle
	missing error // the reason why there is no cuDNN
	cache   *cudnn.Cache
	plans   map[cudnn.Convolution]*cudnn.Plan
	choices map[cudnn.Convolution]string // names of engines, or of our kernels with the prefix cudnn.Own
	forced  string                       // while one of our kernels is timed, its name
}

// newTuner opens cuDNN, if it is there. It must run where the context is current.
func (b *Backend) newTuner() *tuner {
	t := &tuner{backend: b, cache: cudnn.OpenCache(cudnn.CacheDir()), plans: map[cudnn.Convolution]*cudnn.Plan{}, choices: map[cudnn.Convolution]string{}}
	if !b.options.Cudnn {
		t.missing = errors.New("cuDNN is not used")
		return t
	}
	if t.library, t.missing = cudnn.Open(dl.NVIDIADirs(b.options.Libraries)); t.missing != nil {
		return t
	}
	if t.handle, t.missing = t.library.NewHandle(); t.missing != nil {
		return t
	}
	if t.missing = t.handle.SetStream(b.stream.Handle()); t.missing != nil {
		t.missing = errors.Join(t.missing, t.handle.Close())
		t.handle = nil
	}
	return t
}

func (t *tuner) close() error {
	if t == nil {
		return nil
	}
	for _, p := range t.plans {
		p.Close()
	}
	var err error
	t.plans = nil
	if t.handle != nil {
		err = t.handle.Close()
		t.handle = nil
	}
	return errors.Join(err, t.cache.Save())
}

// key returns the key under which the choice for a problem is remembered.
func (t *tuner) key(c cudnn.Convolution, limit int) cudnn.CacheKey {
	k := cudnn.CacheKey{Device: fmt.Sprintf("%s %d.%d", t.backend.device.Name, t.backend.device.Major, t.backend.device.Minor), Problem: c, Limit: limit}
	k.Driver, _ = t.backend.driver.Version() // 0 is a version like any other here
	if t.library != nil {
		_, k.Library = t.library.Version()
	}
	return k
}

// choose names the fastest way to compute a problem that comes from node n: an engine of cuDNN with at most limit bytes of workspace, or one
// of our kernels. Engines are tried if it is large enough for that to pay.
func (t *tuner) choose(c cudnn.Convolution, limit int, n *ir.Node, engines bool) (string, error) {
	if name, known := t.choices[c]; known {
		return name, nil
	}
	if choice, ok := t.cache.Lookup(t.key(c, limit)); ok {
		if strings.HasPrefix(choice.Engine, cudnn.Own) || t.plan(c, choice.Engine) != nil {
			t.choices[c] = choice.Engine
			return choice.Engine, nil
		}
		t.cache.Forget(t.key(c, limit))
	}
	best, err := t.fastest(c, limit, n, engines)
	if err != nil {
		return "", err
	}
	t.choices[c] = best.Engine
	t.cache.Store(t.key(c, limit), best)
	return best.Engine, nil
}

// plan sets an engine up for a problem; nil if that does not work.
func (t *tuner) plan(c cudnn.Convolution, engine string) *cudnn.Plan {
	p := t.plans[c]
	if p != nil && p.Engine == engine {
		return p
	}
	if t.handle == nil {
		return nil
	}
	made, err := t.handle.Rebuild(c, engine)
	if err != nil {
		return nil
	}
	if p != nil {
		p.Close()
	}
	t.plans[c] = made
	return made
}

// fastest times our kernels and the engines of cuDNN.
func (t *tuner) fastest(c cudnn.Convolution, limit int, n *ir.Node, engines bool) (best cudnn.Choice, err error) {
	g, x, w, y, err := alone(c, n)
	if err != nil {
		return best, err
	}
	best.Seconds = math.Inf(1)
	whole := plan.Make(g)
	for _, k := range convKernels {
		if !k.tuned {
			continue
		}
		s, err := t.timeOwn(k.name, whole)
		switch {
		case errors.Is(err, errNotTaken):
		case driver.IsOutOfMemory(err) && best.Engine != "": // the best so far is good enough
		case err != nil:
			return best, err
		case s < best.Seconds:
			best = cudnn.Choice{Engine: cudnn.Own + k.name, Seconds: s}
		}
	}
	if !engines || t.handle == nil {
		return best, nil
	}
	plans, err := t.handle.Candidates(c, limit)
	if err != nil {
		return best, nil // it has none
	}
	fastest, err := t.timeEngines(c, plans, x, w, y, best)
	if fastest != nil {
		t.plans[c] = fastest
	}
	for _, p := range plans {
		if p != fastest {
			p.Close()
		}
	}
	if driver.IsOutOfMemory(err) {
		err = nil
	}
	if fastest == nil || err != nil {
		return best, err
	}
	return cudnn.Choice{Engine: fastest.Engine, Workspace: fastest.Workspace, Seconds: best.Seconds}, nil
}

// timeOwn times one of our kernels on a plan of nothing but a convolution.
func (t *tuner) timeOwn(name string, whole *plan.Plan) (seconds float64, err error) {
	t.forced = name
	defer func() { t.forced = "" }()
	p := &Program{backend: t.backend, plan: whole, buffer: whole.BufferOf()}
	defer func() { err = errors.Join(err, p.free()) }()
	if err := p.load(context.Background(), nil); err != nil {
		return 0, err
	}
	return t.backend.measure(func() error { return p.enqueueSteps(context.Background(), 0, len(p.steps)) })
}

// timeEngines finds an engine that is faster than the best so far.
func (t *tuner) timeEngines(c cudnn.Convolution, plans []*cudnn.Plan, x, w, y *ir.Value, best cudnn.Choice) (fastest *cudnn.Plan, err error) {
	var at cudnn.Addresses
	bytes, workspace := 0, 0
	place := func(to *driver.Ptr, n int) {
		*to = driver.Ptr(bytes)
		bytes += devmem.Aligned(n)
	}
	for _, p := range plans {
		workspace = max(workspace, p.Workspace)
	}
	place(&at.X, 4*x.Shape().Elements())
	place(&at.Y, 4*y.Shape().Elements())
	place(&at.W, 4*w.Shape().Elements())
	place(&at.Bias, 4*max(c.Cin, c.Cout))
	if c.Residual {
		place(&at.Residual, 4*y.Shape().Elements())
	}
	place(&at.Workspace, workspace)
	memory, err := t.backend.memory.Allocate(bytes, "timing cuDNN's engines")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, memory.Close()) }()
	if c.Backward {
		at.X, at.Y = at.Y, at.X
	}
	for _, a := range []*driver.Ptr{&at.X, &at.Y, &at.W, &at.Bias, &at.Residual, &at.Workspace} {
		*a += memory.At()
	}
	if !c.Bias {
		at.Bias = 0
	}
	if !c.Residual {
		at.Residual = 0
	}
	for _, p := range plans {
		// One that does not run is not the fastest.
		if s, err := t.backend.measure(func() error { return p.Run(at) }); err == nil && s < best.Seconds {
			fastest, best.Seconds = p, s
		}
	}
	return fastest, nil
}

// measure runs something once to warm up and takes the least time of three runs more.
func (b *Backend) measure(run func() error) (seconds float64, err error) {
	var events [4]*driver.Event
	for i := range events {
		if events[i], err = b.context.NewEvent(true); err != nil {
			return 0, err
		}
		defer func() { _ = b.memory.End(events[i].Close) }() // a refused call is tried again
	}
	for i := range events {
		if err := run(); err != nil {
			return 0, err
		}
		if err := events[i].Record(b.stream); err != nil {
			return 0, err
		}
	}
	if err := b.stream.Synchronize(); err != nil {
		return 0, err
	}
	var times []float64
	for i := 1; i < len(events); i++ {
		s, err := events[i].Elapsed(events[i-1])
		if err != nil {
			return 0, err
		}
		times = append(times, s)
	}
	return slices.Min(times), nil
}

// alone returns a graph of nothing but a problem, with the weights and the bias of a node.
func alone(c cudnn.Convolution, n *ir.Node) (g *ir.Graph, x, w, y *ir.Value, err error) {
	g = &ir.Graph{}
	b := ir.NewBuilder(g)
	inputs := append([]*ir.Value(nil), n.Inputs...)
	a := op.ConvAttr{Stride: c.Stride, Dilation: c.Dilation, Before: c.Before, After: c.After, Groups: c.Groups}
	w = n.Inputs[1]
	if c.Backward {
		x = g.Input("dy", ir.F32(1, c.Out[0], c.Out[1], c.Out[2], c.Cout))
		inputs[0] = x
		y = b.Emit(op.ConvBackwardData, op.ConvBackwardDataAttr{Conv: a, In: c.In}, inputs...)
	} else {
		x = g.Input("x", ir.F32(1, c.In[0], c.In[1], c.In[2], c.Cin))
		inputs[0] = x
		y = b.Emit(op.Conv, a, inputs...)
	}
	if err := b.Err(); err != nil {
		return nil, nil, nil, nil, err
	}
	g.Outputs = []*ir.Value{y}
	return g, x, w, y, nil
}
