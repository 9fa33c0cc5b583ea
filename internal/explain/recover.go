package explain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/voxcam/voxcam/internal/backend"
)

// ErrLost is wrapped when the device's context is gone with all that was on it, for as long as this process lives: another process, or a
// Model on another device, can explain the volume, from Request.Checkpoint on.
var ErrLost = errors.New("the device is lost, with all that was on it")

// MemoryError says that the device, or its host, refused memory even for the least that works, or that Options.Allow allows less. All was
// given back. The same work may be computed again, which goes on from what is finished, when there is more memory.
type MemoryError struct {
	Needs int // bytes, the least that works; 0: not known
	Free  int // bytes that there were for it; 0 too if neither is known
	Err   error
}

func (e *MemoryError) Error() string {
	known, smaller := "", "use smaller volumes or fewer methods, "
	switch {
	case e.Needs > 0:
		known = fmt.Sprintf(": the least that works is %s, and there are %s", mib(e.Needs), mib(e.Free))
	case e.Free > 0:
		known = fmt.Sprintf(": there are %s", mib(e.Free))
	default: // not even for what comes before any volume
		smaller = ""
	}
	return fmt.Sprintf("there is not enough memory%s; make room on the device (other programs hold the rest), %sor compute on the processor: %v",
		known, smaller, e.Err)
}

func (e *MemoryError) Unwrap() error { return e.Err }

// TransientError says that calls of the device failed again and again, also after all was given back and taken again. The same work may be
// computed again; a new context may help.
type TransientError struct {
	Tries int // in a row
	Err   error
}

func (e *TransientError) Error() string {
	return fmt.Sprintf("the device failed %d times in a row; make its context anew: %v", e.Tries, e.Err)
}

func (e *TransientError) Unwrap() error { return e.Err }

// errAgain ends an attempt that has to be begun again because what it used was given back.
var errAgain = errors.New("explain: to be tried again")

// After failures in a row, a pass is begun again with what is there so many times, and then with all given back and taken again.
const (
	repeats = 1
	reloads = 3
)

// tries counts failures in a row: those between which nothing was finished.
type tries struct {
	n        int
	finished int // methods and draws, the most so far
}

// failed counts a failure.
func (t *tries) failed(finished int) {
	if finished > t.finished {
		t.n, t.finished = 0, finished
	}
	t.n++
}

// finished counts methods and draws. Draws count on when the last of their methods has its map and they are given back.
func (e *explanation) finished() (n int) {
	left := func(i int) bool { return e.result.Methods[i].Status == "" }
	for i := range e.result.Methods {
		if !left(i) {
			n++
		}
	}
	for _, d := range e.draws {
		if slices.ContainsFunc(d.which, left) {
			n += d.done
		} else {
			n += e.req.NSamples
		}
	}
	if e.result.Logits != nil {
		n++
	}
	return n
}

// trouble says what an error means.
func (m *Model) trouble(err error) backend.Trouble {
	switch {
	case errors.Is(err, ErrLost):
		return backend.Lost
	case m.resident == nil:
		return backend.Fault
	}
	return m.resident.Trouble(err)
}

// recoverable reports whether an attempt may be followed by another one.
func (m *Model) recoverable(err error) bool {
	tooSmall := (*BudgetError)(nil)
	return errors.Is(err, errAgain) || m.trouble(err) != backend.Fault || m.follows() && errors.As(err, &tooSmall)
}

// follows reports whether plans may be made anew for other budgets.
func (m *Model) follows() bool { return m.resident != nil || m.opt.Allow != nil }

// recovering tries again after what another plan, or another try, can mend.
func (m *Model) recovering(ctx context.Context, e *explanation, try func() error) error {
	for {
		if err := m.seen.lost(); err != nil {
			return err
		}
		err := try()
		if err == nil {
			return nil
		}
		if err := m.recover(ctx, e, err); err != nil {
			return err
		}
	}
}

// recover makes ready for another try after an error, or says why there is none.
func (m *Model) recover(ctx context.Context, e *explanation, err error) error {
	if errors.Is(err, errAgain) && m.trouble(err) == backend.Fault {
		return nil
	}
	if m.trouble(err) == backend.Lost {
		return m.lose(e, err)
	}
	if late := e.collect(); late != nil && m.trouble(late) == backend.Lost {
		return m.lose(e, late)
	}
	if ctx.Err() != nil {
		return m.end(e, context.Cause(ctx))
	}
	tooSmall := (*BudgetError)(nil)
	switch m.trouble(err) {
	case backend.NoMemory:
		return m.less(ctx, e, err)
	case backend.Transient:
		return m.again(e, err)
	}
	if m.follows() && errors.As(err, &tooSmall) {
		return m.least(ctx, e, tooSmall)
	}
	return m.end(e, err)
}

// end gives up with an error. What is loaded stays; of draws stays what is kept outside.
func (m *Model) end(e *explanation, err error) error {
	if closing := errors.Join(e.rescue(false), e.endDraws()); closing != nil {
		if m.trouble(closing) == backend.Lost {
			return m.lose(e, closing)
		}
		err = errors.Join(err, closing)
	}
	return err
}

// lose gives up for good: only closing is left.
func (m *Model) lose(e *explanation, err error) error {
	e.tell(IncidentFailed, "%v", err)
	m.place.Lock()
	defer m.place.Unlock()
	err = m.seen.lose(err)
	e.back.Wait()
	_ = e.endDraws() // nothing can be given back to a device that is gone
	return err
}

// giveBack gives back all that lies on the device.
func (m *Model) giveBack() (err error) {
	m.place.Lock()
	defer m.place.Unlock()
	if m.net == nil {
		return nil
	}
	err = m.net.close()
	if m.resident != nil && m.seen.lost() == nil && m.trouble(err) != backend.Lost {
		_, trimmed := m.resident.Trim(0)
		if trimmed != nil && m.trouble(trimmed) != backend.Lost {
			_, trimmed = m.resident.Trim(0) // which ends what the first could not
		}
		m.allowance.stale()
		err = errors.Join(err, trimmed)
	}
	m.look()
	return err
}

// evacuate brings what is needed to go on to the host, and gives all back. An error is that the device is lost; what else fails here the
// next Trim makes good.
func (m *Model) evacuate(e *explanation) error {
	err := e.rescue(true)
	if m.trouble(err) != backend.Lost {
		err = m.giveBack()
	}
	e.there, e.waits = nil, nil
	if m.trouble(err) == backend.Lost {
		return m.lose(e, err)
	}
	return nil
}

// again makes ready for another try after a failure that may pass. A pass writes all that it reads, so that the first try is made with what
// is there; only moments that a call was changing are made anew. For the next ones everything is given back.
func (m *Model) again(e *explanation, err error) error {
	e.tell(IncidentFailed, "%v", err)
	e.tries.failed(e.finished())
	if e.tries.n <= repeats && e.rescue(false) == nil {
		e.tell(IncidentRepeated, "began again with what is there")
		return nil
	}
	if lost := m.evacuate(e); lost != nil {
		return lost
	}
	if n := e.tries.n; n > repeats+reloads {
		e.tries.n = 0
		return &TransientError{Tries: n, Err: err}
	}
	e.tell(IncidentReloaded, "gave everything back, to load it again")
	return nil
}

// less plans for less memory after a refusal.
func (m *Model) less(ctx context.Context, e *explanation, refused error) error {
	n := m.net
	usage, err := m.resident.Usage()
	if m.trouble(err) == backend.Lost {
		return m.lose(e, err)
	}
	free := ""
	if err == nil {
		free = "; " + mib(usage.Free) + " were free"
	}
	e.tell(IncidentRefused, "%v%s", refused, free)
	if n == nil || n.budget.Smallest {
		return m.surrender(ctx, e, &MemoryError{Free: usage.Available(), Err: refused})
	}
	next := usage.Available()
	if n.taken > 0 && (err != nil || next >= n.taken) { // it is not the sum that there is too little of
		next = n.taken / 2
	}
	if allowed := m.allowance.latest.Bytes; allowed > 0 {
		next = min(next, allowed)
	}
	to := Budget{Bytes: next}
	if least, err := n.leastBytes(ctx); err != nil || next <= least {
		to = Budget{Smallest: true}
	}
	return m.shrink(e, to, true)
}

// shrink makes room for smaller plans. Draws stay where they are as long as there is room for them there.
func (m *Model) shrink(e *explanation, to Budget, forced bool) error {
	rescued := e.rescue(false)
	m.place.Lock()
	m.net.forced = m.net.forced || forced
	err := errors.Join(rescued, m.replan(to))
	m.place.Unlock()
	if m.trouble(err) == backend.Lost {
		return m.lose(e, err)
	}
	return nil
}

// least goes on after a budget that is too small for any plan: with the least that works, if it was the device that said so.
func (m *Model) least(ctx context.Context, e *explanation, tooSmall *BudgetError) error {
	switch {
	case m.net.forced && m.allows(tooSmall.Smallest):
		return m.shrink(e, Budget{Smallest: true}, true)
	case m.opt.Allow == nil:
		return m.end(e, tooSmall)
	}
	return m.surrender(ctx, e, &MemoryError{Needs: tooSmall.Smallest, Free: tooSmall.Budget, Err: tooSmall})
}

// surrender gives all back when not even the least can be had.
func (m *Model) surrender(ctx context.Context, e *explanation, why *MemoryError) error {
	if why.Needs == 0 && m.net != nil {
		why.Needs, _ = m.net.leastBytes(ctx) // of a plan that was made before
	}
	if lost := m.evacuate(e); lost != nil {
		return lost
	}
	return why
}

// tell notes an incident.
func (e *explanation) tell(kind IncidentKind, format string, args ...any) {
	i := Incident{Time: time.Now(), Kind: kind, Text: fmt.Sprintf(format, args...)}
	if e.quiet {
		e.model.untold = append(e.model.untold, i)
		return
	}
	e.hear(i)
}

// hear hands an incident on.
func (e *explanation) hear(i Incident) {
	e.told.Lock()
	e.result.Execution.Incidents = append(e.result.Execution.Incidents, i)
	e.told.Unlock()
	if e.req.Incident != nil {
		e.req.Incident(i)
	}
}
