// Package reclaim gets memory of GPUs back: from this program's own sessions by asking them, and from processes that the user has named or
// confirmed by ending them. It says of each step what came back, by the figures of the driver before and after, and it never makes a
// context of its own, which would take memory.
package reclaim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/gpusurvey"
	"github.com/voxcam/voxcam/internal/policy"
)

// Session is a session that answers, with the number of its process.
type Session struct {
	PID int
	control.Responder
}

// Options choose the steps. First processes are ended, then Operations follow in their order.
type Options struct {
	Survey   func(ctx context.Context) ([]gpusurvey.GPU, error) // the GPUs now; an error without any figures of the driver
	Sessions func(ctx context.Context) ([]Session, error)       // the sessions of this user
	System   System
	Clock    func() time.Time

	Operations []policy.Operation // ordered from each session, in this order
	For        time.Duration      // duration of policy.Release; 0: until it is resumed
	Timeout    time.Duration      // of each operation; 0: none

	End     bool // end processes that hold memory
	Grace   time.Duration
	Consent Consent
	Listed  func([]Candidate) // is called with the list before Consent.Ask; may be nil

	DryRun bool // only report the steps
}

// Step is a step that was taken, or would be in a dry run.
type Step struct {
	Step     string  `json:"step"`   // an operation of package policy, or end
	Target   string  `json:"target"` // the session or process
	PID      int     `json:"pid"`
	Done     bool    `json:"done"`
	Freed    int     `json:"freed_bytes"`     // by the session's figures where the driver's list agrees; the memory of a process that ended
	Device   int     `json:"gpu_freed_bytes"` // growth of the free memory of all GPUs during the step, for any reason
	Measured bool    `json:"measured"`        // Device is known
	Seconds  float64 `json:"seconds"`
	Text     string  `json:"text"` // the result, for people
	Error    string  `json:"error,omitempty"`
}

// Usage is the memory of a session before and after.
type Usage struct {
	Session string         `json:"session"`
	PID     int            `json:"pid"`
	Before  backend.Usage  `json:"before"`
	After   *backend.Usage `json:"after,omitempty"` // nil if it has ended since, or does not answer
}

// Report lists the steps that were done, and their effect.
type Report struct {
	DryRun    bool            `json:"dry_run"`
	Before    []gpusurvey.GPU `json:"before"`
	After     []gpusurvey.GPU `json:"after"`
	Sessions  []Usage         `json:"sessions"`
	Processes []Candidate     `json:"processes,omitempty"`
	Steps     []Step          `json:"steps"`
	Freed     int             `json:"freed_bytes"` // growth of the free memory of all GPUs; negative if others took more
	Problems  []string        `json:"problems,omitempty"`
}

// Failed reports whether a step failed.
func (r *Report) Failed() bool {
	return slices.ContainsFunc(r.Steps, func(s Step) bool { return s.Error != "" })
}

// Gained returns the bytes that the steps brought back.
func (r *Report) Gained() int {
	n := 0
	for _, s := range r.Steps {
		if s.Done {
			n += max(0, s.Freed)
		}
	}
	return n
}

// run is the state of one Run.
type run struct {
	Options
	report   *Report
	listed   time.Time // the time of Report.Before
	sessions []named
}

// named is a session with its status, which has its name.
type named struct {
	Session
	status control.Status
}

func (n named) String() string {
	return fmt.Sprintf("session %s (process %d)", n.status.Session, n.PID)
}

// pids returns the numbers of its processes.
func (n named) pids() []int { return []int{n.PID, n.status.Worker} }

// patience bounds the time in which a session must answer.
const patience = 5 * time.Second

// Run takes the steps of the options. After an error, the report has the steps until then.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	r := &run{Options: o, report: &Report{DryRun: o.DryRun, Steps: []Step{}, Sessions: []Usage{}}}
	return r.report, r.run(ctx)
}

func (r *run) run(ctx context.Context) (err error) {
	r.listed = r.Clock()
	if r.report.Before, err = r.Survey(ctx); err != nil {
		r.problem("what the GPUs hold cannot be told: %v", err)
	}
	if err := r.find(ctx); err != nil {
		return err
	}
	if r.End {
		if err := r.endProcesses(ctx); err != nil {
			return err
		}
	}
	for _, operation := range r.Operations {
		for i := range r.sessions {
			if err := ctx.Err(); err != nil {
				return err
			}
			r.order(ctx, &r.sessions[i], operation)
		}
	}
	return r.verify(ctx)
}

func (r *run) problem(format string, args ...any) {
	r.report.Problems = append(r.report.Problems, fmt.Sprintf(format, args...))
}

// find asks all sessions for their status.
func (r *run) find(ctx context.Context) error {
	found, err := r.Sessions(ctx)
	if err != nil {
		r.problem("not all sessions can be reached: %v", err)
	}
	for _, s := range found {
		status, err := ask(ctx, s)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.problem("the session of process %d does not answer: %v", s.PID, err)
			continue
		}
		r.sessions = append(r.sessions, named{s, status})
		r.report.Sessions = append(r.report.Sessions, Usage{Session: status.Session, PID: s.PID, Before: status.Usage})
	}
	return nil
}

func ask(ctx context.Context, s Session) (control.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return s.Status(ctx)
}

// operations has two texts for each operation: one for a dry run, and one for an operation without effect.
var operations = map[policy.Operation]struct{ would, nothing string }{
	policy.Release:    {"would give back all but the least that works", "nothing was held"},
	policy.Trim:       {"would give back what nothing is in", "nothing was unused"},
	policy.Defragment: {"would make one block of what is unused", "this only moves what is unused together"},
	policy.Restart:    {"would make its context anew", "the new context takes what the old one took"},
	policy.Resume:     {"would take what its budget allows again", "it takes memory again when it needs it"},
}

// order has a session carry out an operation, and reports its real effect.
func (r *run) order(ctx context.Context, s *named, operation policy.Operation) {
	words := operations[operation]
	step := Step{Step: string(operation), Target: s.String(), PID: s.PID}
	defer func() { r.report.Steps = append(r.report.Steps, step) }()
	if r.DryRun {
		step.Text = words.would
		if held := s.status.Usage; operation == policy.Release || operation == policy.Trim {
			step.Text += fmt.Sprintf("; it has %s of the driver, and uses %s", bytesize.Format(held.Reserved+held.Overhead), bytesize.Format(held.Allocated))
		}
		return
	}
	o := policy.Order{Operation: operation}
	if operation == policy.Release {
		o.For = r.For
	}
	before, begun := r.free(ctx), r.Clock()
	within, cancel := ctx, context.CancelFunc(func() {})
	if r.Timeout > 0 {
		within, cancel = context.WithTimeoutCause(ctx, r.Timeout, fmt.Errorf("it was not done within %v", r.Timeout))
	}
	defer cancel()
	outcome, err := s.Order(within, o)
	step.Seconds = r.Clock().Sub(begun).Seconds()
	if err != nil {
		step.Error = err.Error()
		step.Text = "failed: " + step.Error
		return
	}
	step.Done, step.Freed = true, outcome.Freed()
	after, held := r.free(ctx), s.pids()
	step.Device, step.Measured = freed(before, after)
	if status, err := ask(ctx, s.Session); err == nil { // it may have another worker now
		s.status = status
	}
	// Memory that a session claims to have given back must be gone from the driver's list, if that has the memory of each process.
	doubt, nothing := "", words.nothing
	had, listed := holding(before, held)
	if has, _ := holding(after, append(held, s.pids()...)); listed && step.Freed > 0 && had-has < step.Freed {
		doubt = fmt.Sprintf("; its own figure is %s: it goes on, and may have taken some again before the driver was asked", bytesize.Format(step.Freed))
		step.Freed, nothing = max(0, had-has), "nothing came back"
	} else if step.Measured && step.Freed > 0 && step.Device < step.Freed/2 {
		doubt = fmt.Sprintf("; the GPU shows only %s more: others took the rest", bytesize.Format(max(0, step.Device)))
	}
	step.Text = amount(step.Freed, nothing) + doubt
	if was, is := outcome.Before.Fragmentation(), outcome.After.Fragmentation(); operation == policy.Defragment || was != is {
		step.Text += fmt.Sprintf("; fragmentation %.3g %%, before %.3g %%", 100*is, 100*was)
	}
	if operation == policy.Release {
		step.Text += "; it holds little " + until(r.For)
	}
	if outcome.Note != "" {
		step.Text += "; " + outcome.Note
	}
}

func until(d time.Duration) string {
	if d == 0 {
		return "until it is told to resume"
	}
	return fmt.Sprintf("for %v", d)
}

// amount returns a number of bytes in words, "nothing" for 0.
func amount(n int, nothing string) string {
	switch {
	case n > 0:
		return bytesize.Format(n) + " freed"
	case n < 0:
		return bytesize.Format(-n) + " taken"
	}
	return "0 B: " + nothing
}

// free returns the free bytes of each GPU; nil where they are not known.
func (r *run) free(ctx context.Context) []gpusurvey.GPU {
	gpus, err := r.Survey(ctx)
	if err != nil {
		return nil
	}
	return gpus
}

// holding returns the driver's list of processes, and whether it has the memory of at least one.
func holding(gpus []gpusurvey.GPU, pids []int) (bytes int, listed bool) {
	for _, g := range gpus {
		for _, p := range g.Processes {
			if p.Bytes >= 0 && slices.Contains(pids, p.PID) {
				bytes += p.Bytes
				listed = true
			}
		}
	}
	return bytes, listed
}

// freed returns the growth of the free memory of the GPUs that both lists have.
func freed(before, after []gpusurvey.GPU) (n int, known bool) {
	for _, b := range before {
		for _, a := range after {
			if a.UUID == b.UUID && a.TrulyFree >= 0 && b.TrulyFree >= 0 {
				n += a.TrulyFree - b.TrulyFree
				known = true
			}
		}
	}
	return n, known
}

// endProcesses lists the processes that hold memory, and ends those that the rules allow.
func (r *run) endProcesses(ctx context.Context) error {
	rules, err := newRules(r.System, r.Consent)
	if err != nil {
		return err
	}
	holders := r.holders()
	for _, pid := range r.Consent.Named {
		if !slices.ContainsFunc(holders, func(h Holder) bool { return h.PID == pid }) {
			r.report.Steps = append(r.report.Steps, Step{Step: "end", Target: fmt.Sprintf("process %d", pid), PID: pid,
				Text: "left alone: by the driver's lists it holds no memory of a GPU, and it is no session", Error: "it holds no memory of a GPU"})
		}
	}
	for _, h := range holders {
		c, err := rules.judge(h, r.Clock().Sub(r.listed))
		if err != nil {
			return err
		}
		r.report.Processes = append(r.report.Processes, c)
	}
	if r.Listed != nil {
		r.Listed(r.report.Processes)
	}
	for i := range r.report.Processes {
		c := &r.report.Processes[i]
		if c.Ruling == Ask && !r.DryRun {
			if err := rules.same(*c); err != nil { // perhaps together with its session
				c.Ruling, c.Why = Leave, "it has ended meanwhile"
				continue
			}
			yes, err := r.Consent.Ask(*c)
			if err != nil {
				return fmt.Errorf("asking about process %d: %w", c.PID, err)
			}
			c.Ruling, c.Why = Leave, "you said no"
			if yes {
				c.Ruling, c.Why = End, "you confirmed it"
			}
		}
		named := slices.Contains(r.Consent.Named, c.PID)
		if c.Ruling == Leave && !named && !r.DryRun {
			continue // the list has the reason
		}
		if err := r.endOne(ctx, rules, *c, named); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) endOne(ctx context.Context, rules *rules, c Candidate, named bool) error {
	step := Step{Step: "end", Target: fmt.Sprintf("process %d (%s, of %s)", c.PID, c.Name, c.User), PID: c.PID}
	if c.Name == "" {
		step.Target = fmt.Sprintf("process %d", c.PID)
	}
	defer func() { r.report.Steps = append(r.report.Steps, step) }()
	switch {
	case c.Ruling == Leave:
		step.Text = "left alone: " + c.Why
		if named {
			step.Error = c.Why
		}
		return nil
	case r.DryRun && c.Ruling == Ask:
		step.Text = "would be asked about"
		return nil
	case r.DryRun:
		step.Text = "would be ended: " + c.Why
		return nil
	}
	before, begun := r.free(ctx), r.Clock()
	how, err := rules.end(ctx, c, r.Grace)
	took := r.Clock().Sub(begun)
	step.Seconds = took.Seconds()
	if err != nil {
		step.Error = fmt.Sprintf("it %s: %v", how, err)
		step.Text = "failed: " + step.Error
		return ctx.Err()
	}
	if how == EndedBefore {
		step.Text = how
		return nil
	}
	step.Done = true
	gone, after := r.vanished(ctx, c.lists)
	step.Device, step.Measured = freed(before, after)
	if gone {
		step.Freed = max(0, step.Device)
		if c.Bytes >= 0 {
			step.Freed = min(step.Freed, c.Bytes) // the rest belongs to other processes
		}
	}
	step.Text = fmt.Sprintf("%s after %v; %s", how, took.Round(10*time.Millisecond), amount(step.Freed, "nothing came back"))
	if c.Bytes > 0 && step.Freed < c.Bytes {
		step.Text += fmt.Sprintf(" of the %s that it held", bytesize.Format(c.Bytes))
	}
	if !gone {
		step.Text += "; the driver still lists it"
	}
	if owner := r.owner(c.PID); owner != nil {
		step.Text += fmt.Sprintf("; it was the worker of %v, which starts another one: the option pid %d ends the session", *owner, owner.PID)
	}
	return nil
}

// owner returns the session that a worker belongs to.
func (r *run) owner(worker int) *named {
	for i, s := range r.sessions {
		if s.status.Worker == worker && s.PID != worker {
			return &r.sessions[i]
		}
	}
	return nil
}

// The driver takes a process off its list a little after the process has ended.
const (
	settle = 5 * time.Second
	glance = 50 * time.Millisecond
)

// vanished waits until the driver lists none of those numbers, and returns its list then.
func (r *run) vanished(ctx context.Context, pids []int) (gone bool, gpus []gpusurvey.GPU) {
	deadline := r.Clock().Add(settle)
	for {
		gpus = r.free(ctx)
		gone = gpus != nil && !slices.ContainsFunc(gpus, func(g gpusurvey.GPU) bool {
			return slices.ContainsFunc(g.Processes, func(p gpusurvey.ProcessInfo) bool { return slices.Contains(pids, p.PID) })
		})
		if gone || gpus == nil || !r.Clock().Before(deadline) {
			return gone, gpus
		}
		select {
		case <-ctx.Done():
			return gone, gpus
		case <-time.After(glance):
		}
	}
}

// holders returns the processes in the driver's lists, and the sessions whose workers are in them.
func (r *run) holders() []Holder {
	at := map[int]int{}
	var out []Holder
	for _, g := range r.report.Before {
		for _, p := range g.Processes {
			i, known := at[p.PID]
			if !known {
				i = len(out)
				at[p.PID] = i
				out = append(out, Holder{PID: p.PID, lists: []int{p.PID}})
			}
			h := &out[i]
			h.GPUs = append(h.GPUs, g.UUID)
			if h.Bytes < 0 || p.Bytes < 0 {
				h.Bytes = -1
			} else {
				h.Bytes += p.Bytes
			}
		}
	}
	for _, s := range r.sessions {
		if i, known := at[s.PID]; known {
			out[i].Session = s.status.Session
			continue
		}
		if i, known := at[s.status.Worker]; known {
			h := out[i]
			h.PID, h.Session = s.PID, s.status.Session
			out = append(out, h)
		}
	}
	// A session comes before its worker, which it would start again.
	slices.SortStableFunc(out, func(a, b Holder) int {
		switch first := a.Session != ""; {
		case first == (b.Session != ""):
			return 0
		case first:
			return -1
		}
		return 1
	})
	return out
}

// verify measures the memory of GPUs and sessions again.
func (r *run) verify(ctx context.Context) (err error) {
	if r.report.After, err = r.Survey(ctx); err != nil && r.report.Before != nil {
		r.problem("what came back cannot be told: %v", err)
	}
	r.report.Freed, _ = freed(r.report.Before, r.report.After)
	for i := range r.report.Sessions {
		if status, err := ask(ctx, r.sessions[i].Session); err == nil {
			r.report.Sessions[i].After = &status.Usage
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return nil
}

// Described returns a candidate in words, for a question.
func (c Candidate) Described() string {
	parts := []string{c.Name}
	switch {
	case c.Bytes >= 0:
		parts = append(parts, bytesize.Format(c.Bytes))
	default:
		parts = append(parts, "memory not told")
	}
	parts = append(parts, "of "+c.User, "runs for "+(time.Duration(c.Age)*time.Second).String())
	if c.Session != "" {
		parts = append(parts, "session "+c.Session)
	}
	if c.Orphan {
		parts = append(parts, "an orphaned worker of this program")
	}
	return fmt.Sprintf("process %d (%s)", c.PID, strings.Join(parts, ", "))
}

// Sessions returns the sessions of this user. The error is about folders that cannot be read.
func Sessions(ctx context.Context) (found []Session, err error) {
	clients, err := control.Sessions(ctx)
	for _, c := range clients {
		found = append(found, Session{PID: c.PID, Responder: c})
	}
	return found, err
}

// Trim asks sessions for the memory of GPUs that they do not use, waiting at most timeout for each, and returns the bytes that came back. The
// error names sessions that do not answer.
func Trim(ctx context.Context, sessions []Session, timeout time.Duration) (freed int, err error) {
	for _, s := range sessions {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		outcome, failed := s.Order(ctx, policy.Order{Operation: policy.Trim})
		cancel()
		if failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		freed += max(outcome.Freed(), 0)
	}
	return freed, err
}
