package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/gpusurvey"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/reclaim"
	"github.com/voxcam/voxcam/internal/session"
)

// bench is a machine with one GPU of 8 GiB, processes that hold its memory, and at most one session.
type bench struct {
	holds     map[int]int
	processes map[int]reclaim.Process
	worker    int // of the session; 0: there is none
	least     int // that the session keeps
	orders    []policy.Order
}

func newBench() *bench {
	p := func(name string, uid int) reclaim.Process {
		return reclaim.Process{ProcessInfo: gpusurvey.ProcessInfo{Name: name, UID: uid, User: "me", Parent: 1, Program: name == "voxcam"}, Euid: uid, UsesGPU: true, Age: time.Hour}
	}
	b := &bench{holds: map[int]int{}, processes: map[int]reclaim.Process{
		1: p("init", 0), 100: p("voxcam", 1000), 200: p("python", 1000), 201: p("python", 1001), 300: p("voxcam", 1000), 301: p("voxcam", 1000), 302: p("voxcam", 1000),
	}}
	orphan := b.processes[302]
	orphan.Orphan = true
	b.processes[302] = orphan
	return b
}

func (b *bench) survey(context.Context) (*gpusurvey.Survey, error) {
	g := gpusurvey.GPU{UUID: "GPU-1", Figures: gpusurvey.Figures{Total: 8 * bytesize.GiB, TrulyFree: 8 * bytesize.GiB}}
	for pid, n := range b.holds {
		g.TrulyFree -= n
		p := b.processes[pid]
		g.Processes = append(g.Processes, gpusurvey.ProcessInfo{PID: pid, Bytes: n, Program: p.Program})
	}
	slices.SortFunc(g.Processes, func(a, b gpusurvey.ProcessInfo) int { return a.PID - b.PID })
	g.Health = gpusurvey.DefaultBands().Judge(g.TrulyFree, 0)
	return &gpusurvey.Survey{GPUs: []gpusurvey.GPU{g}}, nil
}

func (b *bench) sessions(context.Context) ([]reclaim.Session, error) {
	if b.worker == 0 {
		return nil, nil
	}
	return []reclaim.Session{{PID: 300, Responder: b}}, nil
}

func (b *bench) usage() backend.Usage { return backend.Usage{Reserved: b.holds[b.worker]} }

func (b *bench) Status(context.Context) (control.Status, error) {
	return control.Status{PID: 300, Worker: b.worker, Session: "night", Usage: b.usage()}, nil
}

func (b *bench) Order(_ context.Context, o policy.Order) (policy.Outcome, error) {
	b.orders = append(b.orders, o)
	before := b.usage()
	if o.Operation == policy.Release {
		b.holds[b.worker] = min(b.holds[b.worker], b.least)
	}
	return policy.Outcome{Operation: o.Operation, Before: before, After: b.usage()}, nil
}

func (b *bench) Self() int { return 100 }

func (b *bench) Find(pid int) (reclaim.Process, error) {
	p, ok := b.processes[pid]
	if !ok {
		return p, fs.ErrNotExist
	}
	p.PID = pid
	return p, nil
}

func (b *bench) Hold(pid int) (reclaim.Handle, error) { return benchHandle{b, pid}, nil }

type benchHandle struct {
	b   *bench
	pid int
}

func (h benchHandle) Signal(syscall.Signal) error {
	delete(h.b.processes, h.pid)
	delete(h.b.holds, h.pid)
	return nil
}
func (h benchHandle) Wait(context.Context, time.Duration) (bool, error) { return true, nil }
func (h benchHandle) Close() error                                      { return nil }

// recoverWith runs the command on a bench, with what a user would answer.
func (b *bench) recover(t *testing.T, answers []string, args ...string) (code int, results, messages string) {
	t.Helper()
	o := recoverOptions{Options: reclaim.Options{For: time.Minute, Sessions: b.sessions, System: b}, bands: gpusurvey.DefaultBands(), survey: b.survey}
	if answers != nil {
		o.answer = func(context.Context) (string, error) {
			if len(answers) == 0 {
				t.Error("asked once more than expected")
				return "", nil
			}
			a := answers[0]
			answers = answers[1:]
			return a, nil
		}
	}
	given := func(name string) bool { return slices.Contains(args, "--"+name) }
	o.kill, o.Consent.Yes, o.full, o.restart, o.resume, o.trim, o.DryRun, o.asJSON, o.forever = given("kill-processes"), given("yes"), given("full-recovery"),
		given("restart-cuda"), given("resume"), given("clear-cache"), given("dry-run"), given("json"), given("until-resumed")
	if given("pid") {
		o.Consent.Named = []int{200}
	}
	if err := o.validate(given); err != nil {
		t.Fatal(err)
	}
	var out, talk bytes.Buffer
	err := o.run(t.Context(), strings.NewReader(""), &out, &talk)
	var exit *exitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if err != nil {
		code = exit.code
	}
	if len(answers) > 0 {
		t.Errorf("not asked: %q", answers)
	}
	return code, out.String(), talk.String()
}

func TestRecover(t *testing.T) {
	const gib = bytesize.GiB
	for _, c := range []struct {
		name    string
		holds   map[int]int
		worker  int
		answers []string
		args    []string
		code    int
		says    []string // patterns
		orders  []policy.Operation
		left    map[int]int
	}{
		{"release", map[int]int{301: 7 * gib}, 301, nil, nil, session.ExitOK,
			[]string{`release +session night \(process 300\) +6.5 GiB freed; it holds little for 1m0s`, `trim .* 0 B: nothing was unused`,
				`truly free on cuda:0 +1 GiB +7.5 GiB +\+6.5 GiB`, `held by session night +7 GiB +512 MiB +-6.5 GiB`, `healthy; 6.5 GiB came back`},
			[]policy.Operation{policy.Release, policy.Trim, policy.Defragment}, map[int]int{301: gib / 2}},
		{"nothing to release", map[int]int{301: gib / 2}, 301, nil, []string{"--until-resumed"}, session.ExitOK,
			[]string{`0 B: nothing was held; it holds little until voxcam recover --resume`, `healthy; 0 B came back`},
			[]policy.Operation{policy.Release, policy.Trim, policy.Defragment}, map[int]int{301: gib / 2}},
		{"others hold all", map[int]int{200: 8 * gib}, 0, nil, nil, session.ExitFailed,
			[]string{`nothing of this program holds memory`, `is theirs, and is never taken`, `critical; nothing was done`}, nil, map[int]int{200: 8 * gib}},
		{"others hold much", map[int]int{200: 7*gib + gib/4}, 0, nil, nil, session.ExitDegraded, []string{`warning; nothing was done`}, nil, map[int]int{200: 7*gib + gib/4}},
		{"freed, but critical", map[int]int{200: 7*gib + 3*gib/4, 301: gib / 4}, 301, nil, nil, session.ExitFailed, []string{`critical; 0 B came back`},
			[]policy.Operation{policy.Release, policy.Trim, policy.Defragment}, map[int]int{200: 7*gib + 3*gib/4, 301: gib / 4}},
		{"orphan without session", map[int]int{302: gib}, 0, nil, nil, session.ExitOK, []string{`processes of this program hold memory: 302; voxcam recover --kill-processes`}, nil, map[int]int{302: gib}},
		{"list, nobody to ask", map[int]int{200: gib, 201: gib, 302: gib}, 0, nil, []string{"--kill-processes"}, session.ExitOK,
			[]string{`200 +me +python +1 GiB +1h0m0s +another program +no: nobody can be asked here: --pid 200`, `201 .* no: it belongs to`, `302 .* orphaned worker +no: nobody`}, nil,
			map[int]int{200: gib, 201: gib, 302: gib}},
		{"asked", map[int]int{200: gib, 201: gib, 302: 2 * gib}, 0, []string{"n", "y"}, []string{"--kill-processes"}, session.ExitOK,
			[]string{`200 .* you are asked`, `end +process 302 .* ended by SIGTERM after .*; 2 GiB freed`, `2 GiB came back`, `End process 200 \(python, 1 GiB, of me, runs for 1h0m0s\)\? \[y/N\] `}, nil,
			map[int]int{200: gib, 201: gib}},
		{"named", map[int]int{200: gib, 302: gib}, 0, nil, []string{"--kill-processes", "--pid"}, session.ExitOK, []string{`end +process 200`}, nil, map[int]int{302: gib}},
		{"yes", map[int]int{200: gib, 302: gib}, 0, nil, []string{"--kill-processes", "--yes"}, session.ExitOK, []string{`end +process 302`}, nil, map[int]int{200: gib}},
		{"full", map[int]int{301: 3 * gib, 302: gib}, 301, nil, []string{"--full-recovery", "--yes"}, session.ExitOK,
			[]string{`(?s)end .*restart .*release .*trim .*defragment `, `3.5 GiB came back`},
			[]policy.Operation{policy.Restart, policy.Release, policy.Trim, policy.Defragment}, map[int]int{301: gib / 2}},
		{"restart", map[int]int{301: 3 * gib}, 301, nil, []string{"--restart-cuda"}, session.ExitOK, []string{`restart .*0 B: the new context takes what the old one took`},
			[]policy.Operation{policy.Restart}, map[int]int{301: 3 * gib}},
		{"trim", map[int]int{301: 3 * gib}, 301, nil, []string{"--clear-cache"}, session.ExitOK, nil, []policy.Operation{policy.Trim}, map[int]int{301: 3 * gib}},
		{"resume", map[int]int{301: 3 * gib, 200: 5 * gib}, 301, nil, []string{"--resume"}, session.ExitOK, nil, []policy.Operation{policy.Resume}, map[int]int{301: 3 * gib, 200: 5 * gib}},
		{"dry run", map[int]int{301: 3 * gib, 302: gib}, 301, nil, []string{"--full-recovery", "--yes", "--dry-run"}, session.ExitOK,
			[]string{`end +process 302 .* would be ended`, `release .* would give back all .* it has 3 GiB`, `nothing was done`}, nil, map[int]int{301: 3 * gib, 302: gib}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench()
			b.holds, b.worker, b.least = c.holds, c.worker, bytesize.GiB/2
			code, results, messages := b.recover(t, c.answers, c.args...)
			if code != c.code {
				t.Errorf("exit code %d instead of %d", code, c.code)
			}
			for _, pattern := range c.says {
				if !regexp.MustCompile(pattern).MatchString(results + messages) {
					t.Errorf("%s is not said", pattern)
				}
			}
			var orders []policy.Operation
			for _, o := range b.orders {
				orders = append(orders, o.Operation)
			}
			if !slices.Equal(orders, c.orders) {
				t.Errorf("orders %v instead of %v", orders, c.orders)
			}
			for _, pid := range []int{200, 201, 301, 302} {
				if b.holds[pid] != c.left[pid] {
					t.Errorf("process %d holds %d instead of %d", pid, b.holds[pid], c.left[pid])
				}
			}
			if t.Failed() {
				t.Log(results, messages)
			}
		})
	}
}

func TestRecoverJSON(t *testing.T) {
	b := newBench()
	b.holds, b.worker = map[int]int{301: bytesize.GiB}, 301
	_, text, _ := b.recover(t, nil, "--json")
	var got struct {
		Steps []struct {
			Step  string `json:"step"`
			Freed int    `json:"freed_bytes"`
			Done  bool   `json:"done"`
		} `json:"steps"`
		Health string `json:"health"`
		Code   int    `json:"exit_code"`
		Freed  int    `json:"freed_bytes"`
		Before []any  `json:"before"`
		After  []any  `json:"after"`
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(got.Steps) != 3 || got.Steps[0].Step != "release" || got.Steps[0].Freed != bytesize.GiB || !got.Steps[0].Done || got.Health != "healthy" ||
		got.Freed != bytesize.GiB || len(got.Before) != 1 || len(got.After) != 1 {
		t.Errorf("%s", text)
	}
}

// Flags that would do nothing are refused.
func TestRecoverFlags(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"--pid 5", "--kill-processes"}, {"--yes", "--kill-processes"}, {"--grace 3s", "--kill-processes"}, {"--kill-processes --for 3s", "--for needs"},
		{"--restart-cuda --until-resumed", "--until-resumed needs"}, {"--resume --kill-processes", "--resume needs to be alone"},
		{"--for 0s", "--until-resumed has no end"}, {"--for 3s --until-resumed", "contradict"}, {"--kill-processes --yes --pid 5", "no effect"},
		{"--kill-processes --pid -5", "no process"}, {"--full-recovery --timeout -1s", "from 0 up"},
	} {
		_, messages := runCommand(t, session.ExitRefused, append([]string{"recover"}, strings.Fields(c.args)...)...)
		if !strings.Contains(messages, c.says) {
			t.Errorf("%s: %s", c.args, messages)
		}
	}
}
