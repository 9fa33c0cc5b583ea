package policy

import (
	"slices"
	"time"
)

// Failure is the class of an error that ended an attempt at a volume.
type Failure uint8

const (
	Fault       Failure = iota // of the volume, the model or the program: another attempt would fail as well
	Interrupted                // memory that the attempt used was given back while it ran
	Refused                    // the device refused memory
	Failing                    // a call failed in a way that may pass
	TooSmall                   // no plan fits the budget
	Short                      // all was given back, and the least that works still has no room
	Persistent                 // calls failed in a row, also after all was loaded again
	Lost                       // the device's context is gone, with all that was on it
	Died                       // the worker process has ended
	Declined                   // the policy begins no volume with so little free memory
)

// Failures names the classes for people, in the order of the constants.
var Failures = []string{
	"an error of the volume, the model or the program", "memory was given back meanwhile", "the device refuses memory", "a call fails in a way that may pass",
	"no plan fits the budget", "the device has no room even for the smallest plan", "calls fail again and again", "the context is lost",
	"the worker process ends", "the policy begins no volume with so little free memory",
}

// String returns the name for people.
func (f Failure) String() string { return Failures[f] }

// Situation is the state of a volume after an attempt has failed. Each caller fills in the fields that it knows; the others stay zero.
type Situation struct {
	Failure Failure

	// Of the plans on a device.
	Smallest  bool // they are the smallest
	LeastFits bool // for TooSmall: the least that works has room, and was not tried yet
	Fixed     bool // for TooSmall: the budget does not move, so that more free memory would not help
	Loaded    bool // not all was given back
	Tries     int  // failures in a row, this one included, without anything finished in between

	// Of the device and its fallback.
	Processor bool          // the attempt was made on the processor
	StandIn   bool          // the processor computes in the device's place
	Waited    time.Duration // for other programs to leave memory
	Renewed   bool          // the context was made anew for this volume
	Process   bool          // it was made in a worker process

	// Of worker processes.
	Deaths      int  // over this volume in a row, without anything finished in between
	Restarts    int  // the number of them that a volume may cost
	OutOfMemory bool // the system killed the last one for want of memory
	Killed      bool // the last one was killed in the device's place; Tries counts those there
}

// Action is a step after an attempt has failed.
type Action uint8

const (
	Fail           Action = iota // the volume fails with the error
	Repeat                       // begin the pass again with the same plans and memory
	Shrink                       // give back memory, and plan for less
	Least                        // plan for the least that works
	Reload                       // give everything back, and take it again
	GiveBack                     // give everything back: the next class of failure says how to go on
	Wait                         // for other programs to leave memory
	NewContext                   // make the context anew
	NewProcess                   // start another worker process, which goes on from the draws that were kept
	SmallerProcess               // the same, with half the memory, and then with the least
	EndProcess                   // end the worker process: the next class of failure says how to go on
	Processor                    // let the processor take the device's place; fewer draws where the policy allows them
	Skip                         // give the volume up: the next run tries it again
)

// Actions names the actions for people, in the order of the constants.
var Actions = []string{
	"the volume fails", "the pass begins again with what is there", "a plan for less memory", "the smallest plan", "everything is given back and taken again",
	"everything is given back", "waiting, until there is enough", "a new context", "another worker process",
	"another worker process, with half the memory, then the least", "the worker process is ended",
	"the processor", "the volume is skipped (`skipped_low_memory`)",
}

// String returns the name for people.
func (a Action) String() string { return Actions[a] }

// After failures in a row, a pass is begun again as it is Repeats times, and then Reloads times with all memory given back and taken again.
const (
	Repeats = 1
	Reloads = 3
)

// Rung is a row of the ladder: the action after a failure, if a condition holds.
type Rung struct {
	Failures []Failure
	If       string // the condition, for people; "" where there is none
	Action   Action

	holds func(Policy, Situation) bool // nil: always
}

// Ladder returns the rungs in the order in which they are tried. For a failure, the first rung whose condition holds counts. Results are given
// up last (decision 019).
func Ladder() []Rung { return ladder }

var (
	memory = []Failure{TooSmall, Short}
	noRoom = []Failure{TooSmall, Short, Declined}
	device = []Failure{Persistent, Lost}
)

var ladder = []Rung{
	{[]Failure{Interrupted}, "", Repeat, nil},

	{[]Failure{Refused}, "plans are not the smallest", Shrink, func(_ Policy, s Situation) bool { return !s.Smallest }},
	{[]Failure{Refused}, "", GiveBack, nil},

	{[]Failure{Failing}, "it is the first failure in a row", Repeat, func(_ Policy, s Situation) bool { return s.Tries <= Repeats }},
	{[]Failure{Failing}, "it is the second, third or fourth failure in a row", Reload, func(_ Policy, s Situation) bool { return s.Tries <= Repeats+Reloads }},
	{[]Failure{Failing}, "", GiveBack, nil},

	{[]Failure{TooSmall}, "the device has room for the smallest plan, and the budget is not a fixed size", Least, func(_ Policy, s Situation) bool { return s.LeastFits }},
	{[]Failure{TooSmall}, "the budget is a fixed size", Fail, func(_ Policy, s Situation) bool { return s.Fixed && !(s.Processor && s.StandIn) }},
	{[]Failure{TooSmall}, "not everything was given back", GiveBack, func(_ Policy, s Situation) bool { return s.Loaded }},
	{memory, "on the device, and `memory.wait` is not over", Wait, func(p Policy, s Situation) bool {
		return !s.Processor && !s.StandIn && s.Waited < p.Wait
	}},
	{memory, "on the device, and `memory.cpu_fallback`", Processor, func(p Policy, s Situation) bool { return !s.Processor && p.CPU }},
	{noRoom, "`memory.skip`", Skip, func(p Policy, _ Situation) bool { return p.Skip }},
	{noRoom, "", Fail, nil},

	{[]Failure{Persistent}, "for the first time", NewContext, func(_ Policy, s Situation) bool { return !s.Renewed }},
	{device, "in a worker process", EndProcess, func(_ Policy, s Situation) bool { return s.Process }},
	{device, "on the device, and `memory.cpu_fallback`", Processor, func(p Policy, s Situation) bool { return !s.Processor && p.CPU }},
	{device, "", Fail, nil},

	{[]Failure{Died}, "killed for want of memory on the processor, at most three times in a row", SmallerProcess, func(_ Policy, s Situation) bool {
		return s.Processor && s.OutOfMemory && (s.Deaths <= s.Restarts || s.Killed && s.Tries <= s.Restarts)
	}},
	{[]Failure{Died}, "at most three times in a row", NewProcess, func(_ Policy, s Situation) bool { return s.Deaths <= s.Restarts }},
	{[]Failure{Died}, "killed on the processor in the device's place, at most three times", NewProcess, func(_ Policy, s Situation) bool {
		return s.Processor && s.Killed && s.Tries <= s.Restarts
	}},
	{[]Failure{Died}, "on the device, and `memory.cpu_fallback`", Processor, func(p Policy, s Situation) bool { return !s.Processor && p.CPU }},
	{[]Failure{Died}, "", Fail, nil},

	{[]Failure{Fault}, "", Fail, nil},
}

// matches reports whether the rung is for a failure in a situation, and its condition holds.
func (r Rung) matches(p Policy, s Situation) bool {
	return slices.Contains(r.Failures, s.Failure) && (r.holds == nil || r.holds(p, s))
}

// Next returns the action in a situation.
func (p Policy) Next(s Situation) Action {
	for _, r := range ladder {
		if r.matches(p, s) {
			return r.Action
		}
	}
	return Fail
}
