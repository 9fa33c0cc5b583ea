// Package policy decides how much of a device's memory may be taken, and what may be given up when it is short: the policy of a run with its
// ladder, the governor of its budget, and the orders by which other programs ask for memory back. It touches no device.
package policy

import (
	"time"

	"github.com/voxcam/voxcam/internal/backend"
)

// Operation names an operation on the memory that a session holds.
type Operation string

const (
	Release    Operation = "release"    // give all back at the next pass through the network, go on with the least that works until Resume
	Resume     Operation = "resume"     // take up to the budget again
	Trim       Operation = "trim"       // give back unused memory
	Defragment Operation = "defragment" // make one block of all unused memory
	Restart    Operation = "restart"    // make the session's context anew, at the next pass
)

// Order is an operation with its arguments.
type Order struct {
	Operation Operation     `json:"operation"`
	Keep      int           `json:"keep_bytes,omitempty"` // of Trim
	For       time.Duration `json:"for_ns,omitempty"`     // of Release: time until it resumes by itself; 0: never
}

// Outcome is the effect of an operation, by the driver's figures before and after.
type Outcome struct {
	Operation Operation     `json:"operation"`
	Before    backend.Usage `json:"before"`
	After     backend.Usage `json:"after"`
	Seconds   float64       `json:"seconds"`
	Note      string        `json:"note,omitempty"` // a remark for people
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
