package policy

import (
	"slices"
	"testing"
	"time"
)

// each calls f with policies in all situations that rungs tell apart.
func each(f func(Policy, Situation)) {
	const flags = 10
	for bits := range 1 << flags {
		yes := func(i int) bool { return bits>>i&1 == 1 }
		for failure := range Failures {
			for _, tries := range []int{1, 1 + Repeats, 1 + Repeats + Reloads} {
				for _, deaths := range []int{1, 4} {
					for _, waited := range []time.Duration{0, time.Second} {
						f(Policy{CPU: yes(0), Skip: yes(1), Wait: time.Second}, Situation{
							Failure: Failure(failure), Smallest: yes(2), LeastFits: yes(3), Fixed: yes(4), Loaded: yes(5), Tries: tries, Processor: yes(6),
							StandIn: yes(7), Waited: waited, Renewed: yes(8), Process: yes(9), Deaths: deaths, Restarts: 3, Killed: yes(2), OutOfMemory: yes(3),
						})
					}
				}
			}
		}
	}
}

// Nothing is given up that the policy keeps, and nothing is tried without end.
func TestNext(t *testing.T) {
	each(func(p Policy, s Situation) {
		switch a := p.Next(s); {
		case a == Processor && (!p.CPU || s.Processor):
			t.Errorf("%+v goes to the processor in %+v", p, s)
		case a == Skip && !p.Skip:
			t.Errorf("%+v skips in %+v", p, s)
		case a == Wait && (s.Waited >= p.Wait || s.Processor || s.StandIn):
			t.Errorf("%+v waits in %+v", p, s)
		case a == NewContext && s.Renewed:
			t.Errorf("a second context in %+v", s)
		case (a == NewProcess || a == SmallerProcess) && s.Deaths > s.Restarts && s.Tries > s.Restarts:
			t.Errorf("processes without end in %+v", s)
		case s.Failure == Failing && s.Tries > Repeats+Reloads && a != GiveBack:
			t.Errorf("%v without end in %+v", a, s)
		case s.Failure == Fault && a != Fail:
			t.Errorf("%v after a fault", a)
		case s.Failure == Refused && a != Shrink && a != GiveBack, s.Failure == Interrupted && a != Repeat:
			t.Errorf("%v in %+v", a, s)
		}
	})
}

// From the bottom of the ladder there is a way to an end, whatever happens: each action is followed by the worst that can come of it.
func TestTheLadderEnds(t *testing.T) {
	each(func(p Policy, s Situation) {
		for steps := 0; ; steps++ {
			if steps > 100 {
				t.Fatalf("no end from %+v", s)
			}
			switch a := p.Next(s); a {
			case Fail, Skip:
				return
			case EndProcess:
				s.Failure = Died
				s.Deaths++
			case Repeat, Reload:
				if s.Failure == Interrupted {
					return // by another's wish
				}
				s.Tries++
			case Shrink:
				s.Smallest = true
			case Least:
				s.LeastFits = false
			case GiveBack:
				s.Loaded = false
				s.Failure = map[Failure]Failure{Refused: Short, Failing: Persistent, TooSmall: Short}[s.Failure]
			case Wait:
				s.Waited += time.Second
			case NewContext:
				s.Renewed = true
			case NewProcess, SmallerProcess:
				s.Deaths++
				s.Tries++
			case Processor:
				s.Processor, s.StandIn = true, true
			}
		}
	})
}

// Each class of failure ends in a rung without a condition, and each rung can be reached.
func TestRungs(t *testing.T) {
	for f := range Failures {
		last := "anything"
		for _, r := range Ladder() {
			if slices.Contains(r.Failures, Failure(f)) {
				last = r.If
			}
		}
		if last != "" {
			t.Errorf("%v: what is done if not %s?", Failure(f), last)
		}
	}
	reached := map[int]bool{}
	each(func(p Policy, s Situation) {
		for i, r := range ladder {
			if r.matches(p, s) {
				reached[i] = true
				return
			}
		}
	})
	for i, r := range ladder {
		if !reached[i] {
			t.Errorf("rung %d (%v, %s) is never reached", i, r.Action, r.If)
		}
	}
}
