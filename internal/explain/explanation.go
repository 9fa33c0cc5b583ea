package explain

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/volume"
)

// explanation is the state of explaining one volume. It is computed in attempts, each of which does what the ones before have left.
type explanation struct {
	model     *Model
	net       *network.Network
	req       cam.Request
	volume    *volume.Volume
	choices   []cam.Choice
	byKind    map[network.Kind][]int // indices of choices
	needs     network.Needs
	result    *cam.Result
	done      int // passes through the network
	total     int
	samplings []*sampling       // of methods that have points of their own
	scores    map[int][]float32 // by method: those of its points
	verified  bool              // maps were compared with what their theory says
	ready     *network.Gradient // the program that has gone forward on the volume, and no further
	stay      bool              // maps and heatmaps are left where they are made
	atOnce    bool              // maps and heatmaps are brought before anything else is done

	low, high float32       // of the volume
	waits     backend.Field // device buffer in which the volume waits; nil while only the caller has it
	there     backend.Field // device buffer that the network reads it from; nil while it is not there
	entered   func()        // called when the buffer in which the volume waited is free; may be nil
	back      returns

	adjust   bool // the next attempt may use more memory than the one before
	tries    tries
	quiet    bool // events are kept for the next volume
	eventsMu sync.Mutex
}

// begin fills what does not depend on the device: the methods, and the passes through the network that they need.
func (e *explanation) begin(choices []cam.Choice) (err error) {
	e.choices, e.byKind, e.scores = choices, map[network.Kind][]int{}, map[int][]float32{}
	e.result.Methods = make([]cam.MethodResult, len(choices))
	for i, c := range choices {
		e.result.Methods[i] = cam.MethodResult{
			Method: c.Name, HeatDims: e.volume.Dims(), Parameters: map[string]any{"convention": c.Convention.Name},
		}
		e.byKind[network.KindOf(c)] = append(e.byKind[network.KindOf(c)], i)
	}
	e.needs = network.NeedsOf(choices, e.volume.Voxels(), e.volume.Channels)
	e.total = 1 + min(len(e.byKind[network.AtInput]), 1)
	e.samplings, err = e.sharePoints(e.byKind[network.AtPoints])
	for _, s := range e.samplings {
		e.total += s.points.Len
	}
	return err
}

// attempt does the remaining work.
func (e *explanation) attempt(ctx context.Context) error {
	if err := e.model.ready(ctx, e, e.needs); err != nil {
		return err
	}
	if err := e.bring(); err != nil {
		return err
	}
	return e.run(ctx)
}

// bring brings the volume to where the network reads it.
func (e *explanation) bring() (err error) {
	f := &e.net.Buffers
	if e.there != nil && e.there == f.Volume {
		return nil
	}
	if e.waits != nil && e.waits == f.Ahead {
		err = e.net.Backend.Copy(f.Volume, f.Ahead)
	} else {
		err = e.net.Backend.Upload(f.Volume, e.volume.Data, e.volume.Channels)
	}
	if err == nil {
		e.there = f.Volume
	}
	return err
}

// run explains the volume with every method that is left. The methods that look at the layer share one pass, those that look at the input
// another, and those with the same points the evaluations. An error is one of the volume, or one to recover from; that of a method is its status.
func (e *explanation) run(ctx context.Context) (err error) {
	e.ready = nil
	if err := e.net.TakeOutputs(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.net.LeaveOutputs()) }()
	start := time.Now()
	if e.result.Logits == nil {
		which := e.left(network.AtLayer)
		if err := e.classify(ctx, len(which) > 0 && e.net.NoLayer == nil); err != nil {
			return err
		}
		e.spend(time.Since(start), which) // they go on from there
	}
	for _, k := range []struct {
		kind network.Kind
		run  func(context.Context, []int) error
	}{{network.AtLayer, e.layerMethods}, {network.AtInput, e.inputMethods}, {network.AtPoints, e.pointMethods}} {
		which := e.left(k.kind)
		if len(which) == 0 {
			continue
		}
		start = time.Now()
		err := k.run(ctx, which)
		e.spend(time.Since(start), which)
		if err := e.settle(ctx, err, which...); err != nil {
			return err
		}
	}
	return nil
}

// another returns why the tensor that method i looks at is not the one that was asked for; "" if it is.
func (e *explanation) another(i int) string {
	if e.result.Layer == nil || e.choices[i].Convention.Kind() != cam.AtLayer {
		return ""
	}
	return e.result.Layer.AnotherTensor
}

// left returns the methods of a kind that have no status yet.
func (e *explanation) left(k network.Kind) (which []int) {
	for _, i := range e.byKind[k] {
		if e.result.Methods[i].Status == "" {
			which = append(which, i)
		}
	}
	return which
}

// settle makes a fault of methods their status. It returns errors of the volume, and those that another attempt may mend.
func (e *explanation) settle(ctx context.Context, err error, which ...int) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil || e.model.recoverable(err):
		return err
	}
	e.fail(err, which...)
	return nil
}

// verify compares maps with the properties that their theory gives them.
func (e *explanation) verify() {
	if e.verified {
		return
	}
	e.verified = true
	for i, scores := range e.scores {
		m := &e.result.Methods[i]
		if m.Map == nil || m.Status == cam.StatusFailed {
			continue
		}
		figures, reason := e.choices[i].Verify(m.Map, e.result.Logits[e.result.TargetClass], scores)
		for name, value := range figures {
			m.Parameters[name] = value
		}
		if reason != "" {
			m.Degrade(reason)
		}
	}
}

func (e *explanation) fail(err error, which ...int) {
	for _, i := range which {
		if m := &e.result.Methods[i]; m.Status == "" {
			m.Status, m.Reason = cam.StatusFailed, err.Error()
		}
	}
}

// spend shares time among the methods that used it.
func (e *explanation) spend(t time.Duration, which []int) {
	for _, i := range which {
		e.result.Methods[i].Seconds += t.Seconds() / float64(len(which))
	}
}

func (e *explanation) pass() {
	e.done = min(e.done+1, e.total) // what is done again counts once
	if e.req.Progress != nil {
		e.req.Progress(e.done, e.total)
	}
}

// classify runs the network on the volume, and settles the class that is explained. It uses the program that goes on from there.
func (e *explanation) classify(ctx context.Context, layer bool) error {
	if err := e.between(ctx); err != nil {
		return err
	}
	p, err := e.net.GradientAt(ctx, !layer)
	if err != nil {
		return err
	}
	e.ready = nil
	logits, err := p.Forward(ctx, e.net.Buffers.Volume)
	if err != nil {
		return err
	}
	e.ready = p
	if e.entered != nil {
		e.entered()
	}
	e.pass()
	r := e.result
	for i, l := range logits {
		if math.IsNaN(float64(l)) || math.IsInf(float64(l), 0) {
			return fmt.Errorf("the score of class %d is %v: the model does not stand this volume (is it scaled as in training?)", i, l)
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
	top := logits[0]
	for _, l := range logits {
		top = max(top, l)
	}
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

// layerMethods goes on from classify, if nothing came between.
func (e *explanation) layerMethods(ctx context.Context, which []int) error {
	p, err := e.gradient(ctx, false, e.net.Buffers.Volume)
	if err != nil {
		return err
	}
	grid := e.net.Target.Grid
	for i, n := range e.volume.Dims() {
		e.result.CellSize[i] = float64(n) / float64(grid[i])
	}
	l, err := p.Layer(float64(e.result.Logits[e.result.TargetClass]))
	if err != nil {
		return err
	}
	signed := &e.net.Buffers.Signed
	for _, i := range which {
		if err := e.finish(ctx, i, signed, grid, e.net.Backend.LayerMap(signed.Free(), e.choices[i], l)); err != nil {
			return err
		}
	}
	return nil
}

func (e *explanation) inputMethods(ctx context.Context, which []int) error {
	f := &e.net.Buffers
	g, err := e.inputGradient(ctx, f.Volume)
	if err != nil {
		return err
	}
	for _, i := range which {
		s := f.Output(nil)
		made := e.net.Backend.InputMap(s.Free(), e.choices[i], f.Volume, g, e.volume.Channels)
		if err := e.finish(ctx, i, s, e.volume.Dims(), made); err != nil {
			return err
		}
	}
	return nil
}

// inputGradient returns the gradient at x, valid until the next run.
func (e *explanation) inputGradient(ctx context.Context, x backend.Field) (backend.Field, error) {
	p, err := e.gradient(ctx, true, x)
	if err != nil {
		return nil, err
	}
	e.pass()
	return p.Program.Field(p.Gradient)
}

// gradient runs a pass at x: at the volume, on from classify if nothing came between.
func (e *explanation) gradient(ctx context.Context, input bool, x backend.Field) (*network.Gradient, error) {
	if p := e.ready; p != nil && p.Input == input && x == e.net.Buffers.Volume {
		e.ready = nil
		return p, p.Backward(ctx, e.result.TargetClass)
	}
	if err := e.between(ctx); err != nil {
		return nil, err
	}
	p, err := e.net.GradientAt(ctx, input)
	if err != nil {
		return nil, err
	}
	e.ready = nil
	return p, p.Both(ctx, x, e.result.TargetClass)
}

// finish turns the map of method i, of size dims, into its result, unless there is none: the failure of a method is its status. The
// map may be where the heatmap is made. An error is one to recover from.
func (e *explanation) finish(ctx context.Context, i int, signed *network.Output, dims [3]int, err error) error {
	r, picture := &e.result.Methods[i], e.net.Buffers.Output(signed)
	if err == nil {
		err = e.take(i, signed, &r.Map)
	}
	var finding cam.Finding
	if err == nil {
		finding, err = e.net.Backend.Heatmap(picture.Free(), signed.Field, e.choices[i], dims, e.volume.Dims())
	}
	if err == nil {
		err = e.take(i, picture, &r.Heatmap)
	}
	if err != nil {
		return e.settle(ctx, err, i)
	}
	r.Dims, r.Status = dims, cam.StatusOK
	if finding != "" {
		r.Degrade(string(finding))
	}
	if e.low == e.high {
		r.Degrade(fmt.Sprintf("every voxel of the volume has the value %g, so that there is nothing in it to see", e.low))
	}
	if another := e.another(i); another != "" {
		r.Status = cam.StatusDegraded
		r.Reason = strings.TrimPrefix(r.Reason+"; "+another, "; ")
	}
	return nil
}
