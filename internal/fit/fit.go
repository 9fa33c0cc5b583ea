// Package fit says whether and how a run would fit into the memory that is free now. It opens the device and plans as a run would, by the same
// budget and the same policy, and computes nothing.
package fit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/option"
	"github.com/voxcam/voxcam/internal/policy"
)

// Question asks whether a run would fit.
type Question struct {
	Engine  engine.Options // as the run would open it
	Request cam.Request    // for each volume

	// Notes is called with warnings and notes for the user about each device that is opened; nil: they are dropped.
	Notes func(warnings, notes []string)
	// Free returns the free memory of a device in bytes; nil: Device.FreeMemory.
	Free func(*device.Device) (int, error)
}

// DeviceError is the error of a device that could not be opened.
type DeviceError struct{ Err error }

func (e *DeviceError) Error() string { return e.Err.Error() }
func (e *DeviceError) Unwrap() error { return e.Err }

// Ask opens the device and plans. Where the device has no room and the policy allows it, the answer is the processor's. An error means that the
// question cannot be answered: the model or an option is wrong, or ctx has ended.
func Ask(ctx context.Context, q Question) (*cam.Fit, error) {
	if err := (device.Options{Precision: q.Engine.Precision}).CheckOption("precision"); err != nil {
		return nil, cam.NewOptionError("precision", err)
	}
	if err := q.fill(); err != nil {
		return nil, err
	}
	name := q.Engine.Device
	if name == "" || name == device.DefaultName { // as an engine tries it
		name = "cuda"
	}
	a, err := q.on(ctx, name, q.Engine.Precision)
	if noGPU := (*DeviceError)(nil); name != q.Engine.Device && errors.As(err, &noGPU) && device.Class(noGPU.Err) != backend.NoMemory {
		name = device.DefaultName
		a, err = q.on(ctx, name, q.Engine.Precision)
	}
	mayFallBack := strings.HasPrefix(name, "cuda") && ctx.Err() == nil
	if noDevice := (*DeviceError)(nil); mayFallBack && errors.As(err, &noDevice) {
		a = &answer{Fit: cam.Fit{Model: q.Engine.Model, Device: name, Reason: err.Error(), Passes: []cam.Pass{}},
			next: q.next(policy.Situation{Failure: policy.Short})}
	} else if err != nil {
		return nil, err
	}
	if !mayFallBack || a.Fits || a.next != policy.Processor || a.skips {
		return &a.Fit, nil
	}
	onCPU := q
	if err == nil { // the run has looked at the policy's thresholds on the device
		onCPU.Engine.Policy = policy.Policy{CPU: true}
		if a.Draws > 0 {
			onCPU.Request.NSamples = q.Engine.Policy.SamplesOnProcessor(a.Draws, a.Free)
		}
	}
	b, err := onCPU.on(ctx, "cpu", device.DefaultPrecision)
	if err != nil {
		return nil, err
	}
	if b.Fits {
		b.Level, b.Reason = cam.LevelCPU, a.Reason
		return &b.Fit, nil
	}
	a.Reason += "\nthe processor cannot go on either: " + b.Reason
	return &a.Fit, nil
}

// Plan opens the device and makes the plans that methods need, regardless of the free memory. A pass that does not fit the budget has an Err.
func Plan(ctx context.Context, q Question) ([]cam.Pass, error) {
	if err := q.fill(); err != nil {
		return nil, err
	}
	a, err := q.on(ctx, q.Engine.Device, q.Engine.Precision)
	if err != nil {
		return nil, err
	}
	return a.Passes, nil
}

// fill fills in the defaults of the request.
func (q *Question) fill() (err error) {
	q.Request, err = q.Request.Filled()
	return err
}

// answer is the fit on one device.
type answer struct {
	cam.Fit
	gpu   bool          // the device has memory of its own
	skips bool          // the policy begins no volume with so little free memory
	next  policy.Action // the policy's action, if it does not fit
}

// on answers for one device.
func (q *Question) on(ctx context.Context, name, precision string) (a *answer, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, err := device.Open(name, precision)
	if err != nil {
		return nil, &DeviceError{err}
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if q.Notes != nil {
		q.Notes(d.Warnings, d.Notes)
	}
	a = &answer{Fit: cam.Fit{Model: q.Engine.Model, Device: "cpu", Passes: []cam.Pass{}, Basis: basis(d)}}
	if a.gpu = onGPU(d); a.gpu {
		a.Device = name
	}
	free := d.FreeMemory
	if q.Free != nil {
		free = func() (int, error) { return q.Free(d) }
	}
	binding := network.Binding{Backend: d, Ahead: q.Engine.Ahead}
	if binding.Budget, err = q.budget(d, free); err != nil {
		return nil, err
	}
	a.Budget = binding.Budget.Bytes
	var unknown error // if the system does not tell, no threshold applies
	a.Free, unknown = free()
	choices, err := cam.Choose(q.Request.Methods, q.Request.Convention)
	if err != nil {
		return nil, err
	}
	begins := true
	if slices.ContainsFunc(choices, draws) {
		a.Draws = q.Request.NSamples
	}
	if unknown == nil {
		a.Draws, begins = q.Engine.Policy.Begin(a.Draws, a.Free)
	}
	for {
		passes, err := network.Plans(ctx, q.Engine.Model, q.Engine.ModelOptions, binding, choices)
		if err != nil {
			return nil, err
		}
		request := q.Request
		request.NSamples = a.Draws
		if err := a.weigh(passes, choices, request); err != nil {
			return nil, err
		}
		if a.Fits {
			break
		}
		if a.next = q.next(a.situation(q.Engine.Budget, binding.Budget)); a.next != policy.Least {
			break
		}
		binding.Budget, a.Budget = cam.Budget{Smallest: true}, 0
	}
	if !begins {
		a.Fits, a.skips = false, true
		a.Reason = fmt.Sprintf("the policy %s skips volumes with less than 0.5 GB free, and %s are", q.Engine.Policy, bytesize.Format(a.Free))
	}
	if !a.Fits {
		a.Level, a.Seconds = "", 0
	}
	return a, nil
}

// weigh sets the fit from the plans of all passes that choices need for a request.
func (a *answer) weigh(passes []network.PlannedPass, choices []cam.Choice, request cam.Request) error {
	a.Fits, a.Level, a.Seconds, a.Passes = true, "", 0, []cam.Pass{}
	var refusals []string
	for _, planned := range passes {
		pass := a.pass(planned)
		var err error
		if pass.Runs, err = runs(pass.Methods, choices, request); err != nil {
			return err
		}
		if pass.Err != nil {
			a.Fits = false
			refusals = append(refusals, fmt.Sprintf("%s (%s): %v", pass.Name, strings.Join(pass.Methods, ", "), pass.Err))
		} else {
			a.Level = lower(a.Level, pass.Level)
			a.Seconds += pass.Seconds * float64(pass.Runs)
		}
		a.Passes = append(a.Passes, pass)
	}
	a.Reason = strings.Join(refusals, "\n")
	return nil
}

// runs returns the number of times that the pass of some methods runs for one volume: at the volume itself, and at each point. The range of the
// volume's values is not known; -1 to 1 keeps noise in shares of it apart from noise in units of the volume, as almost all volumes do.
func runs(methods []string, choices []cam.Choice, request cam.Request) (n int, err error) {
	counted := map[string]bool{} // keys of points that methods share; "" for the volume itself
	for _, c := range choices {
		if !slices.Contains(methods, c.Name) {
			continue
		}
		points, err := c.Points(request, -1, 1)
		if err != nil {
			return 0, err
		}
		if points == nil {
			points = &cam.Points{Len: 1}
		}
		if !counted[points.Key] {
			counted[points.Key] = true
			n += points.Len
		}
	}
	return n, nil
}

// situation returns the situation of a volume whose passes do not fit.
func (a *answer) situation(text string, budget cam.Budget) policy.Situation {
	s := policy.Situation{Failure: policy.Short, Processor: !a.gpu}
	most := 0
	for _, p := range a.Passes {
		if least := (*cam.BudgetError)(nil); errors.As(p.Err, &least) {
			s.Failure, most = policy.TooSmall, max(most, least.Smallest)
		}
	}
	if b, err := bytesize.ParseBudget(text); err == nil && s.Failure == policy.TooSmall {
		s.Fixed = b.Size() > 0 && b.Size() < most
		s.LeastFits = !s.Fixed && !budget.Smallest && (a.gpu || a.Free >= most)
	}
	return s
}

// next returns the action of the policy in a situation, after all waiting: the answer is for now.
func (q *Question) next(s policy.Situation) policy.Action {
	s.Waited = q.Engine.Policy.Wait
	return q.Engine.Policy.Next(s)
}

// pass returns the memory and time of a run of a planned pass, with Err where it does not fit.
func (a *answer) pass(planned network.PlannedPass) cam.Pass {
	p := cam.Pass{Name: planned.Name, Methods: planned.Methods, Weights: planned.Weights, Fields: planned.Fields, Whole: planned.Whole,
		Smallest: planned.Smallest}
	if p.Err = planned.Err; p.Err != nil {
		p.Arena = p.Smallest
		if least := (*cam.BudgetError)(nil); errors.As(p.Err, &least) {
			p.Needs = least.Smallest
			p.Err = fmt.Errorf("%w; %s %s would do", p.Err, option.Mention("memory_budget"), bytesize.FormatUp(least.Smallest))
		}
		return p
	}
	p.Arena, p.Seconds = planned.Plan.Peak, planned.Plan.Seconds
	p.Needs = p.Arena + p.Weights + p.Fields
	takes := p.Needs
	if !a.gpu { // on a GPU, memory that the budget does not count is the host's
		takes += planned.Volume
	}
	if a.Free > 0 && takes > a.Free {
		p.Err = fmt.Errorf("it takes %s, with what the budget does not count, and %s are free", bytesize.Format(takes), bytesize.Format(a.Free))
		return p
	}
	p.Level = planned.Level
	return p
}

// budget returns the budget that a run would plan with now.
func (q *Question) budget(d *device.Device, free func() (int, error)) (cam.Budget, error) {
	b, err := bytesize.ParseBudget(q.Engine.Budget)
	if err != nil {
		return cam.Budget{}, err
	}
	if !onGPU(d) {
		return instance.BudgetOf(b, free)
	}
	n, _ := free()
	bytes, least := policy.NewGovernor(b, nil).Allow(backend.Usage{Total: max(1, n), Free: n})
	return cam.Budget{Bytes: bytes, Smallest: least}, nil
}

func draws(c cam.Choice) bool { return c.Convention.Sampling() == cam.Noisy }

// onGPU reports whether a device has memory of its own.
func onGPU(d *device.Device) bool { return strings.HasPrefix(d.Name(), "cuda/") }

// basis names the rates that estimates of time rest on.
func basis(d *device.Device) string {
	const rest = "; nothing was measured, and reading and writing files comes on top"
	c := d.Costs()
	if c.FlopsPerSecond == 0 {
		return "the planner's, from operations, bytes and steps at the rates of an ordinary processor" + rest
	}
	return fmt.Sprintf("the planner's, at %.3g operations and %.3g bytes a second and %.3g s a step, which are those of an H100 or H200%s",
		c.FlopsPerSecond, c.BytesPerSecond, c.StepSeconds, rest)
}

func lower(a, b cam.Level) cam.Level {
	levels := cam.Levels()
	return levels[max(0, slices.Index(levels, a), slices.Index(levels, b))]
}
