package cuda

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/voxcam/voxcam/internal/backend/cuda/cudnn"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/dl"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
)

// tuner chooses between cuDNN's engines and our own kernels for a convolution, by timing them once. What was the fastest is remembered
// on disk.
type tuner struct {
	backend *Backend
	library *cudnn.Library
	handle  *cudnn.Handle
	cache   *cudnn.Cache
	plans   map[cudnn.Convolution]*cudnn.Plan // nil where our kernels are faster
	busy    bool                              // timing our own kernels
	err     error                             // why there is no cuDNN
}

// newTuner opens cuDNN. It must run where the context is current.
func (b *Backend) newTuner() (t *tuner, err error) {
	t = &tuner{backend: b, cache: cudnn.OpenCache(cudnn.CacheDir()), plans: map[cudnn.Convolution]*cudnn.Plan{}}
	if t.library, err = cudnn.Open(dl.NVIDIADirs(b.options.Libraries)); err != nil {
		return nil, err
	}
	if t.handle, err = t.library.NewHandle(); err != nil {
		return nil, err
	}
	return t, t.handle.SetStream(b.stream.Handle())
}

func (t *tuner) close() error {
	if t == nil {
		return nil
	}
	var errs []error
	for _, p := range t.plans {
		if p != nil {
			p.Close()
		}
	}
	return errors.Join(append(errs, t.handle.Close(), t.cache.Save())...)
}

// plan is the engine for a problem, or nil where our kernels are faster. N is the node that the problem comes from.
func (t *tuner) plan(c cudnn.Convolution, limit int, n *ir.Node) (*cudnn.Plan, error) {
	if p, known := t.plans[c]; known {
		return p, nil
	}
	version, _ := t.backend.driver.Version()
	_, library := t.library.Version()
	device := t.backend.device
	key := cudnn.Key{Device: fmt.Sprintf("%s %d.%d", device.Name, device.Major, device.Minor), Library: library, Driver: version, Problem: c, Limit: limit}
	if choice, ok := t.cache.Lookup(key); ok {
		if choice.Engine == cudnn.NoEngine {
			t.plans[c] = nil
			return nil, nil
		}
		if p, err := t.handle.Rebuild(c, choice.Engine); err == nil {
			t.plans[c] = p
			return p, nil
		}
		t.cache.Forget(key)
	}
	p, seconds, err := t.fastest(c, limit, n)
	if err != nil {
		return nil, err
	}
	t.plans[c] = p
	choice := cudnn.Choice{Engine: cudnn.NoEngine, Seconds: seconds}
	if p != nil {
		choice = cudnn.Choice{Engine: p.Engine, Workspace: p.Workspace, Seconds: seconds}
	}
	t.cache.Store(key, choice)
	return p, nil
}

// fastest times our kernels and the engines of cuDNN. A problem that cuDNN does not take is left to ours.
func (t *tuner) fastest(c cudnn.Convolution, limit int, n *ir.Node) (best *cudnn.Plan, seconds float64, err error) {
	b := t.backend
	t.busy = true
	defer func() { t.busy = false }()
	g, x, w, y, err := alone(c, n)
	if err != nil {
		return nil, 0, err
	}
	p := &Program{backend: b, plan: plan.Make(g)}
	p.buffer = p.plan.BufferOf()
	defer func() { err = errors.Join(err, p.free()) }()
	if err := p.load(context.Background(), nil); err != nil {
		if driver.IsOutOfMemory(err) {
			return nil, math.Inf(1), nil // cuDNN would need as much
		}
		return nil, 0, err
	}
	if seconds, err = b.time(func() error { return p.enqueueSteps(context.Background(), 0, len(p.steps)) }); err != nil {
		return nil, 0, err
	}
	plans, err := t.handle.Candidates(c, limit)
	if err != nil {
		return nil, seconds, nil
	}
	extra := 4 * w.Shape().Elements()
	workspace := 0
	for _, k := range plans {
		workspace = max(workspace, k.Workspace)
	}
	residual := 0
	if c.Residual {
		residual = 4 * y.Shape().Elements()
	}
	round := func(n int) int { return ceilDiv(n, constantAlign) * constantAlign }
	memory, err := b.take(round(extra)+round(4*max(c.Cin, c.Cout))+round(residual)+workspace, "timing cuDNN's engines")
	if err != nil {
		for _, k := range plans {
			k.Close()
		}
		if driver.IsOutOfMemory(err) {
			err = nil
		}
		return nil, seconds, err
	}
	defer func() { err = errors.Join(err, memory.close()) }()
	at := cudnn.Addresses{X: p.address[p.buffer[x]], Y: p.address[p.buffer[y]], W: memory.at}
	if c.Backward {
		at.X, at.Y = at.Y, at.X
	}
	next := memory.at + driver.Ptr(round(extra))
	if c.Bias {
		at.Bias = next
	}
	next += driver.Ptr(round(4 * max(c.Cin, c.Cout)))
	if c.Residual {
		at.Residual = next
	}
	at.Workspace = next + driver.Ptr(round(residual))
	for _, k := range plans {
		s, failed := b.time(func() error { return k.Run(at) })
		if failed == nil && s < seconds {
			seconds = s
			if best != nil {
				best.Close()
			}
			best = k
			continue
		}
		k.Close()
	}
	return best, seconds, err
}

// time runs something once to warm up and takes the least time of three runs more.
func (b *Backend) time(run func() error) (seconds float64, err error) {
	var events [4]*driver.Event
	for i := range events {
		if events[i], err = b.context.NewEvent(true); err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, events[i].Close()) }()
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

// alone is a graph of nothing but a problem, with the weights and the bias of a node.
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
