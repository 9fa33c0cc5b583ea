package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/gpusurvey"
	"github.com/voxcam/voxcam/internal/monitor"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/report"
	"github.com/voxcam/voxcam/internal/session"
	"github.com/voxcam/voxcam/internal/sysmem"
	"github.com/voxcam/voxcam/internal/worker"
)

// running is a session that runs, as others see it: it joins what the session tells with what its device says of itself.
type running struct {
	looking sync.Mutex // of survey
	survey  *gpusurvey.Surveyor
	next    session.Observer

	mu     sync.Mutex
	device worker.Engine // nil until it is open
	told   control.Status
	uuid   string // of the GPU that the device was on last
}

// mostIncidents is how many of the latest incidents a session tells of.
const mostIncidents = 100

var _ control.Session = (*running)(nil)

// newRunning makes the running session of a model, which tells next what it hears. It is to be closed.
func newRunning(model, device string, next session.Observer) *running {
	return &running{survey: openSurvey(), next: next, told: control.Status{PID: os.Getpid(), Model: model, Started: time.Now(),
		Device: device, State: engine.StateStarting, Plans: []explain.PassState{}}}
}

// openSurvey looks at GPUs from outside: it makes no context.
func openSurvey() *gpusurvey.Surveyor {
	libraries := device.CUDA()
	return gpusurvey.Open(gpusurvey.Options{Driver: libraries.Driver, NVML: libraries.NVML})
}

func (l *running) close() error { return l.survey.Close() }

// computes says what the session computes with from now on; nil: nothing.
func (l *running) computes(e worker.Engine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.device = e
}

// Event implements session.Observer.
func (l *running) Event(e session.Event) {
	l.hear(e)
	l.next.Event(e)
}

func (l *running) hear(e session.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.told
	switch e.Kind {
	case session.EventStart:
		s.Session, s.Dir, s.Total = e.Session, e.Dir, e.Total
		if dir, err := filepath.Abs(e.Dir); err == nil { // who asks may be elsewhere
			s.Dir = dir
		}
	case session.EventBegin:
		s.Sample, s.Split, s.Passes, s.PassesTotal = e.Sample, e.Split, 0, 0
	case session.EventPass:
		s.Sample, s.Split, s.Passes, s.PassesTotal = e.Sample, e.Split, e.Passes, e.PassesTotal
	case session.EventSample:
		s.Done, s.Total, s.LeftSeconds = e.Done, e.Total, e.Left
		var counts report.Counts
		counts.Add(e.Status)
		s.OK, s.Degraded, s.Failed, s.Skipped = s.OK+counts.OK, s.Degraded+counts.Degraded, s.Failed+counts.Failed, s.Skipped+counts.Skipped
	case session.EventExecution:
		s.Events = append(s.Events, e.Execution)
		s.Events = slices.Clone(s.Events[max(0, len(s.Events)-mostIncidents):])
	case session.EventEnd:
		s.Sample, s.Split, s.LeftSeconds = "", "", 0
	}
}

// now is what the session told last, and what it computes with.
func (l *running) now() (control.Status, worker.Engine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.told, l.device
}

// Status implements control.Session.
func (l *running) Status(context.Context) (control.Status, error) {
	s, device := l.now()
	if device == nil {
		return s, nil
	}
	state := device.State()
	if s.Device = state.Device; state.Name != "" {
		s.Device = fmt.Sprintf("%s (%s)", state.Device, state.Name)
	}
	s.Worker = workerPID(device)
	s.UUID, s.Usage, s.Budget, s.Level, s.Arena = state.UUID, state.Usage, state.Budget, state.Level, state.Arena
	s.Held, s.Until, s.State = state.Held, state.Until, state.State
	s.Plans = append(s.Plans, state.Plans...)
	return s, nil
}

// surveyed is how the memory of the GPUs is, for who draws the timeline and who asks for metrics.
func (l *running) surveyed(ctx context.Context) (*gpusurvey.Survey, error) {
	l.looking.Lock()
	defer l.looking.Unlock()
	return l.survey.Survey(ctx)
}

// look is what metrics are made of: the GPUs, and this session alone.
func (l *running) look(ctx context.Context) (monitor.Look, error) {
	v, err := l.surveyed(ctx)
	if err != nil {
		return monitor.Look{}, err
	}
	s, err := l.Status(ctx)
	return monitor.Look{Time: v.Time, GPUs: v.GPUs, Host: v.Host, Sessions: []monitor.Session{{Status: s}}, Notes: v.Notes}, err
}

// workerPID is the process that has the device, 0 if that is this one, or there is none now.
func workerPID(device worker.Engine) int {
	if w, ok := device.(interface{ PID() int }); ok {
		return w.PID()
	}
	return 0
}

// Order implements control.Session.
func (l *running) Order(ctx context.Context, o policy.Order) (policy.Outcome, error) {
	_, device := l.now()
	if device == nil {
		return policy.Outcome{Operation: o.Operation}, errors.New("the session has no device now: it is being opened, or was closed; try again in a moment")
	}
	return device.Order(ctx, o)
}

// gpu is the GPU of the session, also while its device is being opened again and says none.
func (l *running) gpu(said string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if said != "" {
		l.uuid = said
	}
	return l.uuid
}

// figures are those of the session's timeline.
func (l *running) figures(ctx context.Context) (f report.Figures, err error) {
	_, device := l.now()
	if device == nil {
		return f, errors.New("there is no device")
	}
	state := device.State()
	f = report.Figures{Budget: state.Budget, Level: state.Level, State: state.State}
	worker := workerPID(device)
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

// yieldFor is how long a signal makes a session give its memory to others.
const yieldFor = time.Minute

// obey carries out one order that came by a signal, and tells of it.
func (l *running) obey(ctx context.Context, o policy.Order, signal os.Signal) {
	outcome, err := l.Order(ctx, o)
	switch {
	case err != nil && ctx.Err() != nil:
		return
	case err != nil:
		l.next.Event(session.Event{Kind: session.EventWarning, Reason: fmt.Sprintf("signal %v: %s: %v", signal, o.Operation, err)})
		return
	}
	text := fmt.Sprintf("signal %v: %s: gave back %s", signal, o.Operation, bytesize.Format(max(outcome.Freed(), 0)))
	if outcome.Note != "" {
		text += "; " + outcome.Note
	}
	l.next.Event(session.Event{Kind: session.EventNote, Reason: text})
}
