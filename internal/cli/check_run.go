package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/printable"
	"github.com/voxcam/voxcam/internal/session"
)

// runQuestion asks whether a run would fit.
type runQuestion struct {
	model   modelFlags // but for the device
	shape   [4]int     // [C, D, H, W]; zero where the model's file says it
	methods []string   // expanded
	samples int
	policy  policy.Policy

	free func(*device.Device) (int, error) // nil: the device's FreeMemory
}

// runAnswer says how a run would go now.
type runAnswer struct {
	Model  string       `json:"model"`
	Fits   bool         `json:"fits"`   // on the device that was asked for, or on the processor if the policy lets it go on
	Device string       `json:"device"` // that would compute
	Level  cam.Level    `json:"level,omitempty"`
	Budget int          `json:"budget_bytes"` // 0: the least that works
	Free   int          `json:"free_bytes"`   // that the budget is a part of
	Reason string       `json:"reason,omitempty"`
	Draws  int          `json:"n_samples,omitempty"` // that the policy leaves; 0 if no method draws
	Passes []passAnswer `json:"passes"`
	// Seconds is an estimate for one volume, by Basis.
	Seconds float64 `json:"estimated_seconds_per_volume"`
	Basis   string  `json:"estimate_basis"`

	skips bool // the policy begins no volume with so little free memory
}

// passAnswer is one pass through the network and its gradient.
type passAnswer struct {
	Name     string    `json:"pass"`
	Methods  []string  `json:"methods"`
	Level    cam.Level `json:"level,omitempty"` // "" if it does not fit
	Needs    int       `json:"needs_bytes"`     // of the budget: the arena, weights and, on a GPU, volumes and maps; the least if it does not fit
	Arena    int       `json:"arena_bytes"`
	Weights  int       `json:"weights_bytes"`
	Fields   int       `json:"device_volume_bytes,omitempty"`
	Whole    int       `json:"whole_tensor_bytes"` // of the arena with whole tensors
	Runs     int       `json:"runs"`               // of the pass for one volume
	Seconds  float64   `json:"estimated_seconds"`  // of one of them
	Smallest int       `json:"smallest_arena_bytes"`
}

// code is the exit code: 0 if the run fits where it was asked to, 3 if the processor goes on, 4 if nothing does.
func (a *runAnswer) code() int {
	switch {
	case !a.Fits:
		return session.ExitFailed
	case a.Level == cam.LevelCPU:
		return session.ExitDegraded
	}
	return session.ExitOK
}

// answer opens the device and plans. Where the device has no room and the policy allows it, the plan is the processor's.
func (q *runQuestion) answer(ctx context.Context, name string, stderr io.Writer) (*runAnswer, error) {
	if p := q.model.precision; !slices.Contains(device.Precisions(), p) {
		return nil, usage(fmt.Errorf("--precision %s: choose from %s", p, strings.Join(device.Precisions(), ", ")))
	}
	a, err := q.plan(ctx, name, q.model.precision, stderr)
	if !strings.HasPrefix(name, "cuda") || err == nil && a.Fits || ctx.Err() != nil {
		return a, err
	}
	if noDevice := (*deviceError)(nil); errors.As(err, &noDevice) {
		a = &runAnswer{Model: q.model.model, Device: name, Reason: err.Error(), Passes: []passAnswer{}}
	} else if err != nil {
		return nil, err
	}
	if !q.policy.CPU || a.skips {
		return a, nil
	}
	onCPU := *q
	if err == nil { // the run has looked at the policy's thresholds on the device
		onCPU.policy = policy.Policy{CPU: true}
		if a.Draws > 0 {
			onCPU.samples = q.policy.SamplesOnProcessor(a.Draws, a.Free)
		}
	}
	b, err := onCPU.plan(ctx, "cpu", "fp32", stderr)
	if err != nil {
		return nil, err
	}
	if b.Fits {
		b.Level, b.Reason = cam.LevelCPU, a.Reason
		return b, nil
	}
	a.Reason += "\nthe processor cannot go on either: " + b.Reason
	return a, nil
}

// deviceError says that a device that is there could not be opened.
type deviceError struct{ err error }

func (e *deviceError) Error() string { return e.err.Error() }
func (e *deviceError) Unwrap() error { return e.err }

// plan plans on a device.
func (q *runQuestion) plan(ctx context.Context, name, precision string, stderr io.Writer) (a *runAnswer, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	flags := q.model
	flags.deviceFlags = deviceFlags{name, precision}
	d, err := flags.deviceFlags.open(stderr)
	if err != nil {
		return nil, &deviceError{err}
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	a = &runAnswer{Model: q.model.model, Device: "cpu", Passes: []passAnswer{}, Basis: basis(d)}
	if onGPU(d) {
		a.Device = name
	}
	free := d.FreeMemory
	if q.free != nil {
		free = func() (int, error) { return q.free(d) }
	}
	opt, err := flags.options(q.shape, free)
	if err != nil {
		return nil, err
	}
	var unknown error // where the system does not tell, nothing is below a threshold
	a.Free, unknown = free()
	if onGPU(d) { // as the governor of a run does it
		bytes, least := policy.NewGovernor(flags.budget, nil).Allow(backend.Usage{Total: max(1, a.Free), Free: a.Free})
		opt.Budget = cam.Budget{Bytes: bytes, Smallest: least}
	}
	a.Budget = opt.Budget.Bytes
	passes, err := explain.Plans(ctx, flags.model, d, opt, q.methods)
	if err != nil {
		return nil, usage(err)
	}
	choices, err := cam.Choose(q.methods, nil)
	if err != nil {
		return nil, usage(err)
	}
	draws := 0
	if slices.ContainsFunc(choices, drawing) {
		draws = q.samples
		if unknown == nil {
			draws = q.policy.Samples(q.samples, a.Free)
		}
		a.Draws = draws
	}
	a.Fits = true
	var refusals []string
	for _, p := range passes {
		is := passAnswer{Name: p.Name, Methods: p.Methods, Weights: p.Weights, Fields: p.Fields, Whole: p.Whole, Smallest: p.Smallest, Runs: 1}
		if slices.ContainsFunc(choices, func(c cam.Choice) bool { return slices.Contains(p.Methods, c.Name) && drawing(c) }) {
			is.Runs = draws
			if slices.ContainsFunc(choices, func(c cam.Choice) bool { return slices.Contains(p.Methods, c.Name) && !drawing(c) }) {
				is.Runs++
			}
		}
		if p.Err != nil {
			a.Fits = false
			is.Arena = p.Smallest
			refusal := fmt.Sprintf("%s (%s): %v", p.Name, strings.Join(p.Methods, ", "), p.Err)
			if least := (*cam.BudgetError)(nil); errors.As(p.Err, &least) {
				is.Needs = least.Smallest
				refusal += "; --memory-budget " + bytesize.FormatUp(least.Smallest) + " would do"
			}
			refusals = append(refusals, refusal)
			a.Passes = append(a.Passes, is)
			continue
		}
		is.Arena, is.Seconds = p.Plan.Peak, p.Plan.Seconds
		is.Needs = is.Arena + is.Weights + is.Fields
		if takes := is.Needs + apart(p); a.Free > 0 && takes > a.Free {
			a.Fits = false
			refusals = append(refusals, fmt.Sprintf("%s (%s): it takes %s, with what the budget does not count, and %s are free",
				p.Name, strings.Join(p.Methods, ", "), bytesize.Format(takes), bytesize.Format(a.Free)))
			a.Passes = append(a.Passes, is)
			continue
		}
		is.Level = p.Level
		a.Level = lower(a.Level, is.Level)
		a.Seconds += is.Seconds * float64(is.Runs)
		a.Passes = append(a.Passes, is)
	}
	a.Reason = strings.Join(refusals, "\n")
	if unknown == nil && q.policy.Skips(a.Free) {
		a.Fits, a.skips, a.Reason = false, true, fmt.Sprintf("the policy %s skips volumes with less than 0.5 GB free, and %s are", q.policy, bytesize.Format(a.Free))
	}
	if !a.Fits {
		a.Level, a.Seconds = "", 0
	}
	return a, nil
}

// apart is what a pass takes of the memory that it is planned in besides what its budget counts.
func apart(p explain.PlannedPass) int {
	if p.Fields > 0 {
		return 0
	}
	return p.Volume
}

func drawing(c cam.Choice) bool { return c.Convention.Needs.Has(cam.Draws) }

// onGPU reports whether a device has memory of its own.
func onGPU(d *device.Device) bool { return strings.HasPrefix(d.Name(), "cuda/") }

// basis says what estimates of time rest on.
func basis(d *device.Device) string {
	const rest = "; nothing was measured, and reading and writing files comes on top"
	c := d.Costs()
	if c.FlopsPerSecond == 0 {
		return "the planner's, from operations, bytes and steps at the rates of an ordinary processor" + rest
	}
	return fmt.Sprintf("the planner's, at %.3g operations and %.3g bytes a second and %.3g s a step, which are those of an H100 or H200%s",
		c.FlopsPerSecond, c.BytesPerSecond, c.StepSeconds, rest)
}

// levels from the most memory to the least.
var levels = []cam.Level{cam.LevelWhole, cam.LevelStreamed, cam.LevelSmallest, cam.LevelHost, cam.LevelCPU}

func lower(a, b cam.Level) cam.Level {
	return levels[max(0, slices.Index(levels, a), slices.Index(levels, b))]
}

// levelTexts say what a level means.
var levelTexts = map[cam.Level]string{
	cam.LevelWhole: "with whole tensors", cam.LevelStreamed: "by streamed plans", cam.LevelSmallest: "by the smallest plans",
	cam.LevelHost: "by streamed plans, with volumes in the host's memory", cam.LevelCPU: "only on the processor",
}

// passColumns are the columns of the table of passes.
var passColumns = []struct {
	head string
	cell func(passAnswer) string
}{
	{"pass", func(p passAnswer) string { return p.Name }},
	{"methods", func(p passAnswer) string { return strings.Join(p.Methods, ", ") }},
	{"level", func(p passAnswer) string {
		if p.Level == "" {
			return "does not fit"
		}
		return string(p.Level)
	}},
	{"needs", func(p passAnswer) string { return bytesize.Format(p.Needs) }},
	{"arena", func(p passAnswer) string { return bytesize.Format(p.Arena) }},
	{"weights", func(p passAnswer) string { return bytesize.Format(p.Weights) }},
	{"volumes", func(p passAnswer) string { return bytesize.Format(p.Fields) }},
	{"whole tensors", func(p passAnswer) string { return bytesize.Format(p.Whole) }},
	{"time", func(p passAnswer) string { return fmt.Sprintf("%d x %s", p.Runs, seconds(p.Seconds)) }},
}

func (a *runAnswer) print(w io.Writer) error {
	budget := "the least that works"
	if a.Budget > 0 {
		budget = "a budget of " + bytesize.Format(a.Budget)
	}
	if a.Free > 0 {
		budget += ", " + bytesize.Format(a.Free) + " are free"
	}
	if a.Fits {
		printable.Fprintf(w, "a run of %s fits on %s %s (%s)\n", a.Model, a.Device, levelTexts[a.Level], budget)
	} else {
		printable.Fprintf(w, "a run of %s does not fit on %s (%s)\n", a.Model, a.Device, budget)
	}
	if a.Reason != "" {
		fmt.Fprintln(w, printable.Lines(a.Reason))
	}
	if len(a.Passes) > 0 {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, c := range passColumns {
			printable.Fprintf(t, "%s\t", c.head)
		}
		for _, p := range a.Passes {
			printable.Fprintln(t)
			for _, c := range passColumns {
				printable.Fprintf(t, "%s\t", c.cell(p))
			}
		}
		printable.Fprintln(t)
		if err := t.Flush(); err != nil {
			return err
		}
	}
	if !a.Fits {
		return nil
	}
	if a.Draws > 0 {
		printable.Fprintf(w, "%d draws of noise a volume\n", a.Draws)
	}
	_, err := printable.Fprintf(w, "about %s a volume (estimate: %s)\n", seconds(a.Seconds), a.Basis)
	return err
}
