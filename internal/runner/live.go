// Package runner runs a data set by its configuration. Other programs can watch the session, and ask it to give memory back.
package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/gpusurvey"
	"github.com/voxcam/voxcam/internal/monitor"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/report"
	"github.com/voxcam/voxcam/internal/session"
	"github.com/voxcam/voxcam/internal/sysmem"
)

// Engine has the methods of an *engine.Engine that a Live uses.
type Engine interface {
	Order(ctx context.Context, o policy.Order) (policy.Outcome, error)
	State() engine.State
	PID() int // of the worker process; 0 while there is none
}

// Live is the status of a running session, for other programs: it joins the session's notices with the state of its device. It is the
// session's observer, and answers on the control socket.
type Live struct {
	looking sync.Mutex // of survey
	survey  *gpusurvey.Surveyor
	next    session.Observer

	mu     sync.Mutex
	device Engine // nil until it is open
	status control.Status
	uuid   string // of the GPU that the device was on last
}

// mostIncidents bounds the incidents in a status: the latest ones.
const mostIncidents = 100

var _ control.Responder = (*Live)(nil)

// NewLive returns the session of a model on a device before it has begun. It passes notices on to next. Close ends it.
func NewLive(model, device string, next session.Observer) *Live {
	return &Live{survey: openSurvey(), next: next, status: control.Status{PID: os.Getpid(), Model: model, Started: time.Now(),
		Device: device, State: engine.StateStarting, Plans: []network.PassState{}}}
}

// openSurvey looks at GPUs from outside: it makes no context.
func openSurvey() *gpusurvey.Surveyor {
	libraries := device.CUDA()
	return gpusurvey.Open(gpusurvey.Options{Driver: libraries.Driver, NVML: libraries.NVML})
}

// Close ends looking at GPUs.
func (l *Live) Close() error { return l.survey.Close() }

// SetEngine sets the engine that the session computes with from now on; nil for none.
func (l *Live) SetEngine(e Engine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.device = e
}

// Notify implements session.Observer.
func (l *Live) Notify(e session.Notice) {
	l.apply(e)
	l.next.Notify(e)
}

// apply brings the status up to date.
func (l *Live) apply(e session.Notice) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.status
	switch e.Kind {
	case session.NoticeStart:
		s.Session, s.Dir, s.Total = e.Session, e.Dir, e.Total
		if dir, err := filepath.Abs(e.Dir); err == nil { // the caller may be elsewhere
			s.Dir = dir
		}
	case session.NoticeBegin:
		s.Sample, s.Split, s.Passes, s.PassesTotal = e.Sample, e.Split, 0, 0
	case session.NoticePass:
		s.Sample, s.Split, s.Passes, s.PassesTotal = e.Sample, e.Split, e.Passes, e.PassesTotal
	case session.NoticeSample:
		s.Done, s.Total, s.LeftSeconds = e.Done, e.Total, e.Left
		var counts report.Counts
		counts.Add(e.Status)
		s.OK, s.Degraded, s.Failed, s.Skipped = s.OK+counts.OK, s.Degraded+counts.Degraded, s.Failed+counts.Failed, s.Skipped+counts.Skipped
	case session.NoticeDevice:
		s.Events = append(s.Events, e.Device)
		s.Events = slices.Clone(s.Events[max(0, len(s.Events)-mostIncidents):])
	case session.NoticeEnd:
		s.Sample, s.Split, s.LeftSeconds = "", "", 0
	}
}

// now returns the session's last status without its device, and the device; nil while there is none.
func (l *Live) now() (control.Status, Engine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status, l.device
}

// Status implements control.Responder.
func (l *Live) Status(context.Context) (control.Status, error) {
	s, device := l.now()
	if device == nil {
		return s, nil
	}
	state := device.State()
	if s.Device = state.Device; state.Name != "" {
		s.Device = fmt.Sprintf("%s (%s)", state.Device, state.Name)
	}
	s.Worker = device.PID()
	s.UUID, s.Usage, s.Budget, s.Level, s.Arena = state.UUID, state.Usage, state.Budget, state.Level, state.Arena
	s.Held, s.Until, s.State = state.Held, state.Until, state.State
	s.Plans = append(s.Plans, state.Plans...)
	return s, nil
}

// surveyed surveys the memory of the GPUs, for the timeline and for metrics.
func (l *Live) surveyed(ctx context.Context) (*gpusurvey.Survey, error) {
	l.looking.Lock()
	defer l.looking.Unlock()
	return l.survey.Survey(ctx)
}

// Look returns the GPUs and this session alone, for metrics.
func (l *Live) Look(ctx context.Context) (monitor.Look, error) {
	v, err := l.surveyed(ctx)
	if err != nil {
		return monitor.Look{}, err
	}
	s, err := l.Status(ctx)
	return monitor.Look{Time: v.Time, GPUs: v.GPUs, Host: v.Host, Sessions: []monitor.Answer{{Status: s}}, Notes: v.Notes}, err
}

// Order implements control.Responder.
func (l *Live) Order(ctx context.Context, o policy.Order) (policy.Outcome, error) {
	_, device := l.now()
	if device == nil {
		return policy.Outcome{Operation: o.Operation}, errors.New("the session has no device now: it is being opened, or was closed; try again in a moment")
	}
	return device.Order(ctx, o)
}

// gpu is the GPU of the session, also while its device is being opened again and says none.
func (l *Live) gpu(said string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if said != "" {
		l.uuid = said
	}
	return l.uuid
}

// Figures returns the figures of the session's timeline.
func (l *Live) Figures(ctx context.Context) (f report.Figures, err error) {
	_, device := l.now()
	if device == nil {
		return f, errors.New("there is no device")
	}
	state := device.State()
	f = report.Figures{Budget: state.Budget, Level: state.Level, State: state.State}
	worker := device.PID()
	f.Resident, _ = sysmem.Resident(os.Getpid()) // 0 where it is not known
	if worker != 0 {
		f.Worker, _ = sysmem.Resident(worker)
	}
	v, err := l.surveyed(ctx)
	if err != nil {
		return f, err
	}
	f.HostAvailable = max(v.Host.Free, 0)
	uuid := l.gpu(state.UUID)
	if uuid == "" {
		return f, nil
	}
	if u := state.Usage; state.UUID != "" {
		f.Reserved, f.Allocated, f.Overhead = u.Reserved, u.Allocated, u.Overhead
		f.GPUTotal, f.GPUFree, f.GPUUsed = u.Total, u.Free, u.Total-u.Free
	}
	i := slices.IndexFunc(v.GPUs, func(g gpusurvey.GPU) bool { return g.UUID == uuid })
	if i < 0 || v.GPUs[i].TrulyFree < 0 {
		return f, nil
	}
	g := v.GPUs[i]
	f.GPUTotal, f.GPUFree, f.GPUUsed = g.Total, g.TrulyFree, g.Used
	f.GPUUtilization = int(100*max(g.Utilization, 0) + 0.5)
	ours := 0
	for _, p := range g.Processes {
		if !p.Elsewhere && (p.PID == worker || p.PID == os.Getpid()) {
			ours += max(p.Bytes, 0)
		}
	}
	if ours > 0 { // a device that is being opened or returned has figures of another moment
		f.Overhead = max(ours-f.Reserved, 0)
	}
	return f, nil
}
