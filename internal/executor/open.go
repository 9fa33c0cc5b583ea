package executor

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/network"
)

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
	resident, _ := b.(backend.Resident)
	m := &Model{
		file: file, opt: opt, backend: b, resident: resident,
		begun: make(chan struct{}, 1), turn: make(chan struct{}, 1), releases: make(chan *release),
		allowance: allowance{budget: opt.Budget, rule: opt.Allow, resident: resident, every: 20 * time.Millisecond},
		idleFor:   2 * time.Second,
	}
	if opt.Shuttle == ShuttleIdle && resident != nil {
		m.idle = time.AfterFunc(m.idleFor, m.vacateIdle)
		m.idle.Stop()
	}
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

// Bind prepares the model for volumes of a shape, [C, D, H, W], as the first volume of that shape would.
func (m *Model) Bind(ctx context.Context, shape [4]int) error {
	leave, err := m.exclusive()
	if err != nil {
		return err
	}
	defer leave()
	return m.bind(ctx, shape)
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
	return w.retrying(ctx, func() error { return m.intact(w.ready(ctx, needed)) })
}

// Info implements explain.Explainer. Facts that depend on the volume's shape are unknown (zero) until a shape is bound.
func (m *Model) Info() cam.Info {
	info := cam.Info{Path: m.file.Path(), SHA256: m.file.SHA256(), InputShape: m.file.Shape()}
	assumed := m.file.Assumed()
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.net; n != nil {
		info.Head, info.Classes, info.TargetLayer, info.Layer = n.Head, n.Head.Classes(), n.Target.Label, n.Layer
		info.Warnings, info.Notes = n.Target.Warnings, slices.Concat(n.Head.Notes(), n.Target.Notes)
		assumed = cmp.Or(n.Assumed, assumed)
	}
	if assumed != "" {
		info.Warnings = append([]string{assumed}, info.Warnings...)
	}
	return info
}

// Close gives the model's memory back, after the volume that is being explained. Work that was begun must have been ended. Closing again
// does nothing.
func (m *Model) Close() error {
	leave, err := m.exclusive()
	if err != nil {
		return nil
	}
	defer leave()
	m.closed = true
	if m.idle != nil {
		m.idle.Stop()
	}
	err = m.giveBack()
	if m.gone() != nil {
		err = nil // nothing can be given back to a device that is gone
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.net = nil
	return errors.Join(err, m.file.Close())
}
