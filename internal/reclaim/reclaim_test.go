package reclaim

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/gpusurvey"
	"github.com/voxcam/voxcam/internal/policy"
)

// card is a GPU whose memory processes and sessions hold.
type card struct {
	total int
	holds map[int]int // by process
	err   error
}

func (c *card) survey(context.Context) ([]gpusurvey.GPU, error) {
	if c.err != nil {
		return nil, c.err
	}
	g := gpusurvey.GPU{Name: "Card", UUID: "GPU-1", Figures: gpusurvey.Figures{Total: c.total, TrulyFree: c.total}}
	for pid, bytes := range c.holds {
		g.TrulyFree -= bytes
		g.Processes = append(g.Processes, gpusurvey.ProcessInfo{PID: pid, Bytes: bytes})
	}
	slices.SortFunc(g.Processes, func(a, b gpusurvey.ProcessInfo) int { return a.PID - b.PID })
	return []gpusurvey.GPU{g}, nil
}

// session holds memory of a card through its worker.
type session struct {
	card   *card
	worker int
	least  int // it keeps
	lies   bool
	err    error
	orders []policy.Order
}

func (s *session) usage() backend.Usage {
	return backend.Usage{Total: s.card.total, Reserved: s.card.holds[s.worker]}
}

func (s *session) Status(context.Context) (control.Status, error) {
	return control.Status{PID: 300, Worker: s.worker, Session: "night", Usage: s.usage()}, nil
}

func (s *session) Order(ctx context.Context, o policy.Order) (policy.Outcome, error) {
	s.orders = append(s.orders, o)
	if s.err != nil {
		return policy.Outcome{}, s.err
	}
	before := s.usage()
	after := before
	if o.Operation == policy.Release {
		after.Reserved = min(before.Reserved, s.least)
	}
	if !s.lies {
		s.card.holds[s.worker] = after.Reserved
	}
	return policy.Outcome{Operation: o.Operation, Before: before, After: after}, ctx.Err()
}

func options(c *card, m System, sessions ...Session) Options {
	return Options{Survey: c.survey, System: m, Sessions: func(context.Context) ([]Session, error) { return sessions, nil }}
}

func find(t *testing.T, r *Report, step string, pid int) Step {
	t.Helper()
	for _, s := range r.Steps {
		if s.Step == step && s.PID == pid {
			return s
		}
	}
	t.Fatalf("no step %s of %d in %+v", step, pid, r.Steps)
	return Step{}
}

func TestSessionsGiveBack(t *testing.T) {
	c := &card{total: 1000, holds: map[int]int{301: 800, 200: 100}}
	s := &session{card: c, worker: 301, least: 50}
	o := options(c, machine1000(), Session{300, s})
	o.Operations, o.For = []policy.Operation{policy.Release, policy.Trim, policy.Defragment}, time.Minute
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.orders) != 3 || s.orders[0].For != time.Minute || s.orders[1].For != 0 {
		t.Errorf("orders %+v", s.orders)
	}
	release, trim := find(t, r, "release", 300), find(t, r, "trim", 300)
	if release.Freed != 750 || release.Device != 750 || !release.Measured || !strings.Contains(release.Text, "750 B freed; it holds little for 1m0s") {
		t.Errorf("release: %+v", release)
	}
	if trim.Freed != 0 || !strings.HasPrefix(trim.Text, "0 B: nothing was unused") {
		t.Errorf("trim: %+v", trim)
	}
	if r.Freed != 750 || r.Gained() != 750 || r.Failed() || r.Sessions[0].Before.Reserved != 800 || r.Sessions[0].After.Reserved != 50 {
		t.Errorf("%+v", r)
	}
	if len(r.Processes) != 0 || c.holds[200] != 100 {
		t.Error("another program was looked at")
	}
	// Once more: nothing is called a success.
	if r, err = Run(t.Context(), o); err != nil || r.Gained() != 0 || !strings.HasPrefix(find(t, r, "release", 300).Text, "0 B: nothing was held") {
		t.Errorf("%+v, %v", r, err)
	}
}

// What a session claims is not believed if the GPU does not show it, and what fails is said.
func TestClaimsAreChecked(t *testing.T) {
	c := &card{total: 1000, holds: map[int]int{301: 800}}
	s := &session{card: c, worker: 301, lies: true}
	o := options(c, machine1000(), Session{300, s})
	o.Operations = []policy.Operation{policy.Release}
	r, err := Run(t.Context(), o)
	if got := find(t, r, "release", 300); err != nil || got.Freed != 0 || r.Gained() != 0 || r.Freed != 0 ||
		!strings.HasPrefix(got.Text, "0 B: nothing came back; its own figure is 800 B: it goes on") {
		t.Errorf("%+v, %v", r, err)
	}
	// Where the driver does not tell what each process has, somebody else may have taken it.
	hidden := o
	hidden.Survey = func(ctx context.Context) ([]gpusurvey.GPU, error) {
		gpus, err := c.survey(ctx)
		gpus[0].Processes = nil
		return gpus, err
	}
	if r, err := Run(t.Context(), hidden); err != nil || !strings.Contains(find(t, r, "release", 300).Text, "the GPU shows only 0 B more: others took the rest") {
		t.Errorf("%+v, %v", r, err)
	}
	s.err = errors.New("the worker is starting")
	if r, err = Run(t.Context(), o); err != nil || !r.Failed() || find(t, r, "release", 300).Done || r.Gained() != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	s.err, s.lies, c.err = nil, false, errors.New("no NVML")
	if r, err = Run(t.Context(), o); err != nil || find(t, r, "release", 300).Measured || find(t, r, "release", 300).Freed != 800 || len(r.Problems) != 1 {
		t.Errorf("without NVML: %+v, %v", r, err)
	}
}

func TestDryRunTouchesNothing(t *testing.T) {
	c := &card{total: 1000, holds: map[int]int{301: 800, 302: 10, 200: 100}}
	s := &session{card: c, worker: 301}
	m := machine1000()
	o := options(c, m, Session{300, s})
	o.Operations, o.DryRun, o.End = []policy.Operation{policy.Restart, policy.Release}, true, true
	o.Consent = Consent{Yes: true, Ask: func(Candidate) (bool, error) { t.Error("somebody was asked"); return true, nil }}
	r, err := Run(t.Context(), o)
	if err != nil || len(s.orders) != 0 || len(m.signalled) != 0 || r.Gained() != 0 {
		t.Errorf("%v, %v, %v", s.orders, m.signalled, err)
	}
	for step, text := range map[string]string{"release": "would give back", "restart": "would make"} {
		if got := find(t, r, step, 300); got.Done || !strings.Contains(got.Text, text) {
			t.Errorf("%+v", got)
		}
	}
	if got := find(t, r, "end", 302); !strings.Contains(got.Text, "would be ended") {
		t.Errorf("%+v", got)
	}
}

func TestProcessesEnd(t *testing.T) {
	c := &card{total: 1000, holds: map[int]int{200: 100, 201: 200, 301: 300, 302: 400}}
	m := machine1000()
	m.onSignal = func(pid int, s syscall.Signal) {
		if pid == 200 && s == syscall.SIGTERM {
			return
		}
		delete(m.processes, pid)
		delete(c.holds, pid)
		if pid == 300 { // its worker ends with it
			delete(m.processes, 301)
			delete(c.holds, 301)
		}
	}
	s := &session{card: c, worker: 301}
	o := options(c, m, Session{300, s})
	o.End, o.Grace = true, time.Second
	var asked []int
	o.Consent.Ask = func(c Candidate) (bool, error) {
		asked = append(asked, c.PID)
		return c.PID == 200, nil
	}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if want := []int{300, 200, 301, 302}; !slices.Equal(asked, want) { // not another user's; the session before its worker
		t.Errorf("asked about %v instead of %v", asked, want)
	}
	if got := find(t, r, "end", 200); !got.Done || got.Freed != 100 || !strings.HasPrefix(got.Text, EndedKill+" after ") || !strings.Contains(got.Text, "100 B freed") {
		t.Errorf("%+v", got)
	}
	if len(r.Steps) != 1 || len(c.holds) != 3 || r.Freed != 100 {
		t.Errorf("%+v, %v", r.Steps, c.holds)
	}

	// Named: the session, and its worker, which is gone with it; one that is not on a GPU; another user's.
	o.Consent = Consent{Named: []int{301, 300, 100, 201}}
	if r, err = Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got := find(t, r, "end", 300); !got.Done || got.Freed != 300 || !strings.HasPrefix(got.Text, EndedTerm) {
		t.Errorf("%+v", got)
	}
	if got := find(t, r, "end", 301); got.Done || !strings.HasPrefix(got.Text, EndedBefore) || got.Error != "" {
		t.Errorf("%+v", got)
	}
	for _, pid := range []int{100, 201} {
		if got := find(t, r, "end", pid); got.Done || got.Error == "" || !strings.HasPrefix(got.Text, "left alone") {
			t.Errorf("%+v", got)
		}
	}

	// Yes ends the orphan, and nothing else.
	o.Consent = Consent{Yes: true}
	if r, err = Run(t.Context(), o); err != nil || len(r.Steps) != 1 || find(t, r, "end", 302).Freed != 400 || r.Failed() {
		t.Errorf("%+v, %v", r, err)
	}
	if len(c.holds) != 1 || c.holds[201] != 200 {
		t.Errorf("left: %v", c.holds)
	}
}

// Nobody is asked about a worker that has ended with its session.
func TestWorkerEndsWithItsSession(t *testing.T) {
	c := &card{total: 1000, holds: map[int]int{301: 300}}
	m := machine1000()
	m.onSignal = func(pid int, _ syscall.Signal) {
		delete(m.processes, 300)
		delete(m.processes, 301)
		delete(c.holds, 301)
	}
	o := options(c, m, Session{300, &session{card: c, worker: 301}})
	o.End = true
	asked := 0
	o.Consent.Ask = func(Candidate) (bool, error) { asked++; return true, nil }
	r, err := Run(t.Context(), o)
	if err != nil || asked != 1 || len(r.Steps) != 1 || find(t, r, "end", 300).Freed != 300 || r.Processes[1].Why != "it has ended meanwhile" {
		t.Errorf("%+v, asked %d times, %v", r, asked, err)
	}
}

// A worker that was named comes again, which is said.
func TestNamedWorkerComesAgain(t *testing.T) {
	c := &card{total: 1000, holds: map[int]int{301: 300}}
	m := machine1000()
	m.onSignal = func(int, syscall.Signal) { delete(c.holds, 301); delete(m.processes, 301) }
	o := options(c, m, Session{300, &session{card: c, worker: 301}})
	o.End, o.Consent = true, Consent{Named: []int{301}}
	r, err := Run(t.Context(), o)
	if got := find(t, r, "end", 301); err != nil || !strings.Contains(got.Text, "the option pid 300 ends the session") {
		t.Errorf("%+v, %v", got, err)
	}
}

// Memory that the driver does not give back is not called freed.
func TestMemoryThatStays(t *testing.T) {
	c := &card{total: 1000, holds: map[int]int{200: 100}}
	m := machine1000()
	m.onSignal = func(int, syscall.Signal) { delete(m.processes, 200) }
	o := options(c, m)
	now := time.Unix(0, 0)
	o.Clock = func() time.Time { now = now.Add(settle / 2); return now }
	o.End, o.Consent = true, Consent{Named: []int{200}}
	p := m.processes[200]
	p.Age = 24 * time.Hour
	m.processes[200] = p
	r, err := Run(t.Context(), o)
	if got := find(t, r, "end", 200); err != nil || got.Freed != 0 || !strings.Contains(got.Text, "0 B: nothing came back of the 100 B that it held; the driver still lists it") {
		t.Errorf("%+v, %v", got, err)
	}
}
