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

// classify runs the network on the volume, and settles the class that is explained. It uses the program that goes on from there.
func (e *Explanation) classify(ctx context.Context, layer bool) error {
	if err := e.executor.BeforePass(ctx); err != nil {
		return err
	}
	p, logits, err := e.forward(ctx, !layer, e.net.Buffers.Volume)
	if err != nil {
		return err
	}
	e.ready = p
	e.executor.VolumeRead()
	e.countPass()
	r := &e.result
	for i, l := range logits {
		if math.IsNaN(float64(l)) || math.IsInf(float64(l), 0) {
			return fmt.Errorf("the score of class %d is %v: the volume drives the model out of its range (is it scaled as in training?)", i, l)
		}
		if l > logits[r.Predicted] {
			r.Predicted = i
		}
	}
	r.Logits, r.Probabilities = logits, softmax(logits)
	r.TargetClass = r.Predicted
	if e.req.Target.Class.Kind != cam.ClassPredicted {
		r.TargetClass = e.req.Target.Class.Index
	}
	return nil
}

func softmax(logits []float32) []float64 {
	top := slices.Max(logits)
	p, sum := make([]float64, len(logits)), 0.0
	for i, l := range logits {
		p[i] = math.Exp(float64(l - top))
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}

// forward runs the network at x up to the class scores.
func (e *Explanation) forward(ctx context.Context, input bool, x backend.Field) (p *network.Gradient, logits []float32, err error) {
	if p, err = e.net.GradientAt(ctx, input); err == nil {
		e.ready = nil
		logits, err = p.Forward(ctx, x)
	}
	return p, logits, err
}

// gradient runs a pass at x: at the volume, on from classify if nothing came between.
func (e *Explanation) gradient(ctx context.Context, input bool, x backend.Field) (*network.Gradient, error) {
	if p := e.ready; p != nil && p.Input == input && x == e.net.Buffers.Volume {
		e.ready = nil
		return p, p.Backward(ctx, e.result.TargetClass)
	}
	if err := e.executor.BeforePass(ctx); err != nil {
		return nil, err
	}
	p, err := e.net.GradientAt(ctx, input)
	if err != nil {
		return nil, err
	}
	e.ready = nil
	return p, p.Both(ctx, x, e.result.TargetClass)
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

// scoreAt returns the score of the target class at x.
func (e *Explanation) scoreAt(ctx context.Context, x backend.Field) (float32, error) {
	_, logits, err := e.forward(ctx, true, x)
	if err != nil {
		return 0, err
	}
	e.countPass()
	score := logits[e.result.TargetClass]
	if math.IsNaN(float64(score)) || math.IsInf(float64(score), 0) {
		return 0, fmt.Errorf("the score of class %d is %v at the baseline: choose another one", e.result.TargetClass, score)
	}
	return score, nil
}
