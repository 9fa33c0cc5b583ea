// Package policy decides what may be taken of a device's memory and what may be given up: the policy of a run, the governor of its budget, and
// the orders by which others ask for memory back. It touches no device.
package policy

import (
	"time"

	"github.com/voxcam/voxcam/internal/backend"
)

// Operation names something that a session can be asked to do with the memory that it holds.
type Operation string

const (
	Release    Operation = "release"    // give all back at the next pass through the network, go on with the least that works until Resume
	Resume     Operation = "resume"     // take what the budget allows again
	Trim       Operation = "trim"       // give back what nothing is in
	Defragment Operation = "defragment" // make one block of all that is unused
	Restart    Operation = "restart"    // make the session's context anew, at the next pass
)

// Order is an operation with what it needs to know.
type Order struct {
	Operation Operation     `json:"operation"`
	Keep      int           `json:"keep_bytes,omitempty"` // of Trim
	For       time.Duration `json:"for_ns,omitempty"`     // of Release: after that time it resumes by itself; 0: it does not
}

// Outcome is the effect of an operation, by the driver's figures before and after.
type Outcome struct {
	Operation Operation     `json:"operation"`
	Before    backend.Usage `json:"before"`
	After     backend.Usage `json:"after"`
	Seconds   float64       `json:"seconds"`
	Note      string        `json:"note,omitempty"` // what else is to be said
}

// Freed returns the bytes that the session gave back to the driver; negative if it took some.
func (o Outcome) Freed() int {
	return o.Before.Reserved + o.Before.Overhead - o.After.Reserved - o.After.Overhead
}

// AddNote adds to the note.
func (o *Outcome) AddNote(text string) {
	if o.Note != "" {
		text = o.Note + "; " + text
	}
	o.Note = text
}
