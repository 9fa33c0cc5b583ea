package reclaim

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// Holder is a process that holds memory of GPUs by the driver's lists, or a session of this program whose worker process holds it.
type Holder struct {
	PID     int      `json:"pid"`
	Bytes   int      `json:"bytes"`             // of all GPUs together; -1 where the driver does not tell
	GPUs    []string `json:"gpus"`              // their UUIDs
	Session string   `json:"session,omitempty"` // the session's name, if it is a session that answers

	lists []int // numbers that must vanish from the driver's lists when it has ended
}

// Consent is the user's permission to end processes.
type Consent struct {
	Named []int                               // processes to end, by number
	Yes   bool                                // end orphaned workers without asking
	Ask   func(c Candidate) (y bool, _ error) // asks a person about one process; nil without a terminal
}

// Ruling is the decision about a process.
type Ruling string

const (
	Leave Ruling = "leave"
	Ask   Ruling = "ask"
	End   Ruling = "end"
)

// Candidate is a holder with the system's facts about it, and the ruling.
type Candidate struct {
	Holder
	Process Process `json:"-"`
	Name    string  `json:"name"`
	User    string  `json:"user"`
	Age     float64 `json:"age_seconds"`
	Ours    bool    `json:"ours"`
	Orphan  bool    `json:"orphan"`
	Ruling  Ruling  `json:"ruling"`
	Why     string  `json:"why"`
}

// rules decide which processes may be ended. They look at one process at a time, by its number, and never at the names of others.
type rules struct {
	system System
	self   Process
	family map[int]bool // the ancestors of this process, itself included
	Consent
}

func newRules(s System, c Consent) (*rules, error) {
	self, err := s.Find(s.Self())
	if err != nil {
		return nil, fmt.Errorf("looking at this process itself: %w", err)
	}
	family, err := ancestors(s)
	if err != nil {
		return nil, err
	}
	return &rules{s, self, family, c}, nil
}

// slack is the error of measured ages.
const slack = 50 * time.Millisecond

// judge returns the ruling for a holder, from the time since the driver listed it. The strongest rule comes first, and consent last.
func (r *rules) judge(h Holder, since time.Duration) (Candidate, error) {
	c := Candidate{Holder: h, Ruling: Leave}
	leave := func(format string, args ...any) (Candidate, error) {
		c.Why = fmt.Sprintf(format, args...)
		return c, nil
	}
	p, err := r.system.Find(h.PID)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return leave("no process here has that number: it has ended, or belongs to another container or is hidden")
	case err != nil:
		return c, fmt.Errorf("looking at process %d: %w", h.PID, err)
	}
	c.Process, c.Name, c.User, c.Age, c.Ours, c.Orphan = p, p.Name, p.User, p.Age.Seconds(), p.Program, p.Orphan
	named, root := slices.Contains(r.Named, p.PID), r.self.Euid == 0
	switch {
	case p.PID <= 1:
		return leave("it is the first process of the system")
	case p.PID == r.self.PID:
		return leave("it is this program itself")
	case r.family[p.PID]:
		return leave("this program was started from it")
	case p.Ended:
		return leave("it has ended already, and waits for its parent")
	case !root && (p.UID != r.self.Euid || p.Euid != r.self.Euid):
		return leave("it belongs to %s", c.User)
	case !p.UsesGPU && h.Session == "", p.Age < since-slack:
		return leave("the process of that number here has no GPU open: the driver's list means one that has ended, or one of another container")
	case root && !named:
		return leave("root ends only what it names: the option pid %d", p.PID)
	case named:
		c.Ruling, c.Why = End, "it was named"
	case len(r.Named) > 0:
		return leave("it was not named")
	case r.Yes && c.Orphan:
		c.Ruling, c.Why = End, "it is an orphaned worker of this program"
	case r.Yes:
		return leave("it is no orphaned worker of this program: the option pid %d would end it", p.PID)
	case r.Consent.Ask == nil:
		return leave("nobody can be asked here: the option pid %d would end it", p.PID)
	default:
		c.Ruling, c.Why = Ask, "you are asked"
	}
	return c, nil
}
