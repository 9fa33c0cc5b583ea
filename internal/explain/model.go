package explain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/layer"
	"github.com/voxcam/voxcam/internal/onnx"
	"github.com/voxcam/voxcam/volume"
)

// Options say how a model is to be opened.
type Options struct {
	// TargetLayer is a PyTorch module path, perhaps with the number of a call ("layer4.1.relu@1"), or the name of a node or value in the
	// file; "" is the last layer with spatial extent.
	TargetLayer string
	// InputAxes are the axes of the model's input in the file's order, letters of N C D H W such as "NDHWC"; "" recognises them.
	InputAxes string
	confirm   bool // that the input is N C D H W, when the volume's size is known
	// TokenGrid places the tokens of a layer in space: depth, height, width; zero takes it from the graph.
	TokenGrid [3]int
	// PrefixTokens are tokens of no place (class tokens, registers) in front of the others; 0 takes their number from the graph.
	PrefixTokens int
	// LayerLayout names the axes of the target layer, as layer.LayoutHelp says; "" recognises them.
	LayerLayout string
	// Shape is [C, D, H, W] of the volumes to come, where it is known; zero sizes are taken from the model's file.
	Shape [4]int
	// Budget bounds the memory that computing takes.
	Budget cam.Budget
	// Allow is what computing may take now, given how the memory of the device is used. It is asked before each volume and each pass
	// through the network; on a backend that is not backend.Resident, of an empty Usage. Nil: Budget, always.
	Allow func(backend.Usage) cam.Budget
	// Shuttle says when the device's memory is given back between volumes, by backend.Resident.Vacate.
	Shuttle Shuttle
	// ShuttleAfter is how long no volume must have been begun or computed for ShuttleIdle; 0: 2 s.
	ShuttleAfter time.Duration
	// SHA256 is Info.SHA256 of an earlier opening: a file that holds another model by now is an *input.ChangedError. "" takes any.
	SHA256 string
	// Ahead takes memory on a device for a volume besides the one that is explained, and for maps that are on their way back, as far
	// as plans do not suffer: for callers of Begin.
	Ahead bool
	// AfterPass, unless nil, is called with the text of the graph, without weights, as it was imported ("import"), after each pass of the
	// compiler, and after differentiation. Names from differentiation on begin with "layer-" or "volume-": what the gradient is taken at.
	AfterPass func(pass, graph string) error
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
	file     *onnx.Model
	opt      Options // with InputAxes as they are
	assumed  string  // about InputAxes; "" if nothing is
	backend  backend.Backend
	resident backend.Resident // the backend, if it is one; else nil

	// Who brings a volume to where it waits for its turn, or finds it there, holds begun; who computes, or changes what lies on the device
	// otherwise, holds turn. Both are held by an element in the channel; begun is taken first. Who holds turn may use net; place is held to
	// bring a volume to where it waits, and to change what that needs: net, its fields, and where they are.
	begun, turn chan struct{}
	closed      bool // changed by who holds both
	place       sync.Mutex
	net         *network
	waits       *work // whose volume waits in net.fields.ahead

	allowance allowance
	change    *change       // of plans, until the memory for the new ones is there
	releases  chan *release // asked for while a volume is computed
	untold    []cam.Event   // of times when no volume was computed
	shuttle   shuttle
	seen      seen
}

var _ Overlapping = (*Model)(nil)

// Open opens an ONNX file. When the shape of the volumes is known from the options or the file, the model is bound to it at
// once, and a target layer that does not exist is an error now. Options that are out of range are an *OptionError. ctx stops it.
func Open(ctx context.Context, path string, b backend.Backend, opt Options) (*Model, error) {
	if err := opt.Check(); err != nil {
		return nil, err
	}
	file, err := onnx.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	if opt.SHA256 != "" && opt.SHA256 != file.SHA256() {
		return nil, errors.Join(&input.ChangedError{Path: path}, file.Close())
	}
	opt, assumed, err := opt.withInput(ctx, file, b)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	m := &Model{
		file: file, opt: opt, assumed: assumed, backend: b,
		begun: make(chan struct{}, 1), turn: make(chan struct{}, 1), releases: make(chan *release),
		allowance: allowance{every: askEvery},
	}
	m.resident, _ = b.(backend.Resident)
	shape := m.boundShape()
	for _, d := range shape {
		if d <= 0 {
			return m, nil // bound by the first volume
		}
	}
	if err := m.bind(ctx, shape); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return m, nil
}

// boundShape fills the sizes that the options leave open from the file; -1 is unknown.
func (m *Model) boundShape() [4]int { return fillShape(m.file, m.opt) }

// fillShape takes the sizes that the options leave open, [C, D, H, W], from the file; -1 is unknown.
func fillShape(file *onnx.Model, opt Options) [4]int {
	shape := opt.Shape
	for i, d := range file.VolumeShape(opt.InputAxes) {
		if shape[i] <= 0 {
			shape[i] = d
		}
	}
	return shape
}

// fullShape is fillShape where every size must be known.
func fullShape(file *onnx.Model, opt Options) ([4]int, error) {
	shape := fillShape(file, opt)
	if slices.Min(shape[:]) < 1 {
		return shape, fmt.Errorf("%s leaves the size of the volume open: give the option volume_shape channels,depth,height,width", file.Path)
	}
	return shape, nil
}

// withInput finds the order of the axes of the file's input, if the options do not say it, and says what it had to assume.
func (o Options) withInput(ctx context.Context, file *onnx.Model, b backend.Backend) (_ Options, assumed string, err error) {
	if o.InputAxes != "" {
		return o, "", onnx.CheckInputAxes(o.InputAxes)
	}
	order, err := layer.InputAxes(ctx, file, openingBytes(o.Budget, b))
	if err != nil {
		return o, "", fmt.Errorf("%s: %w", file.Path, err)
	}
	o.InputAxes, o.confirm = order.Axes, order.Open
	return o, order.Assumed, nil
}

// enter waits for the turn to compute; leave ends it.
func (m *Model) enter(ctx context.Context) error {
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if m.closed {
		m.leave()
		return cam.ErrClosed
	}
	return nil
}

func (m *Model) leave() { <-m.turn }

// alone waits until nobody else uses the model, and returns what lets others in again.
func (m *Model) alone() (leave func(), err error) {
	m.begun <- struct{}{}
	m.turn <- struct{}{}
	leave = func() {
		<-m.turn
		<-m.begun
	}
	if m.closed {
		leave()
		return nil, cam.ErrClosed
	}
	return leave, nil
}

// Bind prepares the model for volumes of a shape, [C, D, H, W], as the first volume of that shape would.
func (m *Model) Bind(ctx context.Context, shape [4]int) error {
	leave, err := m.alone()
	if err != nil {
		return err
	}
	defer leave()
	return m.bind(ctx, shape)
}

// bind makes m.net fit the shape.
func (m *Model) bind(ctx context.Context, shape [4]int) error {
	if m.net != nil && m.net.shape == shape {
		return nil
	}
	net, err := newNetwork(ctx, m.file, shape, m.opt, m.backend)
	if changed := m.file.Err(); changed != nil {
		return changed
	}
	if err != nil {
		return m.misfit(shape, err)
	}
	m.place.Lock()
	defer m.place.Unlock()
	if m.net != nil {
		if err := m.net.close(); err != nil {
			return err
		}
	}
	m.net = net
	m.look()
	return nil
}

// Close gives the model's memory back, after the volume that is being explained. Work that was begun must have been ended. Closing again
// does nothing.
func (m *Model) Close() error {
	m.shuttle.close()
	leave, err := m.alone()
	if err != nil {
		return nil
	}
	defer leave()
	m.closed = true
	err = m.giveBack()
	if m.seen.lost() != nil {
		err = nil // nothing can be given back to a device that is gone
	}
	m.place.Lock()
	defer m.place.Unlock()
	m.net = nil
	return errors.Join(err, m.file.Close())
}

// Info implements Explainer. What depends on the volume's shape is unknown (zero) until one is bound.
func (m *Model) Info() cam.Info {
	info := cam.Info{Path: m.file.Path, SHA256: m.file.SHA256(), InputShape: m.boundShape()}
	m.place.Lock()
	defer m.place.Unlock()
	if m.net != nil {
		info.Classes = m.net.classCount
		info.TargetLayer, info.Layer = m.net.target.Label, m.net.layer
		info.Warnings, info.Notes = m.net.target.Warnings, m.net.target.Notes
	}
	assumed := m.assumed
	if m.net != nil && m.net.assumed != "" {
		assumed = m.net.assumed
	}
	if assumed != "" {
		info.Warnings = append([]string{assumed}, info.Warnings...)
	}
	return info
}

// Prepare makes the plans that methods need ready for the shape that the model is bound to, so that a budget that is too small, a
// *BudgetError, or too little memory, a *MemoryError, is known before the work. It does nothing for a model that is not bound yet.
func (m *Model) Prepare(ctx context.Context, methods []string) error {
	leave, err := m.alone()
	if err != nil {
		return err
	}
	defer leave()
	choices, err := cam.Choose(methods, nil)
	if err != nil || m.net == nil {
		return err
	}
	e := m.nobody()
	e.adjust = true
	needed := needsOf(choices, m.net.voxels(), m.net.shape[0])
	return m.recovering(ctx, e, func() error { return m.intact(m.ready(ctx, e, needed)) })
}

// intact is err, the result of something that may have read weights, unless they were not those of the model any more.
func (m *Model) intact(err error) error {
	if changed := m.file.Err(); changed != nil {
		return changed
	}
	return err
}

// nobody is the work on no volume: what happens meanwhile is told with the next one.
func (m *Model) nobody() *explanation {
	return &explanation{model: m, net: m.net, result: &cam.Result{}, quiet: true}
}

// Explain implements Explainer.
func (m *Model) Explain(ctx context.Context, v *volume.Volume, req cam.Request) (*cam.Result, error) {
	return One(ctx, m, v, req)
}
