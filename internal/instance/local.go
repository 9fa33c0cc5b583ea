package instance

import (
	"context"
	"errors"
	"os"
	"sync"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/sysmem"
)

// Model has the methods of an *executor.Model that an instance uses.
type Model interface {
	explain.Overlapping
	Bind(ctx context.Context, shape [4]int) error
	Prepare(ctx context.Context, methods []string) error
	Release(ctx context.Context, meanwhile func() error) error
	Trim(keep int) (freed int, err error)
	State() network.State
	Close() error
}

// Machine is an opened device.
type Machine struct {
	backend.Backend
	UUID            string
	Warnings, Notes []string
	Free            func() (int, error) // memory of the device in bytes
	Close           func() error
}

// Parts are the constructors of a Local's device and model. Tests put others in place of those of Open.
type Parts struct {
	Device func(o device.Options) (*Machine, error)
	Model  func(ctx context.Context, path string, b backend.Backend, o executor.Options) (Model, error)
	Class  func(error) backend.ErrorClass // class of the error of a device that did not open
}

// Standard returns the parts of Open.
func Standard() Parts {
	return Parts{Device: openMachine, Model: openModel, Class: device.Class}
}

func openMachine(o device.Options) (*Machine, error) {
	d, err := o.Open()
	if err != nil {
		return nil, err
	}
	return &Machine{d.Backend, d.UUID(), d.Warnings, d.Notes, d.FreeMemory, d.Close}, nil
}

func openModel(ctx context.Context, path string, b backend.Backend, o executor.Options) (Model, error) {
	m, err := executor.Open(ctx, path, b, o)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Local is an instance in this process.
type Local struct {
	Model
	machine  *Machine
	resident backend.Resident // nil on the processor
	device   DeviceInfo
	governor *policy.Governor
	size     int        // of the budget, if it is one in bytes
	budget   cam.Budget // on the processor, fixed when it is opened

	mu    sync.Mutex
	least int // the least that works in bytes, as far as it is known; guarded by mu
}

var _ Instance = (*Local)(nil)

// Open opens the device and the model. Missing memory for the device's context is a *cam.MemoryError, also with device auto. With auto, the
// processor takes the place of a GPU that does not work, or does not exist.
func Open(ctx context.Context, o Options) (Instance, error) { return Standard().Open(ctx, o) }

// Open is the function Open with other parts.
func (p Parts) Open(ctx context.Context, o Options) (Instance, error) {
	budget, err := bytesize.ParseBudget(o.Budget)
	if err != nil {
		return nil, err
	}
	leaves, err := shuttle(o.Shuttle)
	if err != nil {
		return nil, err
	}
	l := &Local{governor: policy.NewGovernor(budget, nil), size: budget.Size()}
	if o.Held {
		l.governor.Release(o.Until)
	}
	if l.machine, err = p.openDevice(o, &l.device.Failures); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.machine.Close())
		}
	}()
	l.resident, _ = l.machine.Backend.(backend.Resident)
	l.device.Name, l.device.UUID, l.device.Processor = l.machine.Name(), l.machine.UUID, l.resident == nil
	l.device.Warnings, l.device.Notes = l.machine.Warnings, l.machine.Notes
	if l.resident == nil {
		if l.budget, err = BudgetOf(budget, l.machine.Free); err != nil {
			return nil, err
		}
	}
	l.Model, err = p.Model(ctx, o.Model, l.machine.Backend, executor.Options{
		ModelOptions: o.ModelOptions, Ahead: o.Ahead, Budget: l.budget, Allow: l.allow, Shuttle: leaves,
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// openDevice opens the device with the name in options, and appends failures before the last one.
func (p Parts) openDevice(o Options, failures *[]string) (*Machine, error) {
	if o.Device == "" || o.Device == "auto" {
		o.Device = "cuda"
		m, err := p.tryDevice(o, failures)
		if short := (*cam.MemoryError)(nil); err == nil || errors.As(err, &short) {
			return m, err
		}
		o.Device = "auto"
	}
	return p.tryDevice(o, failures)
}

// opens bounds the tries in a row to open a device whose driver has failures that may pass.
const opens = 3

func (p Parts) tryDevice(o Options, failures *[]string) (m *Machine, err error) {
	for tries := range opens {
		if tries > 0 {
			*failures = append(*failures, err.Error())
		}
		m, err = p.Device(device.Options{Name: o.Device, Precision: o.Precision, LaunchBlocking: o.LaunchBlocking, Threads: o.Threads})
		if err == nil {
			return m, nil
		}
		switch p.Class(err) {
		case backend.NoMemory:
			return nil, &cam.MemoryError{Err: err}
		case backend.Fault:
			return nil, err
		}
	}
	return nil, err
}

// BudgetOf returns a budget in bytes. free returns the free memory that it is a part of.
func BudgetOf(b bytesize.Budget, free func() (int, error)) (cam.Budget, error) {
	if b.Min() {
		return cam.Budget{Smallest: true}, nil
	}
	n, err := b.Bytes(free)
	if err != nil && b == (bytesize.Budget{}) {
		return cam.Budget{}, nil // auto, on a system that does not report free memory: whole tensors
	}
	return cam.Budget{Bytes: n}, err
}

// allow returns the budget of the next pass: at least the least that works, unless the budget is a size.
func (l *Local) allow(u backend.Usage) cam.Budget {
	b := l.budget
	bytes, least := l.governor.Allow(u)
	if l.resident != nil {
		b = cam.Budget{Bytes: bytes}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if least || b.Bytes > 0 && b.Bytes < l.least && (l.size == 0 || l.size >= l.least) {
		return cam.Budget{Smallest: true}
	}
	return b
}

// UseLeast implements Instance: auto and shares are no reason to give up a device, or a host, that has enough memory.
func (l *Local) UseLeast(_ context.Context, bytes int) (bool, error) {
	if l.resident == nil {
		if free, err := l.machine.Free(); err == nil && free < bytes {
			return false, nil
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.least >= bytes
	l.least = max(l.least, bytes)
	return !known, nil
}

// Usage implements Instance.
func (l *Local) Usage(context.Context) (backend.Usage, error) {
	if l.resident != nil {
		return l.resident.Usage()
	}
	resident, err := sysmem.Resident(os.Getpid())
	if err != nil {
		return backend.Usage{}, err
	}
	free, err := l.machine.Free()
	return backend.Usage{Free: free, Largest: free, Reserved: resident, Allocated: resident}, err
}

// Device implements Instance.
func (l *Local) Device() DeviceInfo { return l.device }

// State implements Instance.
func (l *Local) State() Snapshot {
	s := Snapshot{State: l.Model.State()}
	s.Until, s.Held = l.governor.Held()
	if u, err := l.Usage(context.Background()); err == nil { // a lost context has no figures
		s.Usage = u
	}
	s.Budget = l.allow(s.Usage).Bytes
	return s
}

// Close implements Instance.
func (l *Local) Close() error { return errors.Join(l.Model.Close(), l.machine.Close()) }
