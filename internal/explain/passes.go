package explain

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/network"
)

// classify runs the network on the volume, and settles the score that is explained. It uses the program that goes on from there.
func (e *Explanation) classify(ctx context.Context, layer bool) (err error) {
	if err := e.executor.BeforePass(ctx); err != nil {
		return err
	}
	r, h := &e.result, e.net.Head
	r.Head = h
	if e.others, err = e.net.Arrange(e.req.Inputs); err != nil {
		return err
	}
	if h.Task == cam.TaskSegmentation {
		if e.target, err = h.Settle(e.req.Target, 0); err != nil {
			return err
		}
	}
	p, raw, err := e.forward(ctx, !layer, e.net.Buffers.Volume)
	if err != nil {
		return err
	}
	e.ready = p
	e.executor.VolumeRead()
	e.countPass()
	if h.Task == cam.TaskSegmentation {
		return e.settleRegion(p, raw)
	}
	logits := h.Logits(raw)
	for i, l := range logits {
		if !finite(l) {
			return fmt.Errorf("the score of class %d is %v: the volume drives the model out of its range (is it scaled as in training?)", i, l)
		}
		if l > logits[r.Predicted] {
			r.Predicted = i
		}
	}
	if e.target, err = h.Settle(e.req.Target, r.Predicted); err != nil {
		return err
	}
	r.Logits, r.Probabilities, r.TargetClass = logits, h.Probabilities(logits), e.target.Class.Index
	r.Score.Definition = h.Define(e.target)
	r.Score.Value, e.seed = h.Score(e.target, logits)
	e.doubt = h.Doubt(logits)
	return nil
}

// settleRegion settles the voxels whose scores are summed, once the network has run on the volume.
func (e *Explanation) settleRegion(p *network.Gradient, scores []float32) error {
	r, h := &e.result, e.net.Head
	labels, err := p.Labels()
	if err != nil {
		return err
	}
	weights, voxels, err := e.target.Region.Select(h.Space, labels, e.target.Class.Index)
	if err != nil {
		return err
	}
	for i, s := range scores {
		if !finite(s) { // also outside the region, since the voxel's class is nothing then
			return fmt.Errorf("the score of voxel %d is %v: the volume drives the model out of its range (is it scaled as in training?)", i, s)
		}
	}
	r.Labels, r.TargetClass, r.Score.Definition = labels, e.target.Class.Index, h.Define(e.target)
	e.doubt = h.Doubt(nil)
	e.seed = weights
	r.Score.Value = e.score(scores)
	if voxels == 0 {
		e.doubt = fmt.Sprintf("no voxel is in the region: %s", e.target.Region)
	}
	return nil
}

func finite(x float32) bool { return x-x == 0 }

// program returns the program for a pass, which is run next.
func (e *Explanation) program(ctx context.Context, input bool) (*network.Gradient, error) {
	p, err := e.net.GradientAt(ctx, input)
	if err != nil {
		return nil, err
	}
	e.ready = nil
	p.Give(e.others)
	if h := e.net.Head; h.Task == cam.TaskSegmentation {
		p.Weigh(h.ClassWeights(e.target))
	}
	return p, nil
}

// forward runs the network at x up to the output's raw values.
func (e *Explanation) forward(ctx context.Context, input bool, x backend.Field) (p *network.Gradient, raw []float32, err error) {
	if p, err = e.program(ctx, input); err == nil {
		raw, err = p.Forward(ctx, x)
	}
	return p, raw, err
}

// gradient runs a pass at x: at the volume, on from classify if nothing came between.
func (e *Explanation) gradient(ctx context.Context, input bool, x backend.Field) (*network.Gradient, error) {
	if p := e.ready; p != nil && p.Input == input && x == e.net.Buffers.Volume {
		e.ready = nil
		return p, p.Backward(ctx, e.seed)
	}
	if err := e.executor.BeforePass(ctx); err != nil {
		return nil, err
	}
	if !e.net.Head.Linear(e.target) {
		p, raw, err := e.forward(ctx, input, x)
		if err != nil {
			return nil, err
		}
		_, seed := e.net.Head.Score(e.target, e.net.Head.Logits(raw))
		return p, p.Backward(ctx, seed)
	}
	p, err := e.program(ctx, input)
	if err != nil {
		return nil, err
	}
	return p, p.Both(ctx, x, e.seed)
}

// layer runs the pass that methods at the layer look at: nothing behind classify, if they look at the activation alone.
func (e *Explanation) layer(ctx context.Context, which []int) (*network.Gradient, error) {
	gradient := slices.ContainsFunc(which, func(i int) bool { return e.choices[i].Convention.UsesGradient() })
	if p := e.ready; p != nil && !gradient && p.Activated() {
		return p, nil
	}
	return e.gradient(ctx, false, e.net.Buffers.Volume)
}

// inputGradient returns the gradient at x, valid until the next run.
func (e *Explanation) inputGradient(ctx context.Context, x backend.Field) (backend.Field, error) {
	p, err := e.gradient(ctx, true, x)
	if err != nil {
		return nil, err
	}
	e.countPass()
	return p.Program.Field(p.Gradient)
}

// score returns the score that is explained, from raw values of the output.
func (e *Explanation) score(raw []float32) (value float64) {
	if e.net.Head.Task != cam.TaskSegmentation {
		value, _ = e.net.Head.Score(e.target, e.net.Head.Logits(raw))
		return value
	}
	for i, w := range e.seed {
		value += float64(w) * float64(raw[i])
	}
	return value
}

// scoreAt returns the score at x.
func (e *Explanation) scoreAt(ctx context.Context, x backend.Field) (float32, error) {
	_, raw, err := e.forward(ctx, true, x)
	if err != nil {
		return 0, err
	}
	e.countPass()
	score := e.score(raw)
	if math.IsNaN(score) || math.IsInf(score, 0) {
		return 0, fmt.Errorf("the %s is %v at the baseline: choose another one", e.result.Score.Definition, score)
	}
	return float32(score), nil
}
