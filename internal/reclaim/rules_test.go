package reclaim

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/voxcam/voxcam/internal/gpusurvey"
)

// fake is a machine of made-up processes. What a signal does is up to the test.
type fake struct {
	self      int
	processes map[int]Process
	signalled []string
	onSignal  func(pid int, s syscall.Signal)
	onHold    func(pid int)
}

func (f *fake) Self() int { return f.self }

func (f *fake) Find(pid int) (Process, error) {
	p, ok := f.processes[pid]
	if !ok {
		return p, errGone
	}
	p.PID = pid
	return p, nil
}

func (f *fake) Hold(pid int) (Handle, error) {
	if f.onHold != nil {
		f.onHold(pid)
	}
	p, err := f.Find(pid)
	return &fakeHandle{f, p}, err
}

type fakeHandle struct {
	f *fake
	p Process
}

func (h *fakeHandle) alive() bool {
	p, ok := h.f.processes[h.p.PID]
	return ok && p.Started == h.p.Started && !p.Ended
}

func (h *fakeHandle) Signal(s syscall.Signal) error {
	if !h.alive() {
		return errGone
	}
	h.f.signalled = append(h.f.signalled, s.String())
	if h.f.onSignal != nil {
		h.f.onSignal(h.p.PID, s)
	}
	return nil
}

func (h *fakeHandle) Wait(ctx context.Context, _ time.Duration) (bool, error) {
	return !h.alive(), ctx.Err()
}

func (h *fakeHandle) Close() error { return nil }

const me, other, hour = 1000, 1001, time.Hour

// machine1000 is a user's login with this program below a shell, and all kinds of processes on the GPU.
func machine1000() *fake {
	process := func(name string, parent, uid int, change ...func(p *Process)) Process {
		p := Process{Euid: uid, Age: hour, UsesGPU: true}
		p.ProcessInfo = gpusurvey.ProcessInfo{Name: name, Parent: parent, UID: uid, User: map[int]string{me: "me", other: "other"}[uid], Started: 50}
		p.Program = name == "voxcam"
		for _, c := range change {
			c(&p)
		}
		return p
	}
	orphan := func(p *Process) { p.Orphan = true }
	return &fake{self: 100, processes: map[int]Process{
		1:   process("init", 0, 0),
		50:  process("sh", 1, me),
		100: process("voxcam", 50, me),
		200: process("python", 50, me),
		201: process("python", 50, other),
		202: process("python", 1, me, func(p *Process) { p.Euid = 0 }),         // of this user, with another's rights
		203: process("python", 50, me, func(p *Process) { p.UsesGPU = false }), // the number of another container's process
		204: process("python", 50, me, func(p *Process) { p.Ended = true }),    // a zombie
		205: process("python", 50, me, func(p *Process) { p.Age = 0 }),         // younger than the list that it is on
		300: process("voxcam", 50, me),
		301: process("voxcam", 300, me),
		302: process("voxcam", 1, me, orphan),
		303: process("voxcam", 1, other, orphan),
	}}
}

func TestWhoMayBeEnded(t *testing.T) {
	yes := func(Candidate) (bool, error) { return true, nil }
	byPrompt, byYes := Consent{Ask: yes}, Consent{Yes: true, Ask: yes}
	named := func(pid ...int) Consent { return Consent{Named: pid, Ask: yes} }
	for _, c := range []struct {
		name    string
		pid     int
		consent Consent
		root    bool
		want    Ruling
		why     string
	}{
		{"asked", 200, byPrompt, false, Ask, "asked"},
		{"nobody to ask", 200, Consent{}, false, Leave, "the option pid 200"},
		{"named", 200, named(200), false, End, "named"},
		{"another was named", 200, named(302), false, Leave, "not named"},
		{"named with yes", 200, Consent{Named: []int{200}, Yes: true}, false, End, "named"},
		{"yes for a stranger", 200, byYes, false, Leave, "no orphaned worker"},

		{"another user's", 201, byPrompt, false, Leave, "belongs to other"},
		{"another user's, named", 201, named(201), false, Leave, "belongs to other"},
		{"another user's orphan", 303, byYes, false, Leave, "belongs to other"},
		{"with root's rights", 202, named(202), false, Leave, "belongs to"},
		{"another container's", 203, named(203), false, Leave, "another container"},
		{"zombie", 204, named(204), false, Leave, "has ended"},
		{"reused number", 205, named(205), false, Leave, "has ended"},
		{"not there", 12345, named(12345), false, Leave, "no process here"},

		{"itself", 100, named(100), false, Leave, "itself"},
		{"the shell", 50, named(50), false, Leave, "started from it"},
		{"the first", 1, named(1), false, Leave, "first process"},

		{"orphan", 302, byYes, false, End, "orphaned"},
		{"orphan, asked", 302, byPrompt, false, Ask, "asked"},
		{"orphan, nobody to ask", 302, Consent{}, false, Leave, "the option pid 302"},
		{"running worker", 301, byYes, false, Leave, "no orphaned worker"},
		{"running worker, named", 301, named(301), false, End, "named"},

		{"root", 201, byPrompt, true, Leave, "the option pid 201"},
		{"root, yes", 302, byYes, true, Leave, "the option pid 302"},
		{"root, named", 201, named(201), true, End, "named"},
		{"root, itself", 100, named(100), true, Leave, "itself"},
		{"root, another container's", 203, named(203), true, Leave, "another container"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := machine1000()
			if c.root {
				self := m.processes[100]
				self.UID, self.Euid = 0, 0
				m.processes[100] = self
			}
			r, err := newRules(m, c.consent)
			if err != nil {
				t.Fatal(err)
			}
			got, err := r.judge(Holder{PID: c.pid}, time.Second)
			if err != nil || got.Ruling != c.want || !strings.Contains(got.Why, c.why) {
				t.Errorf("process %d: %s, because %s (%v); %s expected, because of %q", c.pid, got.Ruling, got.Why, err, c.want, c.why)
			}
		})
	}
}

// A session need not have the GPU open: its worker has.
func TestSessionMayBeNamed(t *testing.T) {
	m := machine1000()
	p := m.processes[300]
	p.UsesGPU = false
	m.processes[300] = p
	r, err := newRules(m, Consent{Named: []int{300}})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := r.judge(Holder{PID: 300, Session: "s"}, 0); err != nil || c.Ruling != End {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestEnding(t *testing.T) {
	for name, c := range map[string]struct {
		onSignal func(m *fake, s syscall.Signal)
		onHold   func(m *fake)
		how      string
		err      error
		signals  []string
	}{
		"well behaved": {onSignal: func(m *fake, _ syscall.Signal) { delete(m.processes, 200) }, how: EndedTerm, signals: []string{"terminated"}},
		"a zombie afterwards": {onSignal: func(m *fake, _ syscall.Signal) { p := m.processes[200]; p.Ended = true; m.processes[200] = p },
			how: EndedTerm, signals: []string{"terminated"}},
		"stubborn": {onSignal: func(m *fake, s syscall.Signal) {
			if s == syscall.SIGKILL {
				delete(m.processes, 200)
			}
		}, how: EndedKill, signals: []string{"terminated", "killed"}},
		"immortal":                {how: NotEnded, err: errStays, signals: []string{"terminated", "killed"}},
		"gone when held":          {onHold: func(m *fake) { delete(m.processes, 200) }, how: EndedBefore},
		"number reused when held": {onHold: func(m *fake) { p := m.processes[200]; p.Started++; m.processes[200] = p }, how: NotTouched, err: errChanged},
		"other rights when held":  {onHold: func(m *fake) { p := m.processes[200]; p.Euid = 0; m.processes[200] = p }, how: NotTouched, err: errChanged},
		"number reused after the first signal": {onSignal: func(m *fake, _ syscall.Signal) { p := m.processes[200]; p.Started++; m.processes[200] = p },
			how: EndedTerm, signals: []string{"terminated"}}, // the new one gets nothing
	} {
		t.Run(name, func(t *testing.T) {
			m := machine1000()
			if c.onSignal != nil {
				m.onSignal = func(_ int, s syscall.Signal) { c.onSignal(m, s) }
			}
			r, err := newRules(m, Consent{Named: []int{200}})
			if err != nil {
				t.Fatal(err)
			}
			candidate, err := r.judge(Holder{PID: 200}, 0)
			if err != nil || candidate.Ruling != End {
				t.Fatalf("%+v, %v", candidate, err)
			}
			if c.onHold != nil {
				m.onHold = func(int) { c.onHold(m) }
			}
			how, err := r.end(t.Context(), candidate, time.Second)
			if how != c.how || !errors.Is(err, c.err) || !slices.Equal(m.signalled, c.signals) {
				t.Errorf("it %s, signals %v, %v; expected: it %s, %v, %v", how, m.signalled, err, c.how, c.signals, c.err)
			}
		})
	}
}

func TestEndingIsInterrupted(t *testing.T) {
	m := machine1000()
	r, err := newRules(m, Consent{Named: []int{200}})
	if err != nil {
		t.Fatal(err)
	}
	candidate, err := r.judge(Holder{PID: 200}, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	m.onSignal = func(int, syscall.Signal) { cancel() }
	if how, err := r.end(ctx, candidate, time.Hour); how != NotEnded || !errors.Is(err, context.Canceled) || len(m.signalled) != 1 {
		t.Errorf("it %s after %v, %v: an interrupted user wants no SIGKILL", how, m.signalled, err)
	}
}

// The files of proc(5), with a name that is made to mislead.
func TestReadProcess(t *testing.T) {
	const maps = "7f00-7f10 r-xp 00000000 08:01 131 %s\n7f20-7f30 rw-p 00000000 00:00 0 [heap]\n"
	proc := func(mapped string) fs.FS {
		return fstest.MapFS{
			"77/stat":   {Data: []byte("77 (a) R 1 (b) S 42 77 42 34816 77 4194560 1 0 0 0 5 6 0 0 20 0 4 0 9000 1000 20 18446744073709551615 1 1 0 0\n")},
			"77/status": {Data: []byte("Name:\tx\nUid:\t1000\t0\t1000\t1000\nGid:\t1 1 1 1\n")},
			"77/maps":   {Data: []byte(strings.Replace(maps, "%s", mapped, 1))},
			"78/stat":   {Data: []byte("78 (gone) X 1\n")},
		}
	}
	for mapped, uses := range map[string]bool{
		"/usr/lib/x86_64-linux-gnu/libcuda.so.550.54": true, "/dev/nvidiactl": true, "/opt/simulator.so": true,
		"/usr/lib/libcudart.so.12": false, "/home/dev/nvidia0": false, "/opt/simulator.so.old": false,
	} {
		p, err := readMore(proc(mapped), gpusurvey.ProcessInfo{PID: 77, Started: 9000}, 100*time.Second, []string{"/opt/simulator.so"})
		if err != nil || p.UID != 1000 || p.Euid != 0 || p.Age != 10*time.Second || p.Ended || p.UsesGPU != uses {
			t.Errorf("%s mapped: %+v, %v", mapped, p, err)
		}
	}
	for name, c := range map[string]struct {
		is   gpusurvey.ProcessInfo
		gone bool
	}{"no such process": {gpusurvey.ProcessInfo{PID: 79}, true}, "reused number": {gpusurvey.ProcessInfo{PID: 77, Started: 8999}, true}, "short line": {gpusurvey.ProcessInfo{PID: 78}, false}} {
		if _, err := readMore(proc(""), c.is, 0, nil); err == nil || errors.Is(err, fs.ErrNotExist) != c.gone {
			t.Errorf("%s: %v", name, err)
		}
	}
	if ended, _, err := parseStat("77 (x) Z 42 77 42 34816 77 4194560 1 0 0 0 5 6 0 0 20 0 4 0 9000 1"); !ended || err != nil {
		t.Errorf("a zombie: %t, %v", ended, err)
	}
}
