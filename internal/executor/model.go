// Package executor has a model on a device in this process. It goes on by itself after everything that another plan, or another try on the
// same device, can mend.
//
// A volume is computed in attempts (work.go). An error that ends one is looked at in one place (recover.go), and the next attempt does what is
// left. Before each volume and each pass the budget is asked for (allow.go, admission.go) and memory that others ask for is given back
// (release.go); between volumes the device can be left altogether (shuttle.go).
package executor

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/volume"
)

// Options say how a model is to be opened.
type Options struct {
	network.ModelOptions
	// Budget bounds the memory that computing takes.
	Budget cam.Budget
	// Allow returns the budget of the next pass, from the use of the device's memory. It is called before each volume and each pass
	// through the network; with an empty Usage on a backend that is not backend.Resident. Nil: always Budget.
	Allow func(backend.Usage) cam.Budget
	// Shuttle chooses the moments between volumes at which the device's memory is given back, by backend.Resident.Vacate.
	Shuttle Shuttle
	// ShuttleAfter is the idle time, without a volume begun or computed, after which ShuttleIdle gives it back; 0: 2 s.
	ShuttleAfter time.Duration
	// Ahead takes memory on a device for a volume besides the one that is explained, and for maps that are on their way back, as far
	// as plans do not suffer: for callers of Begin.
	Ahead bool
}

// Check returns all that is wrong with options, each an *OptionError, joined.
func (o Options) Check() error {
	return errors.Join(o.ModelOptions.Check(), network.CheckBudget(o.Budget))
}

// Shuttle is the moment at which a model leaves the device between volumes: it gives the memory back, and brings the weights to the host.
type Shuttle uint8

const (
	ShuttleNever  Shuttle = iota
	ShuttleIdle           // when no volume has been begun for a while
	ShuttleAlways         // after each volume
)

// Model is an opened model on a backend. It implements explain.Explainer. Its methods may be called by many goroutines, one at a time
// computes.
type Model struct {
	file     *network.ModelFile
	opt      Options
	backend  backend.Backend
	resident backend.Resident // the backend, if it is one; else nil

	// begun and turn are locks, held by an element in the channel; begun is taken before turn. begun guards the buffer in which the next volume
	// waits. turn guards computing and all else that lies on the device: net may be used while it is held. place guards net, its device
	// buffers and their placement against the goroutine that brings the next volume.
	begun, turn chan struct{}
	closed      bool // guarded by both
	place       sync.Mutex
	net         *network.Network
	waits       *work // its volume is in net.Buffers.Ahead

	allowance   allowance
	change      *change       // nil unless plans changed and their memory is not there yet
	releases    chan *release // requests that come while a volume is computed
	unpublished []cam.Event   // from between volumes, for the next one
	shuttle     shuttle
	published   published
}

var _ explain.Overlapping = (*Model)(nil)

// Open opens an ONNX file. When the shape of the volumes is known from the options or the file, the model is bound to it at
// once, and a target layer that does not exist is an error now. Options that are out of range are an *OptionError. ctx stops it.
func Open(ctx context.Context, path string, b backend.Backend, opt Options) (*Model, error) {
	if err := opt.Check(); err != nil {
		return nil, err
	}
	file, err := network.OpenFile(ctx, path, opt.ModelOptions, network.OpeningBytes(opt.Budget, b))
	if err != nil {
		return nil, err
	}
	m := &Model{
		file: file, opt: opt, backend: b,
		begun: make(chan struct{}, 1), turn: make(chan struct{}, 1), releases: make(chan *release),
		allowance: allowance{every: askEvery},
	}
	m.resident, _ = b.(backend.Resident)
	shape := file.Shape()
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

// alone waits until betweenVolumes else uses the model, and returns what lets others in again.
func (m *Model) exclusive() (leave func(), err error) {
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
	leave, err := m.exclusive()
	if err != nil {
		return err
	}
	defer leave()
	return m.bind(ctx, shape)
}

// bind makes m.net fit the shape.
func (m *Model) bind(ctx context.Context, shape [4]int) error {
	if m.net != nil && m.net.Shape == shape {
		return nil
	}
	net, err := m.file.Bind(ctx, network.Binding{
		Shape: shape, Backend: m.backend, Budget: m.opt.Budget, Ahead: m.opt.Ahead, Follows: m.follows(),
	})
	if err != nil {
		return err
	}
	m.place.Lock()
	defer m.place.Unlock()
	if m.net != nil {
		if err := m.net.Close(); err != nil {
			return err
		}
	}
	m.net = net
	m.publishState()
	return nil
}

// Close gives the model's memory back, after the volume that is being explained. Work that was begun must have been ended. Closing again
// does nothing.
func (m *Model) Close() error {
	m.shuttle.close()
	leave, err := m.exclusive()
	if err != nil {
		return nil
	}
	defer leave()
	m.closed = true
	err = m.giveBack()
	if m.published.lost() != nil {
		err = nil // nothing can be given back to a device that is gone
	}
	m.place.Lock()
	defer m.place.Unlock()
	m.net = nil
	return errors.Join(err, m.file.Close())
}

// Info implements explain.Explainer. What depends on the volume's shape is unknown (zero) until one is bound.
func (m *Model) Info() cam.Info {
	info := cam.Info{Path: m.file.Path(), SHA256: m.file.SHA256(), InputShape: m.file.Shape()}
	m.place.Lock()
	defer m.place.Unlock()
	if m.net != nil {
		info.Classes = m.net.ClassCount
		info.TargetLayer, info.Layer = m.net.Target.Label, m.net.Layer
		info.Warnings, info.Notes = m.net.Target.Warnings, m.net.Target.Notes
	}
	assumed := m.file.Assumed()
	if m.net != nil && m.net.Assumed != "" {
		assumed = m.net.Assumed
	}
	if assumed != "" {
		info.Warnings = append([]string{assumed}, info.Warnings...)
	}
	return info
}

// Prepare makes the plans that methods need ready for the shape that the model is bound to, so that a budget that is too small, a
// *BudgetError, or too little memory, a *MemoryError, is known before the work. It does nothing for a model that is not bound yet.
func (m *Model) Prepare(ctx context.Context, methods []string) error {
	leave, err := m.exclusive()
	if err != nil {
		return err
	}
	defer leave()
	choices, err := cam.Choose(methods, nil)
	if err != nil || m.net == nil {
		return err
	}
	w := m.betweenVolumes()
	w.adjust = true
	needed := network.NeedsOf(choices, m.net.Voxels(), m.net.Shape[0])
	return m.retrying(ctx, w, func() error { return m.intact(m.ready(ctx, w, needed)) })
}

// intact returns err, or, if weights were read that are not the model's any more, an *input.ChangedError in its place.
func (m *Model) intact(err error) error {
	if changed := m.file.Err(); changed != nil {
		return changed
	}
	return err
}

// betweenVolumes returns the work on no volume, whose events are published with the next one.
func (m *Model) betweenVolumes() *work { return &work{model: m, e: new(explain.Explanation)} }

// Explain implements explain.Explainer.
func (m *Model) Explain(ctx context.Context, v *volume.Volume, req cam.Request) (*cam.Result, error) {
	return explain.One(ctx, m, v, req)
}
