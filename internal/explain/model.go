package explain

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/cam"
	"github.com/voxcam/voxcam/internal/noise"
	"github.com/voxcam/voxcam/internal/onnx"
	"github.com/voxcam/voxcam/internal/volume"
)

// Options say how a model is to be opened.
type Options struct {
	// TargetLayer is a PyTorch module path, or the name of a node or value in the file; "" is the last layer with spatial
	// extent.
	TargetLayer string
	// TokenGrid places the tokens of a layer in space: depth, height, width; zero infers it.
	TokenGrid [3]int
	// LayerLayout names the axes of the target layer, for example "NDHWC"; "" recognises them.
	LayerLayout string
	// Shape is [C, D, H, W] of the volumes to come, where it is known; zero sizes are taken from the model's file.
	Shape [4]int
	// Budget bounds the memory that computing takes.
	Budget Budget
	// Allow is what computing may take now, given how the memory of the device is used. It is asked before each volume and each pass
	// through the network; on a backend that is not backend.Resident, of an empty Usage. Nil: Budget, always.
	Allow func(backend.Usage) Budget
	// Shuttle says when the device's memory is given back between volumes, by backend.Resident.Vacate.
	Shuttle Shuttle
	// Ahead takes memory on a device for a volume besides the one that is explained, and for maps that are on their way back, as far
	// as plans do not suffer: for callers of Begin.
	Ahead bool
}

// Shuttle says when a model gives the memory of the device back, and brings the weights to the host, while no volume is explained.
type Shuttle uint8

const (
	ShuttleNever  Shuttle = iota
	ShuttleIdle           // when no volume has been begun for a while
	ShuttleAlways         // after each volume
)

// Model is an opened model on a backend. It implements Explainer. Its methods may be called by many goroutines, one at a time
// computes.
type Model struct {
	file    *onnx.Model
	opt     Options
	backend backend.Backend

	digest func() string // of the file; computed once

	// Who brings a volume to where it waits for its turn, or finds it there, holds begun (an element in the channel); who computes
	// holds mu. Who holds one may use net, who holds both may change it. Begun is taken first.
	begun chan struct{}
	mu    sync.Mutex
	net   *network
}

var _ Overlapping = (*Model)(nil)

// Open opens an ONNX file. When the shape of the volumes is known from the options or the file, the model is bound to it at
// once, and a target layer that does not exist is an error now.
func Open(path string, b backend.Backend, opt Options) (*Model, error) {
	file, err := onnx.Open(path)
	if err != nil {
		return nil, err
	}
	m := &Model{file: file, opt: opt, backend: b, digest: sync.OnceValue(file.SHA256), begun: make(chan struct{}, 1)}
	shape := m.boundShape()
	for _, d := range shape {
		if d <= 0 {
			return m, nil // bound by the first volume
		}
	}
	if err := m.bind(shape); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return m, nil
}

// boundShape fills the sizes that the options leave open from the file; -1 is unknown.
func (m *Model) boundShape() [4]int { return fillShape(m.file, m.opt.Shape) }

// fillShape takes the sizes that shape leaves open, [C, D, H, W], from the file; -1 is unknown.
func fillShape(file *onnx.Model, shape [4]int) [4]int {
	for i, d := range declaredShape(file) {
		if shape[i] <= 0 {
			shape[i] = d
		}
	}
	return shape
}

// fullShape is fillShape where every size must be known.
func fullShape(file *onnx.Model, shape [4]int) ([4]int, error) {
	shape = fillShape(file, shape)
	if slices.Min(shape[:]) < 1 {
		return shape, fmt.Errorf("%s leaves the size of the volume open: give --volume-shape channels,depth,height,width", file.Path)
	}
	return shape, nil
}

// declaredShape is [C, D, H, W] of the model's input as far as the file fixes it, -1 where it does not.
func declaredShape(file *onnx.Model) [4]int {
	shape := [4]int{-1, -1, -1, -1}
	inputs := file.Inputs()
	if len(inputs) == 0 || len(inputs[0].Dims) != 5 {
		return shape
	}
	for i, d := range inputs[0].Dims[1:] {
		if d.Size > 0 {
			shape[i] = int(d.Size)
		}
	}
	return shape
}

// alone waits until nobody else uses the model, and returns what lets others in again.
func (m *Model) alone() (leave func()) {
	m.begun <- struct{}{}
	m.mu.Lock()
	return func() {
		m.mu.Unlock()
		<-m.begun
	}
}

// Bind prepares the model for volumes of a shape, [C, D, H, W], as the first volume of that shape would.
func (m *Model) Bind(shape [4]int) error {
	defer m.alone()()
	return m.bind(shape)
}

// bind makes m.net fit the shape.
func (m *Model) bind(shape [4]int) error {
	if m.net != nil && m.net.shape == shape {
		return nil
	}
	net, err := newNetwork(m.file, shape, m.opt, m.backend)
	if err != nil {
		if declared := declaredShape(m.file); slices.Contains(declared[:], -1) {
			return fmt.Errorf("for a volume of shape %v [C D H W]: %w", shape, err)
		}
		return err
	}
	if m.net != nil {
		if err := m.net.close(); err != nil {
			return err
		}
	}
	m.net = net
	return nil
}

// Close gives the model's memory back. Work must have been ended.
func (m *Model) Close() error {
	defer m.alone()()
	var err error
	if m.net != nil {
		err = m.net.close()
		m.net = nil
	}
	if r, ok := m.backend.(backend.Resident); ok {
		_, trim := r.Trim(0)
		err = errors.Join(err, trim)
	}
	return errors.Join(err, m.file.Close())
}

// Info implements Explainer. What depends on the volume's shape is unknown (zero) until one is bound.
func (m *Model) Info() Info {
	m.mu.Lock()
	defer m.mu.Unlock()
	info := Info{Path: m.file.Path, SHA256: m.digest(), InputShape: m.boundShape()}
	if m.net != nil {
		info.Classes = m.net.classCount
		info.TargetLayer = m.net.target.Label
		info.Warnings, info.Notes = m.net.target.Warnings, m.net.target.Notes
	}
	return info
}

// Prepare makes the plans that methods need ready for the shape that the model is bound to, so that a budget that is too small, a
// *BudgetError, is known before the work. It does nothing for a model that is not bound yet.
func (m *Model) Prepare(ctx context.Context, methods []string) error {
	defer m.alone()()
	choices, err := cam.Choose(methods, nil)
	if err != nil || m.net == nil {
		return err
	}
	return m.net.prepare(ctx, needsOf(choices, m.net.voxels(), m.net.shape[0]))
}

// Explain implements Explainer.
func (m *Model) Explain(ctx context.Context, v *volume.Volume, req Request) (*Result, error) {
	w, err := m.Begin(ctx, v, req)
	if err != nil {
		return nil, err
	}
	if err := w.Compute(ctx); err != nil {
		return nil, err
	}
	return w.Result()
}

// explanation is the work on one volume.
type explanation struct {
	net     *network
	req     Request
	volume  *volume.Volume
	choices []cam.Choice
	byKind  map[kind][]int // indices of choices
	result  *Result
	done    int // passes through the network
	total   int
	ready   *gradient // the program that has gone forward on the volume, and no further
	stay    bool      // maps and heatmaps are left where they are made

	low, high float32 // of the volume
	entered   func()  // called when nothing reads the place any more where the volume waited; nil for nothing
	back      returns
}

// prepare checks the methods, and makes the programs and fields that they need.
func (e *explanation) prepare(ctx context.Context, choices []cam.Choice) error {
	e.choices, e.byKind = choices, map[kind][]int{}
	e.result.Methods = make([]MethodResult, len(choices))
	var able []cam.Choice
	for i, c := range choices {
		e.result.Methods[i] = MethodResult{
			Method: c.Name, HeatDims: e.volume.Dims(), Parameters: map[string]any{"convention": c.Convention.Name},
		}
		if err := c.Check(cam.Parameters{Draws: e.req.NSamples, NoiseLevel: e.req.NoiseLevel}); err != nil {
			e.fail(err, i)
			continue
		}
		e.byKind[kindOf(c)] = append(e.byKind[kindOf(c)], i)
		able = append(able, c)
	}
	e.total = 1 + min(len(e.byKind[atInput]), 1) + min(len(e.byKind[byDraws]), 1)*e.req.NSamples
	return e.net.prepare(ctx, needsOf(able, e.net.voxels(), e.net.shape[0]))
}

// upload brings the volume to where the network reads it.
func (e *explanation) upload() error {
	return e.net.backend.Upload(e.net.fields.volume, e.volume.Data, e.volume.Channels)
}

// run explains the volume with every method. The methods that look at the layer share one pass, those that look at the input
// another, and those that draw share the draws.
func (e *explanation) run(ctx context.Context) (err error) {
	if err := e.net.takePictures(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.net.leavePictures()) }()
	start := time.Now()
	if err := e.classify(ctx, len(e.byKind[atLayer]) > 0 && e.net.noLayer == nil); err != nil {
		return err
	}
	if which := e.byKind[atLayer]; len(which) > 0 { // they go on from there
		e.spend(time.Since(start), which)
	}
	for _, k := range []struct {
		kind kind
		run  func(context.Context, []int) error
	}{{atLayer, e.layerMethods}, {atInput, e.inputMethods}, {byDraws, e.drawMethods}} {
		which := e.byKind[k.kind]
		if len(which) == 0 {
			continue
		}
		start = time.Now()
		if err := k.run(ctx, which); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			e.fail(err, which...)
		}
		e.spend(time.Since(start), which)
	}
	return nil
}

// kind says which pass through the network a method takes part in.
type kind int

const (
	atLayer kind = iota
	atInput
	byDraws
)

func kindOf(c cam.Choice) kind {
	switch needs := c.Convention.Needs; {
	case needs.Has(cam.Draws):
		return byDraws
	case needs.Has(cam.LayerGradient):
		return atLayer
	}
	return atInput
}

func (e *explanation) fail(err error, which ...int) {
	for _, i := range which {
		if m := &e.result.Methods[i]; m.Status == "" {
			m.Status, m.Reason = StatusFailed, err.Error()
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
	e.done++
	if e.req.Progress != nil {
		e.req.Progress(e.done, e.total)
	}
}

// classify runs the network on the volume, and settles the class that is explained. It uses the program that goes on from there.
func (e *explanation) classify(ctx context.Context, layer bool) error {
	p, err := e.net.gradientAt(ctx, !layer)
	if err != nil {
		return err
	}
	e.ready = nil
	logits, err := p.forward(ctx, e.net.fields.volume)
	if err != nil {
		return err
	}
	e.ready = p
	if e.entered != nil {
		e.entered()
	}
	e.pass()
	r := e.result
	r.Logits = logits
	for i, l := range logits {
		if math.IsNaN(float64(l)) || math.IsInf(float64(l), 0) {
			return fmt.Errorf("the score of class %d is %v: the model does not stand this volume (is it scaled as in training?)", i, l)
		}
		if l > logits[r.Predicted] {
			r.Predicted = i
		}
	}
	r.Probabilities = softmax(logits)
	r.TargetClass = r.Predicted
	if e.req.Class.Kind != ClassPredicted {
		r.TargetClass = e.req.Class.Index
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

// layerMethods goes on from classify.
func (e *explanation) layerMethods(ctx context.Context, which []int) error {
	p, err := e.net.gradientAt(ctx, false)
	if err != nil {
		return err
	}
	e.ready = nil
	if err := p.backward(ctx, e.result.TargetClass); err != nil {
		return err
	}
	grid := e.net.target.Grid
	for i, n := range e.volume.Dims() {
		e.result.CellSize[i] = float64(n) / float64(grid[i])
	}
	voxels := grid[0] * grid[1] * grid[2]
	l, err := p.layer(voxels, float64(e.result.Logits[e.result.TargetClass]))
	if err != nil {
		return err
	}
	signed := &e.net.fields.signed
	for _, i := range which {
		e.finish(i, signed, grid, e.net.backend.LayerMap(signed.free(), e.choices[i], l))
	}
	return nil
}

func (e *explanation) inputMethods(ctx context.Context, which []int) error {
	f := &e.net.fields
	g, err := e.inputGradient(ctx, f.volume)
	if err != nil {
		return err
	}
	for _, i := range which {
		s := f.slide(nil)
		e.finish(i, s, e.volume.Dims(), e.net.backend.InputMap(s.free(), e.choices[i], f.volume, g, e.volume.Channels))
	}
	return nil
}

// inputGradient is the gradient at x until the next run.
func (e *explanation) inputGradient(ctx context.Context, x backend.Field) (backend.Field, error) {
	p, err := e.net.gradientAt(ctx, true)
	if err != nil {
		return nil, err
	}
	if e.ready == p && x == e.net.fields.volume {
		err = p.backward(ctx, e.result.TargetClass)
	} else {
		err = p.both(ctx, x, e.result.TargetClass)
	}
	e.ready = nil
	if err != nil {
		return nil, err
	}
	e.pass()
	return p.program.Field(p.gradient)
}

// drawMethods shares the draws among the methods whose noise has the same standard deviation.
func (e *explanation) drawMethods(ctx context.Context, which []int) error {
	var sigmas []float64
	sharing := map[float64][]int{}
	for _, i := range which {
		s := e.choices[i].Convention.Sigma(e.req.NoiseLevel, e.low, e.high)
		if sharing[s] == nil {
			sigmas = append(sigmas, s)
		}
		sharing[s] = append(sharing[s], i)
	}
	e.total += (len(sigmas) - 1) * e.req.NSamples
	for _, s := range sigmas {
		if err := e.drawsAt(ctx, sharing[s], float32(s)); err != nil {
			return err
		}
	}
	return nil
}

func (e *explanation) drawsAt(ctx context.Context, which []int, sigma float32) (err error) {
	n := e.req.NSamples
	if e.req.Noise != nil && e.req.Noise.Len() < n {
		return fmt.Errorf("%d draws are asked for and %d are given: lower n_samples or give more noise", n, e.req.Noise.Len())
	}
	var sharing []cam.Choice
	for _, i := range which {
		sharing = append(sharing, e.choices[i])
	}
	moments, err := e.net.backend.NewMoments(e.net.values(), e.volume.Channels, e.net.places.moments, sharing...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, moments.Close()) }()
	noisy := e.net.fields.noisy
	for draw := range n {
		if err := e.draw(draw, noisy, sigma); err != nil {
			return err
		}
		g, err := e.inputGradient(ctx, noisy)
		if err != nil {
			return err
		}
		if err := moments.Add(g); err != nil {
			return err
		}
	}
	for _, i := range which {
		m := &e.result.Methods[i]
		m.Parameters["n_samples"], m.Parameters["noise_level"] = n, e.req.NoiseLevel
		m.Parameters["noise_sigma"] = float64(sigma)
		if e.req.Noise == nil {
			m.Parameters["seed"] = e.req.Seed
		}
		s := e.net.fields.slide(nil)
		e.finish(i, s, e.volume.Dims(), moments.Map(s.free(), e.choices[i]))
	}
	return nil
}

// draw writes the volume with noise to noisy.
func (e *explanation) draw(draw int, noisy backend.Field, sigma float32) error {
	if e.req.Noise == nil {
		stream, err := noise.New(e.req.Seed, e.req.SampleID, draw)
		if err != nil {
			return err
		}
		return e.net.backend.AddNoise(noisy, e.net.fields.volume, e.volume.Channels, stream, sigma)
	}
	z := make([]float32, len(e.volume.Data))
	if err := e.req.Noise.Draw(draw, z); err != nil {
		return err
	}
	for i, x := range e.volume.Data {
		z[i] = x + sigma*z[i]
	}
	return e.net.backend.Upload(noisy, z, e.volume.Channels)
}

// finish turns the map of method i, of size dims, into its result, unless there is none: the failure of a method is its status. The
// map may be where the heatmap is made.
func (e *explanation) finish(i int, signed *slide, dims [3]int, err error) {
	r, picture := &e.result.Methods[i], e.net.fields.slide(signed)
	if err == nil {
		err = e.take(i, signed, &r.Map)
	}
	var finding cam.Finding
	if err == nil {
		finding, err = e.net.backend.Heatmap(picture.free(), signed.field, e.choices[i], dims, e.volume.Dims())
	}
	if err == nil {
		err = e.take(i, picture, &r.Heatmap)
	}
	if err != nil {
		e.fail(err, i)
		return
	}
	r.Dims, r.Status = dims, StatusOK
	if finding != "" {
		r.Status, r.Reason = StatusDegraded, string(finding)
	}
}
